//! Equality and order.
//!
//! Numbers compare across their types; NaN is equal to nothing and has no order. What cannot be compared for equality is an error
//! only where a schema or a library's own type is concerned: `==` tells it, `!=` takes it for a difference, `in` and the equality
//! of plain lists take it as the original does.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::view::{ListKind, Shape};
use super::{Json, List, Map, Struct, Value, shown};
use crate::error::EvalError;
use crate::work;

/// The bound of the ints as doubles.
const INT_END: f64 = 9_223_372_036_854_775_808.0;
/// The same of the uints.
const UINT_END: f64 = 18_446_744_073_709_551_616.0;

/// `==`.
///
/// # Errors
/// Where the two cannot be compared.
pub fn equal<'v>(left: &Value<'v>, right: &Value<'v>) -> Result<bool, EvalError> {
    match (left, right) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        _ => method_equal(left, right),
    }
}

/// Equality as the left value sees it.
///
/// # Errors
/// Where it does not know the right one's type.
pub fn method_equal<'v>(left: &Value<'v>, right: &Value<'v>) -> Result<bool, EvalError> {
    Ok(match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => same(a.as_bytes(), b.as_bytes())?,
        (Value::Bytes(a), Value::Bytes(b)) => same(a, b)?,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Uint(a), Value::Uint(b)) => a == b,
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => numbers(left, right) == Some(Ordering::Equal),
        (Value::Type(a), Value::Type(b)) => a.runtime_name() == b.runtime_name(),
        (Value::Optional(None), Value::Optional(other)) => other.is_none(),
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => method_equal(a, b)?,
        (Value::List(a), Value::List(b)) => lists(a, b)?,
        (Value::Map(a), Value::Map(b)) => maps(a, b)?,
        (Value::List(list), _) if list.is_viewed() => return Err(EvalError::no_such_overload()),
        (Value::Map(map), _) if map.is_viewed() => return Err(EvalError::no_such_overload()),
        (Value::Struct(a), Value::Struct(b)) => structs(a, b)?,
        (Value::Opaque(opaque), other) => opaque.equals(other)?,
        (Value::Preserved(a), Value::Preserved(b)) => jsons(a, b)?,
        (Value::Preserved(a), other) => preserved_equals(a, other)?,
        _ => false,
    })
}

/// Whether two texts are the same. Those in lists and maps are compared at the price of one value, however long they are.
fn same(a: &[u8], b: &[u8]) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    work::take_passed(a.len() as u64)?;
    Ok(a == b)
}

/// Whether two trees of JSON are the same.
fn jsons(a: &Json, b: &Json) -> Result<bool, EvalError> {
    match (a, b) {
        (Json::String(a), Json::String(b)) => same(a.as_bytes(), b.as_bytes()),
        (Json::Array(a), Json::Array(b)) => json_lists(a, b),
        (Json::Object(a), Json::Object(b)) => json_maps(a, b),
        (a, b) => Ok(a == b),
    }
}

