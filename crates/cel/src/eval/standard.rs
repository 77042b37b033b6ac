//! What the functions of the language do and count.
//!
//! An operator does the same whatever overload was found for it: the types of the values decide when it runs.

use std::cmp::Ordering;
use std::sync::Arc;

use super::EvalError;
use crate::ast::Literal;
use crate::cost::{REGEX_LENGTH, STRING_TRAVERSAL, by_factor};
use crate::decl::Binding;
use crate::decl::{CallCost, Run};
use crate::regex::{self, Regex};
use crate::time::Part;
use crate::types::Type;
use crate::value::{Value, compare, convert, negate, negate_duration};
use crate::work;

/// What an overload does, what it counts as where that is not the usual, and how it is chosen.
pub struct Row {
    pub run: Run,
    pub cost: Option<CallCost>,
    pub binding: Binding,
}

/// What an overload of the standard library does, and what it counts as where that is not the usual.
pub fn row(id: &str) -> Row {
    let operator = |run: Run| Row { run, cost: None, binding: Binding::Singleton };
    let mut row = match id {
        "logical_not" => operator(not),
        "not_strictly_false" => Row { run: |args| Ok(args[0].clone()), cost: None, binding: Binding::Unguarded },
        "type" => operator(|args| convert(&args[0], &Type::Type(None))),
        "to_dyn" => operator(|args| Ok(args[0].clone())),
        "matches" | "matches_string" => operator(matches),
        "in_list" | "in_map" => operator(contained),
        "starts_with_string" => unguarded(|args| texts(args, |text, part| text.starts_with(part))),
        "ends_with_string" => unguarded(|args| texts(args, |text, part| text.ends_with(part))),
        "contains_string" => unguarded(|args| texts(args, |text, part| text.contains(part))),
        _ => match operation(id) {
            Some(run) => operator(run),
            None => Row { run: conversion(id).or_else(|| part(id)).unwrap_or(|_| Err(EvalError::no_such_overload())), cost: None, binding: Binding::Guarded },
        },
    };
    row.cost = cost(id);
    row
}

/// Whether a constant can be converted by `duration` or `timestamp`, or is a pattern that `matches` takes.
pub fn converts(function: &str, literal: &Literal) -> bool {
    let value = Value::from(literal);
    match (function, &value) {
        ("matches", Value::String(pattern)) => regex::check(pattern).is_ok(),
        ("duration", _) => convert(&value, &Type::Duration).is_ok(),
        ("timestamp", _) => convert(&value, &Type::Timestamp).is_ok(),
        _ => true,
    }
}

fn unguarded(run: Run) -> Row {
    Row { run, cost: None, binding: Binding::Unguarded }
}

/// The operators, by what their overloads' ids begin with.
fn operation(id: &str) -> Option<Run> {
    const OPERATIONS: [(&str, Run); 11] = [
        ("add_", add),
        ("subtract_", subtract),
        ("multiply_", multiply),
        ("divide_", divide),
        ("modulo_", modulo),
        ("negate_", |args| negate(&args[0])),
        ("less_equals_", |args| ordered(args, "_<=_", Ordering::is_le)),
        ("less_", |args| ordered(args, "_<_", Ordering::is_lt)),
        ("greater_equals_", |args| ordered(args, "_>=_", Ordering::is_ge)),
        ("greater_", |args| ordered(args, "_>_", Ordering::is_gt)),
        ("size_", size),
    ];
    if id.ends_with("_size") {
        return Some(size);
    }
    OPERATIONS.iter().find(|(prefix, _)| id.starts_with(prefix)).map(|(_, run)| *run)
}

fn not<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(!value)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// What an operator says of a left side: those that know the operator, and those with methods, refuse the right one without a name.
fn refused(left: &Value<'_>, known: bool, operator: &'static str) -> EvalError {
    match left {
        Value::String(_) | Value::Timestamp(_) | Value::Duration(_) => EvalError::no_such_overload(),
        _ if known => EvalError::no_such_overload(),
        _ => EvalError::of(format!("no such overload: {operator}")),
    }
}

fn int(result: Option<i64>) -> Result<Value<'static>, EvalError> {
    result.map(Value::Int).ok_or_else(|| EvalError::of("integer overflow"))
}

fn uint(result: Option<u64>) -> Result<Value<'static>, EvalError> {
    result.map(Value::Uint).ok_or_else(|| EvalError::of("unsigned integer overflow"))
}

