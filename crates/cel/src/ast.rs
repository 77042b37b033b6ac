//! An expression as a tree, and what the checker adds to it.
//!
//! Every node has an id that is its own in the whole expression; positions, types and references are found by it. The tree's depth
//! is bounded by the parser (`crate::parser`), so that everything may walk it by recursion.

use std::collections::HashMap;
use std::sync::Arc;

use crate::source::Source;
use crate::types::{Str, Type};

pub use crate::source::Id;

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    pub id: Id,
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A part that could not be parsed; only in a tree whose errors are reported.
    Unspecified,
    Literal(Literal),
    /// A name; after the check its resolved name (with a leading `.` where a local variable would hide it).
    Ident(Str),
    Select(Select),
    Call(Call),
    List(List),
    Map(Vec<MapEntry>),
    Struct(Struct),
    Comprehension(Box<Comprehension>),
}

/// A constant of the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str),
    Bytes(Arc<[u8]>),
}

/// `operand.field`, or whether it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub operand: Box<Expr>,
    pub field: Str,
    pub test_only: bool,
}

/// A call; operators are calls of the functions in [`crate::operators`].
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub function: Str,
    /// What stands before the dot of a member's call.
    pub target: Option<Box<Expr>>,
    pub args: Vec<Expr>,
}

/// `[a, ?b]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct List {
    pub elements: Vec<Expr>,
    /// The indices of the elements that are optional.
    pub optional: Vec<usize>,
}

/// One `key: value` of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct MapEntry {
    pub id: Id,
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// `Name{field: value}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Struct {
    pub name: Str,
    pub fields: Vec<Field>,
}

/// One `field: value` of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub id: Id,
    pub name: Str,
    pub value: Expr,
    pub optional: bool,
}

/// What the macros of loops become: fold `range` into `accu_var`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comprehension {
    pub range: Expr,
    pub iter_var: Str,
    /// The second variable of the macros with two.
    pub iter_var2: Option<Str>,
    pub accu_var: Str,
    pub accu_init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// What a name or a call was found to mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Reference {
    /// A variable, a type or a constant, by its full name.
    Ident { name: Str, value: Option<Literal> },
    /// The overloads that a call may mean, by their ids, in the order of their declaration.
    Overloads(Vec<Str>),
}

/// An expression whose types are known.
#[derive(Debug, Clone)]
pub struct Checked {
    pub expr: Expr,
    pub types: HashMap<Id, Type>,
    pub references: HashMap<Id, Reference>,
    pub source: Source,
}

impl Checked {
    /// The type of a node.
    pub fn type_of(&self, id: Id) -> &Type {
        self.types.get(&id).unwrap_or(&Type::Dyn)
    }

    /// The overloads that a call may mean.
    pub fn overloads(&self, id: Id) -> &[Str] {
        match self.references.get(&id) {
            Some(Reference::Overloads(ids)) => ids,
            _ => &[],
        }
    }
}

impl Expr {
    /// Calls for each node right below, in the order of evaluation.
    pub fn each_child<'a>(&'a self, call: &mut dyn FnMut(&'a Expr)) {
        match &self.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select(select) => call(&select.operand),
            Kind::Call(inner) => inner.target.as_deref().into_iter().chain(&inner.args).for_each(call),
            Kind::List(list) => list.elements.iter().for_each(call),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                call(&entry.key);
                call(&entry.value);
            }),
            Kind::Struct(object) => object.fields.iter().for_each(|field| call(&field.value)),
            Kind::Comprehension(inner) => {
                [&inner.range, &inner.accu_init, &inner.condition, &inner.step, &inner.result].into_iter().for_each(call);
            }
        }
    }

    /// The constant that this is.
    pub fn literal(&self) -> Option<&Literal> {
        match &self.kind {
            Kind::Literal(literal) => Some(literal),
            _ => None,
        }
    }

    /// The name that this is.
    pub fn ident(&self) -> Option<&Str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }
}
