//! Maps: of JSON, of JSON under a schema (objects among them), and those that expressions make.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::view::{Node, Shape, escape, unescape};
use super::{Json, Text, Value, double_to_int, double_to_uint, literal, typed};
use crate::error::EvalError;

/// A map or an object. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Map<'v> {
    Json(&'v serde_json::Map<String, Json>),
    /// Under the schema of a map or an object.
    Viewed {
        fields: &'v serde_json::Map<String, Json>,
        node: &'v Node,
    },
    /// With its depth (`Value::depth`).
    Owned(Arc<Entries<'v>>, u32),
    /// The same, but whoever asks for an entry that there is not finds an empty map (a device's attributes by their domain).
    Open(Arc<Entries<'v>>, u32),
}

/// The entries of a map that an expression makes.
pub type Entries<'v> = BTreeMap<Key<'v>, Value<'v>>;

/// A key of such a map.
#[derive(Debug, Clone)]
pub enum Key<'v> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'v>),
    /// What nobody takes for a key, by its text.
    Other(Box<(String, Value<'v>)>),
}

impl<'v> Key<'v> {
    /// Any value as a key.
    ///
    /// # Errors
    /// The original panics where the key is bytes.
    pub(crate) fn any(value: &Value<'v>) -> Result<Key<'v>, EvalError> {
        match value {
            Value::Bytes(_) => Err(EvalError::internal("internal error: runtime error: hash of unhashable type types.Bytes")),
            other => Ok(Key::of(other).unwrap_or_else(|| Key::Other(Box::new((literal(other), other.clone()))))),
        }
    }

    /// The value as a key of a usual type.
    pub fn of(value: &Value<'v>) -> Option<Key<'v>> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => Key::Uint(*value),
            Value::Double(value) => Key::Double(*value),
            Value::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }

    /// The key as a value.
    pub fn value(&self) -> Value<'v> {
        match self {
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => Value::Int(*value),
            Key::Uint(value) => Value::Uint(*value),
            Key::Double(value) => Value::Double(*value),
            Key::String(text) => Value::String(text.clone()),
            Key::Other(other) => other.1.clone(),
        }
    }

    /// What lies at the key, or at the same number of another type.
    pub(crate) fn find_in<'e>(&self, entries: &'e Entries<'v>) -> Option<&'e Value<'v>> {
        entries.get(self).or_else(|| self.alternatives().iter().flatten().find_map(|other| entries.get(other)))
    }

    /// How deep the key is; see `Value::depth`.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Key::Other(other) => other.1.depth(),
            _ => 0,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Key::Bool(_) => 0,
            Key::Int(_) => 1,
            Key::Uint(_) => 2,
            Key::Double(_) => 3,
            Key::String(_) => 4,
            Key::Other(_) => 5,
        }
    }

    /// The same number in the other types of numbers, in the order in which they are tried.
    fn alternatives(&self) -> [Option<Key<'v>>; 2] {
        match self {
            Key::Double(value) => [
                double_to_int(*value).ok().filter(|int| *int as f64 == *value).map(Key::Int),
                double_to_uint(*value).ok().filter(|uint| *uint as f64 == *value).map(Key::Uint),
            ],
            Key::Int(value) => [u64::try_from(*value).ok().map(Key::Uint), None],
            Key::Uint(value) => [i64::try_from(*value).ok().map(Key::Int), None],
            Key::Bool(_) | Key::String(_) | Key::Other(_) => [None, None],
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::Int(a), Key::Int(b)) => a.cmp(b),
            (Key::Uint(a), Key::Uint(b)) => a.cmp(b),
            (Key::Double(a), Key::Double(b)) => a.total_cmp(b),
            (Key::String(a), Key::String(b)) => a.cmp(b),
            (Key::Other(a), Key::Other(b)) => a.0.cmp(&b.0),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key<'_> {}

impl<'v> Map<'v> {
    /// The number of entries, of an object the unknown fields among them.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(fields) | Map::Viewed { fields, .. } => fields.len(),
            Map::Owned(entries, _) | Map::Open(entries, _) => entries.len(),
        }
    }

    /// Such entries as a map.
    pub fn of(entries: Entries<'v>) -> Map<'v> {
        let depth = entries.iter().map(|(key, value)| key.depth().max(value.depth())).max().unwrap_or(0);
        Map::Owned(Arc::new(entries), 1 + depth)
    }

    /// The same, with an empty map at every other key.
    pub fn open(entries: Entries<'v>) -> Map<'v> {
        match Map::of(entries) {
            Map::Owned(entries, depth) => Map::Open(entries, depth),
            other => other,
        }
    }

    /// How deep it is made of others; see `Value::depth`.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Map::Json(_) | Map::Viewed { .. } => 0,
            Map::Owned(_, depth) | Map::Open(_, depth) => *depth,
        }
    }

    fn nothing() -> Value<'v> {
        Value::Map(Map::of(Entries::new()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it belongs to a schema.
    pub fn is_viewed(&self) -> bool {
        matches!(self, Map::Viewed { .. })
    }

    /// Whether there is an entry at a key.
    pub(crate) fn holds(&self, key: &Value<'v>) -> Result<bool, EvalError> {
        match self {
            Map::Open(entries, _) => Ok(Key::any(key).ok().is_some_and(|key| key.find_in(entries).is_some())),
            other => other.find(key).map(|found| found.is_some()),
        }
    }

    /// What lies at a key.
    pub fn find(&self, key: &Value<'v>) -> Result<Option<Value<'v>>, EvalError> {
        match (self, key) {
            (Map::Json(fields), Value::String(key)) => Ok(fields.get(&**key).map(Value::json)),
            (Map::Json(_), _) => Ok(None),
            (Map::Viewed { .. }, Value::String(key)) => self.field(key),
            (Map::Viewed { .. }, _) => Err(EvalError::no_such_overload()),
            (Map::Owned(entries, _), key) => Ok(Key::any(key).ok().and_then(|key| key.find_in(entries).cloned())),
            (Map::Open(entries, _), key) => Ok(Some(Key::any(key).ok().and_then(|key| key.find_in(entries).cloned()).unwrap_or_else(Map::nothing))),
        }
    }

    /// What lies at a key that is a text (of an object: the escaped name of a field).
    pub fn field(&self, name: &str) -> Result<Option<Value<'v>>, EvalError> {
        match self {
            Map::Json(fields) => Ok(fields.get(name).map(Value::json)),
            Map::Owned(entries, _) => Ok(entries.get(&Key::String(Text::Borrowed(name))).cloned()),
            Map::Open(entries, _) => Ok(Some(entries.get(&Key::String(Text::Borrowed(name))).cloned().unwrap_or_else(Map::nothing))),
            Map::Viewed { fields, node } => match &node.shape {
                Shape::Object(properties) => {
                    let Some(name) = unescape(name) else { return Ok(None) };
                    match (fields.get(&*name), properties.get(&*name)) {
                        // A null field of an object is as good as an absent one.
                        (None | Some(Json::Null), _) | (_, None) => Ok(None),
                        (Some(value), Some(node)) => typed(value, node).map(Some),
                    }
                }
                Shape::Map(values) => fields.get(name).map(|value| typed(value, values)).transpose(),
                _ => Ok(None),
            },
        }
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Value<'v>> {
        match self {
            Map::Json(fields) => fields.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            Map::Owned(entries, _) | Map::Open(entries, _) => entries.keys().map(Key::value).collect(),
            Map::Viewed { fields, node } => match &node.shape {
                Shape::Object(properties) => {
                    let known = fields.keys().filter(|key| properties.contains_key(key.as_str()));
                    known.map(|key| escape(key).map_or(Value::String(Text::Borrowed(key)), |escaped| Value::text(&*escaped))).collect()
                }
                Shape::Map(_) => fields.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
                _ => Vec::new(),
            },
        }
    }
}
