//! What an expression reads and gives.
//!
//! A value borrows the JSON it was made of for `'v` and looks at it only where the expression does: an object of megabytes is never
//! copied. Over JSON lies the view of its schema ([`view`]) where there is one, which hides unknown fields, turns formatted strings
//! into times and bytes and compares lists by their list type; without a schema a value is what its JSON is.
//!
//! Equality, order and conversions are those of `cel-go/common/types`, with its errors to the letter.

mod compare;
mod convert;
mod list;
mod map;
mod show;
mod text;
pub mod view;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(crate) use compare::is_ordered;
pub use compare::{compare, equal, method_equal};
pub use convert::{convert, double_to_int, double_to_uint, negate, negate_duration};
pub use list::List;
pub use map::{Entries, Key, Map};
pub use show::{literal, shown};
pub use text::Text;
pub use view::{Node, typed};

use crate::ast::Literal;
use crate::error::EvalError;
use crate::time::Timestamp;
use crate::types::{Str, Type};

/// A tree of JSON.
pub type Json = serde_json::Value;

/// A value. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Value<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'v>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(List<'v>),
    Map(Map<'v>),
    Optional(Option<Arc<Value<'v>>>),
    Type(Type),
    /// An object that the expression makes.
    Struct(Arc<Struct<'v>>),
    Opaque(Arc<dyn Opaque>),
    /// What `x-kubernetes-preserve-unknown-fields` keeps without a type: it can be compared and nothing else.
    Preserved(&'v Json),
    /// Fields that the activation computes when they are first read ([`crate::eval::Activation::member`]).
    Lazy,
}

/// An object that an expression makes: its type's name, and its fields.
#[derive(Debug, Clone)]
pub struct Struct<'v> {
    pub name: Str,
    pub fields: BTreeMap<Str, Value<'v>>,
    /// See `Value::depth`.
    pub(crate) depth: u32,
}

/// A value of a library's own type.
pub trait Opaque: Any + Send + Sync + fmt::Debug {
    /// Its type's name at run time.
    fn type_name(&self) -> &'static str;

    /// Whether another value is the same; an error where they cannot be compared.
    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError>;

    /// What costs count as its size, if it has one.
    fn size(&self) -> Option<u64> {
        None
    }

    /// The text that it converts to, if it does.
    fn text(&self) -> Option<String> {
        None
    }
}

impl dyn Opaque {
    /// The value behind it, if it is of this type.
    pub fn downcast<T: Opaque>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

impl<'v> Value<'v> {
    /// JSON without a schema. Whole numbers are ints, others doubles, as the original reads JSON.
    pub fn json(json: &'v Json) -> Value<'v> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => number.as_i64().map_or_else(|| Value::Double(number.as_f64().unwrap_or(f64::NAN)), Value::Int),
            Json::String(text) => Value::String(Text::Borrowed(text)),
            Json::Array(elements) => Value::List(List::Json(elements)),
            Json::Object(fields) => Value::Map(Map::Json(fields)),
        }
    }

    /// A text of its own.
    pub fn text(text: impl Into<Arc<str>>) -> Value<'v> {
        Value::String(Text::Shared(text.into()))
    }

    /// A list of its own.
    pub fn list(elements: Vec<Value<'v>>) -> Value<'v> {
        let depth = list::depth_of(&elements);
        Value::List(List::Owned(Arc::new(elements), depth))
    }

    /// A list of texts.
    pub fn texts(texts: impl IntoIterator<Item = String>) -> Value<'v> {
        Value::list(texts.into_iter().map(Value::text).collect())
    }

    /// An optional value that there is.
    pub fn some(of: Value<'v>) -> Value<'v> {
        Value::Optional(Some(Arc::new(of)))
    }

    /// An optional value that there is not.
    pub const NONE: Value<'static> = Value::Optional(None);

    /// A value of a library's own type.
    pub fn opaque(of: impl Opaque) -> Value<'v> {
        Value::Opaque(Arc::new(of))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a library's own type, if it is of this one.
    pub fn as_opaque<T: Opaque>(&self) -> Option<&T> {
        match self {
            Value::Opaque(opaque) => opaque.downcast(),
            _ => None,
        }
    }

    /// Of how many lists, maps, objects and optional values it is made, one within the other. What a value borrows counts as none: it
    /// is as deep as the object's JSON may be.
    pub(crate) fn depth(&self) -> u32 {
        let (mut value, mut around) = (self, 0);
        while let Value::Optional(Some(inner)) = value {
            value = inner;
            around += 1;
        }
        around
            + match value {
                Value::List(list) => list.depth(),
                Value::Map(map) => map.depth(),
                Value::Struct(object) => object.depth,
                _ => 0,
            }
    }

    /// The name of the type, as errors and the dispatch of calls have it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(_) | Value::Lazy => "map",
            Value::Optional(_) => crate::types::OPTIONAL,
            Value::Type(_) => "type",
            Value::Struct(object) => &object.name,
            Value::Opaque(opaque) => opaque.type_name(),
            Value::Preserved(_) => "unknown",
        }
    }

    /// The type as a value: what `type(x)` gives.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(_) | Value::Lazy => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type(None),
            Value::Struct(_) | Value::Opaque(_) | Value::Preserved(_) => Type::object(self.type_name()),
        }
    }

    /// The number of characters, bytes, elements or entries, of what has such.
    pub fn size(&self) -> Option<u64> {
        match self {
            Value::String(text) => Some(text.count()),
            Value::Bytes(bytes) => Some(bytes.len() as u64),
            Value::List(list) => Some(list.len() as u64),
            Value::Map(map) => Some(map.len() as u64),
            Value::Opaque(opaque) => opaque.size(),
            _ => None,
        }
    }

    /// Whether it is the empty value of its type (`optional.ofNonZeroValue`).
    pub fn is_zero(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Int(value) | Value::Duration(value) => *value == 0,
            Value::Uint(value) => *value == 0,
            Value::Double(value) => *value == 0.0,
            Value::String(text) => text.is_empty(),
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::Timestamp(time) => time.is_zero(),
            // Only the lists and maps that expressions make, and JSON without a schema, know of being empty.
            Value::List(list) => !list.is_viewed() && list.is_empty(),
            Value::Map(map) => !map.is_viewed() && map.is_empty(),
            Value::Struct(object) => object.fields.is_empty(),
            Value::Optional(_) | Value::Type(_) | Value::Opaque(_) | Value::Preserved(_) | Value::Lazy => false,
        }
    }
}

impl From<&Literal> for Value<'static> {
    fn from(literal: &Literal) -> Self {
        match literal {
            Literal::Null => Value::Null,
            Literal::Bool(value) => Value::Bool(*value),
            Literal::Int(value) => Value::Int(*value),
            Literal::Uint(value) => Value::Uint(*value),
            Literal::Double(value) => Value::Double(*value),
            Literal::String(text) => Value::String(Text::Shared(text.clone())),
            Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
        }
    }
}
