//! Messages to values.

use super::wire::{Malformed, Payload, Reader};
use crate::{
    Map, Value, quantity,
    schema::{Field, Object, Type, TypeRef},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::borrow::Cow;

/// Messages nest as types do, and only `JSONSchemaProps` nests in itself; the JSON decoder has the same limit.
const DEPTH_LIMIT: usize = crate::json::DEPTH_MAX;

/// The value of a message.
pub(super) fn message(ty: TypeRef<'_>, bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
    merged(ty, bytes, None, depth)
}

/// As [`message`], read into what is there of it: Go puts together what is sent in parts.
fn merged(ty: TypeRef<'_>, bytes: &[u8], known: Option<Value>, depth: usize) -> Result<Value, Malformed> {
    if depth > DEPTH_LIMIT {
        return Err(Malformed::Depth);
    }
    match ty.get() {
        Type::Object(object) => {
            let mut map = match known {
                Some(Value::Object(known)) => known,
                _ => Map::new(),
            };
            fields(ty, object, bytes, &mut map, depth)?;
            Ok(Value::Object(map))
        }
        _ => special(ty, bytes, depth),
    }
}

fn fields(ty: TypeRef<'_>, object: &Object, bytes: &[u8], map: &mut Map<String, Value>, depth: usize) -> Result<(), Malformed> {
    let mut reader = Reader::of(object.go_name(), bytes);
    let mut repeated = Repeated::default();
    while let Some((tag, payload)) = reader.next()? {
        let Some(field) = object.by_tag(tag) else {
            let embedded = object.embedded.iter().find(|(t, _)| *t == tag).map(|(_, id)| ty.to(*id));
            if let Some((ty, inner)) = embedded.and_then(|ty| ty.object().map(|o| (ty, o))) {
                fields(ty, inner, payload.bytes()?, map, depth + 1)?;
            }
            continue;
        };
        let ty_of_field = ty.to(field.ty);
        let named = |error: Malformed| error.of_field(|| go_name(ty_of_field, &field.name));
        match ty_of_field.get() {
            Type::List { elem, wrapped: false, .. } => {
                let list = repeated.list(map, field);
                elements(ty.to(*elem), payload, list, depth).map_err(named)?;
            }
            Type::Map { elem, .. } => {
                let (key, value) = entry(ty.to(*elem), payload.bytes().map_err(named)?, depth)?;
                repeated.map(map, field).insert(key, value);
            }
            Type::Object(_) => {
                let known = map.remove(field.name.as_ref());
                let whole = merged(ty_of_field, payload.bytes().map_err(named)?, known, depth + 1).map_err(named)?;
                map.insert(field.name.clone().into_owned(), whole);
            }
            _ => {
                let value = single(ty_of_field, payload, depth).map_err(named)?;
                if value.is_null() || ty.leaves_out(field, &value) {
                    // What was sent before of it no longer counts.
                    map.remove(field.name.as_ref());
                } else {
                    map.insert(field.name.clone().into_owned(), value);
                }
            }
        }
    }
    repeated.flush(map);
    Ok(())
}

/// The name of a field in Go: that of its type where it is embedded, as metadata is.
fn go_name(ty: TypeRef<'_>, name: &str) -> String {
    match (name, ty.object()) {
        ("metadata", Some(object)) => object.go_name().to_owned(),
        _ => name.char_indices().map(|(at, c)| if at == 0 { c.to_ascii_uppercase() } else { c }).collect(),
    }
}

/// The list or map being collected: its elements mostly follow each other, so that the object's map is touched once.
#[derive(Default)]
struct Repeated<'a> {
    field: Option<&'a Field>,
    list: Vec<Value>,
    map: Map<String, Value>,
}

impl<'a> Repeated<'a> {
    fn list(&mut self, out: &mut Map<String, Value>, field: &'a Field) -> &mut Vec<Value> {
        if self.switch(out, field)
            && let Some(Value::Array(items)) = out.remove(field.name.as_ref())
        {
            self.list = items;
        }
        &mut self.list
    }

    fn map(&mut self, out: &mut Map<String, Value>, field: &'a Field) -> &mut Map<String, Value> {
        if self.switch(out, field)
            && let Some(Value::Object(map)) = out.remove(field.name.as_ref())
        {
            self.map = map;
        }
        &mut self.map
    }

    /// Turns to another field; true if it was another one.
    fn switch(&mut self, out: &mut Map<String, Value>, field: &'a Field) -> bool {
        if self.field.is_some_and(|f| std::ptr::eq(f, field)) {
            return false;
        }
        self.flush(out);
        self.field = Some(field);
        true
    }

    fn flush(&mut self, out: &mut Map<String, Value>) {
        if let Some(field) = self.field.take() {
            let value = if self.map.is_empty() { Value::Array(std::mem::take(&mut self.list)) } else { Value::Object(std::mem::take(&mut self.map)) };
            out.insert(field.name.clone().into_owned(), value);
        }
    }
}

/// One element, or several packed ones.
fn elements(ty: TypeRef<'_>, payload: Payload<'_>, list: &mut Vec<Value>, depth: usize) -> Result<(), Malformed> {
    match (ty.get(), payload) {
        (Type::Bool | Type::Int32 | Type::Int64, Payload::Bytes(packed)) => {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                list.push(single(ty, Payload::Varint(reader.varint()?), depth)?);
            }
        }
        _ => list.push(single(ty, payload, depth)?),
    }
    Ok(())
}

