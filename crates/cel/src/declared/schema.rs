//! A JSON schema as a declared type.
//!
//! What the schema does not describe is not seen: fields of unknown names, lists and maps of anything. Where it sets no bound, the
//! size of a request does. Structural schemas are a tree; published ones refer to each other, and whoever has those gives a
//! resolver.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Declared, REQUEST_BYTES_MAX, Shape, UNNAMED, escape};
use crate::types::{Str, Type};

/// Characters of the name of an object.
const NAME_MAX: i64 = 253;
/// Characters of a duration in JSON.
const DURATION_MAX: i64 = 32;
/// Characters of a time in JSON.
const TIME_MAX: i64 = 32;
/// Characters of a date in JSON.
const DATE_SIZE: i64 = 12;
/// Characters of a text that nothing else bounds.
const TEXT_MAX: i64 = REQUEST_BYTES_MAX - 2;

impl Declared {
    /// The type of a structural schema; `root` for the schema of a whole resource. Nothing if expressions cannot see it.
    pub fn of_schema(schema: &Value, root: bool) -> Option<Declared> {
        if flag(schema, "x-kubernetes-int-or-string") {
            let elements_max = number(schema, "maxLength").map_or(TEXT_MAX, characters);
            return Some(Declared { shape: Shape::Simple(Type::Dyn), elements_max, bytes_min: 1 });
        }
        match schema["type"].as_str() {
            Some("array") => list(schema),
            Some("object") => match additional(schema) {
                Some(value) => map(schema, value),
                None => Some(object(schema, root)),
            },
            Some("string") => Some(string(schema)),
            Some("boolean") => Some(Declared::simple(Type::Bool, 4)),
            Some("number") => Some(Declared::simple(Type::Double, 1)),
            Some("integer") => Some(Declared::simple(Type::Int, 1)),
            _ => None,
        }
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name].as_bool().unwrap_or(false)
}

/// A bound that the schema sets; below nothing is nothing.
fn number(schema: &Value, name: &str) -> Option<i64> {
    schema[name].as_i64().map(|bound| bound.max(0))
}

/// A bound in characters as one in bytes.
fn characters(bound: i64) -> i64 {
    bound.wrapping_mul(4)
}

fn part(schema: &Value) -> Option<Declared> {
    Declared::of_schema(schema, flag(schema, "x-kubernetes-embedded-resource"))
}

fn list(schema: &Value) -> Option<Declared> {
    let element = part(schema.get("items").filter(|items| items.is_object())?)?;
    let elements_max = number(schema, "maxItems").unwrap_or((REQUEST_BYTES_MAX - 2) / (element.bytes_min + 1));
    Some(Declared::list(element, elements_max))
}

fn additional(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|value| value.is_object())
}

fn map(schema: &Value, value: &Value) -> Option<Declared> {
    let value = part(value)?;
    // A key in quotes, a colon and a comma.
    let entries_max = number(schema, "maxProperties").unwrap_or((REQUEST_BYTES_MAX - 2) / (value.bytes_min + 6));
    Some(Declared::map(value, entries_max))
}

fn object(schema: &Value, root: bool) -> Declared {
    let mut properties: BTreeMap<&str, Option<Declared>> = BTreeMap::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        properties.insert(name, part(property));
    }
    if root && !has_type_and_meta(schema) {
        properties.insert("kind", Some(bounded_string(TEXT_MAX)));
        properties.insert("apiVersion", Some(bounded_string(TEXT_MAX)));
        properties.insert("metadata", Some(meta(&schema["properties"]["metadata"])));
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields: BTreeMap<Str, Arc<Declared>> = BTreeMap::new();
    let mut bytes_min = 2;
    for (name, property) in properties {
        let Some(property) = property else { continue };
        // What has a default may be left out: the server adds it.
        if required.contains(&name) && schema["properties"][name].get("default").is_none_or(Value::is_null) {
            bytes_min += name.len() as i64 + property.bytes_min + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped.into(), Arc::new(property));
        }
    }
    Declared { shape: Shape::Object(UNNAMED.into(), fields), elements_max: 0, bytes_min }
}

/// Whether a resource's schema describes by itself what every resource has.
fn has_type_and_meta(schema: &Value) -> bool {
    let properties = &schema["properties"];
    let is = |schema: &Value, ty: &str| schema["type"] == ty;
    let meta = &properties["metadata"];
    is(&properties["kind"], "string")
        && is(&properties["apiVersion"], "string")
        && is(meta, "object")
        && is(&meta["properties"]["name"], "string")
        && is(&meta["properties"]["generateName"], "string")
}

/// What expressions see of a resource's metadata.
fn meta(schema: &Value) -> Declared {
    let capped = |name: &str, max: i64| {
        let own = schema["properties"][name]["maxLength"].as_i64().unwrap_or(max);
        bounded_string(characters(own.min(max).max(0)))
    };
    // What is added to a generated name has at least one character.
    Declared::object(UNNAMED, [("name", capped("name", NAME_MAX)), ("generateName", capped("generateName", NAME_MAX - 1))])
}

fn bounded_string(elements_max: i64) -> Declared {
    Declared { elements_max, ..Declared::string() }
}

fn string(schema: &Value) -> Declared {
    let of = |ty, elements_max, bytes_min| Declared { shape: Shape::Simple(ty), elements_max, bytes_min };
    let length = number(schema, "maxLength");
    match schema["format"].as_str() {
        Some("byte") => return of(Type::Bytes, length.unwrap_or(TEXT_MAX), 2),
        Some("duration") => return of(Type::Duration, DURATION_MAX, 3),
        Some("date") => return of(Type::Timestamp, DATE_SIZE, DATE_SIZE),
        Some("date-time") => return of(Type::Timestamp, TIME_MAX, 21),
        _ => {}
    }
    let longest = schema["enum"].as_array().filter(|values| !values.is_empty()).map(|values| longest(values));
    bounded_string(length.map(characters).or(longest).unwrap_or(TEXT_MAX))
}

fn longest(values: &[Value]) -> i64 {
    values.iter().filter_map(Value::as_str).map(|text| text.len() as i64).max().unwrap_or(0)
}
