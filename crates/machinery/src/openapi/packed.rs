//! The documents as protobuf, the form in which client-go asks for them: the messages of gnostic's `openapi.v2` and `openapi.v3`.
//!
//! Messages are tables: a JSON name, a tag, and how its value is written. What begins with `x-` is an extension and travels as
//! YAML. As everywhere in proto3 what is empty or zero is left out, but where it is the one of several that is chosen.

mod v2;
mod v3;

pub use v2::v2_packed;
pub use v3::v3_packed;

use crate::{Value, proto::wire};

/// Writes a value under a tag.
type Write = fn(&mut Vec<u8>, u32, &Value);
/// A message: its fields, and the tag of its extensions.
struct Message(&'static [(&'static str, u32, Write)], u32);

fn fields(out: &mut Vec<u8>, value: &Value, message: &Message) {
    let Message(known, extensions) = message;
    for (name, tag, write) in *known {
        if let Some(found) = value.get(name) {
            write(out, *tag, found);
        }
    }
    for (name, found) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        name_and_value(out, *extensions, name, found, any);
    }
}

fn message(out: &mut Vec<u8>, tag: u32, value: &Value, message: &Message) {
    wire::message_field(out, tag, |out| fields(out, value, message));
}

fn name_and_value(out: &mut Vec<u8>, tag: u32, name: &str, value: &Value, write: Write) {
    wire::message_field(out, tag, |out| {
        wire::string_field(out, 1, name.as_bytes());
        write(out, 2, value);
    });
}

/// A map, which travels as a list of names and values.
fn named(out: &mut Vec<u8>, tag: u32, value: &Value, write: Write) {
    for (name, found) in value.as_object().into_iter().flatten() {
        name_and_value(out, tag, name, found, write);
    }
}

/// A message that holds such a list alone.
fn map(out: &mut Vec<u8>, tag: u32, value: &Value, write: Write) {
    wire::message_field(out, tag, |out| named(out, 1, value, write));
}

fn each(out: &mut Vec<u8>, tag: u32, value: &Value, write: Write) {
    for found in value.as_array().into_iter().flatten() {
        write(out, tag, found);
    }
}

fn text(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        wire::string_field(out, tag, text.as_bytes());
    }
}

fn texts(out: &mut Vec<u8>, tag: u32, value: &Value) {
    each(out, tag, value, |out, tag, value| wire::string_field(out, tag, value.as_str().unwrap_or_default().as_bytes()));
}

fn flag(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if value == true {
        wire::varint_field(out, tag, 1);
    }
}

fn integer(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if let Some(number) = value.as_i64().filter(|number| *number != 0) {
        wire::varint_field(out, tag, number.cast_unsigned());
    }
}

fn double(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if let Some(number) = value.as_f64().filter(|number| *number != 0.0) {
        wire::double_field(out, tag, number);
    }
}

fn any(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| wire::string_field(out, 2, crate::yaml::encode(value).as_bytes()));
}

/// What security there must be: names, each with a list of texts.
fn requirement(out: &mut Vec<u8>, tag: u32, value: &Value) {
    map(out, tag, value, |o, tag, v| wire::message_field(o, tag, |o| texts(o, 1, v)));
}

/// A bool or a schema.
fn additional(out: &mut Vec<u8>, tag: u32, value: &Value, schema: Write) {
    wire::message_field(out, tag, |out| match value {
        Value::Bool(allowed) => wire::varint_field(out, 2, u64::from(*allowed)),
        _ => schema(out, 1, value),
    });
}