/// A map's entry; what is absent in it is zero.
fn entry(ty: TypeRef<'_>, bytes: &[u8], depth: usize) -> Result<(String, Value), Malformed> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        match tag {
            1 => key = payload.text()?.into_owned(),
            2 => value = Some(single(ty, payload, depth)?),
            _ => {}
        }
    }
    let value = match (value, ty.get()) {
        (Some(value), _) => value,
        (None, Type::String | Type::Bytes) => Value::String(String::new()),
        (None, Type::Bool) => Value::Bool(false),
        (None, Type::Int32 | Type::Int64 | Type::Double) => 0.into(),
        (None, _) => message(ty, &[], depth + 1)?,
    };
    Ok((key, value))
}

fn single(ty: TypeRef<'_>, payload: Payload<'_>, depth: usize) -> Result<Value, Malformed> {
    Ok(match ty.get() {
        Type::String => Value::String(payload.text()?.into_owned()),
        Type::Bytes => Value::String(STANDARD.encode(payload.bytes()?)),
        Type::Bool => Value::Bool(payload.varint()? != 0),
        // The wire keeps negative 32-bit numbers sign-extended; the low half is the number.
        Type::Int32 => i64::from(payload.varint()? as u32 as i32).into(),
        Type::Int64 => payload.varint()?.cast_signed().into(),
        Type::Double => payload.double()?.into(),
        Type::List { elem, .. } => {
            let mut items = Vec::new();
            let mut reader = Reader::new(payload.bytes()?);
            while let Some((tag, payload)) = reader.next()? {
                if tag == 1 {
                    elements(ty.to(*elem), payload, &mut items, depth)?;
                }
            }
            Value::Array(items)
        }
        _ => message(ty, payload.bytes()?, depth + 1)?,
    })
}

/// The messages of types with an encoding of their own. `Null` stands for an absent value.
fn special(ty: TypeRef<'_>, bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
    match ty.get() {
        Type::IntOrString => int_or_string(bytes),
        Type::Quantity => {
            // As upstream's own decoder of them: an absent text is zero, and an empty one is none. No space is cut off here, as it is in JSON.
            let Some(text) = find(bytes, 1)? else { return Ok(Value::String("0".into())) };
            let text = text.text().map_err(|why| why.of_field(|| "String_".to_owned()))?;
            Ok(Value::String(quantity::canonical(&text)?))
        }
        Type::Time | Type::MicroTime => time(bytes, matches!(ty.get(), Type::MicroTime)),
        Type::RawExtension | Type::RawJson | Type::Fields => match find(bytes, 1)? {
            Some(raw) => match (embedded(raw.bytes()?, depth), ty.get()) {
                // A text is no set of fields either: whoever reads the managers drops them for it, as upstream does.
                (Err(Malformed::Embedded), Type::Fields) => Ok(Value::String(raw.text()?.into_owned())),
                (read, _) => read,
            },
            None => Ok(Value::Null),
        },
        Type::SchemaOrArray(schema) => match find(bytes, 1)? {
            Some(one) => message(ty.to(*schema), one.bytes()?, depth + 1),
            None => repeated(bytes, 2, |item| message(ty.to(*schema), item.bytes()?, depth + 1)),
        },
        Type::SchemaOrBool(schema) => match find(bytes, 2)? {
            Some(one) => message(ty.to(*schema), one.bytes()?, depth + 1),
            None => Ok(Value::Bool(find(bytes, 1)?.map_or(Ok(0), Payload::varint)? != 0)),
        },
        Type::SchemaOrStrings(schema) => match find(bytes, 1)? {
            Some(one) => message(ty.to(*schema), one.bytes()?, depth + 1),
            None => repeated(bytes, 2, |item| Ok(Value::String(item.text()?.into_owned()))),
        },
        _ => Ok(Value::Null),
    }
}

/// All fields with a tag.
fn repeated<'a>(bytes: &'a [u8], wanted: u32, decode: impl Fn(Payload<'a>) -> Result<Value, Malformed>) -> Result<Value, Malformed> {
    let mut items = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        if tag == wanted {
            items.push(decode(payload)?);
        }
    }
    Ok(Value::Array(items))
}

/// The last field with a tag: later ones win.
fn find(bytes: &[u8], wanted: u32) -> Result<Option<Payload<'_>>, Malformed> {
    let mut found = None;
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        if tag == wanted {
            found = Some(payload);
        }
    }
    Ok(found)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Malformed> {
    let is_string = find(bytes, 1)?.map_or(Ok(0), Payload::varint)? == 1;
    if is_string {
        return Ok(Value::String(find(bytes, 3)?.map_or(Ok(Cow::Borrowed("")), Payload::text)?.into_owned()));
    }
    let number = find(bytes, 2)?.map_or(Ok(0), Payload::varint)?;
    Ok(i64::from(number as u32 as i32).into())
}

/// An empty message is Go's zero time, which is absent.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Malformed> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let seconds = find(bytes, 1)?.map_or(Ok(0), Payload::varint)?.cast_signed();
    let nanos = find(bytes, 2)?.map_or(Ok(0), Payload::varint)? as u32;
    Ok(crate::unix::format(seconds, micro.then_some(nanos)).map_or(Value::Null, Value::String))
}

/// A raw extension is JSON, or protobuf with its envelope.
fn embedded(raw: &[u8], depth: usize) -> Result<Value, Malformed> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if raw.starts_with(super::MAGIC) {
        return super::decode_at(raw, depth + 1).map(|(_, value)| value).map_err(|_| Malformed::Embedded);
    }
    crate::json::read(raw).map_err(|_| Malformed::Embedded)
}
