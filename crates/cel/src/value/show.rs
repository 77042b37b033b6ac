//! Values as text: in errors as Go's `%v` shows them, and as literals of the language.

use std::fmt::Write;

use super::{Json, Value};
use crate::gotext;

/// Bytes after which nothing is added, and of a text at most: lists that share their elements would be texts without end, and
/// an error that is absorbed costs nothing.
const SHOWN_MAX: usize = 64 << 10;

/// A value as errors show it.
pub fn shown(value: &Value<'_>) -> String {
    let mut out = String::new();
    show(value, &mut out);
    out
}

fn show(value: &Value<'_>, out: &mut String) {
    if out.len() > SHOWN_MAX {
        return;
    }
    match value {
        Value::Null => out.push_str("NULL_VALUE"),
        Value::Bool(value) => _ = write!(out, "{value}"),
        Value::Int(value) => _ = write!(out, "{value}"),
        Value::Uint(value) => _ = write!(out, "{value}"),
        Value::Double(value) => out.push_str(&gotext::general(*value)),
        Value::String(text) => out.push_str(&text[..text.floor_char_boundary(SHOWN_MAX)]),
        Value::Bytes(bytes) => {
            out.push('[');
            for (at, byte) in bytes.iter().take(SHOWN_MAX).enumerate() {
                _ = write!(out, "{}{byte}", if at == 0 { "" } else { " " });
            }
            out.push(']');
        }
        Value::Timestamp(time) => out.push_str(&time.go_text()),
        Value::Duration(nanos) => out.push_str(&gotext::duration(*nanos)),
        Value::List(list) => {
            out.push('[');
            for (at, element) in list.iter().enumerate() {
                if out.len() > SHOWN_MAX {
                    break;
                }
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
                if out.len() > SHOWN_MAX {
                    break;
                }
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
    let mut out = String::new();
    write(value, &mut out, SHOWN_MAX);
    out
}

/// Adds a value's literal, unless there are more bytes than these.
fn write(value: &Value<'_>, out: &mut String, most: usize) {
    if out.len() > most {
        return;
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Uint(value) => _ = write!(out, "{value}u"),
        Value::Double(value) if value.is_nan() => out.push_str("double(\"NaN\")"),
        Value::Double(value) if value.is_infinite() => _ = write!(out, "double(\"{}Infinity\")", if *value < 0.0 { "-" } else { "" }),
        Value::Double(value) => {
            let text = gotext::fixed_shortest(*value);
            out.push_str(&text);
            out.push_str(if text.contains('.') { "" } else { ".0" });
        }
        Value::String(text) => out.push_str(&gotext::quote(text)),
        Value::Bytes(bytes) => {
            out.push_str("b\"");
            bytes.iter().for_each(|byte| _ = write!(out, "\\{byte:03o}"));
            out.push('"');
        }
        Value::Timestamp(time) => _ = write!(out, "timestamp(\"{}\")", time.utc()),
        Value::Duration(nanos) => _ = write!(out, "duration(\"{}\")", gotext::seconds(*nanos)),
        Value::List(list) => {
            out.push('[');
            for (at, element) in list.iter().enumerate() {
                if out.len() > most {
                    break;
                }
                out.push_str(if at == 0 { "" } else { ", " });
                match element {
                    Ok(element) => write(&element, out, most),
                    Err(error) => out.push_str(&error.message),
                }
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut left = most.saturating_sub(out.len());
            let mut entries = Vec::new();
            for key in map.keys() {
                let mut entry = (String::new(), String::new());
                write(&key, &mut entry.0, left);
                if let Ok(Some(value)) = map.find(&key) {
                    write(&value, &mut entry.1, left.saturating_sub(entry.0.len()));
                }
                left = left.saturating_sub(entry.0.len() + entry.1.len());
                entries.push(entry);
                if left == 0 {
                    break;
                }
            }
            entries.sort();
            out.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                _ = write!(out, "{}{key}: {value}", if at == 0 { "" } else { ", " });
            }
            out.push('}');
        }
        Value::Optional(None) => out.push_str("optional.none()"),
        Value::Optional(Some(value)) => {
            out.push_str("optional.of(");
            write(value, out, most);
            out.push(')');
        }
        Value::Bool(_) | Value::Int(_) | Value::Type(_) | Value::Struct(_) | Value::Opaque(_) | Value::Preserved(_) | Value::Lazy => {
            out.push_str(&shown(value));
        }
    }
}
