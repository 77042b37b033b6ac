//! Libraries as data: a function is a row, an environment is made of libraries.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::Literal;
use crate::cost::Estimate;
use crate::error::EvalError;
use crate::macros::Macro;
use crate::types::{Str, Type};
use crate::value::Value;
use crate::version::Version;

/// Does what a function does; a target is the first argument.
pub type Run = for<'v> fn(&[Value<'v>]) -> Result<Value<'v>, EvalError>;

/// Counts what a call did: its arguments (a target first; a failed one is null) and its result.
pub type CallCost = for<'v> fn(&[Value<'v>], &Value<'v>) -> u64;

/// A set of functions, macros, types and constants that came into Kubernetes together.
pub struct Library {
    pub name: &'static str,
    /// New expressions may use it from this version on.
    pub since: Version,
    /// And no more from this one on: another library has taken its place.
    pub until: Option<Version>,
    pub functions: Vec<Function>,
    pub macros: Vec<Macro>,
    /// Types that expressions may name, by the name they have there.
    pub types: Vec<(&'static str, Type)>,
    pub constants: Vec<(&'static str, Type, Literal)>,
}

impl Library {
    /// A library with nothing in it yet.
    pub fn new(name: &'static str, since: Version) -> Library {
        Library { name, since, until: None, functions: Vec::new(), macros: Vec::new(), types: Vec::new(), constants: Vec::new() }
    }
}

/// A function. Libraries that declare one name add their overloads to each other's.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: &'static str,
    pub overloads: Vec<Overload>,
}

/// One signature of a function, with what it does and costs.
#[derive(Debug, Clone)]
pub struct Overload {
    pub id: &'static str,
    /// Whether it is called on a target, which is then the first of `params`.
    pub member: bool,
    pub params: Vec<Type>,
    pub result: Type,
    /// Whether it takes errors and unknowns as arguments.
    pub non_strict: bool,
    pub run: Run,
    pub binding: Binding,
    /// What a call is counted as; `None` for the usual one.
    pub cost: Option<CallCost>,
    /// Whether it is counted so by the function's name, and therefore also where the overload is found only when it runs.
    pub counted_by_name: bool,
    /// What a call is estimated as; `None` for the usual one.
    pub estimate: Option<Estimate>,
}

impl Overload {
    /// A function of arguments.
    pub fn global(id: &'static str, params: impl Into<Vec<Type>>, result: Type, run: Run) -> Overload {
        Overload {
            id,
            member: false,
            params: params.into(),
            result,
            non_strict: false,
            run,
            binding: Binding::Guarded,
            cost: None,
            counted_by_name: false,
            estimate: None,
        }
    }

    /// A function of a target (the first of `params`) and arguments.
    pub fn member(id: &'static str, params: impl Into<Vec<Type>>, result: Type, run: Run) -> Overload {
        Overload { member: true, ..Overload::global(id, params, result, run) }
    }

    /// The same, counted and estimated by these, whatever overload of the function it is.
    pub fn costs(self, cost: CallCost, estimate: Estimate) -> Overload {
        Overload { cost: Some(cost), counted_by_name: true, estimate: Some(estimate), ..self }
    }

    /// The same, counted and estimated by these where it is known to be this overload.
    pub fn overload_costs(self, cost: CallCost, estimate: Estimate) -> Overload {
        Overload { cost: Some(cost), estimate: Some(estimate), ..self }
    }

    /// The same, bound so.
    pub fn bound(self, binding: Binding) -> Overload {
        Overload { binding, ..self }
    }

    /// The same, estimated by this.
    pub fn estimated(self, estimate: Estimate) -> Overload {
        Overload { estimate: Some(estimate), ..self }
    }

    /// The same, which takes errors.
    pub fn non_strict(self) -> Overload {
        Overload { non_strict: true, ..self }
    }
}

/// How a function finds out what it is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It is called only with values of its parameters' types.
    Guarded,
    /// It looks at the values itself.
    Unguarded,
    /// All overloads of the function do the same and look at the values themselves.
    Singleton,
}

/// An object's type: its fields with their types.
#[derive(Debug, Clone, Default)]
pub struct ObjectType {
    pub fields: BTreeMap<Str, Type>,
}

/// What is known of types by their names.
#[derive(Debug, Clone, Default)]
pub struct Provider {
    /// What a name in an expression means as a type.
    pub names: BTreeMap<Str, Type>,
    pub objects: BTreeMap<Str, Arc<ObjectType>>,
}

impl Provider {
    /// The type that a name means.
    pub fn find_type(&self, name: &str) -> Option<Type> {
        self.names.get(name).cloned().or_else(|| self.objects.contains_key(name).then(|| Type::object(name)))
    }

    /// The type of an object's field.
    pub fn field(&self, object: &str, field: &str) -> Option<&Type> {
        self.objects.get(object)?.fields.get(field)
    }
}
