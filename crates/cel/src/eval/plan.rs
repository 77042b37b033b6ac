//! From the checked tree to its compact form.
//!
//! What is constant is computed here, and where that fails (a conversion, a pattern) there is no program at all, as in the original.

use std::sync::Arc;

use super::node::{Attribute, Base, Call, Element, Fold, Node, Object, PatternRun, Qualifier, QualifierKey, Target};
use super::{EvalError, Limits, standard};
use crate::ast::{self, Checked, Comprehension, Expr, Kind, Reference, Select};
use crate::decl::{Binding, Overload};
use crate::env::Env;
use crate::library;
use crate::operators as op;
use crate::program::Program;
use crate::regex::Patterns;
use crate::types::{Str, Type};
use crate::value::{Key, Value, double_to_int, double_to_uint};

/// The conversions, which are computed at once if what they convert is constant.
const CONVERSIONS: [&str; 10] = ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

/// An expression ready to run. It can be run by many threads at once.
#[derive(Debug)]
pub struct Plan {
    pub(super) root: Node,
    /// The names of the activation's variables.
    pub(super) variables: Vec<Str>,
    /// How many variables of comprehensions there are at most.
    pub(super) locals: usize,
    /// The initial values of accumulators.
    pub(super) inits: Vec<Node>,
}

impl Plan {
    /// Prepares a program that shares its constant patterns with no other.
    ///
    /// # Errors
    /// What is constant in it cannot be computed.
    pub fn new(program: &Program) -> Result<Plan, EvalError> {
        Plan::sharing(program, &Patterns::default())
    }

    /// Prepares a program whose owner has others: their constant patterns are counted and held together.
    ///
    /// # Errors
    /// What is constant in it cannot be computed.
    pub fn sharing(program: &Program, patterns: &Patterns) -> Result<Plan, EvalError> {
        let mut planner =
            Planner { checked: &program.checked, env: &program.env, variables: Vec::new(), scopes: Vec::new(), locals: 0, inits: Vec::new(), patterns };
        let root = planner.expr(&program.checked.expr)?;
        Ok(Plan { root, variables: planner.variables, locals: planner.locals, inits: planner.inits })
    }

    /// The variables that the expression reads.
    pub fn variables(&self) -> &[Str] {
        &self.variables
    }
}

/// A variable of a comprehension.
struct Local {
    name: Str,
    slot: usize,
    /// The initial value, of an accumulator.
    init: Option<usize>,
    /// Whether it begins as an empty list or map, to which only a macro's own step adds.
    grows: bool,
}

struct Planner<'p> {
    checked: &'p Checked,
    env: &'p Env,
    variables: Vec<Str>,
    scopes: Vec<Local>,
    locals: usize,
    inits: Vec<Node>,
    patterns: &'p Patterns,
}

type Planned = Result<Node, EvalError>;

