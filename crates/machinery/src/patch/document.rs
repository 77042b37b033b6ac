//! A patched document as upstream's library makes it: of texts. It reads of the document, and of what a patch puts in, no more
//! than it must look into; what it has not looked into stays as it is spelled, and what it has is written with its keys sorted.
//!
//! The tree ([`super::json_patch()`], [`super::merge`]) says whether and to what a patch applies. Here is what that looks like, for
//! those who are told that the result is wrong: the text that is shown to them, in whose order also what is wrong is found.
//!
//! Source: `gopkg.in/evanphx/json-patch.v4`, whose `lazyNode` this is.

use crate::{
    Value,
    json::{self, compact, level_too_many, members},
};
use std::{borrow::Cow, collections::BTreeMap};

/// Levels times bytes of a document and a patch that are looked into: each level that is opened is read once more.
const WORK_MAX: usize = 64 << 20;

/// How deep what is copied may be: the copies are not in that work, and only how long they may be is bounded elsewhere.
const COPIED_LEVELS_MAX: usize = 128;

/// A value, opened or not. `null` is never opened.
enum Node<'t> {
    Text(Cow<'t, [u8]>),
    Object(BTreeMap<String, Node<'t>>),
    List(Vec<Node<'t>>),
}

/// An operation of a JSON patch. Of keys that are there twice the last counts.
#[derive(Default)]
struct Operation<'t> {
    op: String,
    path: Option<String>,
    from: Option<String>,
    value: Option<&'t [u8]>,
}

/// Why there is no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoText {
    /// A test compares what is the same in other words: texts are compared.
    Test,
    /// The operations do not fit the document, or are too much work.
    Unknown,
}

/// The text of a document to which the operations of a JSON patch were applied.
pub(super) fn after_json_patch(doc: &[u8], operations: &[u8], levels: usize) -> Result<Vec<u8>, NoText> {
    if !is_affordable(doc, operations, levels) {
        return Err(NoText::Unknown);
    }
    let mut doc = Node::Text(Cow::Borrowed(doc));
    doc.open();
    for (_, operation) in members(operations) {
        let operation = Operation::read(operation).ok_or(NoText::Unknown)?;
        if operation.op != "test" {
            doc.apply(&operation).ok_or(NoText::Unknown)?;
        } else if !doc.passes(&operation).ok_or(NoText::Unknown)? {
            return Err(NoText::Test);
        }
    }
    Ok(doc.text())
}

/// The text of a document into which a patch was merged. None if it is too much work.
pub(super) fn after_merge(doc: &[u8], patch: &[u8], levels: usize) -> Option<Vec<u8>> {
    is_affordable(doc, patch, levels).then(|| Node::Text(Cow::Borrowed(doc)).merged(Node::Text(Cow::Borrowed(patch))).text())
}

fn is_affordable(doc: &[u8], patch: &[u8], levels: usize) -> bool {
    (doc.len() + patch.len()).saturating_mul(levels) <= WORK_MAX
}

impl<'t> Operation<'t> {
    fn read(operation: &'t [u8]) -> Option<Self> {
        let mut read = Self::default();
        for (key, text) in members(operation) {
            let word = || serde_json::from_slice::<Option<String>>(text).ok();
            match key.as_deref() {
                Some("op") => read.op = word()?.unwrap_or_default(),
                Some("path") => read.path = word()?,
                Some("from") => read.from = word()?,
                Some("value") => read.value = Some(text),
                _ => {}
            }
        }
        Some(read)
    }

    fn value(&self) -> Node<'t> {
        Node::Text(Cow::Borrowed(self.value.unwrap_or(b"null")))
    }
}

impl<'t> Node<'t> {
    /// Looks into it, if it is an object or a list.
    fn open(&mut self) {
        let Self::Text(text) = self else { return };
        let is_object = match text.trim_ascii_start().first() {
            Some(b'{') => true,
            Some(b'[') => false,
            _ => return,
        };
        let inside: Vec<(Option<String>, Cow<'t, [u8]>)> = match std::mem::take(text) {
            Cow::Borrowed(text) => members(text).into_iter().map(|(key, text)| (key, Cow::Borrowed(text))).collect(),
            Cow::Owned(text) => members(&text).into_iter().map(|(key, text)| (key, Cow::Owned(text.to_vec()))).collect(),
        };
        *self = if is_object {
            Self::Object(inside.into_iter().filter_map(|(key, text)| Some((key?, Self::Text(text)))).collect())
        } else {
            Self::List(inside.into_iter().map(|(_, text)| Self::Text(text)).collect())
        };
    }

