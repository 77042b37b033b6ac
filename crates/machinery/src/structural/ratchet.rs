//! What a value was before: the correlation of an old object with a new one (`apiserver/pkg/cel/common`, CRD validation ratcheting).

use super::node::{Listed, Node};
use crate::Value;
use std::collections::HashMap;

/// The old value of a place; `None` where there is none to compare with.
pub(super) type Old<'v> = Option<&'v Value>;

/// The elements of an old list by their keys.
pub(super) struct Keyed<'v> {
    keys: &'v [Box<str>],
    by_key: HashMap<String, &'v Value>,
}

impl<'v> Keyed<'v> {
    pub(super) fn new(keys: &'v [Box<str>], old: &'v [Value]) -> Self {
        let mut by_key = HashMap::new();
        for item in old {
            if let Some(key) = key_of(keys, item) {
                by_key.entry(key).or_insert(item);
            }
        }
        Self { keys, by_key }
    }

    /// The old element with the same keys.
    pub(super) fn of(&self, item: &Value) -> Old<'v> {
        self.by_key.get(&key_of(self.keys, item)?).copied()
    }
}

/// The key of an element; none unless all parts are there and scalar.
fn key_of(keys: &[Box<str>], item: &Value) -> Option<String> {
    let item = item.as_object().filter(|_| !keys.is_empty())?;
    let mut whole = String::new();
    for key in keys {
        match item.get(key.as_ref())? {
            value @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                whole.push('\0');
                whole.push_str(&value.to_string());
            }
            _ => return None,
        }
    }
    Some(whole)
}

/// Whether a value is what it was: lists that are maps in any order; entries of which the schema knows nothing never.
pub(super) fn same(node: &Node, new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Array(new), Value::Array(old)) => {
            if new.len() != old.len() {
                return false;
            }
            match (&node.listed, &node.items) {
                (Listed::Map(keys), Some(items)) => {
                    let before = Keyed::new(keys, old);
                    new.iter().all(|item| before.of(item).is_some_and(|old| same(items, item, old)))
                }
                (Listed::Map(_), None) => new.is_empty(),
                _ => new == old,
            }
        }
        (Value::Object(new), Value::Object(old)) => {
            let equal = |(name, value): (&String, &Value)| match (node.field(name), old.get(name)) {
                (Some(node), Some(old)) => same(node, value, old),
                _ => false,
            };
            new.len() == old.len() && new.iter().all(equal)
        }
        (new, old) => new == old,
    }
}
