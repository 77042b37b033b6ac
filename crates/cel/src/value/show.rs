//! Values as text: in errors as Go's `%v` shows them, and as literals of the language.

use std::fmt::Write;

use super::{Json, Value};
use crate::gotext;

/// A value as errors show it.
pub fn shown(value: &Value<'_>) -> String {
    let mut out = String::new();
    show(value, &mut out);
    out
}

fn show(value: &Value<'_>, out: &mut String) {
    match value {
        Value::Null => out.push_str("NULL_VALUE"),
        Value::Bool(value) => _ = write!(out, "{value}"),
        Value::Int(value) => _ = write!(out, "{value}"),
        Value::Uint(value) => _ = write!(out, "{value}"),
        Value::Double(value) => out.push_str(&gotext::general(*value)),
        Value::String(text) => out.push_str(text),
        Value::Bytes(bytes) => {
            out.push('[');
            for (at, byte) in bytes.iter().enumerate() {
                _ = write!(out, "{}{byte}", if at == 0 { "" } else { " " });
            }
            out.push(']');
        }
        Value::Timestamp(time) => out.push_str(&time.go_text()),
        Value::Duration(nanos) => out.push_str(&gotext::duration(*nanos)),
        Value::List(list) => {
            out.push('[');
            for (at, element) in list.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                match element {
                    Ok(element) => show(&element, out),
                    Err(error) => out.push_str(&error.message),
                }
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (at, key) in map.keys().into_iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                show(&key, out);
                out.push_str(": ");
                if let Ok(Some(value)) = map.find(&key) {
                    show(&value, out);
                }
            }
            out.push('}');
        }
        Value::Optional(None) => out.push_str("optional.none()"),
        Value::Optional(Some(value)) => {
            out.push_str("optional(");
            show(value, out);
            out.push(')');
        }
        Value::Type(ty) => out.push_str(ty.runtime_name()),
        Value::Struct(object) => _ = write!(out, "{{{}}}", object.name),
        Value::Opaque(opaque) => out.push_str(&opaque.text().unwrap_or_else(|| format!("{{{}}}", opaque.type_name()))),
        Value::Preserved(json) => out.push_str(&Json::to_string(json)),
        Value::Lazy => {}
    }
}

/// A value as the language writes it: for people alone.
pub fn literal(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Int(_) | Value::Type(_) => shown(value),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) if value.is_nan() => "double(\"NaN\")".to_owned(),
        Value::Double(value) if value.is_infinite() => format!("double(\"{}Infinity\")", if *value < 0.0 { "-" } else { "" }),
        Value::Double(value) => {
            let text = gotext::fixed_shortest(*value);
            if text.contains('.') { text } else { text + ".0" }
        }
        Value::String(text) => gotext::quote(text),
        Value::Bytes(bytes) => {
            let mut out = "b\"".to_owned();
            bytes.iter().for_each(|byte| _ = write!(out, "\\{byte:03o}"));
            out + "\""
        }
        Value::Timestamp(time) => format!("timestamp(\"{}\")", time.utc()),
        Value::Duration(nanos) => format!("duration(\"{}\")", gotext::seconds(*nanos)),
        Value::List(list) => {
            let elements: Vec<_> = list.iter().map(|element| element.map_or_else(|error| error.message.into_owned(), |element| literal(&element))).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Map(map) => {
            let entry = |key: Value<'_>| {
                let value = map.find(&key).ok().flatten().map(|value| literal(&value)).unwrap_or_default();
                (literal(&key), value)
            };
            let mut entries: Vec<_> = map.keys().into_iter().map(entry).collect();
            entries.sort();
            let entries: Vec<_> = entries.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Optional(Some(value)) => format!("optional.of({})", literal(value)),
        Value::Struct(_) | Value::Opaque(_) | Value::Preserved(_) | Value::Lazy => shown(value),
    }
}
