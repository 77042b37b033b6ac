//! Values to messages.

use super::wire::{double_field, message_field, string_field, varint_field};
use crate::{
    Map, Value,
    json::Texts,
    schema::{Object, Type, TypeRef},
};
use base64::{Engine, engine::general_purpose::STANDARD};

/// The message of an object; nothing for a value that is none.
pub(super) fn message(ty: TypeRef<'_>, value: &Value, texts: &Texts, out: &mut Vec<u8>) {
    match (ty.get(), value) {
        (Type::Object(object), Value::Object(map)) => fields(ty, object, map, texts, out),
        _ => special(ty, value, texts, out),
    }
}

/// Map and fields are both sorted by name, so that one walk pairs them.
fn fields(ty: TypeRef<'_>, object: &Object, map: &Map<String, Value>, texts: &Texts, out: &mut Vec<u8>) {
    for (tag, embedded) in &object.embedded {
        let before = out.len();
        message_field(out, *tag, |out| {
            if let Some(inner) = ty.to(*embedded).object() {
                fields(ty.to(*embedded), inner, map, texts, out);
            }
        });
        // A tag and a length of zero: the embedded struct holds nothing.
        if out.len() == before + 2 {
            out.truncate(before);
        }
    }
    let mut candidates = object.fields.iter();
    let mut candidate = candidates.next();
    for (name, value) in map {
        while candidate.is_some_and(|f| f.name.as_ref() < name.as_str()) {
            candidate = candidates.next();
        }
        match candidate {
            Some(f) if f.name == name.as_str() && f.tag > 0 => field(ty.to(f.ty), f.tag, value, texts, out),
            Some(_) => {}
            None => break,
        }
    }
}

/// One field, with its tag; repeated for lists and maps.
fn field(ty: TypeRef<'_>, tag: u32, value: &Value, texts: &Texts, out: &mut Vec<u8>) {
    match (ty.get(), value) {
        (_, Value::Null) => {}
        (Type::String, Value::String(s)) => string_field(out, tag, s.as_bytes()),
        (Type::Bytes, Value::String(s)) => string_field(out, tag, &STANDARD.decode(s).unwrap_or_default()),
        (Type::Bool, Value::Bool(b)) => varint_field(out, tag, u64::from(*b)),
        (Type::Int32 | Type::Int64, Value::Number(n)) => varint_field(out, tag, n.as_i64().unwrap_or(0).cast_unsigned()),
        (Type::Double, Value::Number(n)) => double_field(out, tag, n.as_f64().unwrap_or(0.0)),
        (Type::List { elem, wrapped: false, .. }, Value::Array(items)) => {
            for item in items {
                element(ty.to(*elem), tag, item, texts, out);
            }
        }
        (Type::List { elem, .. }, Value::Array(items)) => message_field(out, tag, |out| {
            for item in items {
                element(ty.to(*elem), 1, item, texts, out);
            }
        }),
        (Type::Map { elem, .. }, Value::Object(map)) => {
            for (key, value) in map {
                message_field(out, tag, |out| {
                    string_field(out, 1, key.as_bytes());
                    element(ty.to(*elem), 2, value, texts, out);
                });
            }
        }
        (Type::String | Type::Bytes | Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::List { .. } | Type::Map { .. }, _) => {
            // A value of another JSON type cannot come out of decoding; it has no place on the wire.
        }
        _ => message_field(out, tag, |out| message(ty, value, texts, out)),
    }
}

/// An element must be there even if it is null: it counts.
fn element(ty: TypeRef<'_>, tag: u32, value: &Value, texts: &Texts, out: &mut Vec<u8>) {
    if value.is_null() { string_field(out, tag, b"") } else { field(ty, tag, value, texts, out) }
}

/// The messages of types with an encoding of their own.
fn special(ty: TypeRef<'_>, value: &Value, texts: &Texts, out: &mut Vec<u8>) {
    match (ty.get(), value) {
        (Type::IntOrString, Value::Number(n)) => {
            varint_field(out, 1, 0);
            varint_field(out, 2, n.as_i64().unwrap_or(0).cast_unsigned());
            string_field(out, 3, b"");
        }
        (Type::IntOrString, Value::String(s)) => {
            varint_field(out, 1, 1);
            varint_field(out, 2, 0);
            string_field(out, 3, s.as_bytes());
        }
        (Type::Quantity, Value::String(s)) => string_field(out, 1, s.as_bytes()),
        (Type::Quantity, Value::Number(n)) => string_field(out, 1, n.to_string().as_bytes()),
        (Type::Time | Type::MicroTime, Value::String(s)) => {
            if let Some((seconds, nanos)) = crate::unix::parse(s) {
                varint_field(out, 1, seconds.cast_unsigned());
                let nanos = if matches!(ty.get(), Type::MicroTime) { nanos } else { 0 };
                varint_field(out, 2, u64::from(nanos));
            }
        }
        (Type::RawExtension, value) => match texts.of(value) {
            Some(text) => string_field(out, 1, text),
            None => string_field(out, 1, &crate::json::encode(value)),
        },
        (Type::RawJson | Type::Fields, value) => string_field(out, 1, &crate::json::encode_as(Some(ty), value)),
        (Type::SchemaOrArray(schema), Value::Array(items)) => {
            for item in items {
                field(ty.to(*schema), 2, item, texts, out);
            }
        }
        (Type::SchemaOrBool(_), Value::Bool(b)) => varint_field(out, 1, u64::from(*b)),
        (Type::SchemaOrBool(schema), value) => {
            varint_field(out, 1, 1);
            field(ty.to(*schema), 2, value, texts, out);
        }
        (Type::SchemaOrStrings(_), Value::Array(items)) => {
            for item in items.iter().filter_map(Value::as_str) {
                string_field(out, 2, item.as_bytes());
            }
        }
        (Type::SchemaOrArray(schema) | Type::SchemaOrStrings(schema), value) => field(ty.to(*schema), 1, value, texts, out),
        _ => {}
    }
}