fn duration(result: Option<i64>) -> Result<Value<'static>, EvalError> {
    result.map(Value::Duration).ok_or_else(|| EvalError::of("integer overflow"))
}

pub(crate) fn add<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        // Where the types are not known before, it counts as one call, however long the sides are.
        (Value::String(a), Value::String(b)) => {
            work::take_bytes(a.len() as u64 + b.len() as u64)?;
            Ok(Value::text([&**a, &**b].concat()))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            work::take_bytes(a.len() as u64 + b.len() as u64)?;
            Ok(Value::Bytes(Arc::from([&**a, &**b].concat())))
        }
        (Value::List(a), Value::List(b)) => a.concat(b).map(Value::List),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Value::Duration(span), Value::Timestamp(time)) | (Value::Timestamp(time), Value::Duration(span)) => time.plus(*span).map(Value::Timestamp),
        (left, _) => {
            let known = matches!(left, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Bytes(_) | Value::List(_));
            Err(refused(left, known, "_+_"))
        }
    }
}

fn subtract<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        (Value::Timestamp(time), Value::Duration(span)) => time.plus(negate_duration(*span)?).map(Value::Timestamp),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.since(*b).map(Value::Duration),
        (left, _) => Err(refused(left, matches!(left, Value::Int(_) | Value::Uint(_) | Value::Double(_)), "_-_")),
    }
}

fn multiply<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        (left, _) => Err(refused(left, matches!(left, Value::Int(_) | Value::Uint(_) | Value::Double(_)), "_*_")),
    }
}

fn divide<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(EvalError::of("division by zero")),
        (Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_div(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        (left, _) => Err(refused(left, matches!(left, Value::Int(_) | Value::Uint(_) | Value::Double(_)), "_/_")),
    }
}

fn modulo<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(EvalError::of("modulus by zero")),
        (Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_rem(*b)),
        (left, _) => Err(refused(left, matches!(left, Value::Int(_) | Value::Uint(_)), "_%_")),
    }
}

fn ordered<'v>(args: &[Value<'v>], operator: &'static str, is: fn(Ordering) -> bool) -> Result<Value<'v>, EvalError> {
    if crate::value::is_ordered(&args[0]) {
        return compare(&args[0], &args[1]).map(|order| Value::Bool(is(order)));
    }
    Err(refused(&args[0], false, operator))
}

fn size<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match &args[0] {
        value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_)) => Ok(Value::Int(value.size().unwrap_or_default() as i64)),
        other => Err(refused(other, false, "size")),
    }
}

/// `in`.
fn contained<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match &args[1] {
        Value::List(list) => list.contains(&args[0]).map(Value::Bool),
        Value::Map(map) => map.holds(&args[0]).map(Value::Bool),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn texts<'v>(args: &[Value<'v>], is: fn(&str, &str) -> bool) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::String(text), Value::String(part)) => Ok(Value::Bool(is(text, part))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn matches<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::String(text), Value::String(pattern)) => regex::with_computed(pattern, EvalError::of, |pattern| {
            regex::take_search(pattern, text)?;
            Ok(Value::Bool(pattern.is_match(text)))
        }),
        (Value::String(_), _) => Err(EvalError::no_such_overload()),
        (other, _) => Err(refused(other, false, "matches")),
    }
}

