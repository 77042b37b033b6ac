//! What is asked of a value beyond its types: elements of lists that must differ, embedded resources, fields that are not known.
//!
//! Source: `apiextensions-apiserver/pkg/apiserver/schema/{listtype,objectmeta,pruning}`.

use super::node::{Additional, Listed, Node};
use crate::{
    Map, Value,
    field::{Error, ErrorList, Path},
};
use std::collections::HashMap;

/// What stands at an element's keys.
enum Key {
    /// Nothing: the one key is not there.
    Unspecified,
    /// One value, shown with the key's name.
    One(Value),
    /// All of them.
    All(Value),
}

/// Elements of sets and of lists that are maps that are there twice.
pub(super) fn lists(node: &Node, value: &Value, path: &Path, errors: &mut ErrorList) {
    if !node.below.lists {
        return;
    }
    match value {
        Value::Object(map) => {
            if let Additional::Schema(schema) = &node.additional {
                for (name, value) in map {
                    lists(schema, value, &path.key(name), errors);
                }
            }
            for (name, value) in map {
                if let Some(schema) = node.property(name) {
                    lists(schema, value, &path.child(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match &node.listed {
                Listed::Atomic => {}
                Listed::Set => {
                    errors.extend(repeated(items.iter().map(ToString::to_string)).into_iter().map(|at| Error::duplicate(&path.index(at), items[at].clone())));
                }
                Listed::Map(keys) => keyed(keys, items, path, errors),
            }
            if let Some(schema) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    lists(schema, item, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

/// Where a text stands for the second time.
fn repeated(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for (at, text) in texts.enumerate() {
        let times = seen.entry(text).or_insert(0);
        *times += 1;
        if *times == 2 {
            found.push(at);
        }
    }
    found
}

fn keyed(keys: &[Box<str>], items: &[Value], path: &Path, errors: &mut ErrorList) {
    if let Some(at) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
        errors.push(Error::invalid(&path.index(at), items[at].clone(), "must be an object for an array of list-type map"));
        return;
    }
    let key = |item: &Value| match keys {
        [one] => item.get(one.as_ref()).map_or(Key::Unspecified, |value| Key::One(value.clone())),
        keys => {
            let there = keys.iter().filter_map(|key| Some((key.to_string(), item.get(key.as_ref())?.clone())));
            Key::All(Value::Object(there.collect::<Map<_, _>>()))
        }
    };
    let found: Vec<Key> = items.iter().map(key).collect();
    let text = |key: &Key| match key {
        Key::Unspecified => String::new(),
        Key::One(value) | Key::All(value) => value.to_string(),
    };
    for at in repeated(found.iter().map(text)) {
        let shown = match (&found[at], keys.first()) {
            (Key::One(value), Some(name)) => Value::Object(Map::from_iter([(name.to_string(), value.clone())])),
            (Key::All(value), _) => value.clone(),
            _ => Value::Object(Map::new()),
        };
        errors.push(Error::duplicate(&path.index(at), shown));
    }
}

/// Every embedded resource in a value, and where it is.
pub(super) fn embedded<'v>(node: &Node, value: &'v Value, path: &Path, visit: &mut dyn FnMut(&Path, &'v Map<String, Value>)) {
    if !node.below.embedded {
        return;
    }
    match value {
        Value::Object(map) => {
            if node.embedded {
                visit(path, map);
            }
            for (name, value) in map {
                if let Some(schema) = node.property(name) {
                    embedded(schema, value, &path.child(name), visit);
                } else if let Additional::Schema(schema) = &node.additional {
                    embedded(schema, value, &path.key(name), visit);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                if let Some(schema) = &node.items {
                    embedded(schema, item, &path.index(at), visit);
                }
            }
        }
        _ => {}
    }
}

/// Whether a value has fields that the schema does not know and that pruning takes.
pub(super) fn has_unknown(node: Option<&Node>, value: &Value) -> bool {
    let Some(node) = node else {
        return match value {
            Value::Object(map) => !map.is_empty(),
            Value::Array(items) => items.iter().any(|item| has_unknown(None, item)),
            _ => false,
        };
    };
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| {
            if node.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                return false;
            }
            match (node.property(name), &node.additional) {
                (Some(schema), _) => has_unknown(Some(schema), value),
                (None, Additional::Schema(schema)) => has_unknown(Some(schema), value),
                (None, Additional::Any | Additional::None) => has_unknown(None, value),
                (None, Additional::Unsaid) => !node.preserves,
            }
        }),
        Value::Array(items) => items.iter().any(|item| match (node.preserves, node.items.as_deref()) {
            (true, None) => false,
            (_, schema) => has_unknown(schema, item),
        }),
        _ => false,
    }
}
