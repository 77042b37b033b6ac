//! Evaluation.

use std::fmt;

use crate::value::Value;

/// Does what a function does; a target is the first argument.
pub type Run = fn(&[Value]) -> Result<Value, EvalError>;

/// Counts what a call did: its arguments (a target first) and its result.
pub type CallCost = fn(&[Value], &Value) -> u64;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalError {
    pub message: String,
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}

/// The values of variables.
pub trait Activation {
    /// The variable of this name.
    fn find(&self, name: &str) -> Option<Value>;
}

/// What the functions of the language do.
pub mod standard {
    use super::{CallCost, EvalError, Run};
    use crate::ast::Literal;

    /// Whether a constant can be converted by `duration` or `timestamp`, or is a pattern that `matches` takes.
    pub fn converts(_function: &str, _literal: &Literal) -> bool {
        true
    }

    /// What an overload of the standard library does, and what it counts as where that is not the usual.
    pub fn row(_id: &str) -> (Run, Option<CallCost>) {
        (|_| Err(EvalError { message: "no such overload".to_string() }), None)
    }
}
