//! Macros: calls that the parser replaces by loops, presence tests and conditions.
//!
//! What a macro makes stands, for errors, where its call's parenthesis stands.

use crate::ast::{Comprehension, Expr, Id, Kind, List, Literal, Select};
use crate::expander::Expander;
use crate::operators as op;
use crate::types::Str;

/// The variable that loops fold into; no expression can write it.
pub const ACCUMULATOR: &str = "@result";
/// Its former name, which expressions must not use for their own variables.
const OLD_ACCUMULATOR: &str = "__result__";
/// The variable of the loop that only binds a name.
const UNUSED: &str = "#unused";
/// The name of the list that is sorted; no expression can write it.
const SORT_INPUT: &str = "@__sortBy_input__";
/// Adds entries to a map that a loop makes.
pub const MAP_INSERT: &str = "cel.@mapInsert";

/// A macro by name, number of arguments and whether it has a target.
#[derive(Debug, Clone, Copy)]
pub struct Macro {
    pub name: &'static str,
    pub args: usize,
    pub receiver: bool,
    pub expand: Expand,
}

/// Replaces a call, or says why it cannot.
pub type Expand = fn(&mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError>;

/// Why a macro cannot be expanded, at the node with the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacroError {
    pub id: Id,
    pub message: String,
}

impl MacroError {
    fn new(id: Id, message: impl Into<String>) -> MacroError {
        MacroError { id, message: message.into() }
    }
}

/// The macros of the language itself.
pub fn standard() -> Vec<Macro> {
    vec![
        Macro { name: "has", args: 1, receiver: false, expand: has },
        receiver("all", 2, all),
        receiver("exists", 2, exists),
        receiver("exists_one", 2, exists_one),
        receiver("map", 2, map),
        receiver("map", 3, map),
        receiver("filter", 2, filter),
    ]
}

/// The macros of loops with two variables.
pub fn two_variables() -> Vec<Macro> {
    vec![
        receiver("all", 3, all),
        receiver("exists", 3, exists),
        receiver("existsOne", 3, exists_one),
        receiver("exists_one", 3, exists_one),
        receiver("transformList", 3, transform_list),
        receiver("transformList", 4, transform_list),
        receiver("transformMap", 3, transform_map),
        receiver("transformMap", 4, transform_map),
        receiver("transformMapEntry", 3, transform_map_entry),
        receiver("transformMapEntry", 4, transform_map_entry),
    ]
}

/// The macros of optional values.
pub fn optional() -> Vec<Macro> {
    vec![receiver("optMap", 2, opt_map), receiver("optFlatMap", 2, opt_flat_map)]
}

/// The macro that gives a value a name (`cel.bind`).
pub fn bindings() -> Vec<Macro> {
    vec![receiver("bind", 3, bind)]
}

/// The macro that sorts by what an expression makes of the elements.
pub fn sort_by() -> Vec<Macro> {
    vec![receiver("sortBy", 2, sort_by_key)]
}

fn receiver(name: &'static str, args: usize, expand: Expand) -> Macro {
    Macro { name, args, receiver: true, expand }
}

/// The variables of a loop.
struct Variables {
    first: Str,
    second: Option<Str>,
}

/// One variable, by the rules of the macros with one.
fn variable(argument: &Expr, not_a_name: &str) -> Result<Variables, MacroError> {
    let Some(name) = argument.ident() else { return Err(MacroError::new(argument.id, not_a_name)) };
    not_accumulator(argument.id, name)?;
    Ok(Variables { first: name.clone(), second: None })
}

fn not_accumulator(id: Id, name: &str) -> Result<(), MacroError> {
    match name == ACCUMULATOR || name == OLD_ACCUMULATOR {
        true => Err(MacroError::new(id, "iteration variable overwrites accumulator variable")),
        false => Ok(()),
    }
}

/// Two variables.
fn variables(first: &Expr, second: &Expr) -> Result<Variables, MacroError> {
    let name = |argument: &Expr| argument.ident().cloned().ok_or_else(|| MacroError::new(argument.id, "argument must be a simple name"));
    let (one, two) = (name(first)?, name(second)?);
    if one == two {
        return Err(MacroError::new(second.id, format!("duplicate variable name: {one}")));
    }
    not_accumulator(first.id, &one)?;
    not_accumulator(second.id, &two)?;
    Ok(Variables { first: one, second: Some(two) })
}

/// The variables of a quantifier, with one or two, and its predicate.
fn quantifier(args: Vec<Expr>) -> Result<(Variables, Expr), MacroError> {
    let variables = match args.as_slice() {
        [first, _] => variable(first, "argument must be a simple name")?,
        [first, second, ..] => variables(first, second)?,
        _ => Variables { first: "".into(), second: None },
    };
    Ok((variables, last(args)))
}

