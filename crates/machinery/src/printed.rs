//! A value that was decoded without a type, as Go's verbs print it: what upstream's messages show of what clients sent.

use crate::{Value, quote::Quoted, tree::go_type};
use std::fmt::Write;

/// A value as Go's `%v` prints it.
pub fn plain(value: &Value) -> String {
    printed(value, Verb::Plain)
}

/// A value as Go's `%#v` prints it.
pub(crate) fn syntax(value: &Value) -> String {
    printed(value, Verb::Syntax)
}

/// A value as Go's `%s` prints what is to be a text.
pub(crate) fn text(value: &Value) -> String {
    if value.is_null() { "%!s(<nil>)".to_owned() } else { printed(value, Verb::Text) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Plain,
    Syntax,
    Text,
}

fn printed(value: &Value, verb: Verb) -> String {
    let mut out = String::new();
    write(value, &mut out, verb);
    out
}

fn write(value: &Value, out: &mut String, verb: Verb) {
    let syntax = verb == Verb::Syntax;
    match value {
        Value::Null => out.push_str(if syntax { "interface {}(nil)" } else { "<nil>" }),
        Value::String(text) if syntax => drop(write!(out, "{}", Quoted(text))),
        Value::String(text) => out.push_str(text),
        Value::Bool(_) | Value::Number(_) if verb == Verb::Text => drop(write!(out, "%!s({}={})", go_type(value), plain(value))),
        Value::Number(number) if !number.is_i64() => out.push_str(&number.as_f64().map(crate::numerals::float).unwrap_or_default()),
        Value::Bool(_) | Value::Number(_) => drop(write!(out, "{value}")),
        Value::Array(items) => {
            out.push_str(if syntax { "[]interface {}{" } else { "[" });
            for (at, item) in items.iter().enumerate() {
                out.push_str(match (at, syntax) {
                    (0, _) => "",
                    (_, true) => ", ",
                    (_, false) => " ",
                });
                write(item, out, verb);
            }
            out.push(if syntax { '}' } else { ']' });
        }
        Value::Object(map) => {
            out.push_str(if syntax { "map[string]interface {}{" } else { "map[" });
            for (at, (name, item)) in map.iter().enumerate() {
                out.push_str(match (at, syntax) {
                    (0, _) => "",
                    (_, true) => ", ",
                    (_, false) => " ",
                });
                match syntax {
                    true => drop(write!(out, "{}:", Quoted(name))),
                    false => drop(write!(out, "{name}:")),
                }
                write(item, out, verb);
            }
            out.push(if syntax { '}' } else { ']' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_text_is_printed_with_what_is_none_marked() {
        let value = json!({"a": [1, null, "x", true], "a-b": 0.5});
        assert_eq!(text(&value), "map[a:[%!s(int64=1) <nil> x %!s(bool=true)] a-b:%!s(float64=0.5)]");
        assert_eq!(text(&Value::Null), "%!s(<nil>)");
    }
}