    /// Whether it is the same as another, in the same words. Both are looked into as far as that is so.
    fn equals(&mut self, other: &mut Self) -> bool {
        self.open();
        other.open();
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.trim_ascii() == other.trim_ascii(),
            (Self::Object(one), Self::Object(other)) => {
                one.len() == other.len() && one.iter_mut().all(|(name, value)| other.get_mut(name).is_some_and(|other| value.equals(other)))
            }
            (Self::List(one), Self::List(other)) => one.len() == other.len() && one.iter_mut().zip(other).all(|(one, other)| one.equals(other)),
            _ => false,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Text(text) if text.trim_ascii() == b"null")
    }

    /// Takes the nulls out of its objects.
    fn prune(&mut self) {
        self.open();
        match self {
            Self::Text(_) => {}
            Self::Object(fields) => {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(Self::prune);
            }
            Self::List(items) => items.iter_mut().for_each(Self::prune),
        }
    }

    /// What it is when a patch is merged into it.
    fn merged(mut self, mut patch: Self) -> Self {
        self.open();
        let Self::Object(fields) = &mut self else {
            patch.prune();
            return patch;
        };
        patch.open();
        let changes = match patch {
            Self::Object(changes) => changes,
            other => return other,
        };
        for (name, mut change) in changes {
            match fields.remove(&name) {
                _ if change.is_null() => continue,
                Some(old) if !old.is_null() => change = old.merged(change),
                _ => change.prune(),
            }
            fields.insert(name, change);
        }
        self
    }

    /// Carries out an operation.
    fn apply(&mut self, operation: &Operation<'t>) -> Option<()> {
        let path = operation.path.as_deref()?;
        match operation.op.as_str() {
            "add" => self.add(path, operation.value()),
            "remove" => self.remove(path).map(drop),
            "replace" if path.is_empty() => {
                *self = operation.value();
                self.open();
                Some(())
            }
            "replace" => {
                let (place, key) = self.container(path)?;
                match place {
                    Self::Object(fields) => drop(fields.insert(key, operation.value())),
                    Self::List(items) => {
                        let at = super::json_patch::index(&key, items.len())?;
                        *items.get_mut(at)? = operation.value();
                    }
                    Self::Text(_) => return None,
                }
                Some(())
            }
            "move" => {
                let moved = self.remove(operation.from.as_deref()?)?;
                self.add(path, moved)
            }
            "copy" => {
                let from = operation.from.as_deref()?;
                // It is looked for, and the place where it goes, before it is written.
                self.at(from)?;
                self.container(path)?;
                let copied = self.at(from)?.map_or_else(|| b"null".to_vec(), |node| node.text());
                if level_too_many(&copied, COPIED_LEVELS_MAX).is_some() {
                    return None;
                }
                self.add(path, Self::Text(Cow::Owned(copied)))
            }
            _ => None,
        }
    }

    /// Whether a test passes. What is not there is null.
    fn passes(&mut self, operation: &Operation<'t>) -> Option<bool> {
        let (path, mut value) = (operation.path.as_deref()?, operation.value());
        if path.is_empty() {
            return Some(self.equals(&mut value));
        }
        match self.at(path)? {
            Some(node) => Some(node.equals(&mut value)),
            None => Some(value.is_null()),
        }
    }

    /// The opened container that a path points into, and the last part of the path.
    fn container(&mut self, path: &str) -> Option<(&mut Self, String)> {
        let mut parts: Vec<String> = path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        let last = parts.pop()?;
        let place = parts.iter().try_fold(self, |place, part| {
            let next = place.child(part)?;
            next.open();
            Some(next)
        })?;
        Some((place, last))
    }

    /// What is in it by a name or a number.
    fn child(&mut self, part: &str) -> Option<&mut Self> {
        match self {
            Self::Text(_) => None,
            Self::Object(fields) => fields.get_mut(part),
            Self::List(items) => super::json_patch::index(part, items.len()).and_then(|at| items.get_mut(at)),
        }
    }

    /// What stands at the end of a path; nothing inside if its container has it not. None if there is no such container.
    fn at(&mut self, path: &str) -> Option<Option<&mut Self>> {
        let (place, last) = self.container(path)?;
        Some(place.child(&last))
    }

    fn add(&mut self, path: &str, value: Self) -> Option<()> {
        let (place, last) = self.container(path)?;
        match place {
            Self::Object(fields) => drop(fields.insert(last, value)),
            Self::List(items) if last == "-" => items.push(value),
            Self::List(items) => {
                let at = super::json_patch::index(&last, items.len() + 1).filter(|at| *at <= items.len())?;
                items.insert(at, value);
            }
            Self::Text(_) => return None,
        }
        Some(())
    }

    fn remove(&mut self, path: &str) -> Option<Self> {
        let (place, last) = self.container(path)?;
        match place {
            Self::Object(fields) => fields.remove(&last),
            Self::List(items) => {
                let at = super::json_patch::index(&last, items.len()).filter(|at| *at < items.len())?;
                Some(items.remove(at))
            }
            Self::Text(_) => None,
        }
    }

    /// As it is written.
    fn text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(&compact(text)),
            Self::Object(fields) => {
                out.push(b'{');
                for (at, (key, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(&json::encode(&Value::String(key.clone())));
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
            Self::List(items) => {
                out.push(b'[');
                for (at, value) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    value.write(out);
                }
                out.push(b']');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str = r#"{"kind":"K","spec":{"z":{"y":1,"x":"\u00e4"},"list":[{"b":1,"a":2},{"d":3,"c":4}]}}"#;

    fn json_patched(operations: &str) -> String {
        String::from_utf8(after_json_patch(DOC.as_bytes(), operations.as_bytes(), 9).expect("it fits")).expect("UTF-8")
    }

    #[test]
    fn what_a_patch_does_not_look_into_stays_as_it_is_spelled() {
        for (operations, text) in [
            (
                r#"[{"op":"add","path":"/a","value":{"c": 1.0, "b":"\u00e4<"}}]"#,
                r#"{"a":{"c":1.0,"b":"\u00e4\u003c"},"kind":"K","spec":{"z":{"y":1,"x":"\u00e4"},"list":[{"b":1,"a":2},{"d":3,"c":4}]}}"#,
            ),
            (
                r#"[{"op":"copy","from":"/spec/list/0","path":"/kind"}]"#,
                r#"{"kind":{"b":1,"a":2},"spec":{"list":[{"b":1,"a":2},{"d":3,"c":4}],"z":{"y":1,"x":"\u00e4"}}}"#,
            ),
            (
                r#"[{"op":"replace","path":"/spec/list/1/c","value":[]},{"op":"move","from":"/spec/list","path":"/l"}]"#,
                r#"{"kind":"K","l":[{"b":1,"a":2},{"c":[],"d":3}],"spec":{"z":{"y":1,"x":"\u00e4"}}}"#,
            ),
            (
                r#"[{"op":"test","path":"/spec/z","value":{"x":"\u00e4","y":1}},{"op":"remove","path":"/spec/list/-1"}]"#,
                r#"{"kind":"K","spec":{"list":[{"b":1,"a":2}],"z":{"x":"\u00e4","y":1}}}"#,
            ),
            (
                r#"[{"op":"add","path":"/spec/list/-","value":null},{"op":"replace","path":"","value":{"b":{"d":1,"c":2},"a":3}}]"#,
                r#"{"a":3,"b":{"d":1,"c":2}}"#,
            ),
        ] {
            assert_eq!(json_patched(operations), text, "{operations}");
        }
        assert_eq!(after_json_patch(DOC.as_bytes(), br#"[{"op":"remove","path":"/x/y"}]"#, 9), Err(NoText::Unknown));
        assert_eq!(after_json_patch(DOC.as_bytes(), b"[]", usize::MAX), Err(NoText::Unknown), "too much work");
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(9_000), "]".repeat(9_000));
        let copy = br#"[{"op":"copy","from":"/a","path":"/b"}]"#;
        assert_eq!(after_json_patch(deep.as_bytes(), copy, 1), Err(NoText::Unknown), "what is copied is too deep");
        for (path, value) in [("/spec/z/x", "\"ä\""), ("/spec/list/0", r#"{"a":2.0,"b":1}"#), ("/kind", "null"), ("/none", "1")] {
            let operations = format!(r#"[{{"op":"test","path":"{path}","value":{value}}}]"#);
            assert_eq!(after_json_patch(DOC.as_bytes(), operations.as_bytes(), 9), Err(NoText::Test), "{operations}");
        }
    }

    #[test]
    fn a_merge_looks_into_what_is_new_and_not_into_what_was_there() {
        let merged = |patch: &str| String::from_utf8(after_merge(DOC.as_bytes(), patch.as_bytes(), 9).expect("work")).expect("UTF-8");
        for (patch, text) in [
            (
                r#"{"spec":{"z":null,"new":{"b":[{"d":null,"c":1.0}],"a":"\u00e4"}}}"#,
                r#"{"kind":"K","spec":{"list":[{"b":1,"a":2},{"d":3,"c":4}],"new":{"a":"\u00e4","b":[{"c":1.0}]}}}"#,
            ),
            (r#"{"spec":{"list":[{"b":null,"a":1}],"z":[{"q":1,"p":null}]}}"#, r#"{"kind":"K","spec":{"list":[{"a":1}],"z":[{"q":1,"p":null}]}}"#),
            (r#"{"kind":null,"spec":1}"#, r#"{"spec":1}"#),
        ] {
            assert_eq!(merged(patch), text, "{patch}");
        }
    }
}
