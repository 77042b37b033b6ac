//! Regular expressions in Go's syntax (RE2), matched in linear time by the crate `regex`.
//!
//! A pattern is read by Go's rules, with Go's errors, and written again in the crate's syntax: what the two understand differently
//! (`\d`, `\b` and the like are ASCII in Go; classes nest and subtract in the crate) is spelled out.
//!
//! The original compiles a pattern each time that it is used, but for constant ones, and counts only its length. A few characters
//! can mean megabytes of program, so that here the bytes are counted, too: constant patterns are compiled once and kept as long as
//! their owner has room for them ([`Patterns`]); all others are compiled small, when they are used, and paid for as work.

pub use machinery::regexp::{Regex, check};

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::EvalError;
use crate::types::Str;
use crate::work;

/// Bytes that the constant patterns of one owner may take compiled.
const KEPT_BYTES: usize = 64 << 20;
/// What a pattern that does not fit takes of them: as much as one may have.
const UNFIT_BYTES: usize = 8 << 20;
/// Bytes of a pattern that is not kept.
const COMPUTED_BYTES: usize = 256 << 10;
/// What trying to compile such a pattern is taken for, in elements that are compared: about three milliseconds.
const COMPILED: u64 = 60_000;
/// What each byte of its text is taken for besides: a class of two bytes can mean hundreds of ranges.
const PER_BYTE: u64 = 200;
/// How many of them a thread keeps.
const KEPT: usize = 4;
/// Bytes of a compiled pattern that a byte of a text may have to be compared with for one such element.
const SEARCHED: u64 = 2_048;

/// The constant patterns of all expressions of one owner (a definition with all its versions, a policy), each once. Whoever has a
/// clone adds to the same ones.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    known: HashMap<Str, Option<Regex>>,
    left: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { known: HashMap::new(), left: KEPT_BYTES }
    }
}

impl Patterns {
    /// Room for none: patterns are checked, and not compiled.
    pub(crate) fn none() -> Patterns {
        Patterns(Arc::new(Mutex::new(Kept { left: 0, ..Kept::default() })))
    }

    /// The compiled pattern; none for what must be compiled each time that it is used, because there is no room left.
    ///
    /// # Errors
    /// It is no pattern: Go's text.
    pub(crate) fn compiled(&self, pattern: &str) -> Result<Option<Regex>, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.known.get(pattern) {
            return Ok(known.clone());
        }
        check(pattern)?;
        let made = Regex::within(pattern, kept.left).ok();
        // What does not fit takes its share as well, so that trying costs no more than what fits does, and the others keep their room.
        kept.left = kept.left.saturating_sub(made.as_ref().map_or(UNFIT_BYTES, Regex::size));
        kept.known.insert(pattern.into(), made.clone());
        Ok(made)
    }
}

/// Does something with a pattern that an expression computed.
///
/// # Errors
/// If it is none: what `wrong` makes of Go's text.
pub(crate) fn with_computed<T>(pattern: &str, wrong: fn(String) -> EvalError, run: impl FnOnce(&Regex) -> Result<T, EvalError>) -> Result<T, EvalError> {
    type Made = Rc<Result<Regex, String>>;
    thread_local! {
        static LAST: RefCell<VecDeque<(String, Made)>> = const { RefCell::new(VecDeque::new()) };
    }
    let known = LAST.with_borrow(|last| last.iter().find(|(known, _)| known == pattern).map(|(_, made)| made.clone()));
    let made = match known {
        Some(made) => made,
        None => {
            work::take(COMPILED.saturating_add((pattern.len() as u64).saturating_mul(PER_BYTE)))?;
            let made = Rc::new(Regex::within(pattern, COMPUTED_BYTES));
            LAST.with_borrow_mut(|last| {
                last.truncate(KEPT - 1);
                last.push_front((pattern.to_owned(), made.clone()));
            });
            made
        }
    };
    match &*made {
        Ok(regex) => run(regex),
        Err(error) => Err(wrong(error.clone())),
    }
}

/// Takes what searching a text may come to: in the worst case each of its bytes is compared with all of the pattern.
///
/// # Errors
/// Nothing is left.
pub(crate) fn take_search(pattern: &Regex, text: &str) -> Result<(), EvalError> {
    work::take((text.len() as u64).saturating_mul(pattern.size() as u64) / SEARCHED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_computed() {
        let patterns = Patterns(Arc::new(Mutex::new(Kept { left: 200 << 10, ..Kept::default() })));
        let left = || patterns.0.lock().unwrap().left;
        let regex = patterns.compiled("^a$").unwrap().expect("it is small");
        assert!(regex.size() < 100 << 10, "{}", regex.size());
        let after = left();
        assert!(patterns.compiled("^a$").unwrap().is_some());
        assert_eq!(left(), after, "the same pattern is held once");
        assert!(patterns.compiled("\\pL{200}").unwrap().is_none());
        assert_eq!(left(), 0, "and nothing is tried again");
        assert!(patterns.compiled("^b$").unwrap().is_none());
        assert!(patterns.compiled("^a$").unwrap().is_some(), "what is held stays");
        assert_eq!(patterns.compiled("(").unwrap_err(), "error parsing regexp: missing closing ): `(`");
    }
}
