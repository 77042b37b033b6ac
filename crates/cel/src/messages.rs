//! The messages of `google/protobuf` that expressions may make by their names.
//!
//! What such a message stands for is a plain value, and that is what is made: a wrapper's is a number, a text or the like, a
//! `Duration`'s a duration, a `Struct`'s a map. The checker knows their types and fields. `Any` has no message inside that anybody
//! here knows. Source: `cel-go/common/types`, `checkedWellKnowns` and `Registry.NewValue`.

use std::collections::BTreeMap;

use crate::error::EvalError;
use crate::gotext;
use crate::time::Timestamp;
use crate::types::{Str, Type};
use crate::value::{Entries, Key, Map, Value, convert};
use crate::work;

/// The greatest whole number that JSON's readers keep: a greater one is a text.
const SAFE_MAX: u64 = 9_007_199_254_740_991;

/// The name of the only constant among them, which is 0.
pub(crate) const NULL_VALUE: &str = "google.protobuf.NullValue.NULL_VALUE";

/// The type of what a message's name makes.
pub(crate) fn type_of(message: &str) -> Option<Type> {
    Some(match message.strip_prefix("google.protobuf.")? {
        "BoolValue" => Type::nullable(Type::Bool),
        "BytesValue" => Type::nullable(Type::Bytes),
        "DoubleValue" | "FloatValue" => Type::nullable(Type::Double),
        "Int32Value" | "Int64Value" => Type::nullable(Type::Int),
        "UInt32Value" | "UInt64Value" => Type::nullable(Type::Uint),
        "StringValue" => Type::nullable(Type::String),
        "Any" => Type::Any,
        "Duration" => Type::Duration,
        "Timestamp" => Type::Timestamp,
        "ListValue" => Type::list(Type::Dyn),
        "Struct" => Type::map(Type::String, Type::Dyn),
        "Value" => Type::Dyn,
        _ => return None,
    })
}

/// The type of a message's field.
pub(crate) fn field(message: &str, field: &str) -> Option<Type> {
    Some(match (message.strip_prefix("google.protobuf.")?, field) {
        ("Any", "type_url") => Type::String,
        ("Any", "value") => Type::Bytes,
        ("Duration" | "Timestamp", "seconds" | "nanos") | ("Value", "null_value") => Type::Int,
        ("ListValue", "values") | ("Value", "list_value") => Type::list(Type::Dyn),
        ("Struct", "fields") | ("Value", "struct_value") => Type::map(Type::String, Type::Dyn),
        ("Value", "number_value") => Type::Double,
        ("Value", "string_value") => Type::String,
        ("Value", "bool_value") => Type::Bool,
        (_, "value") => match type_of(message)? {
            Type::Nullable(of) => (*of).clone(),
            _ => return None,
        },
        _ => return None,
    })
}

/// What a message of these fields stands for; `None` for what is no such message or stands for itself.
pub(crate) fn made<'v>(message: &str, fields: &BTreeMap<Str, Value<'v>>) -> Option<Result<Value<'v>, EvalError>> {
    let name = message.strip_prefix("google.protobuf.")?;
    let value = fields.get("value");
    Some(match name {
        "BoolValue" => plain(message, value, Value::Bool(false), "bool"),
        "BytesValue" => plain(message, value, Value::Bytes([].into()), "[]uint8"),
        "StringValue" => plain(message, value, Value::text(""), "string"),
        "DoubleValue" => plain(message, value, Value::Double(0.0), "float64"),
        "FloatValue" => match value {
            Some(Value::Double(value)) => Ok(Value::Double(f64::from(*value as f32))),
            other => plain(message, other, Value::Double(0.0), "float32"),
        },
        "Int64Value" => plain(message, value, Value::Int(0), "int64"),
        "UInt64Value" => plain(message, value, Value::Uint(0), "uint64"),
        "Int32Value" => narrow(message, "value", value).map(|value| Value::Int(value.into())),
        "UInt32Value" => match value {
            Some(Value::Uint(value)) if u32::try_from(*value).is_err() => Err(unfit(message, "value", "unsigned integer overflow")),
            other => plain(message, other, Value::Uint(0), "uint32"),
        },
        "Duration" => moment(message, fields).map(|(seconds, nanos)| {
            let whole = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            Value::Duration(i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX }))
        }),
        "Timestamp" => moment(message, fields).and_then(|(seconds, nanos)| Ok(Value::Timestamp(Timestamp::of_seconds(seconds)?.plus(nanos.into())?))),
        "Struct" => fields.get("fields").map_or_else(|| Ok(Value::Map(Map::of(Entries::new()))), json).map_err(|why| within(message, "fields", why)),
        "ListValue" => fields.get("values").map_or_else(|| Ok(Value::list(Vec::new())), json).map_err(|why| within(message, "values", why)),
        "Value" => fields.iter().next_back().map_or(Ok(Value::Null), |(field, value)| match &**field {
            "null_value" => Ok(Value::Null),
            field => json(value).map_err(|why| within(message, field, why)),
        }),
        "Any" => {
            let url = fields.get("type_url").and_then(Value::as_str).filter(|url| !url.is_empty());
            let shown = url.map(|url| format!("type_url:{}", gotext::quote(url))).unwrap_or_default();
            Err(EvalError::of(format!("unsupported conversion to ref.Val: (*dynamicpb.Message){shown}")))
        }
        _ => return None,
    })
}

