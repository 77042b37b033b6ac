//! YAML for readers of YAML 1.1 and 1.2 alike: every text is quoted, so that `no`, `on`, `1_000` and `y` stay texts for kubectl.

use serde_yaml_ng::{Mapping, Value};

/// A whole document.
pub(super) fn document(mapping: &Mapping) -> String {
    let mut out = String::new();
    write_mapping(&mut out, mapping, 0, false);
    out
}

/// An entry of a list, `- …`, at an indentation.
pub(super) fn item(value: &Value, indent: usize) -> String {
    let mut out = format!("{:indent$}-", "");
    write(&mut out, value, indent + 2, true);
    out
}

/// A text in quotes.
pub(super) fn quoted(text: &str) -> String {
    // JSON's strings are YAML's double-quoted ones.
    serde_json::Value::from(text).to_string()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(text) => quoted(text),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, scalar(&tagged.value)),
    }
}

/// What stands after `KEY:` or `-`, to the end of its last line. `inline`: the first key may stand on the same line.
fn write(out: &mut String, value: &Value, indent: usize, inline: bool) {
    match value {
        Value::Mapping(mapping) if !mapping.is_empty() => {
            out.push(if inline { ' ' } else { '\n' });
            write_mapping(out, mapping, indent, inline);
        }
        Value::Sequence(items) if !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|value| out.push_str(&item(value, indent)));
        }
        scalar_value => {
            out.push(' ');
            out.push_str(&scalar(scalar_value));
            out.push('\n');
        }
    }
}

fn write_mapping(out: &mut String, mapping: &Mapping, indent: usize, mut inline: bool) {
    for (key, value) in mapping {
        if !std::mem::take(&mut inline) {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&key_text(key));
        out.push(':');
        // Lists stand below their key without another step, as kubectl writes them.
        let step = if value.is_sequence() { 0 } else { 2 };
        write(out, value, indent + step, false);
    }
}

/// Keys that mean nothing else are plain.
fn key_text(key: &Value) -> String {
    let plain = |k: &&str| {
        k.len() > 3 && k.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') && !matches!(k.to_ascii_lowercase().as_str(), "true" | "false" | "null")
    };
    key.as_str().filter(plain).map_or_else(|| scalar(key), str::to_owned)
}