fn json_lists(a: &[Json], b: &[Json]) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    work::take(a.len() as u64)?;
    for (a, b) in a.iter().zip(b) {
        if !jsons(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn json_maps(a: &serde_json::Map<String, Json>, b: &serde_json::Map<String, Json>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    work::take(a.len() as u64)?;
    for (name, a) in a {
        let Some(b) = b.get(name) else { return Ok(false) };
        if !jsons(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether what is preserved is the same as another value's JSON.
fn preserved_equals(json: &Json, other: &Value<'_>) -> Result<bool, EvalError> {
    Ok(match (json, other) {
        (Json::Bool(a), Value::Bool(b)) => a == b,
        (Json::String(a), Value::String(b)) => same(a.as_bytes(), b.as_bytes())?,
        (Json::Number(a), Value::Int(b)) => a.as_i64() == Some(*b),
        (Json::Number(a), Value::Double(b)) => !a.is_i64() && a.as_f64() == Some(*b),
        (Json::Array(a), Value::List(List::Json(b) | List::Viewed { elements: b, .. })) => json_lists(a, b)?,
        (Json::Object(a), Value::Map(Map::Json(b) | Map::Viewed { fields: b, .. })) => json_maps(a, b)?,
        _ => false,
    })
}

fn lists<'v>(left: &List<'v>, right: &List<'v>) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    work::take(left.len() as u64)?;
    match left.kind() {
        Some(ListKind::Map(keys)) => return keyed(left, right, keys),
        Some(_) => return sets(left, right),
        None => {}
    }
    let viewed = left.is_viewed();
    for (a, b) in left.iter().zip(right.iter()) {
        if viewed {
            if !method_equal(&a?, &b?)? {
                return Ok(false);
            }
        } else if let (Ok(a), Ok(b)) = (a, b) {
            match equal(&a, &b) {
                Ok(false) => return Ok(false),
                Err(error) if error.is_final() => return Err(error),
                // A plain list takes an error for no difference.
                Ok(true) | Err(_) => {}
            }
        }
    }
    Ok(true)
}

/// Lists of type set: whatever the order.
fn sets<'v>(left: &List<'v>, right: &List<'v>) -> Result<bool, EvalError> {
    let known = left.iter().map(|element| element_key(&element?)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut seen = BTreeSet::new();
    for element in right.iter() {
        let key = element_key(&element?)?;
        if !known.contains(&key) {
            return Ok(false);
        }
        seen.insert(key);
    }
    Ok(seen.len() == known.len())
}

/// Lists of type map: each element with the one that has its keys.
fn keyed<'v>(left: &List<'v>, right: &List<'v>, keys: &[Box<str>]) -> Result<bool, EvalError> {
    let mut known = std::collections::BTreeMap::new();
    for element in left.iter() {
        let element = element?;
        known.insert(map_key(&element, keys)?, element);
    }
    let mut seen = BTreeSet::new();
    for element in right.iter() {
        let element = element?;
        let key = map_key(&element, keys)?;
        match known.get(&key) {
            Some(other) if method_equal(other, &element)? => seen.insert(key),
            _ => return Ok(false),
        };
    }
    Ok(seen.len() == known.len())
}

/// What tells an element of a set from others.
pub(super) fn element_key(element: &Value<'_>) -> Result<String, EvalError> {
    match element {
        Value::List(_) | Value::Map(_) => Err(EvalError::of("listSet operations are only supported on lists of scalar values")),
        other => key(other),
    }
}

/// A value's type and text.
fn key(value: &Value<'_>) -> Result<String, EvalError> {
    match value {
        Value::String(text) => {
            work::take_bytes(text.len() as u64)?;
            Ok(format!("string:{}", &**text))
        }
        other => Ok(format!("{}:{}", other.type_name(), shown(other))),
    }
}

/// What tells an element of a keyed list from others.
///
/// # Errors
/// Keys of such a length that no work is left.
pub(super) fn map_key(element: &Value<'_>, keys: &[Box<str>]) -> Result<Vec<Option<String>>, EvalError> {
    let Value::Map(map) = element else { return Ok(vec![None; keys.len()]) };
    let key = |name: &str| match map.field(name) {
        Ok(Some(value)) => key(&value).map(Some),
        _ => Ok(None),
    };
    keys.iter().map(|name| key(name)).collect()
}

fn maps<'v>(left: &Map<'v>, right: &Map<'v>) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    work::take(left.len() as u64)?;
    let Map::Viewed { fields, node } = left else {
        for key in left.keys() {
            let (Ok(a), Ok(b)) = (left.find(&key), right.find(&key)) else { return Ok(false) };
            match (a, b) {
                (Some(a), Some(b)) => match equal(&a, &b) {
                    Ok(false) => return Ok(false),
                    Err(error) if error.is_final() => return Err(error),
                    Ok(true) | Err(_) => {}
                },
                _ => return Ok(false),
            }
        }
        return Ok(true);
    };
    for (name, value) in fields.iter() {
        let known = match &node.shape {
            Shape::Object(properties) => properties.contains_key(name.as_str()),
            Shape::Map(_) => true,
            _ => false,
        };
        if known {
            match (left.field(name)?, right.field(name)?) {
                (None, None) => {}
                (Some(a), Some(b)) if method_equal(&a, &b)? => {}
                _ => return Ok(false),
            }
        } else {
            // Fields that the schema does not know are compared as JSON, which only an object of a schema has.
            let Map::Viewed { fields: others, .. } = right else { return Err(EvalError::no_such_overload()) };
            if let Some(other) = others.get(name)
                && !jsons(other, value)?
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Objects that expressions make: the same type, and the same in all fields.
fn structs<'v>(left: &Struct<'v>, right: &Struct<'v>) -> Result<bool, EvalError> {
    if left.name != right.name || left.fields.len() != right.fields.len() {
        return Ok(false);
    }
    work::take(1 + left.fields.len() as u64)?;
    for ((name, a), (other, b)) in left.fields.iter().zip(&right.fields) {
        let same = name == other
            && a.type_name() == b.type_name()
            && match equal(a, b) {
                Err(error) if error.is_final() => return Err(error),
                equal => equal == Ok(true),
            };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `<` and the like.
///
/// # Errors
/// Where the two have no order.
pub fn compare(left: &Value<'_>, right: &Value<'_>) -> Result<Ordering, EvalError> {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            numbers(left, right).ok_or_else(|| EvalError::of("NaN values cannot be ordered"))
        }
        (Value::Double(value), _) if value.is_nan() => Err(EvalError::of("NaN values cannot be ordered")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// Whether the type has an order: what may be sorted and searched for the least.
pub(crate) fn is_ordered(value: &Value<'_>) -> bool {
    use Value::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    matches!(value, Bool(_) | Int(_) | Uint(_) | Double(_) | String(_) | Bytes(_) | Timestamp(_) | Duration(_))
}

/// Numbers of any types; none where one is NaN.
fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Double(a), Value::Int(b)) => double_to(*a, -INT_END, INT_END, *b as f64),
        (Value::Double(a), Value::Uint(b)) => double_to(*a, 0.0, UINT_END, *b as f64),
        (a, b) => numbers(b, a).map(Ordering::reverse),
    }
}

/// A double against a whole number that lies between these bounds, as a double.
fn double_to(double: f64, least: f64, end: f64, whole: f64) -> Option<Ordering> {
    match double {
        _ if double.is_nan() => None,
        _ if double < least => Some(Ordering::Less),
        _ if double > end => Some(Ordering::Greater),
        _ => double.partial_cmp(&whole),
    }
}