/// A field's value that the message has no room for.
fn unfit(message: &str, field: &str, why: &str) -> EvalError {
    EvalError::of(format!("field type conversion error for {message}.{field} value type: {why}"))
}

/// Why a field's value is none of JSON; what ends the evaluation stays that.
fn within(message: &str, field: &str, why: EvalError) -> EvalError {
    if why.is_final() { why } else { unfit(message, field, &why.message) }
}

/// A field's value of another type than the message has it of, which the checker did not know. Each of cel-go's types says it in its own words.
fn unconverted(message: &str, field: &str, value: &Value<'_>, native: &str) -> EvalError {
    let from = match value {
        Value::String(_) => return unfit(message, field, &format!("unsupported native conversion from string to '{native}'")),
        Value::Int(_) | Value::Uint(_) => {
            return unfit(message, field, &format!("unsupported type conversion from '{}' to {native}", value.type_name()));
        }
        Value::Type(_) => return unfit(message, field, "type conversion not supported for 'type'"),
        Value::Null => "'null_type'",
        Value::Bytes(_) => "Bytes",
        Value::Double(_) => "Double",
        Value::Duration(_) => "'Duration'",
        Value::Timestamp(_) => "'Timestamp'",
        other => other.type_name(),
    };
    unfit(message, field, &format!("type conversion error from {from} to '{native}'"))
}

/// What a wrapper holds.
fn plain<'v>(message: &str, value: Option<&Value<'v>>, absent: Value<'v>, native: &str) -> Result<Value<'v>, EvalError> {
    match value {
        None => Ok(absent),
        Some(value) if value.type_name() == absent.type_name() => Ok(value.clone()),
        Some(other) => Err(unconverted(message, "value", other, native)),
    }
}

/// A whole number of 32 bits.
fn narrow(message: &str, field: &str, value: Option<&Value<'_>>) -> Result<i32, EvalError> {
    match value {
        None => Ok(0),
        Some(Value::Int(value)) => i32::try_from(*value).map_err(|_| unfit(message, field, "integer overflow")),
        Some(other) => Err(unconverted(message, field, other, "int32")),
    }
}

/// The seconds and nanoseconds of a time or a duration.
fn moment(message: &str, fields: &BTreeMap<Str, Value<'_>>) -> Result<(i64, i32), EvalError> {
    let seconds = match fields.get("seconds") {
        None => 0,
        Some(Value::Int(seconds)) => *seconds,
        Some(other) => return Err(unconverted(message, "seconds", other, "int64")),
    };
    Ok((seconds, narrow(message, "nanos", fields.get("nanos"))?))
}

