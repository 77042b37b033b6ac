//! What evaluating an expression may cost, node by node.
//!
//! The sizes of values are carried along: what the expression makes has sizes of its own, what it reads has those that the caller
//! knows by the path of the fields, a loop costs its body as often as its range is large.

use std::collections::HashMap;

use super::paths::Path;
use super::{CallEstimate, Cost, EstimatedCall, LIST_CREATE, MAP_CREATE, Node, Range, STRUCT_CREATE, Size, Sizes};
use crate::ast::{Call, Checked, Comprehension, Expr, Id, Kind, Literal};
use crate::env::Env;
use crate::macros::ACCUMULATOR;
use crate::types::{Str, Type};

/// What evaluating the expression may cost.
pub(crate) fn estimate(env: &Env, checked: &Checked, sizes: &dyn Sizes) -> Cost {
    let mut estimator = Estimator { env, checked, sizes, paths: HashMap::new(), locals: Vec::new(), known: HashMap::new(), entries: HashMap::new() };
    estimator.cost(&checked.expr)
}

/// The sizes of the keys (or indices) and the values of a list or map.
#[derive(Debug, Clone, Copy)]
struct Entries {
    list: bool,
    key: Size,
    value: Size,
}

/// A variable of a loop.
struct Local {
    name: Str,
    path: Path,
    size: Option<Size>,
    entries: Option<Entries>,
}

struct Estimator<'a> {
    env: &'a Env,
    checked: &'a Checked,
    sizes: &'a dyn Sizes,
    paths: HashMap<Id, Path>,
    locals: Vec<Local>,
    known: HashMap<Id, Size>,
    entries: HashMap<Id, Entries>,
}

const ONE: Cost = Cost::fixed(1);
/// Of no elements yet: the union with the first is the first.
const NONE_YET: Size = Size::new(u64::MAX, 0);

