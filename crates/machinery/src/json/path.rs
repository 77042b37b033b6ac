//! The path of the value being decoded, as a chain of stack frames.

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
    /// A field of a struct.
    Field(&'p str),
    /// A key of a map.
    Key(&'p str),
    Index(usize),
}

impl<'p> Node<'p> {
    pub(super) const ROOT: Node<'static> = Node { parent: None, step: Step::Root };

    pub(super) fn field<'q>(&'q self, name: &'q str) -> Node<'q> {
        Node { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) fn key<'q>(&'q self, name: &'q str) -> Node<'q> {
        Node { parent: Some(self), step: Step::Key(name) }
    }

    pub(super) fn index<'q>(&'q self, at: usize) -> Node<'q> {
        Node { parent: Some(self), step: Step::Index(at) }
    }

    /// As strict decoding spells it: `spec.containers[0].name`.
    pub(super) fn strict(&self, last: &str) -> String {
        let mut out = String::new();
        for node in self.chain() {
            match node.step {
                Step::Root => {}
                Step::Field(name) | Step::Key(name) => {
                    dot(&mut out);
                    out.push_str(name);
                }
                Step::Index(at) => {
                    let _ = write!(out, "[{at}]");
                }
            }
        }
        dot(&mut out);
        out.push_str(last);
        out
    }

    /// As Go's type errors spell it: the names of the struct fields alone.
    pub(super) fn go(&self) -> String {
        let mut out = String::new();
        for node in self.chain() {
            if let Step::Field(name) = node.step {
                dot(&mut out);
                out.push_str(name);
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

fn dot(out: &mut String) {
    if !out.is_empty() {
        out.push('.');
    }
}
