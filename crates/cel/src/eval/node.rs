//! The compact form of an expression.

use std::sync::Arc;

use crate::decl::{CallCost, Run};
use crate::error::EvalError;
use crate::regex::Regex;
use crate::types::{Str, Type};
use crate::value::{Key, Value};

/// A step of the evaluation.
#[derive(Debug)]
pub(super) enum Node {
    Const(Value<'static>),
    Attribute(Box<Attribute>),
    /// `has(…)`: the last step of the attribute is only tried.
    Test(Box<Attribute>),
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Equal(Box<[Node; 2]>),
    NotEqual(Box<[Node; 2]>),
    /// `x in [constants]`.
    Member(Box<(Node, Vec<Key<'static>>)>),
    Call(Box<Call>),
    List(Box<[Element]>),
    Map(Box<[(Node, Element)]>),
    Struct(Box<Object>),
    Fold(Box<Fold>),
    /// `accumulator + [element]`: the list grows where it is.
    Append(Box<(usize, Node, Element)>),
    /// `cel.@mapInsert(accumulator, …)`: the map grows where it is.
    Insert(Box<(usize, Vec<Node>)>),
    OptionalOr(Box<[Node; 2]>),
    OptionalOrValue(Box<[Node; 2]>),
}

/// An element of a list, or the value of an entry or field.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) node: Node,
    /// Left out where it is an optional value without one.
    pub(super) optional: bool,
}

/// An object that is made.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) name: Str,
    pub(super) fields: Vec<(Str, Element)>,
    /// Whether objects of this type can be made.
    pub(super) known: bool,
}

/// A value and the fields and indices that lead from it.
#[derive(Debug)]
pub(super) struct Attribute {
    pub(super) base: Base,
    pub(super) qualifiers: Vec<Qualifier>,
}

/// Where an attribute begins.
#[derive(Debug)]
pub(super) enum Base {
    /// A variable of the activation.
    Variable(usize),
    /// A variable of a comprehension; with the initial value of an accumulator that was not read before.
    Local(usize, Option<usize>),
    Node(Node),
    Conditional(Box<(Node, Attribute, Attribute)>),
}

impl Attribute {
    /// An attribute alone.
    pub(super) fn of(base: Base) -> Attribute {
        Attribute { base, qualifiers: Vec::new() }
    }

    /// Whether reading it has no cost of its own: a condition has but that of its parts.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.base, Base::Conditional(_))
    }
}

/// A field or an index.
#[derive(Debug)]
pub(super) struct Qualifier {
    pub(super) key: QualifierKey,
    /// `.?field`, `[?index]`.
    pub(super) optional: bool,
    /// The last one of `has()`.
    pub(super) test: bool,
}

/// What a qualifier asks for.
#[derive(Debug)]
pub(super) enum QualifierKey {
    Const(Value<'static>),
    /// Another attribute, whose own reading costs nothing here.
    Attribute(Attribute),
}

/// A call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) function: Str,
    pub(super) args: Box<[Node]>,
    /// Whether all arguments are evaluated before the first one's error counts.
    pub(super) all_args: bool,
    /// Whether it takes errors.
    pub(super) non_strict: bool,
    pub(super) target: Target,
    pub(super) cost: Option<CallCost>,
}

/// What is done with a constant pattern.
pub(super) type PatternRun = for<'v> fn(&Regex, &[Value<'v>]) -> Result<Value<'v>, EvalError>;

/// What a call does.
#[derive(Debug)]
pub(super) enum Target {
    Plain(Run),
    /// For values of these types alone.
    Guarded(Run, Arc<[Type]>),
    /// The first that takes the values.
    Dispatched(Vec<(Run, Arc<[Type]>)>),
    /// A constant pattern.
    Pattern(Regex, PatternRun),
}

/// A comprehension. The slots are of the locals; the accumulator's initial value lies with the plan's.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) range: Node,
    pub(super) first: usize,
    pub(super) second: Option<usize>,
    pub(super) accumulator: usize,
    pub(super) condition: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}
