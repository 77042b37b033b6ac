//! What is wrong with an expression, in the original's words and form: each error with its place, the line and a caret.

use std::fmt;

use crate::ast::Id;
use crate::source::Location;
use crate::types::Str;

/// Errors that are told; more are counted.
const TOLD_MAX: usize = 100;
/// Bytes of a line that is shown.
const LINE_MAX: usize = 16_384;

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub id: Id,
    /// Nowhere: an error about the whole.
    pub location: Option<Location>,
    pub message: String,
}

/// All errors of an expression, with its text for showing their places.
#[derive(Debug, Clone)]
pub struct Issues {
    pub errors: Vec<Issue>,
    pub text: Str,
}

impl Issues {
    /// These errors of this text, in the order of their places. Beyond the first hundred they were not looked at.
    pub fn new(errors: Vec<Issue>, text: Str) -> Issues {
        Issues { errors, text }
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told: Vec<&Issue> = self.errors.iter().take(TOLD_MAX).collect();
        told.sort_by_key(|issue| place(issue));
        for (at, issue) in told.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            self.show(issue, f)?;
        }
        match self.errors.len().checked_sub(TOLD_MAX) {
            Some(more) if more > 0 => write!(f, "\n{more} more errors were truncated"),
            _ => Ok(()),
        }
    }
}

impl Issues {
    fn show(&self, issue: &Issue, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Location { line, column } = place(issue);
        // A text without a line has no first column, and nothing to show.
        if self.text.is_empty() {
            return write!(f, "ERROR: <input>:{line}:{column}: {}", issue.message);
        }
        write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, issue.message)?;
        let Some(text) = usize::try_from(line - 1).ok().and_then(|line| self.text.split('\n').nth(line)) else { return Ok(()) };
        if text.len() > LINE_MAX {
            return Ok(());
        }
        let text = text.replace('\t', " ");
        write!(f, "\n | {text}\n | ")?;
        let mut characters = text.chars();
        for char in characters.by_ref().take(usize::try_from(column).unwrap_or(0)) {
            f.write_str(if char.len_utf8() > 1 { "\u{ff0e}" } else { "." })?;
        }
        f.write_str(if characters.next().is_some_and(|char| char.len_utf8() > 1) { "\u{ff3e}" } else { "^" })
    }
}

/// Where an error is shown; one about the whole has a place that no text has.
fn place(issue: &Issue) -> Location {
    issue.location.unwrap_or(Location { line: -1, column: -1 })
}

impl std::error::Error for Issues {}
