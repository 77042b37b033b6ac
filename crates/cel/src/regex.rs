//! Regular expressions in Go's syntax (RE2), matched in linear time by the crate `regex`.
//!
//! A pattern is read by Go's rules, with Go's errors, and written again in the crate's syntax: what the two understand differently
//! (`\d`, `\b` and the like are ASCII in Go; classes nest and subtract in the crate) is spelled out. A compiled pattern is bounded in
//! size; patterns that expressions compute are compiled again only if they were not among the last ones of their thread.

pub use machinery::regexp::Regex;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::eval::{EvalError, work};

/// What compiling a pattern is taken for, in elements that are compared.
const COMPILED: u64 = 100_000;
/// How many computed patterns a thread keeps.
const KEPT: usize = 4;

/// Does something with a pattern that an expression computed.
///
/// # Errors
/// If it is none: what `wrong` makes of Go's text.
pub(crate) fn with_computed<T>(pattern: &str, wrong: fn(String) -> EvalError, run: impl FnOnce(&Regex) -> T) -> Result<T, EvalError> {
    thread_local! {
        static LAST: RefCell<VecDeque<(String, Rc<Regex>)>> = const { RefCell::new(VecDeque::new()) };
    }
    let known = LAST.with_borrow(|last| last.iter().find(|(known, _)| known == pattern).map(|(_, regex)| regex.clone()));
    let regex = match known {
        Some(regex) => regex,
        None => {
            work::take(COMPILED)?;
            let regex = Rc::new(Regex::new(pattern).map_err(wrong)?);
            LAST.with_borrow_mut(|last| {
                last.truncate(KEPT - 1);
                last.push_front((pattern.to_owned(), regex.clone()));
            });
            regex
        }
    };
    Ok(run(&regex))
}
