//! Which old value a new one was: for rules about changes, and for what an unchanged part may keep breaking
//! (`apiserver/pkg/cel/common/{maplist,equality}.go`).

use std::cell::OnceCell;
use std::collections::HashMap;

use machinery::Value;

/// A list whose elements are found by their keys.
pub(super) struct KeyedList<'v> {
    keys: Vec<String>,
    elements: HashMap<String, &'v Value>,
}

impl<'v> KeyedList<'v> {
    /// The elements of a list by these keys; without keys none is found.
    pub(super) fn of(list: &'v [Value], keys: Vec<String>) -> KeyedList<'v> {
        let mut elements = HashMap::new();
        if !keys.is_empty() {
            for element in list {
                if let Some(key) = composite(element, &keys) {
                    elements.entry(key).or_insert(element);
                }
            }
        }
        KeyedList { keys, elements }
    }

    /// The element with the keys of this one.
    pub(super) fn get(&self, like: &Value) -> Option<&'v Value> {
        if self.elements.is_empty() { None } else { self.elements.get(&composite(like, &self.keys)?).copied() }
    }
}

/// The keys of an element as one text; none where one lacks or is no plain value.
fn composite(element: &Value, keys: &[String]) -> Option<String> {
    let mut composite = String::new();
    for key in keys {
        match element.get(key)? {
            value @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                composite.push('\0');
                composite.push_str(&value.to_string());
            }
            _ => return None,
        }
    }
    Some(composite)
}

/// A value, what it was, and its schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Correlation<'v> {
    pub(super) new: &'v Value,
    pub(super) old: &'v Value,
    pub(super) schema: &'v Value,
}

impl<'v> Correlation<'v> {
    fn key(&self, name: &str) -> Option<Correlation<'v>> {
        let (old, new) = (self.old.as_object()?.get(name)?, self.new.as_object()?.get(name)?);
        let property = self.schema["properties"].get(name);
        let schema = property.or_else(|| self.schema.get("additionalProperties").filter(|values| values.is_object()))?;
        Some(Correlation { new, old, schema })
    }

    fn is_keyed(&self) -> bool {
        self.schema["x-kubernetes-list-type"] == "map"
    }

    /// The old elements by their keys, and the schema of each.
    fn elements(&self) -> Option<(KeyedList<'v>, &'v Value)> {
        let (old, schema) = (self.old.as_array()?, self.schema.get("items")?);
        self.is_keyed().then(|| (KeyedList::of(old, self.keys()), schema))
    }

    fn keys(&self) -> Vec<String> {
        let keys = self.schema["x-kubernetes-list-map-keys"].as_array();
        keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Whether nothing has changed, as far as the schema tells what was what.
    fn is_unchanged(&self) -> bool {
        match (self.new, self.old) {
            (Value::Null, Value::Null) => true,
            (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
                if !self.is_keyed() {
                    return new == old;
                }
                let Some((list, schema)) = self.elements() else { return new.is_empty() };
                new.iter().all(|new| list.get(new).is_some_and(|old| Correlation { new, old, schema }.is_unchanged()))
            }
            (Value::Object(new), Value::Object(old)) if new.len() == old.len() => {
                new.keys().all(|name| self.key(name).is_some_and(|child| child.is_unchanged()))
            }
            (Value::Array(_) | Value::Object(_) | Value::Null, _) | (_, Value::Array(_) | Value::Object(_) | Value::Null) => false,
            (new, old) => new == old,
        }
    }
}

/// A correlation with the answer whether nothing has changed: many rules, and many parts without one of their own, ask for it.
#[derive(Debug)]
struct Known<'v> {
    correlation: Correlation<'v>,
    unchanged: OnceCell<bool>,
}

impl<'v> Known<'v> {
    fn of(correlation: Correlation<'v>) -> Known<'v> {
        Known { correlation, unchanged: OnceCell::new() }
    }

    fn is_unchanged(&self) -> bool {
        *self.unchanged.get_or_init(|| self.correlation.is_unchanged())
    }
}

/// What a node was, or else the nearest node above that was something.
#[derive(Debug, Default)]
pub(super) struct Ratchet<'v> {
    current: Option<Known<'v>>,
    parent: Option<&'v Known<'v>>,
}

/// What the elements of a list were: their index is made once.
pub(super) struct Elements<'v> {
    list: &'v Ratchet<'v>,
    known: Option<(KeyedList<'v>, &'v Value)>,
}

impl<'v> Ratchet<'v> {
    /// Nothing is there without an object before it.
    pub(super) fn root(current: Option<Correlation<'v>>) -> Ratchet<'v> {
        Ratchet { current: current.map(Known::of), parent: None }
    }

    pub(super) fn key(&'v self, name: &str) -> Ratchet<'v> {
        match &self.current {
            None => self.of_all_of(),
            // Both objects are given in the same version: a change of it is not seen.
            Some(_) if self.parent.is_none() && matches!(name, "apiVersion" | "kind") => Ratchet::default(),
            Some(current) => Ratchet { current: current.correlation.key(name).map(Known::of), parent: Some(current) },
        }
    }

    pub(super) fn elements(&'v self) -> Elements<'v> {
        Elements { list: self, known: self.current.as_ref().and_then(|current| current.correlation.elements()) }
    }

    /// For the rules of `allOf`, which look at the node above alone.
    pub(super) fn of_all_of(&'v self) -> Ratchet<'v> {
        Ratchet { current: None, parent: self.parent }
    }

    /// Whether what is here was so before.
    pub(super) fn is_unchanged(&self) -> bool {
        self.current.as_ref().or(self.parent).is_some_and(Known::is_unchanged)
    }
}

impl<'v> Elements<'v> {
    /// What an element was.
    pub(super) fn of(&self, new: &'v Value) -> Ratchet<'v> {
        let Some(list) = &self.list.current else { return self.list.of_all_of() };
        let found = self.known.as_ref().and_then(|(known, schema)| known.get(new).map(|old| Correlation { new, old, schema }));
        Ratchet { current: found.map(Known::of), parent: Some(list) }
    }
}
