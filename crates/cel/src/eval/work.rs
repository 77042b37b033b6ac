//! A bound on what an evaluation does beside its counted cost.
//!
//! The original's costs count a comparison by the size of its sides alone, and a text that is made by what it is made of: lists of lists
//! that share their elements, or a text that replaces every character of another, are work without end for a small cost. Here
//! such work has a limit of its own, far above what the counted cost allows otherwise; whoever reaches it gets the error of the cost's
//! limit.

use std::cell::Cell;

use super::EvalError;

/// Elements that are compared or copied, and pieces of texts that are made, in one evaluation: about a second's.
const WORK_MAX: u64 = 20_000_000;
/// The bytes of such a piece.
const PIECE: u64 = 16;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(WORK_MAX) };
}

/// Takes so much from what the evaluation may do.
///
/// # Errors
/// Nothing is left.
pub(crate) fn take(elements: u64) -> Result<(), EvalError> {
    LEFT.with(|left| match left.get().checked_sub(elements) {
        Some(rest) => {
            left.set(rest);
            Ok(())
        }
        None => Err(EvalError::cost_limit()),
    })
}

/// The same for a text of so many bytes.
///
/// # Errors
/// Nothing is left.
pub(crate) fn take_bytes(bytes: u64) -> Result<(), EvalError> {
    take(bytes.div_ceil(PIECE))
}

/// Runs an evaluation with all that it may do. One within another (a variable that is computed when it is read) has its own.
pub(super) fn with_all<T>(run: impl FnOnce() -> T) -> T {
    let before = LEFT.replace(WORK_MAX);
    let result = run();
    LEFT.set(before);
    result
}
