//! Why an expression has no value.

use std::borrow::Cow;
use std::fmt;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalError {
    pub message: Cow<'static, str>,
    pub cause: Cause,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The expression itself: logic may absorb it.
    Expression,
    /// The budget is spent.
    CostLimit,
    /// The caller wants no answer any more.
    Interrupted,
    /// The original would have panicked.
    Internal,
}

impl EvalError {
    /// A failure of the expression.
    pub fn of(message: impl Into<Cow<'static, str>>) -> EvalError {
        EvalError { message: message.into(), cause: Cause::Expression }
    }

    /// A function that is not for such values.
    pub fn no_such_overload() -> EvalError {
        EvalError::of("no such overload")
    }

    /// The budget is spent.
    pub(crate) fn cost_limit() -> EvalError {
        EvalError { message: "operation cancelled: actual cost limit exceeded".into(), cause: Cause::CostLimit }
    }

    /// What the original panics at.
    pub(crate) fn internal(message: &'static str) -> EvalError {
        EvalError { message: message.into(), cause: Cause::Internal }
    }

    /// Whether the whole evaluation ends with it.
    pub fn is_final(&self) -> bool {
        self.cause != Cause::Expression
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}