/// `matches` with a constant pattern.
pub(super) fn matches_pattern<'v>(pattern: &Regex, args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match &args[0] {
        Value::String(text) => {
            regex::take_search(pattern, text)?;
            Ok(Value::Bool(pattern.is_match(text)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The conversions, by the overload's id: `x_to_y`.
fn conversion(id: &str) -> Option<Run> {
    Some(match id.rsplit_once("to_")?.1 {
        "bool" => |args| convert(&args[0], &Type::Bool),
        "bytes" => |args| convert(&args[0], &Type::Bytes),
        "double" => |args| convert(&args[0], &Type::Double),
        "duration" => |args| convert(&args[0], &Type::Duration),
        "int64" => |args| convert(&args[0], &Type::Int),
        "string" => |args| convert(&args[0], &Type::String),
        "timestamp" => |args| convert(&args[0], &Type::Timestamp),
        "uint64" => |args| convert(&args[0], &Type::Uint),
        _ => return None,
    })
}

/// The parts of times and durations, by the overload's id.
fn part(id: &str) -> Option<Run> {
    Some(match id {
        "duration_to_hours" => |args| Ok(Value::Int(span(args) / 3_600_000_000_000)),
        "duration_to_minutes" => |args| Ok(Value::Int(span(args) / 60_000_000_000)),
        "duration_to_seconds" => |args| Ok(Value::Int(span(args) / 1_000_000_000)),
        "duration_to_milliseconds" => |args| Ok(Value::Int(span(args) / 1_000_000)),
        _ => match id.strip_prefix("timestamp_to_")?.trim_end_matches("_tz").trim_end_matches("_with") {
            "year" => |args| time_part(args, Part::FullYear),
            "month" => |args| time_part(args, Part::Month),
            "day_of_year" => |args| time_part(args, Part::DayOfYear),
            "day_of_month" => |args| time_part(args, Part::DayOfMonth),
            "day_of_month_1_based" => |args| time_part(args, Part::Date),
            "day_of_week" => |args| time_part(args, Part::DayOfWeek),
            "hours" => |args| time_part(args, Part::Hours),
            "minutes" => |args| time_part(args, Part::Minutes),
            "seconds" => |args| time_part(args, Part::Seconds),
            "milliseconds" => |args| time_part(args, Part::Milliseconds),
            _ => return None,
        },
    })
}

fn span(args: &[Value<'_>]) -> i64 {
    match args {
        [Value::Duration(nanos)] => *nanos,
        _ => 0,
    }
}

fn time_part<'v>(args: &[Value<'v>], part: Part) -> Result<Value<'v>, EvalError> {
    match args {
        [Value::Timestamp(time)] => time.part(part, "UTC").map(Value::Int),
        [Value::Timestamp(time), Value::String(zone)] => time.part(part, zone).map(Value::Int),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// What costs count as the size of a value: one for what has none.
pub(crate) fn counted(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(inner)) => counted(inner),
        other => other.size().unwrap_or(1),
    }
}

/// The same as Kubernetes' own functions count: they do not look into optional values.
pub(crate) fn counted_plain(value: &Value<'_>) -> u64 {
    value.size().unwrap_or(1)
}

/// Reading a text of this value's size.
pub(crate) fn read_cost(value: &Value<'_>) -> u64 {
    by_factor(counted_plain(value), STRING_TRAVERSAL)
}

/// A text searched for a pattern: the pattern costs even where the text is empty.
pub(crate) fn pattern_cost(text: u64, pattern: u64) -> u64 {
    by_factor(text.saturating_add(1), STRING_TRAVERSAL).saturating_mul(by_factor(pattern, REGEX_LENGTH))
}

/// Two values compared: as far as the shorter one goes.
fn compared(args: &[Value<'_>]) -> u64 {
    by_factor(counted_least(&args[0], &args[1]), STRING_TRAVERSAL)
}

/// The lesser of what the sizes of two values are counted as. A text that is longer in any case is not gone through.
fn counted_least(left: &Value<'_>, right: &Value<'_>) -> u64 {
    let bytes = |value: &Value<'_>| value.as_str().map_or(0, str::len);
    match (bytes(left), bytes(right)) {
        (0, _) | (_, 0) => counted(left).min(counted(right)),
        (a, b) if b / 4 >= a => counted(left),
        (a, b) if a / 4 >= b => counted(right),
        _ => counted(left).min(counted(right)),
    }
}

/// `==` and `!=`: Kubernetes' own types have a price of their own, but only for `==`.
pub(super) fn equality_cost(left: &Value<'_>, right: &Value<'_>, same: bool) -> u64 {
    if same && matches!(left, Value::Opaque(_)) { 1 } else { by_factor(counted_least(left, right), STRING_TRAVERSAL) }
}

fn cost(id: &str) -> Option<CallCost> {
    Some(match id {
        "starts_with_string" | "ends_with_string" => |args, _| by_factor(counted(&args[1]), STRING_TRAVERSAL),
        "string_to_bytes" | "bytes_to_string" => |args, _| by_factor(counted(&args[0]), STRING_TRAVERSAL),
        "in_list" => |args, _| counted(&args[1]),
        "add_string" | "add_bytes" => |args, _| by_factor(counted(&args[0]).saturating_add(counted(&args[1])), STRING_TRAVERSAL),
        "matches" | "matches_string" => |args, _| pattern_cost(counted(&args[0]), counted(&args[1])),
        "contains_string" => |args, _| by_factor(counted(&args[0]), STRING_TRAVERSAL).saturating_mul(by_factor(counted(&args[1]), STRING_TRAVERSAL)),
        _ if ["less", "greater"].iter().any(|verb| id.starts_with(verb)) && (id.ends_with("_string") || id.ends_with("_bytes")) => |args, _| compared(args),
        _ => return None,
    })
}