fn last(mut args: Vec<Expr>) -> Expr {
    args.pop().unwrap_or(Expr { id: 0, kind: Kind::Unspecified })
}

/// What a loop does between its beginning and its result.
struct Loop {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn fold(to: &mut Expander<'_>, target: Option<Expr>, variables: Variables, body: Loop) -> Expr {
    comprehension(to, target, variables, ACCUMULATOR.into(), body)
}

fn comprehension(to: &mut Expander<'_>, target: Option<Expr>, variables: Variables, accu_var: Str, body: Loop) -> Expr {
    let range = target.unwrap_or(Expr { id: 0, kind: Kind::Unspecified });
    to.node(Kind::Comprehension(Box::new(Comprehension {
        range,
        iter_var: variables.first,
        iter_var2: variables.second,
        accu_var,
        accu_init: body.init,
        condition: body.condition,
        step: body.step,
        result: body.result,
    })))
}

fn accu(to: &mut Expander<'_>) -> Expr {
    to.node(Kind::Ident(ACCUMULATOR.into()))
}

fn literal(to: &mut Expander<'_>, value: Literal) -> Expr {
    to.node(Kind::Literal(value))
}

fn list(to: &mut Expander<'_>, elements: Vec<Expr>) -> Expr {
    to.node(Kind::List(List { elements, optional: Vec::new() }))
}

fn has(to: &mut Expander<'_>, _: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    let argument = last(args);
    match argument.kind {
        Kind::Select(Select { operand, field, .. }) => Ok(to.node(Kind::Select(Select { operand, field, test_only: true }))),
        _ => Err(MacroError::new(argument.id, "invalid argument to has() macro")),
    }
}

fn all(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    let (variables, predicate) = quantifier(args)?;
    let init = literal(to, Literal::Bool(true));
    let held = accu(to);
    let condition = to.call(op::NOT_STRICTLY_FALSE, vec![held]);
    let held = accu(to);
    let step = to.call(op::LOGICAL_AND, vec![held, predicate]);
    let result = accu(to);
    Ok(fold(to, target, variables, Loop { init, condition, step, result }))
}

fn exists(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    let (variables, predicate) = quantifier(args)?;
    let init = literal(to, Literal::Bool(false));
    let held = accu(to);
    let not = to.call(op::LOGICAL_NOT, vec![held]);
    let condition = to.call(op::NOT_STRICTLY_FALSE, vec![not]);
    let held = accu(to);
    let step = to.call(op::LOGICAL_OR, vec![held, predicate]);
    let result = accu(to);
    Ok(fold(to, target, variables, Loop { init, condition, step, result }))
}

fn exists_one(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    let (variables, predicate) = quantifier(args)?;
    let init = literal(to, Literal::Int(0));
    let condition = literal(to, Literal::Bool(true));
    let (held, one) = (accu(to), literal(to, Literal::Int(1)));
    let more = to.call(op::ADD, vec![held, one]);
    let held = accu(to);
    let step = to.call(op::CONDITIONAL, vec![predicate, more, held]);
    let (held, one) = (accu(to), literal(to, Literal::Int(1)));
    let result = to.call(op::EQUALS, vec![held, one]);
    Ok(fold(to, target, variables, Loop { init, condition, step, result }))
}

/// A list of what is made of each element, where the filter lets it pass.
fn collect(to: &mut Expander<'_>, target: Option<Expr>, variables: Variables, filter: Option<Expr>, element: Expr) -> Expr {
    let init = list(to, Vec::new());
    let condition = literal(to, Literal::Bool(true));
    let (held, added) = (accu(to), list(to, vec![element]));
    let added = to.call(op::ADD, vec![held, added]);
    let step = where_it_passes(to, filter, added);
    let result = accu(to);
    fold(to, target, variables, Loop { init, condition, step, result })
}

fn where_it_passes(to: &mut Expander<'_>, filter: Option<Expr>, step: Expr) -> Expr {
    match filter {
        Some(filter) => {
            let held = accu(to);
            to.call(op::CONDITIONAL, vec![filter, step, held])
        }
        None => step,
    }
}

fn map(to: &mut Expander<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, MacroError> {
    let variables = variable(&args[0], "argument is not an identifier")?;
    let filter = (args.len() == 3).then(|| args.remove(1));
    Ok(collect(to, target, variables, filter, last(args)))
}

fn filter(to: &mut Expander<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, MacroError> {
    let variables = variable(&args[0], "argument is not an identifier")?;
    let filter = args.pop();
    Ok(collect(to, target, variables, filter, last(args)))
}

fn transform_list(to: &mut Expander<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, MacroError> {
    let variables = variables(&args[0], &args[1])?;
    let filter = (args.len() == 4).then(|| args.remove(2));
    Ok(collect(to, target, variables, filter, last(args)))
}

/// A map, by inserting what is given.
fn insert(to: &mut Expander<'_>, target: Option<Expr>, variables: Variables, filter: Option<Expr>, inserted: Vec<Expr>) -> Expr {
    let init = to.node(Kind::Map(Vec::new()));
    let condition = literal(to, Literal::Bool(true));
    let held = accu(to);
    let step = to.call(MAP_INSERT, std::iter::once(held).chain(inserted).collect());
    let step = where_it_passes(to, filter, step);
    let result = accu(to);
    fold(to, target, variables, Loop { init, condition, step, result })
}

fn transform_map(to: &mut Expander<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, MacroError> {
    let variables = variables(&args[0], &args[1])?;
    let filter = (args.len() == 4).then(|| args.remove(2));
    let key = to.node(Kind::Ident(variables.first.clone()));
    Ok(insert(to, target, variables, filter, vec![key, last(args)]))
}

fn transform_map_entry(to: &mut Expander<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, MacroError> {
    let variables = variables(&args[0], &args[1])?;
    let filter = (args.len() == 4).then(|| args.remove(2));
    Ok(insert(to, target, variables, filter, vec![last(args)]))
}

/// A loop over nothing binds the value to the name. Of another target than `cel` it is a plain call.
fn bind(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    let target = target.unwrap_or(Expr { id: 0, kind: Kind::Unspecified });
    if target.ident().is_none_or(|name| &**name != "cel") {
        return Ok(to.member("bind", target, args));
    }
    let Some(name) = args[0].ident().cloned() else { return Err(MacroError::new(args[0].id, "cel.bind() variable names must be simple identifiers")) };
    let mut args = args.into_iter().skip(1);
    let (Some(init), Some(result)) = (args.next(), args.next()) else { return Err(MacroError::new(target.id, "cel.bind() takes three arguments")) };
    let range = list(to, Vec::new());
    let condition = literal(to, Literal::Bool(false));
    let step = to.node(Kind::Ident(name.clone()));
    let variables = Variables { first: UNUSED.into(), second: None };
    Ok(comprehension(to, Some(range), variables, name, Loop { init, condition, step, result }))
}

fn opt_map(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    bound(to, target, args, "optMap() variable name must be a simple identifier", true)
}

fn opt_flat_map(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    bound(to, target, args, "optFlatMap() variable name must be a simple identifier", false)
}

/// What is made of an optional's value, where it has one: a loop over nothing binds the value to the name.
fn bound(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>, not_a_name: &str, wrap: bool) -> Result<Expr, MacroError> {
    let Some(name) = args[0].ident().cloned() else { return Err(MacroError::new(args[0].id, not_a_name)) };
    let target = target.unwrap_or(Expr { id: 0, kind: Kind::Unspecified });
    let copy = to.copy(&target);
    let there = to.member("hasValue", target, Vec::new());
    let range = list(to, Vec::new());
    let init = to.member("value", copy, Vec::new());
    let condition = literal(to, Literal::Bool(false));
    let step = to.node(Kind::Ident(name.clone()));
    let variables = Variables { first: UNUSED.into(), second: None };
    let mut made = comprehension(to, Some(range), variables, name, Loop { init, condition, step, result: last(args) });
    if wrap {
        made = to.call("optional.of", vec![made]);
    }
    let none = to.call("optional.none", Vec::new());
    Ok(to.call(op::CONDITIONAL, vec![there, made, none]))
}

/// A loop over nothing binds the list to a name, under which its keys are made of it and the list is put in their order.
fn sort_by_key(to: &mut Expander<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, MacroError> {
    let target = target.unwrap_or(Expr { id: 0, kind: Kind::Unspecified });
    let bound = to.node(Kind::Ident(SORT_INPUT.into()));
    if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct(_) | Kind::Unspecified) {
        let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err(MacroError::new(target.id, message));
    }
    let input = to.copy(&bound);
    let keys = map(to, Some(input), args)?;
    let list_again = to.copy(&bound);
    let sorted = to.member("@sortByAssociatedKeys", list_again, vec![keys]);
    let range = list(to, Vec::new());
    let condition = literal(to, Literal::Bool(false));
    let variables = Variables { first: UNUSED.into(), second: None };
    Ok(comprehension(to, Some(range), variables, SORT_INPUT.into(), Loop { init: target, condition, step: bound, result: sorted }))
}