impl Planner<'_> {
    fn expr(&mut self, expr: &Expr) -> Planned {
        match &expr.kind {
            Kind::Unspecified => Err(EvalError::of("unsupported expr")),
            Kind::Literal(literal) => Ok(Node::Const(Value::from(literal))),
            Kind::Ident(name) => self.ident(expr.id, name),
            Kind::Select(select) => self.select(expr.id, select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List(list) => {
                let elements = list.elements.iter().enumerate();
                let element = |(at, element)| Ok(Element { node: self.expr(element)?, optional: list.optional.contains(&at) });
                let elements: Vec<Element> = elements.map(element).collect::<Result<_, EvalError>>()?;
                fold_list(elements)
            }
            Kind::Map(entries) => {
                let mut planned = Vec::with_capacity(entries.len());
                for entry in entries {
                    planned.push((self.expr(&entry.key)?, Element { node: self.expr(&entry.value)?, optional: entry.optional }));
                }
                fold_map(planned)
            }
            Kind::Struct(object) => {
                let mut fields = Vec::with_capacity(object.fields.len());
                for field in &object.fields {
                    fields.push((field.name.clone(), Element { node: self.expr(&field.value)?, optional: field.optional }));
                }
                // What schemas declare is for the checker alone, here too.
                let known = !self.env.declared.objects.contains_key(&object.name);
                Ok(Node::Struct(Box::new(Object { name: object.name.clone(), fields, known })))
            }
            Kind::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    /// A name: a constant, a type, a variable of a comprehension or of the activation.
    fn ident(&mut self, id: ast::Id, name: &Str) -> Planned {
        let name = match self.checked.references.get(&id) {
            Some(Reference::Ident { value: Some(value), .. }) => return Ok(Node::Const(Value::from(value))),
            Some(Reference::Ident { name, .. }) => name,
            _ => name,
        };
        if let Type::Type(_) = self.checked.type_of(id)
            && self.local(name).is_none()
        {
            // What schemas declare has a name for the checker alone.
            let plain = name.strip_prefix('.').unwrap_or(name);
            let known = self.env.provider.names.get(plain).filter(|ty| ty.runtime_name() == plain);
            return known.map(|ty| Node::Const(Value::Type(ty.clone()))).ok_or_else(|| EvalError::of(format!("reference to undefined type: {plain}")));
        }
        let base = match (name.strip_prefix('.'), self.local(name)) {
            (None, Some(local)) => Base::Local(local.slot, local.init),
            (global, _) => Base::Variable(self.variable(global.unwrap_or(name))),
        };
        Ok(Node::Attribute(Box::new(Attribute::of(base))))
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.scopes.iter().rev().find(|local| &*local.name == name)
    }

    fn variable(&mut self, name: &str) -> usize {
        self.variables.iter().position(|known| &**known == name).unwrap_or_else(|| {
            self.variables.push(name.into());
            self.variables.len() - 1
        })
    }

    fn select(&mut self, id: ast::Id, select: &Select) -> Planned {
        if let Some(Reference::Ident { name, .. }) = self.checked.references.get(&id) {
            let name = name.clone();
            return self.ident(id, &name);
        }
        let mut attribute = attribute(self.expr(&select.operand)?);
        let key = Value::String(crate::value::Text::Shared(select.field.clone()));
        attribute.qualifiers.push(Qualifier { test: select.test_only, ..Qualifier::constant(key, false) });
        let attribute = Box::new(attribute);
        Ok(if select.test_only { Node::Test(attribute) } else { Node::Attribute(attribute) })
    }

    fn call(&mut self, expr: &Expr, call: &ast::Call) -> Planned {
        let function = &call.function;
        if let Some(grown) = self.growing(call)? {
            return Ok(grown);
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        for arg in call.target.iter().map(|target| &**target).chain(&call.args) {
            args.push(self.expr(arg)?);
        }
        let ids = self.checked.overloads(expr.id);
        let only = match ids {
            [only] => Some(&**only),
            _ => None,
        };
        match (&**function, args.len()) {
            (op::LOGICAL_AND, 2) => return Ok(Node::And(flat(args, |node| if let Node::And(terms) = node { Ok(terms) } else { Err(node) }))),
            (op::LOGICAL_OR, 2) => return Ok(Node::Or(flat(args, |node| if let Node::Or(terms) = node { Ok(terms) } else { Err(node) }))),
            (op::EQUALS, 2) => return Ok(Node::Equal(pair(args)?)),
            (op::NOT_EQUALS, 2) => return Ok(Node::NotEqual(pair(args)?)),
            (op::INDEX, 2) => return index(args, false),
            (op::OPT_INDEX | op::OPT_SELECT, 2) => return index(args, true),
            ("or", 2) if only.is_none_or(|id| id == "optional_or_optional") => return Ok(Node::OptionalOr(pair(args)?)),
            ("orValue", 2) if only.is_none_or(|id| id == "optional_orValue_value") => return Ok(Node::OptionalOrValue(pair(args)?)),
            (op::CONDITIONAL, 3) => {
                let mut args = args.into_iter();
                if let (Some(condition), Some(then), Some(otherwise)) = (args.next(), args.next(), args.next()) {
                    let parts = Box::new((condition, attribute(then), attribute(otherwise)));
                    return Ok(Node::Attribute(Box::new(Attribute::of(Base::Conditional(parts)))));
                }
                return Err(EvalError::no_such_overload());
            }
            _ => {}
        }
        if only == Some("in_list")
            && let Some(node) = member(&mut args)
        {
            return Ok(node);
        }
        self.function(function, only, args)
    }

    /// A call of a function that is a row of a library.
    fn function(&mut self, name: &Str, only: Option<&str>, args: Vec<Node>) -> Planned {
        let unknown = || EvalError::of(format!("no such overload: {name}"));
        let declared = self.env.base.functions.get(&**name).ok_or_else(unknown)?;
        let named = only.and_then(|id| self.env.overload(id));
        let first = declared.overloads.first().ok_or_else(unknown)?;
        let of = named.unwrap_or(first);
        let params = |overload: &Overload| Arc::from(overload.params.as_slice());
        let pattern = match args.get(1) {
            Some(Node::Const(Value::String(pattern))) => pattern_run(name, args.len()).map(|run| (pattern, run)),
            _ => None,
        };
        let is_pattern = pattern.is_some();
        // One that there is no room for is compiled when it is used.
        let pattern = match pattern {
            Some((pattern, run)) => self.patterns.compiled(pattern).map_err(EvalError::of)?.map(|pattern| (pattern, run)),
            None => None,
        };
        let many = named.is_none() && declared.overloads.len() > 1 && of.binding != Binding::Singleton;
        let target = match pattern {
            Some((pattern, run)) => Target::Pattern(pattern, run),
            None if many => {
                let open = |overload: &Overload| match overload.binding {
                    Binding::Unguarded => vec![Type::Dyn; overload.params.len()].into(),
                    _ => params(overload),
                };
                Target::Dispatched(declared.overloads.iter().map(|overload| (overload.run, open(overload))).collect())
            }
            None if of.binding == Binding::Guarded => Target::Guarded(of.run, params(of)),
            None => Target::Plain(of.run),
        };
        // The text is what the original has in a function of any number of arguments, as it has every pattern that is constant.
        let all_args = !many && !is_pattern && of.id != "string_format";
        let cost = of.cost.filter(|_| named.is_some() || of.counted_by_name);
        let non_strict = of.non_strict;
        let constant = CONVERSIONS.contains(&&**name) && matches!(args.as_slice(), [Node::Const(_)]);
        let node = Node::Call(Box::new(Call { function: name.clone(), args: args.into(), all_args, non_strict, target, cost }));
        if constant { computed(node) } else { Ok(node) }
    }

    /// The step of a macro that adds to its accumulator.
    fn growing(&mut self, call: &ast::Call) -> Result<Option<Node>, EvalError> {
        let is_sum = &*call.function == op::ADD;
        let name = match call.args.first().map(|first| &first.kind) {
            Some(Kind::Ident(name)) if is_sum || &*call.function == crate::macros::MAP_INSERT => name,
            _ => return Ok(None),
        };
        let Some(slot) = self.local(name).filter(|local| local.grows).map(|local| local.slot) else { return Ok(None) };
        if !is_sum {
            let args = call.args.iter().map(|arg| self.expr(arg)).collect::<Result<_, _>>()?;
            return Ok(Some(Node::Insert(Box::new((slot, args)))));
        }
        let [accumulator, ast::Expr { kind: Kind::List(list), .. }] = call.args.as_slice() else { return Ok(None) };
        let [element] = list.elements.as_slice() else { return Ok(None) };
        let node = self.expr(element)?;
        let accumulator = self.expr(accumulator)?;
        Ok(Some(Node::Append(Box::new((slot, accumulator, Element { node, optional: !list.optional.is_empty() })))))
    }

    fn comprehension(&mut self, of: &Comprehension) -> Planned {
        let init = self.expr(&of.accu_init)?;
        let range = self.expr(&of.range)?;
        let grows = match &of.accu_init.kind {
            Kind::List(list) => list.elements.is_empty(),
            Kind::Map(entries) => entries.is_empty(),
            _ => false,
        };
        self.inits.push(init);
        let init = self.inits.len() - 1;
        let depth = self.scopes.len();
        let accumulator = self.push(&of.accu_var, Some(init), grows);
        let first = self.push(&of.iter_var, None, false);
        let second = of.iter_var2.as_ref().filter(|name| !name.is_empty()).map(|name| self.push(name, None, false));
        let condition = self.expr(&of.condition)?;
        let step = self.expr(&of.step)?;
        self.scopes.truncate(depth + 1);
        let result = self.expr(&of.result)?;
        self.scopes.truncate(depth);
        Ok(Node::Fold(Box::new(Fold { range, first, second, accumulator, condition, step, result })))
    }

    fn push(&mut self, name: &Str, init: Option<usize>, grows: bool) -> usize {
        let slot = self.locals;
        self.locals += 1;
        self.scopes.push(Local { name: name.clone(), slot, init, grows });
        slot
    }
}

/// A step as the beginning of an attribute.
fn attribute(node: Node) -> Attribute {
    match node {
        Node::Attribute(attribute) => *attribute,
        other => Attribute::of(Base::Node(other)),
    }
}

/// `a[b]`, `a.?b`.
fn index(args: Vec<Node>, optional: bool) -> Planned {
    let [operand, key] = *pair(args)?;
    let mut attribute = attribute(operand);
    let key = match key {
        Node::Const(key) => match key {
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_) => QualifierKey::Const(key),
            other => return Err(EvalError::of(format!("invalid qualifier type: {}", super::go_type(&other)))),
        },
        other => QualifierKey::Attribute(self::attribute(other)),
    };
    attribute.qualifiers.push(Qualifier { key, optional, test: false });
    Ok(Node::Attribute(Box::new(attribute)))
}

/// Two arguments.
fn pair(args: Vec<Node>) -> Result<Box<[Node; 2]>, EvalError> {
    let args: [Node; 2] = args.try_into().map_err(|_| EvalError::no_such_overload())?;
    Ok(Box::new(args))
}

/// The terms of a chain of `&&` or `||` in one row: the order and the result are the same.
fn flat(args: Vec<Node>, terms: fn(Node) -> Result<Box<[Node]>, Node>) -> Box<[Node]> {
    let mut all = Vec::with_capacity(args.len());
    for arg in args {
        match terms(arg) {
            Ok(inner) => all.extend(inner),
            Err(other) => all.push(other),
        }
    }
    all.into()
}

/// `x in [constants]` as a set; its list must be of simple values.
fn member(args: &mut Vec<Node>) -> Option<Node> {
    let Some(Node::Const(Value::List(list))) = args.get(1) else { return None };
    if list.is_empty() {
        return Some(Node::Const(Value::Bool(false)));
    }
    let mut keys: Vec<Key<'static>> = Vec::with_capacity(list.len());
    for element in list.iter() {
        let element = element.ok()?;
        keys.push(Key::of(&element)?);
        // The same number in the other types, where it is one of theirs.
        match element {
            Value::Int(value) => {
                keys.push(Key::Double(value as f64));
                keys.extend(u64::try_from(value).ok().map(Key::Uint));
            }
            Value::Uint(value) => {
                keys.push(Key::Double(value as f64));
                keys.extend(i64::try_from(value).ok().map(Key::Int));
            }
            Value::Double(value) => {
                keys.extend(double_to_int(value).ok().filter(|int| *int as f64 == value).map(Key::Int));
                keys.extend(double_to_uint(value).ok().filter(|uint| *uint as f64 == value).map(Key::Uint));
            }
            _ => {}
        }
    }
    keys.sort();
    keys.dedup();
    Some(Node::Member(Box::new((args.swap_remove(0), keys))))
}

/// A list whose elements are all constant is constant.
fn fold_list(elements: Vec<Element>) -> Planned {
    let constant = elements.iter().all(|element| matches!(element.node, Node::Const(_)));
    let node = Node::List(elements.into());
    if constant { computed(node) } else { Ok(node) }
}

/// The same of a map.
fn fold_map(entries: Vec<(Node, Element)>) -> Planned {
    let constant = entries.iter().all(|(key, value)| matches!((key, &value.node), (Node::Const(_), Node::Const(_))));
    let node = Node::Map(entries.into());
    if constant { computed(node) } else { Ok(node) }
}

/// What a step without variables gives.
fn computed(root: Node) -> Planned {
    let plan = Plan { root, variables: Vec::new(), locals: 0, inits: Vec::new() };
    plan.run(&[], Limits::default()).value.map(Node::Const)
}

/// What is done with a constant pattern by the functions that take one.
fn pattern_run(function: &str, args: usize) -> Option<PatternRun> {
    match (function, args) {
        ("matches", 2) => Some(standard::matches_pattern),
        ("find", 2) => Some(library::regex::find_pattern),
        ("findAll", 2 | 3) => Some(library::regex::find_all_pattern),
        _ => None,
    }
}
