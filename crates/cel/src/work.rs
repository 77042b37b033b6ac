//! A bound on what an evaluation does beside its counted cost.
//!
//! The original's costs count a comparison by the size of its sides alone, and a text that is made by what it is made of: lists of lists
//! that share their elements, or a text that replaces every character of another, are work without end for a small cost. Here
//! such work has a limit of its own, far above what the counted cost allows otherwise; whoever reaches it gets the error of the cost's
//! limit.

use std::cell::Cell;

use crate::error::EvalError;

/// Elements that are compared or copied, and pieces of texts that are made, in one evaluation: about a second's.
const WORK_MAX: u64 = 20_000_000;
/// What of it is free: what is done beyond it is told as a cost, so that the budget of many evaluations ends too.
const FREE: u64 = 1_000_000;
/// How much of it is a cost of one.
const PER_COST: u64 = 20;
/// What a value of a new list is taken for.
const KEPT: u64 = 8;
/// The bytes of such a piece.
const PIECE: u64 = 16;
/// Bytes of a text that is only gone through, as one of them.
const PASSED: u64 = 64;

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

/// The same for so many values that are kept in a new list: each takes the memory of a few.
///
/// # Errors
/// Nothing is left.
pub(crate) fn take_kept(values: u64) -> Result<(), EvalError> {
    take(values.saturating_mul(KEPT))
}

/// The same for a text of so many bytes.
///
/// # Errors
/// Nothing is left.
pub(crate) fn take_bytes(bytes: u64) -> Result<(), EvalError> {
    take(bytes.div_ceil(PIECE))
}

/// The same for so many bytes that are only gone through.
///
/// # Errors
/// Nothing is left.
pub(crate) fn take_passed(bytes: u64) -> Result<(), EvalError> {
    take(bytes / PASSED)
}

/// Runs an evaluation with all that it may do, and tells what it did. One within another (a variable that is computed when it is
/// read) has its own.
pub(super) fn with_all<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let before = LEFT.replace(WORK_MAX);
    let result = run();
    (result, WORK_MAX - LEFT.replace(before))
}

/// What such work is told as.
pub(super) fn cost(used: u64) -> u64 {
    used.saturating_sub(FREE) / PER_COST
}
