//! JSON under a schema: what the values of a custom object are to its rules (`apiserver/pkg/cel/common`, unstructured values).
//!
//! A schema is read once into nodes; a value is looked at through its node when the expression reaches it. JSON that is not as its
//! schema says (it is validated before) is an error of the expression that reads it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use machinery::tree::go_type;

use super::{Json, List, Map, Text, Value};
use crate::declared::escape as names;
use crate::error::EvalError;
use crate::gotext;
use crate::time::Timestamp;

/// The schema of a value.
#[derive(Debug, Clone)]
pub struct Node {
    pub nullable: bool,
    pub shape: Shape,
}

/// What a schema says a value is.
#[derive(Debug, Clone)]
pub enum Shape {
    IntOrString,
    /// Fields by their names in JSON.
    Object(HashMap<Box<str>, Node>),
    Map(Box<Node>),
    /// An object without known fields.
    Empty,
    Array {
        items: Option<Box<Node>>,
        kind: ListKind,
    },
    String(Format),
    Number,
    Integer,
    Boolean,
    /// Anything, kept as it is.
    Preserved,
    /// A type that there is not.
    Unknown(Box<str>),
}

/// The formats that become typed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    None,
    Duration,
    Date,
    DateTime,
    Byte,
}

/// The list type of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    /// By these keys, escaped.
    Map(Vec<Box<str>>),
    /// A type that there is not.
    Unknown(Box<str>),
}

impl Node {
    /// Reads a structural schema (one version's `openAPIV3Schema`). Its depth is that of JSON, which its decoder bounds.
    pub fn of(schema: &Json) -> Node {
        let flag = |name: &str| schema.get(name) == Some(&Json::Bool(true));
        let shape = if flag("x-kubernetes-int-or-string") { Shape::IntOrString } else { Node::shape(schema, flag("x-kubernetes-embedded-resource")) };
        Node { nullable: flag("nullable"), shape }
    }

    fn shape(schema: &Json, embedded: bool) -> Shape {
        let text = |name: &str| schema.get(name).and_then(Json::as_str).unwrap_or_default();
        match text("type") {
            "object" => {
                let properties = schema.get("properties").and_then(Json::as_object);
                let mut properties: HashMap<Box<str>, Node> =
                    properties.into_iter().flatten().map(|(name, schema)| (name.as_str().into(), Node::of(schema))).collect();
                if embedded {
                    Node::add_meta(&mut properties);
                }
                match schema.get("additionalProperties") {
                    _ if !properties.is_empty() => Shape::Object(properties),
                    Some(values @ Json::Object(_)) => Shape::Map(Box::new(Node::of(values))),
                    _ => Shape::Empty,
                }
            }
            "array" => {
                let kind = match text("x-kubernetes-list-type") {
                    "" | "atomic" => ListKind::Atomic,
                    "set" => ListKind::Set,
                    "map" => {
                        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array).into_iter().flatten();
                        let keys = keys.filter_map(Json::as_str).map(|key| escape(key).unwrap_or(Cow::Borrowed(key)).into());
                        ListKind::Map(keys.collect())
                    }
                    other => ListKind::Unknown(other.into()),
                };
                Shape::Array { items: schema.get("items").map(|items| Box::new(Node::of(items))), kind }
            }
            "string" => Shape::String(match text("format") {
                "duration" => Format::Duration,
                "date" => Format::Date,
                "date-time" => Format::DateTime,
                "byte" => Format::Byte,
                _ => Format::None,
            }),
            "number" => Shape::Number,
            "integer" => Shape::Integer,
            "boolean" => Shape::Boolean,
            _ if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Json::Bool(true)) => Shape::Preserved,
            other => Shape::Unknown(other.into()),
        }
    }

    /// A whole object (and every embedded one) has its type, and in its metadata the names, unless its schema says so itself.
    fn add_meta(properties: &mut HashMap<Box<str>, Node>) {
        let text = || Node { nullable: false, shape: Shape::String(Format::None) };
        let is_text = |node: Option<&Node>| matches!(node, Some(Node { shape: Shape::String(_), .. }));
        let has_names = match properties.get("metadata").map(|meta| &meta.shape) {
            Some(Shape::Object(fields)) => is_text(fields.get("name")) && is_text(fields.get("generateName")),
            _ => false,
        };
        if has_names && is_text(properties.get("apiVersion")) && is_text(properties.get("kind")) {
            return;
        }
        properties.insert("apiVersion".into(), text());
        properties.insert("kind".into(), text());
        let names = ["name", "generateName"].map(|name| (Box::from(name), text()));
        properties.insert("metadata".into(), Node { nullable: false, shape: Shape::Object(HashMap::from(names)) });
    }

    /// The same as the schema of a whole object.
    pub fn root(schema: &Json) -> Node {
        Node { nullable: false, shape: Node::shape(schema, true) }
    }
}

