//! Conversions between types (`int(x)`, `string(x)`, …) and the checked arithmetic that they need.

use std::sync::Arc;

use super::{Text, Value};
use crate::error::EvalError;
use crate::gotext;
use crate::time::Timestamp;
use crate::types::Type;
use crate::work;

/// A double as an int, its fraction cut off.
///
/// # Errors
/// Beyond the ints.
pub fn double_to_int(double: f64) -> Result<i64, EvalError> {
    // Both ends are out: they are what larger numbers are rounded to.
    if double.is_nan() || double <= i64::MIN as f64 || double >= i64::MAX as f64 { Err(EvalError::of("integer overflow")) } else { Ok(double as i64) }
}

/// A double as a uint, its fraction cut off.
///
/// # Errors
/// Beyond the uints.
pub fn double_to_uint(double: f64) -> Result<u64, EvalError> {
    if double.is_nan() || double < 0.0 || double >= u64::MAX as f64 { Err(EvalError::of("unsigned integer overflow")) } else { Ok(double as u64) }
}

/// `-x`.
///
/// # Errors
/// Where it has no such, or none that fits.
pub fn negate<'v>(value: &Value<'v>) -> Result<Value<'v>, EvalError> {
    match value {
        Value::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(|| EvalError::of("integer overflow")),
        Value::Double(value) => Ok(Value::Double(-value)),
        Value::Duration(value) => negate_duration(*value).map(Value::Duration),
        Value::Bool(_) | Value::String(_) | Value::Timestamp(_) => Err(EvalError::no_such_overload()),
        _ => Err(EvalError::of("no such overload: -_")),
    }
}

/// `-x` of a duration.
///
/// # Errors
/// Where it does not fit.
pub fn negate_duration(nanos: i64) -> Result<i64, EvalError> {
    nanos.checked_neg().ok_or_else(|| EvalError::of("integer overflow"))
}

/// A value as one of another type.
///
/// # Errors
/// Where it is none.
pub fn convert<'v>(value: &Value<'v>, to: &Type) -> Result<Value<'v>, EvalError> {
    if let Type::Type(_) = to {
        return Ok(Value::Type(value.type_of()));
    }
    let same = match (value, to) {
        (Value::List(_), Type::List(_)) | (Value::Map(_), Type::Map(..)) => true,
        _ => !matches!(value, Value::List(_) | Value::Map(_) | Value::Null) && value.type_name() == to.runtime_name(),
    };
    if same {
        return Ok(value.clone());
    }
    let converted = match (value, to) {
        (Value::Preserved(_), _) => {
            return Err(EvalError::of(format!(
                "type conversion to '{}' not supported for values preserved by x-kubernetes-preserve-unknown-fields",
                to.runtime_name()
            )));
        }
        (Value::Int(value), Type::Uint) => Some(Value::Uint(u64::try_from(*value).map_err(|_| EvalError::of("unsigned integer overflow"))?)),
        (Value::Int(value), Type::Double) => Some(Value::Double(*value as f64)),
        (Value::Int(value), Type::Timestamp) => Some(Value::Timestamp(Timestamp::of_seconds(*value)?)),
        (Value::Uint(value), Type::Int) => Some(Value::Int(i64::try_from(*value).map_err(|_| EvalError::of("integer overflow"))?)),
        (Value::Uint(value), Type::Double) => Some(Value::Double(*value as f64)),
        (Value::Double(value), Type::Int) => Some(Value::Int(double_to_int(*value)?)),
        (Value::Double(value), Type::Uint) => Some(Value::Uint(double_to_uint(*value)?)),
        (Value::Timestamp(value), Type::Int) => Some(Value::Int(value.seconds())),
        (Value::Duration(value), Type::Int) => Some(Value::Int(*value)),
        (Value::String(text), to) => from_text(text, to)?,
        (Value::Null, Type::Null) => Some(Value::Null),
        (value, Type::String) => to_text(value)?.map(Value::text),
        _ => None,
    };
    converted.ok_or_else(|| {
        let from = value.type_of();
        let from = match &from {
            Type::List(_) | Type::Map(..) => from.to_string(),
            other => other.runtime_name().to_owned(),
        };
        EvalError::of(format!("type conversion error from '{from}' to '{}'", to.runtime_name()))
    })
}

/// A text as a value of another type; none where it is none.
fn from_text<'v>(text: &Text<'v>, to: &Type) -> Result<Option<Value<'v>>, EvalError> {
    Ok(match to {
        Type::Int => gotext::parse_int(text).map(Value::Int),
        Type::Uint => gotext::parse_uint(text).map(Value::Uint),
        Type::Double => gotext::parse_float(text).map(Value::Double),
        Type::Bool => gotext::parse_bool(text).map(Value::Bool),
        Type::Bytes => {
            work::take_bytes(text.len() as u64)?;
            Some(Value::Bytes(Arc::from(text.as_bytes())))
        }
        Type::Duration => gotext::parse_duration(text).map(Value::Duration),
        Type::Timestamp => match Timestamp::parse(text) {
            Some(time) => Some(Value::Timestamp(time.in_range()?)),
            None => None,
        },
        _ => None,
    })
}

/// A value as text; none where it has none.
fn to_text(value: &Value<'_>) -> Result<Option<String>, EvalError> {
    Ok(match value {
        Value::Null => Some("null".to_owned()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Uint(value) => Some(value.to_string()),
        Value::Double(value) => Some(gotext::general(*value)),
        Value::Bytes(bytes) => {
            work::take_bytes(bytes.len() as u64)?;
            let text = std::str::from_utf8(bytes).map_err(|_| EvalError::of("invalid UTF-8 in bytes, cannot convert to string"))?;
            Some(text.to_owned())
        }
        Value::Timestamp(time) => Some(time.to_string()),
        Value::Duration(nanos) => Some(gotext::seconds(*nanos)),
        Value::Type(ty) => Some(ty.runtime_name().to_owned()),
        Value::Opaque(opaque) => opaque.text(),
        Value::String(_) | Value::List(_) | Value::Map(_) | Value::Struct(_) | Value::Optional(_) | Value::Preserved(_) | Value::Lazy => None,
    })
}
