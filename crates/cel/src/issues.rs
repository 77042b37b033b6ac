//! What is wrong with an expression, in the original's words and form.

use std::fmt;

use crate::ast::Id;
use crate::source::Location;
use crate::types::Str;

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

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, issue) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&issue.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}
