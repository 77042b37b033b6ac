//! The evaluator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::node::{Call, Element, Node, Object, Target};
use super::plan::Plan;
use super::{Activation, Cause, EvalError, Limits, Outcome, standard};
use crate::cost::{LIST_CREATE, MAP_CREATE, STRUCT_CREATE};
use crate::messages;
use crate::types::Type;
use crate::value::{Entries, Key, List, Map, Struct, Value, equal, shown};
use crate::work;

/// How often a comprehension looks whether anyone still waits (`CheckFrequency` of `apiserver/pkg/apis/cel`).
const CHECK_FREQUENCY: u32 = 100;

/// How deep values may be made of others: comparing, showing and dropping one goes as deep on the stack.
const DEPTH_MAX: u32 = 5_000;

/// A variable of a comprehension.
#[derive(Debug, Clone)]
pub(super) enum Slot<'v> {
    Unset,
    Set(Result<Value<'v>, EvalError>),
}

/// One evaluation.
pub(super) struct Machine<'p, 'v> {
    pub(super) plan: &'p Plan,
    pub(super) activation: &'p dyn Activation<'v>,
    pub(super) variables: Vec<Option<Value<'v>>>,
    pub(super) locals: Vec<Slot<'v>>,
    cost: u64,
    limit: u64,
    stop: Option<&'p AtomicBool>,
    turns: u32,
}

impl Plan {
    /// Evaluates the expression.
    pub fn run<'p, 'v>(&'p self, activation: &'p dyn Activation<'v>, limits: Limits<'p>) -> Outcome<'v> {
        let mut machine = Machine {
            plan: self,
            activation,
            variables: self.variables.iter().map(|name| activation.find(name)).collect(),
            locals: vec![Slot::Unset; self.locals],
            cost: 0,
            limit: limits.cost,
            stop: limits.stop,
            turns: 0,
        };
        let (value, used) = work::with_all(|| machine.eval(&self.root));
        Outcome { value, cost: machine.cost.saturating_add(work::cost(used)) }
    }
}

