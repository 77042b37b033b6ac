//! The path of the value being decoded, as a chain of stack frames.

use crate::schema::TypeRef;
use std::fmt::Write;

/// One step down, or the root.
#[derive(Debug)]
pub(super) struct Node<'p> {
    parent: Option<&'p Node<'p>>,
    step: Step<'p>,
}

#[derive(Debug)]
enum Step<'p> {
    Root,
    /// A field of a struct, and the struct.
    Field(&'p str, TypeRef<'p>),
    /// A key of a map.
    Key(&'p str),
    Index(usize),
}

impl<'p> Node<'p> {
    pub(super) const ROOT: Node<'static> = Node { parent: None, step: Step::Root };

    pub(super) fn field<'q>(&'q self, name: &'q str, owner: TypeRef<'q>) -> Node<'q> {
        Node { parent: Some(self), step: Step::Field(name, owner) }
    }

    pub(super) fn key<'q>(&'q self, name: &'q str) -> Node<'q> {
        Node { parent: Some(self), step: Step::Key(name) }
    }

    pub(super) fn index<'q>(&'q self, at: usize) -> Node<'q> {
        Node { parent: Some(self), step: Step::Index(at) }
    }

    /// Whether it is the object itself.
    pub(super) fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }

    /// Whether it is the metadata of the object itself.
    pub(super) fn is_metadata(&self) -> bool {
        matches!(self.step, Step::Field("metadata", _)) && self.parent.is_some_and(|parent| matches!(parent.step, Step::Root))
    }

    /// The keys and places that lead to it.
    pub(super) fn keys(&self) -> Vec<String> {
        let key = |node: &&Node<'_>| match node.step {
            Step::Root => None,
            Step::Field(name, _) | Step::Key(name) => Some(name.to_owned()),
            Step::Index(at) => Some(at.to_string()),
        };
        self.chain().iter().filter_map(key).collect()
    }

    /// As strict decoding spells a field of it, whose name may be empty: `spec.containers[0].name`.
    pub(super) fn strict_field(&self, name: &str) -> String {
        with_field(self.strict(), name)
    }

    /// The same as upstream's converter of maps spells it, which forgets by what keys of maps it came there.
    pub(super) fn converted_field(&self, name: &str) -> String {
        with_field(self.spelled(false), name)
    }

    /// As strict decoding spells it.
    pub(super) fn strict(&self) -> String {
        self.spelled(true)
    }

    fn spelled(&self, with_keys: bool) -> String {
        let mut out = String::new();
        for node in self.chain() {
            match node.step {
                Step::Key(_) if !with_keys => {}
                Step::Root => {}
                Step::Field(name, _) | Step::Key(name) => {
                    dot(&mut out);
                    out.push_str(name);
                }
                Step::Index(at) => {
                    let _ = write!(out, "[{at}]");
                }
            }
        }
        out
    }

    /// As Go's type errors spell it: the names of the struct fields alone, embedded structs among them.
    pub(super) fn go(&self) -> String {
        let mut out = String::new();
        for node in self.chain() {
            if let Step::Field(name, owner) = node.step {
                for part in embedded(owner, name).into_iter().chain([name]) {
                    dot(&mut out);
                    out.push_str(part);
                }
            }
        }
        out
    }

    fn chain(&self) -> Vec<&Node<'p>> {
        let mut nodes: Vec<&Node<'p>> = std::iter::successors(Some(self), |n| n.parent).collect();
        nodes.reverse();
        nodes
    }
}

fn with_field(mut path: String, name: &str) -> String {
    dot(&mut path);
    path.push_str(name);
    path
}

/// The embedded structs in which Go finds a field, outermost first.
fn embedded<'a>(owner: TypeRef<'a>, name: &str) -> Vec<&'a str> {
    let Some(object) = owner.object() else { return Vec::new() };
    if object.gvk.is_some() && matches!(name, "apiVersion" | "kind") {
        return vec!["TypeMeta"];
    }
    let inner = object.embedded.iter().map(|(_, id)| owner.to(*id)).find(|inner| inner.field(name).is_some());
    match inner.and_then(|inner| inner.object().map(|o| (inner, o))) {
        Some((inner, object)) => std::iter::once(object.go_name()).chain(embedded(inner, name)).collect(),
        None => Vec::new(),
    }
}

fn dot(out: &mut String) {
    if !out.is_empty() {
        out.push('.');
    }
}