/// A value under its schema.
///
/// # Errors
/// Where it is not as the schema says.
pub fn typed<'v>(json: &'v Json, node: &'v Node) -> Result<Value<'v>, EvalError> {
    if json.is_null() {
        return if node.nullable { Ok(Value::Null) } else { Err(EvalError::of("invalid data, got null for schema with nullable=false")) };
    }
    match (&node.shape, json) {
        (Shape::IntOrString, Json::String(text)) | (Shape::String(Format::None), Json::String(text)) => Ok(Value::String(Text::Borrowed(text))),
        (Shape::IntOrString, Json::Number(number)) if number.is_i64() => Ok(Value::Int(number.as_i64().unwrap_or_default())),
        (Shape::IntOrString, _) => Err(EvalError::of("invalid data, expected XIntOrString value to be either a string or integer")),
        (Shape::Object(_) | Shape::Map(_) | Shape::Empty, Json::Object(fields)) => Ok(Value::Map(Map::Viewed { fields, node })),
        (Shape::Object(_) | Shape::Map(_) | Shape::Empty, _) => Err(EvalError::of("invalid data, expected a map for the provided schema with type=object")),
        (Shape::Array { items: Some(items), kind }, Json::Array(elements)) => match kind {
            ListKind::Unknown(other) => Err(EvalError::of(format!("invalid x-kubernetes-list-type, expected 'map', 'set' or 'atomic' but got {other}"))),
            kind => Ok(Value::List(List::Viewed { elements, items, kind })),
        },
        (Shape::Array { items: None, .. }, Json::Array(_)) => Err(EvalError::of("invalid array type, expected Items with a non-empty Schema")),
        (Shape::Array { .. }, _) => Err(EvalError::of("invalid data, expected an array for the provided schema with type=array")),
        (Shape::String(format), Json::String(text)) => formatted(text, *format),
        (Shape::String(_), _) => Err(EvalError::of(format!("invalid data, expected string, got {}", go_type(json)))),
        (Shape::Number, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
        (Shape::Number, _) => Err(EvalError::of(format!("invalid data, expected float, got {}", go_type(json)))),
        (Shape::Integer, Json::Number(number)) if number.is_i64() => Ok(Value::Int(number.as_i64().unwrap_or_default())),
        (Shape::Integer, _) => Err(EvalError::of(format!("invalid data, expected int, got {}", go_type(json)))),
        (Shape::Boolean, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (Shape::Boolean, _) => Err(EvalError::of(format!("invalid data, expected bool, got {}", go_type(json)))),
        (Shape::Preserved, _) => Ok(Value::Preserved(json)),
        (Shape::Unknown(name), _) => Err(EvalError::of(format!(
            "invalid type, expected object, array, number, integer, boolean or string, or no type with x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got {name}"
        ))),
    }
}

/// A text whose format has a type of its own.
fn formatted<'v>(text: &'v str, format: Format) -> Result<Value<'v>, EvalError> {
    match format {
        Format::None => Ok(Value::String(Text::Borrowed(text))),
        Format::Duration => gotext::lenient_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::of(format!("Invalid duration {text}: unable to parse {text} as duration"))),
        Format::Date => Timestamp::parse_date(text).map(Value::Timestamp).map_err(|why| EvalError::of(format!("Invalid date formatted string {text}: {why}"))),
        Format::DateTime if text.is_empty() => Ok(Value::Timestamp(Timestamp::EPOCH)),
        Format::DateTime => {
            Timestamp::parse_lenient(text).map(Value::Timestamp).map_err(|why| EvalError::of(format!("Invalid date-time formatted string {text}: {why}")))
        }
        Format::Byte => gotext::base64(text)
            .map(|bytes| Value::Bytes(Arc::from(bytes)))
            .map_err(|at| EvalError::of(format!("Invalid byte formatted string {text}: illegal base64 data at input byte {at}"))),
    }
}

/// A field's name as expressions write it; none where they cannot.
pub(crate) fn escape(name: &str) -> Option<Cow<'_, str>> {
    names::escape(name).map(|escaped| if escaped == name { Cow::Borrowed(name) } else { Cow::Owned(escaped) })
}

/// The field that a name in an expression means; none where it means nothing. Most names are no others.
pub(crate) fn unescape(escaped: &str) -> Option<Cow<'_, str>> {
    if escaped.contains("__") { names::unescape(escaped).map(Cow::Owned) } else { Some(Cow::Borrowed(escaped)) }
}
