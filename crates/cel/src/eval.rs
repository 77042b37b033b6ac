//! Evaluation of a checked expression.
//!
//! [`Plan::new`] puts the checked tree into a compact form once: variables become slots, calls the functions of their overloads,
//! constant patterns compiled expressions, constant parts values. [`Plan::run`] evaluates it, counts what the original's tracker counts
//! (`cel-go/interpreter/runtimecost.go` with Kubernetes' estimator) and stops where the budget ends or its caller says so; those two
//! are the only failures that `&&`, `||` and comprehensions do not absorb. The depth of the recursion is that of the tree, which the
//! parser bounds.

mod attribute;
mod comprehension;
mod node;
mod plan;
mod run;
pub mod standard;

use std::sync::atomic::AtomicBool;

pub use plan::Plan;

pub use crate::error::{Cause, EvalError};
use crate::value::Value;

/// What one evaluation may cost (`apiserver/pkg/apis/cel`, `PerCallLimit`).
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// The values of variables.
pub trait Activation<'v> {
    /// The variable of this name. It is asked once in an evaluation, before the expression runs.
    fn find(&self, name: &str) -> Option<Value<'v>>;

    /// A field of a variable that was given as [`Value::Lazy`]: computed when it is first read; none where there is no such field.
    ///
    /// # Errors
    /// What computing it gave.
    fn member(&self, _variable: &str, _field: &str) -> Result<Option<Value<'v>>, EvalError> {
        Ok(None)
    }
}

/// Variables as a list.
impl<'v, const N: usize> Activation<'v> for [(&str, Value<'v>); N] {
    fn find(&self, name: &str) -> Option<Value<'v>> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }
}

/// What ends an evaluation from outside.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'l> {
    /// What it may cost.
    pub cost: u64,
    /// Setting it ends the evaluation, for a caller that may cease to wait; looked at in every hundredth turn of a comprehension.
    /// Without one the cost alone is the end.
    pub stop: Option<&'l AtomicBool>,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Limits { cost: PER_CALL_LIMIT, stop: None }
    }
}

/// What an evaluation gave, and what it has cost until then.
#[derive(Debug, Clone)]
pub struct Outcome<'v> {
    pub value: Result<Value<'v>, EvalError>,
    pub cost: u64,
}

/// The type that the original has for a value, as some of its errors print it.
fn go_type(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Duration(_) => "types.Duration",
        Value::Optional(_) => "*types.Optional",
        Value::Type(_) => "*types.Type",
        Value::List(_) => "*types.baseList",
        Value::Map(_) | Value::Lazy => "*types.baseMap",
        Value::Struct(_) => "*dynamic.ObjectVal",
        Value::Preserved(_) => "*common.unknownPreserved",
        Value::Opaque(_) => "cel.Opaque",
    }
}