impl Estimator<'_> {
    fn cost(&mut self, expr: &Expr) -> Cost {
        match &expr.kind {
            Kind::Unspecified | Kind::Literal(_) => Cost::fixed(0),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| Path::of(name.clone()), |local| local.path.clone());
                self.paths.insert(expr.id, path);
                ONE
            }
            // That a field is there is read for nothing.
            Kind::Select(select) if select.test_only => self.cost(&select.operand),
            Kind::Select(select) => {
                let mut sum = self.cost(&select.operand);
                if matches!(self.checked.type_of(select.operand.id), Type::Map(..) | Type::Object(_) | Type::Param(_)) {
                    sum = sum.plus(ONE);
                }
                let path = self.path(&select.operand).then(&select.field);
                self.paths.insert(expr.id, path);
                sum
            }
            Kind::Call(call) => self.call(expr, call),
            Kind::List(list) => {
                let mut item = empty_or_not(list.elements.is_empty());
                let mut sum = Cost::fixed(0);
                for element in &list.elements {
                    sum = sum.plus(self.cost(element));
                    item = item.union(self.size_or_unknown(element));
                }
                self.entries.insert(expr.id, Entries { list: true, key: Size::fixed(1), value: item });
                sum.plus(Cost::fixed(LIST_CREATE))
            }
            Kind::Map(entries) => {
                let (mut key, mut value) = (empty_or_not(entries.is_empty()), empty_or_not(entries.is_empty()));
                let mut sum = Cost::fixed(0);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, Entries { list: false, key, value });
                sum.plus(Cost::fixed(MAP_CREATE))
            }
            Kind::Struct(object) => {
                let fields = object.fields.iter().fold(Cost::fixed(0), |sum, field| sum.plus(self.cost(&field.value)));
                fields.plus(Cost::fixed(STRUCT_CREATE))
            }
            Kind::Comprehension(inner) if is_bind(inner) => self.bind(expr, inner),
            Kind::Comprehension(inner) => self.comprehension(expr, inner),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| &*local.name == name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Some(local) = expr.ident().and_then(|name| self.local(name)) {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Cost {
        if &*call.function == "dyn"
            && let [arg] = call.args.as_slice()
        {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return ONE.plus(cost);
        }
        let mut costs = Vec::with_capacity(call.args.len());
        let mut nodes = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            costs.push(self.cost(arg));
            nodes.push(self.node(arg));
        }
        let checked = self.checked;
        let overloads = checked.overloads(expr.id);
        if overloads.is_empty() {
            return Cost::fixed(0);
        }
        let mut sum = Cost::fixed(0);
        let mut target = None;
        if let Some(on) = &call.target {
            sum = self.cost(on);
            target = Some(self.node(on));
        }
        let (mut own, mut size) = (NONE_YET, None);
        for id in overloads {
            let called = self.overload(expr, call, id, target.as_ref(), &nodes, &costs);
            own = own.union(called.cost);
            size = match (size, called.size) {
                (Some(known), Some(also)) => Some(Size::union(known, also)),
                (known, also) => known.or(also),
            };
            let step = match &**id {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(on)) = (step, call.args.first()) {
                size = self.entries_of(on).map(|entries| entries.value);
                let path = self.path(on).then(step);
                self.paths.insert(expr.id, path);
            }
            size = size.or_else(|| self.size(expr));
        }
        if let Some(size) = size {
            self.known.insert(expr.id, size);
        }
        sum.plus(own)
    }

    /// The cost of one overload with its arguments.
    fn overload(&mut self, expr: &Expr, call: &Call, id: &str, target: Option<&Node>, args: &[Node], costs: &[Cost]) -> CallEstimate {
        let all = costs.iter().fold(Cost::fixed(0), |sum, cost| sum.plus(*cost));
        match (id, costs) {
            // The second may never be looked at.
            ("logical_and" | "logical_or", [left, right]) => return CallEstimate::cost(Cost::new(left.min, left.plus(*right).max)),
            ("conditional", [condition, yes, no]) => {
                let size = args[1].size.unwrap_or(Size::UNKNOWN).union(args[2].size.unwrap_or(Size::UNKNOWN));
                self.join_entries(expr, &call.args[1], &call.args[2]);
                return CallEstimate::sized(condition.plus(yes.union(*no)), size);
            }
            ("add_string" | "add_bytes" | "add_list", [_, _]) => self.join_entries(expr, &call.args[0], &call.args[1]),
            _ => {}
        }
        let estimate = self.env.overload(id).and_then(|overload| overload.estimate);
        let called = estimate.and_then(|estimate| estimate(&EstimatedCall { sizes: self.sizes, target, args }));
        let called = called.unwrap_or_else(|| CallEstimate::cost(ONE));
        CallEstimate { cost: called.cost.plus(all), ..called }
    }

    /// What is made of two lists or maps has the entries of both.
    fn join_entries(&mut self, expr: &Expr, one: &Expr, two: &Expr) {
        if let (Some(one), Some(two)) = (self.entries_of(one), self.entries_of(two)) {
            let joined = Entries { list: one.list, key: one.key.union(two.key), value: one.value.union(two.value) };
            self.entries.insert(expr.id, joined);
        }
    }

    /// A value that lasts for the result alone: no loop.
    fn bind(&mut self, expr: &Expr, inner: &Comprehension) -> Cost {
        let sum = self.cost(&inner.range).plus(self.cost(&inner.accu_init));
        self.push_value(&inner.accu_var, &inner.accu_init);
        let sum = sum.plus(self.cost(&inner.result));
        self.locals.pop();
        self.copy_sizes(expr, &inner.result);
        sum
    }

    fn comprehension(&mut self, expr: &Expr, inner: &Comprehension) -> Cost {
        let mut sum = self.cost(&inner.range).plus(self.cost(&inner.accu_init));
        self.push_value(&inner.accu_var, &inner.accu_init);
        let outer = self.locals.len();
        match &inner.iter_var2 {
            Some(second) => {
                self.push_each(&inner.iter_var, &inner.range, true);
                self.push_each(second, &inner.range, false);
            }
            // One variable is a list's element or a map's key.
            None => self.push_each(&inner.iter_var, &inner.range, !self.is_list(&inner.range)),
        }
        let round = self.cost(&inner.condition);
        let round = self.cost(&inner.step).plus(round);
        self.locals.truncate(outer);
        sum = sum.plus(self.cost(&inner.result));
        self.locals.pop();
        let rounds = self.size_or_unknown(&inner.range);
        sum = sum.plus(rounds.times(round));
        match &inner.accu_init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&inner.accu_init) {
                    self.known.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.known.insert(expr.id, rounds);
                if let Some(entries) = self.entries_of(&inner.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn is_list(&self, range: &Expr) -> bool {
        self.entries_of(range).map_or_else(|| matches!(self.checked.type_of(range.id), Type::List(_)), |entries| entries.list)
    }

    /// A variable for each key or each value of the range.
    fn push_each(&mut self, name: &Str, range: &Expr, key: bool) {
        let entries = self.entries_of(range);
        let step = match (key, self.is_list(range)) {
            (true, true) => "@indices",
            (true, false) => "@keys",
            (false, true) => "@items",
            (false, false) => "@values",
        };
        let size = entries.map(|entries| if key { entries.key } else { entries.value });
        let path = self.path(range).then(step);
        self.locals.push(Local { name: name.clone(), path, size, entries: None });
    }

    /// A variable for a value.
    fn push_value(&mut self, name: &Str, value: &Expr) {
        let local = Local { name: name.clone(), path: self.path(value), size: self.size(value), entries: self.entries_of(value) };
        self.locals.push(local);
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.known.insert(to.id, size);
        }
        if let Some(entries) = self.entries_of(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        self.entries.get(&expr.id).copied().or_else(|| expr.ident().and_then(|name| self.local(name)?.entries))
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Size {
        self.size(expr).unwrap_or(Size::UNKNOWN)
    }

    /// The size of what a node gives: by what was found, by the expression itself, by the caller, by the type, by the variable.
    fn size(&mut self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.known.get(&expr.id) {
            return Some(*size);
        }
        let own = match &expr.kind {
            Kind::Literal(Literal::String(text)) => Some(text.chars().count()),
            Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Kind::Literal(_) => Some(1),
            Kind::List(list) => Some(list.elements.len()),
            Kind::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(own) = own {
            return Some(Size::fixed(own as u64));
        }
        let ty = self.checked.type_of(expr.id);
        if let Some(size) = self.sizes.size(&self.path(expr).names(), ty) {
            self.known.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(ty) {
            return Some(Size::fixed(1));
        }
        expr.ident().and_then(|name| self.local(name)?.size)
    }

    fn node(&mut self, expr: &Expr) -> Node {
        let path = self.path(expr).names();
        let path = (!path.is_empty() && !["__result__", ACCUMULATOR].contains(&&*path[0])).then_some(path);
        Node { path, ty: self.checked.type_of(expr.id).clone(), size: self.size(expr), literal: expr.literal().cloned() }
    }
}

fn empty_or_not(empty: bool) -> Size {
    if empty { Range::fixed(0) } else { NONE_YET }
}

/// Whether a loop is only there to give a value a name.
fn is_bind(inner: &Comprehension) -> bool {
    matches!(&inner.range.kind, Kind::List(list) if list.elements.is_empty())
        && matches!(inner.condition.literal(), Some(Literal::Bool(false)))
        && &*inner.accu_var != "__result__"
}

/// Types whose values all have one size.
fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Nullable(of) => is_scalar(of),
        _ => ty.optional_of().is_some_and(is_scalar),
    }
}