/// A value as JSON has it: numbers are doubles, or texts where a double does not hold them.
fn json<'v>(value: &Value<'v>) -> Result<Value<'v>, EvalError> {
    Ok(match value {
        Value::Int(int) if int.unsigned_abs() > SAFE_MAX => Value::text(int.to_string()),
        Value::Int(int) => Value::Double(*int as f64),
        Value::Uint(uint) if *uint > SAFE_MAX => Value::text(uint.to_string()),
        Value::Uint(uint) => Value::Double(*uint as f64),
        Value::Bytes(bytes) => {
            work::take_bytes(bytes.len() as u64)?;
            Value::text(gotext::to_base64(bytes))
        }
        Value::Timestamp(_) | Value::Duration(_) => convert(value, &Type::String)?,
        Value::List(list) => {
            work::take_kept(list.len() as u64)?;
            Value::list(list.iter().map(|element| json(&element?)).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            work::take_kept(map.len() as u64)?;
            let mut entries = Entries::new();
            for key in map.keys() {
                let Some(entry) = map.find(&key)? else { continue };
                let Value::String(name) = convert(&key, &Type::String)? else { continue };
                entries.insert(Key::String(name), json(&entry)?);
            }
            Value::Map(Map::of(entries))
        }
        Value::Null | Value::Bool(_) | Value::Double(_) | Value::String(_) => value.clone(),
        other => return Err(EvalError::of(format!("unsupported type conversion from '{}' to 'structpb.Value'", other.type_name()))),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::eval::{Limits, Plan};
    use crate::{Env, Value, Version, work};

    fn given(text: &str) -> String {
        let program = match Env::new(Version::NEW).compile(text) {
            Ok(program) => program,
            Err(issues) => return issues.to_string(),
        };
        let plan = Plan::new(&program).expect("a plan");
        match plan.run(&[], Limits::default()).value {
            Ok(Value::Bool(is)) => is.to_string(),
            Ok(other) => format!("{other:?}"),
            Err(why) => why.to_string(),
        }
    }

    /// Recorded of the original, as rules of definitions and as policies.
    #[test]
    fn they_stand_for_plain_values() {
        for text in [
            "google.protobuf.Int32Value{value: 1} == 1",
            "google.protobuf.Int32Value{} == 0",
            "google.protobuf.Struct{}.size() == 0",
            "google.protobuf.Struct{fields: {'a': 1}} == {'a': 1.0}",
            "google.protobuf.ListValue{values: ['a', 'b']}.size() == 2",
            "google.protobuf.Timestamp{seconds: 1} < timestamp('2020-01-01T00:00:00Z')",
            "google.protobuf.Duration{seconds: 3, nanos: 5} > duration('3s')",
            "google.protobuf.Value{string_value: 'a'} == 'a'",
            "google.protobuf.Value{} == null",
            "google.protobuf.NullValue.NULL_VALUE == 0",
        ] {
            assert_eq!(given(text), "true", "{text}");
        }
    }

    #[test]
    fn their_fields_are_checked() {
        let refused = given("google.protobuf.Duration{seconds: 'a'} < duration('1s')");
        assert!(refused.contains("1:33: expected type of field 'seconds' is 'int' but provided type is 'string'"), "{refused}");
        let unknown = given("google.protobuf.BoolValue{other: true}");
        assert!(unknown.contains("undefined field 'other'"), "{unknown}");
        assert_eq!(given("google.protobuf.Any{type_url: 'x'} == null"), "unsupported conversion to ref.Val: (*dynamicpb.Message)type_url:\"x\"");
        let wide = given("google.protobuf.Int32Value{value: 4294967296} == 1");
        assert_eq!(wide, "field type conversion error for google.protobuf.Int32Value.value value type: integer overflow");
        let unknown = given("google.protobuf.BoolValue{value: dyn('a')}");
        assert_eq!(unknown, "field type conversion error for google.protobuf.BoolValue.value value type: unsupported native conversion from string to 'bool'");
        for text in ["google.protobuf.DoubleValue{value: dyn(1)} == 1.0", "google.protobuf.FloatValue{value: dyn(1)} == 1.0"] {
            assert!(given(text).contains("unsupported type conversion from 'int' to float"), "{text}");
        }
        assert_eq!(given("google.protobuf.UInt64Value{value: dyn(1u)} == 1u"), "true");
    }

    #[test]
    fn what_ends_the_evaluation_is_no_wrong_field() {
        let fields = BTreeMap::from([("values".into(), Value::list(vec![Value::Null; 1_000]))]);
        let (made, _) = work::with_all(|| {
            while work::take(1_000).is_ok() {}
            super::made("google.protobuf.ListValue", &fields)
        });
        assert!(made.is_some_and(|made| made.is_err_and(|why| why.is_final())));
    }
}