impl<'p, 'v> Machine<'p, 'v> {
    /// Counts.
    pub(super) fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::cost_limit()) } else { Ok(()) }
    }

    /// Called in every turn of a comprehension.
    pub(super) fn check_stop(&mut self) -> Result<(), EvalError> {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(CHECK_FREQUENCY) && self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(EvalError { message: "operation interrupted".into(), cause: Cause::Interrupted });
        }
        Ok(())
    }

    pub(super) fn eval(&mut self, node: &'p Node) -> Result<Value<'v>, EvalError> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Attribute(attribute) => self.read(attribute),
            Node::Test(attribute) => self.test(attribute),
            Node::And(terms) => self.logic(terms, false),
            Node::Or(terms) => self.logic(terms, true),
            Node::Equal(sides) => self.equality(sides, true),
            Node::NotEqual(sides) => self.equality(sides, false),
            Node::Member(parts) => {
                let value = self.eval(&parts.0)?;
                let found = Key::of(&value).is_some_and(|key| parts.1.binary_search_by(|known| known.cmp(&key)).is_ok());
                Ok(Value::Bool(found))
            }
            Node::Call(call) => self.call(call),
            Node::List(elements) => self.list(elements).map(Value::list).and_then(bounded),
            Node::Map(entries) => self.map(entries),
            Node::Struct(object) => self.object(object),
            Node::Fold(fold) => self.fold(fold),
            Node::Append(parts) => self.append(parts.0, &parts.1, &parts.2),
            Node::Insert(parts) => self.insert(parts.0, &parts.1),
            Node::OptionalOr(sides) => match self.eval(&sides[0])? {
                Value::Optional(None) => self.eval(&sides[1]),
                found @ Value::Optional(Some(_)) => Ok(found),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::OptionalOrValue(sides) => match self.eval(&sides[0])? {
                Value::Optional(None) => self.eval(&sides[1]),
                Value::Optional(Some(found)) => Ok((*found).clone()),
                _ => Err(EvalError::no_such_overload()),
            },
        }
    }

    /// `&&` and `||`: the first term that decides; else the first that failed.
    fn logic(&mut self, terms: &'p [Node], decides: bool) -> Result<Value<'v>, EvalError> {
        let mut failed = None;
        for term in terms {
            let value = match self.flag(term) {
                Some(flag) => self.charge(1).map(|()| Value::Bool(flag)),
                None => self.eval(term),
            };
            match value {
                Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failed = failed.or_else(|| Some(EvalError::no_such_overload())),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Value::Bool(!decides)), Err)
    }

    /// A variable of a comprehension that is true or false; an accumulator is, most of the time.
    fn flag(&self, node: &Node) -> Option<bool> {
        match node {
            Node::Attribute(attribute) => match self.held(attribute)? {
                Value::Bool(flag) => Some(*flag),
                _ => None,
            },
            _ => None,
        }
    }

    /// `==` and `!=`: what cannot be compared is an error of the one and a difference to the other.
    fn equality(&mut self, sides: &'p [Node; 2], same: bool) -> Result<Value<'v>, EvalError> {
        if let [Node::Attribute(attribute), Node::Const(other)] = sides
            && let Some(value) = self.held(attribute)
        {
            let (result, cost) = (is_same(value, other, same), standard::equality_cost(value, other, same));
            self.charge(1)?;
            self.charge(cost)?;
            return result;
        }
        let left = self.argument(&sides[0])?;
        let right = self.argument(&sides[1])?;
        let (Ok(a), Ok(b)) = (&left, &right) else {
            let null = Value::Null;
            self.charge(standard::equality_cost(left.as_ref().unwrap_or(&null), right.as_ref().unwrap_or(&null), same))?;
            return left.and(right);
        };
        let result = is_same(a, b, same);
        self.charge(standard::equality_cost(a, b, same))?;
        result
    }

    /// An argument whose error does not end the evaluation yet.
    pub(super) fn argument(&mut self, node: &'p Node) -> Result<Result<Value<'v>, EvalError>, EvalError> {
        match self.eval(node) {
            Err(error) if error.is_final() => Err(error),
            other => Ok(other),
        }
    }

    fn call(&mut self, call: &'p Call) -> Result<Value<'v>, EvalError> {
        match &*call.args {
            [] => self.apply(call, &[]),
            [one] => match (call.non_strict, self.flag(one)) {
                // What every turn of `all` and `exists` asks.
                (true, Some(flag)) => {
                    self.charge(1)?;
                    self.charge(1)?;
                    Ok(Value::Bool(flag))
                }
                _ => match self.eval(one) {
                    Ok(one) => self.apply(call, &[one]),
                    Err(error) if error.is_final() => Err(error),
                    failed => self.apply_strict(call, [failed]),
                },
            },
            [one, two] if call.all_args => match (self.argument(one)?, self.argument(two)?) {
                (Ok(one), Ok(two)) => self.apply(call, &[one, two]),
                (one, two) => self.apply_strict(call, [one, two]),
            },
            nodes => {
                // The first error ends it, and then the call costs nothing unless its arguments are all there.
                let mut args = Vec::with_capacity(nodes.len());
                for (at, node) in nodes.iter().enumerate() {
                    match self.argument(node)? {
                        Ok(value) => args.push(value),
                        Err(error) => {
                            if at + 1 == nodes.len() {
                                args.push(Value::Null);
                                self.charge(cost_of(call, &args, &Value::Null))?;
                            }
                            return Err(error);
                        }
                    }
                }
                self.apply(call, &args)
            }
        }
    }

    /// A call whose arguments are all evaluated: the first error is its result, at the cost of a call.
    fn apply_strict<const N: usize>(&mut self, call: &'p Call, args: [Result<Value<'v>, EvalError>; N]) -> Result<Value<'v>, EvalError> {
        let mut failed = None;
        let values = args.map(|arg| {
            arg.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                Value::Null
            })
        });
        match failed {
            // Of the language's functions only `@not_strictly_false` takes errors, and to it they are true.
            Some(_) if call.non_strict => {
                self.charge(cost_of(call, &values, &Value::Bool(true)))?;
                Ok(Value::Bool(true))
            }
            Some(error) => {
                if is_weighed_as_list(call, &values) {
                    return Err(EvalError::internal("internal error: interface conversion: *types.Err is not traits.Lister: missing method Add"));
                }
                self.charge(cost_of(call, &values, &Value::Null))?;
                Err(error)
            }
            None => self.apply(call, &values),
        }
    }

    fn apply(&mut self, call: &'p Call, args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
        if call.cost.is_some() {
            // What its arguments alone make too costly is not run. (A result may count one less than none does.)
            let least = cost_of(call, args, &Value::Null);
            if self.cost.saturating_add(least) > self.limit.saturating_add(1) {
                self.charge(least)?;
            }
        }
        for arg in args {
            // Many functions go through a text that costs them nothing by its length: all that convert, parse or count it.
            match arg {
                Value::String(text) => work::take_passed(text.len() as u64)?,
                Value::Bytes(bytes) => work::take_passed(bytes.len() as u64)?,
                _ => {}
            }
        }
        let result = match &call.target {
            Target::Plain(run) => run(args),
            Target::Guarded(run, types) if takes(types, args) => run(args),
            Target::Guarded(..) => Err(no_such_overload(&call.function, args)),
            Target::Dispatched(overloads) => match overloads.iter().find(|(_, types)| types.len() == args.len() && takes(types, args)) {
                Some((run, _)) => run(args),
                None => Err(no_such_overload(&call.function, args)),
            },
            Target::Pattern(pattern, run) => run(pattern, args),
        };
        self.charge(cost_of(call, args, result.as_ref().unwrap_or(&Value::Null)))?;
        result.and_then(bounded)
    }

    /// The elements of a list. A list that fails costs as much as one that is made.
    fn list(&mut self, elements: &'p [Element]) -> Result<Vec<Value<'v>>, EvalError> {
        let mut values = Vec::with_capacity(elements.len());
        let mut failed = None;
        for element in elements {
            match self.argument(&element.node)? {
                Ok(Value::Optional(None)) if element.optional => {}
                Ok(Value::Optional(Some(value))) if element.optional => values.push((*value).clone()),
                Ok(value) if element.optional => {
                    let message = format!("cannot initialize optional list element from non-optional value {}", shown(&value));
                    failed = Some(EvalError::of(message));
                }
                Ok(value) => values.push(value),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() {
                break;
            }
        }
        self.charge(LIST_CREATE)?;
        failed.map_or(Ok(values), Err)
    }

    fn map(&mut self, entries: &'p [(Node, Element)]) -> Result<Value<'v>, EvalError> {
        let made = self.entries(entries);
        match &made {
            Err(error) if error.is_final() => {}
            _ => self.charge(MAP_CREATE)?,
        }
        made.and_then(|entries| bounded(Value::Map(Map::of(entries))))
    }

    fn entries(&mut self, entries: &'p [(Node, Element)]) -> Result<Entries<'v>, EvalError> {
        let mut made = Entries::new();
        for (key, element) in entries {
            let key = self.eval(key)?;
            let value = self.eval(&element.node)?;
            let place = Key::any(&key)?;
            match value {
                Value::Optional(None) if element.optional => _ = made.remove(&place),
                Value::Optional(Some(value)) if element.optional => _ = made.insert(place, (*value).clone()),
                value if element.optional => {
                    let message = format!("cannot initialize optional entry '{}' from non-optional value {}", shown(&key), shown(&value));
                    return Err(EvalError::of(message));
                }
                value => _ = made.insert(place, value),
            }
        }
        Ok(made)
    }

    fn object(&mut self, object: &'p Object) -> Result<Value<'v>, EvalError> {
        let mut made = Struct { name: object.name.clone(), fields: Default::default(), depth: 0 };
        let mut failed = None;
        for (field, element) in &object.fields {
            match self.argument(&element.node)? {
                Ok(Value::Optional(None)) if element.optional => _ = made.fields.remove(field),
                Ok(Value::Optional(Some(value))) if element.optional => _ = made.fields.insert(field.clone(), (*value).clone()),
                Ok(value) if element.optional => {
                    let message = format!("cannot initialize optional entry '{field}' from non-optional value {}", shown(&value));
                    failed = Some(EvalError::of(message));
                }
                Ok(value) => _ = made.fields.insert(field.clone(), value),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() {
                break;
            }
        }
        if !object.known {
            failed = failed.or_else(|| Some(EvalError::of(format!("unknown type '{}'", object.name))));
        }
        self.charge(STRUCT_CREATE)?;
        made.depth = 1 + made.fields.values().map(Value::depth).max().unwrap_or(0);
        if let Some(failed) = failed {
            return Err(failed);
        }
        let plain = messages::made(&made.name, &made.fields);
        plain.unwrap_or_else(|| Ok(Value::Struct(Arc::new(made)))).and_then(bounded)
    }

    /// `accumulator + [element]`, at the cost of the sum that it is.
    fn append(&mut self, slot: usize, accumulator: &'p Node, element: &'p Element) -> Result<Value<'v>, EvalError> {
        let before = self.argument(accumulator)?;
        let elements = match &element.node {
            // A constant list is made without a cost.
            Node::Const(value) if !element.optional => Ok(vec![value.clone()]),
            _ => match self.list(std::slice::from_ref(element)) {
                Err(error) if error.is_final() => return Err(error),
                other => other,
            },
        };
        self.charge(1)?;
        let (Value::List(List::Owned(mut list, depth)), mut elements) = (before?, elements?) else { return Err(EvalError::no_such_overload()) };
        // From here on nobody else holds the accumulator, so that it grows without a copy.
        self.locals[slot] = Slot::Unset;
        let depth = elements.iter().map(|element| 1 + element.depth()).fold(depth, u32::max);
        Arc::make_mut(&mut list).append(&mut elements);
        bounded(Value::List(List::Owned(list, depth)))
    }

    /// `cel.@mapInsert(accumulator, key, value)` or `(accumulator, entries)`, at the cost of the call that it is.
    fn insert(&mut self, slot: usize, args: &'p [Node]) -> Result<Value<'v>, EvalError> {
        let mut values = Vec::with_capacity(args.len());
        for (at, node) in args.iter().enumerate() {
            match self.argument(node)? {
                Ok(value) => values.push(value),
                Err(error) => {
                    if at + 1 == args.len() {
                        self.charge(1)?;
                    }
                    return Err(error);
                }
            }
        }
        self.charge(1)?;
        self.locals[slot] = Slot::Unset;
        let mut values = values.into_iter();
        let (Some(Value::Map(Map::Owned(mut map, mut depth))), Some(second)) = (values.next(), values.next()) else {
            return Err(EvalError::no_such_overload());
        };
        let entries = Arc::make_mut(&mut map);
        match (second, values.next()) {
            (key, Some(value)) => {
                depth = depth.max(1 + key.depth().max(value.depth()));
                insert(entries, &key, value)?;
            }
            (Value::Map(others), None) => {
                depth = depth.max(others.depth());
                for key in others.keys() {
                    let value = others.find(&key)?.unwrap_or(Value::Null);
                    insert(entries, &key, value)?;
                }
            }
            _ => return Err(EvalError::no_such_overload()),
        }
        bounded(Value::Map(Map::Owned(map, depth)))
    }
}

/// Whether two values are the same, or are not.
fn is_same<'v>(left: &Value<'v>, right: &Value<'v>, same: bool) -> Result<Value<'v>, EvalError> {
    match equal(left, right) {
        Ok(equal) => Ok(Value::Bool(equal == same)),
        Err(error) if same => Err(error),
        Err(_) => Ok(Value::Bool(true)),
    }
}

/// A value that is not made of too many others, one within the other.
fn bounded(value: Value<'_>) -> Result<Value<'_>, EvalError> {
    if value.depth() > DEPTH_MAX { Err(EvalError::cost_limit()) } else { Ok(value) }
}

/// Adds an entry whose key must be new.
fn insert<'v>(entries: &mut Entries<'v>, key: &Value<'v>, value: Value<'v>) -> Result<(), EvalError> {
    let place = Key::any(key)?;
    if place.find_in(entries).is_some() {
        return Err(EvalError::of(format!("insert failed: key {} already exists", shown(key))));
    }
    entries.insert(place, value);
    Ok(())
}

/// What a call costs.
fn cost_of<'v>(call: &Call, args: &[Value<'v>], result: &Value<'v>) -> u64 {
    call.cost.map_or(1, |cost| cost(args, result))
}

/// Whether upstream's count of a failed call's cost takes the argument that failed for a list, and panics (`ext/lists.go`).
fn is_weighed_as_list(call: &Call, args: &[Value<'_>]) -> bool {
    let weighed = match &*call.function {
        "distinct" | "sort" => args.first(),
        "@sortByAssociatedKeys" => args.get(1),
        _ => None,
    };
    call.cost.is_some() && weighed.is_some_and(|value| matches!(value, Value::Null))
}

/// A function that has no overload for such values.
fn no_such_overload(function: &str, args: &[Value<'_>]) -> EvalError {
    let types: Vec<_> = args.iter().map(Value::type_name).collect();
    EvalError::of(format!("no such overload: {function}({})", types.join(", ")))
}

/// Whether values may be what a declaration wants.
fn takes(types: &[Type], args: &[Value<'_>]) -> bool {
    types.iter().zip(args).all(|(ty, arg)| is_assignable(ty, arg))
}

/// Whether a value may be what a declaration wants: of lists and maps the first element is asked.
fn is_assignable(ty: &Type, value: &Value<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Any | Type::Param(_), _) => true,
        (Type::String, Value::String(_)) | (Type::Int, Value::Int(_)) | (Type::Bool, Value::Bool(_)) => true,
        (Type::List(element), Value::List(list)) => match (&**element, list.is_empty()) {
            (Type::Dyn | Type::Param(_), _) | (_, true) => true,
            (element, false) => list.at(0).is_ok_and(|first| is_assignable(element, &first)),
        },
        (Type::Map(key, value), Value::Map(map)) => {
            if map.is_empty() || matches!((&**key, &**value), (Type::Dyn | Type::Param(_), Type::Dyn | Type::Param(_))) {
                return true;
            }
            let keys = map.keys();
            let Some(first) = keys.first() else { return true };
            is_assignable(key, first) && map.find(first).is_ok_and(|found| found.is_none_or(|found| is_assignable(value, &found)))
        }
        (Type::Nullable(_), Value::Null) => true,
        (ty, value) => ty.runtime_name() == value.type_name(),
    }
}
