//! The original's own form of what it validates: messages that show a value show that form as JSON, and where an update is refused
//! for what it changes they show the difference of two.
//!
//! Its types have Go's field names in an order of their own, and write what is empty: a pointer, list or map as `null`, all else as its zero.
//! `data/internal_types.txt` tells them (made by `xtask/gointernal`, which says how it is read). A tree never goes deeper here than the
//! types do, and none of these holds itself.

mod difference;

use crate::rules;
use machinery::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

struct Field {
    shown: &'static str,
    published: &'static str,
    omitted_when_empty: bool,
    form: &'static str,
}

static TYPES: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let (mut types, mut name) = (HashMap::<_, Vec<Field>>::new(), "");
    for line in include_str!("../../data/internal_types.txt").lines() {
        match line.strip_prefix(' ').map(|field| field.split(' ').collect::<Vec<_>>()).as_deref() {
            Some([shown, published, form]) => {
                let (omitted_when_empty, form) = form.strip_prefix('?').map_or((false, *form), |form| (true, form));
                types.entry(name).or_default().push(Field { shown, published, omitted_when_empty, form });
            }
            _ => name = line,
        }
    }
    types
});

/// A value as the original holds it.
#[derive(PartialEq)]
enum Node {
    /// JSON of one token.
    Plain(String),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// Parts of a value that are shown: what somebody wrote may stand for a thousand times its bytes in them.
const PARTS_MAX: usize = 1 << 18;

/// The time that Go's types have where there is none, which they write as `null`.
pub(crate) const NO_TIME: &str = "0001-01-01T00:00:00Z";

impl Field {
    fn of<'v>(&self, value: &'v Value) -> &'v Value {
        self.published.split('/').fold(value, |value, part| &value[part])
    }

    /// Whether Go leaves a value of it out: what a pointer points to counts, though it be empty.
    fn leaves_out(&self, value: &Value) -> bool {
        self.omitted_when_empty && if self.form.starts_with('*') { value.is_null() } else { zero(value) }
    }
}

/// A value of this form as JSON.
pub(crate) fn text(form: &str, value: &Value) -> String {
    let mut out = String::new();
    node(form, value, &mut { PARTS_MAX }).compact(&mut out);
    out
}

/// Whether two values are one to the original: an empty list or map is none.
pub(crate) fn same(form: &str, one: &Value, other: &Value) -> bool {
    if one == other {
        return true;
    }
    if let Some(form) = form.strip_prefix('*') {
        return !one.is_null() && !other.is_null() && same(form, one, other);
    }
    if let Some(form) = form.strip_prefix("[]") {
        let (one, other) = (machinery::tree::items(one), machinery::tree::items(other));
        return one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(form, one, other));
    }
    if let Some(form) = form.strip_prefix("{}") {
        let [one, other] = [one, other].map(|value| value.as_object().filter(|entries| !entries.is_empty()));
        return match (one, other) {
            (Some(one), Some(other)) => one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(form, value, other))),
            (one, other) => one.is_none() && other.is_none(),
        };
    }
    // So are two amounts of one value, however they are written.
    if form == "q" {
        return rules::quantity(one).unwrap_or_default() == rules::quantity(other).unwrap_or_default();
    }
    let Some(fields) = TYPES.get(form) else { return node(form, one, &mut { 1 }) == node(form, other, &mut { 1 }) };
    fields.iter().all(|field| {
        let (one, other) = (field.of(one), field.of(other));
        match (field.leaves_out(one), field.leaves_out(other)) {
            (false, false) => same(field.form, one, other),
            (one, other) => one && other,
        }
    })
}

/// The lines in which two values differ, with what stands around them, as a unified difference.
pub fn difference(form: &str, old: &Value, new: &Value) -> String {
    let lines = |value: &Value| {
        let mut out = String::new();
        node(form, value, &mut { PARTS_MAX }).indented(0, &mut out);
        out
    };
    difference::unified(&lines(old), &lines(new))
}

fn token(value: &Value) -> Node {
    Node::Plain(String::from_utf8_lossy(&json::encode(value)).into_owned())
}

/// `left`: how many parts are still shown; the others are left out.
fn node(form: &str, value: &Value, left: &mut usize) -> Node {
    *left = left.saturating_sub(1);
    let nothing = || Node::Plain("null".to_owned());
    if let Some(form) = form.strip_prefix('*') {
        return if value.is_null() { nothing() } else { node(form, value, left) };
    }
    if let Some(form) = form.strip_prefix("[]") {
        let Some(items) = value.as_array() else { return nothing() };
        return Node::List(items.iter().map_while(|item| (*left > 0).then(|| node(form, item, left))).collect());
    }
    if let Some(form) = form.strip_prefix("{}") {
        let Some(entries) = value.as_object() else { return nothing() };
        let entries: BTreeMap<&String, &Value> = entries.iter().collect();
        return Node::Fields(entries.into_iter().map_while(|(key, value)| (*left > 0).then(|| (key.clone(), node(form, value, left)))).collect());
    }
    match form {
        "s" => token(&Value::from(value.as_str().unwrap_or_default())),
        "b" => token(&value.as_bool().unwrap_or_default().into()),
        "i" | "n" if value.is_null() => token(&0.into()),
        "q" => token(&rules::quantity(value).unwrap_or_default().to_string().into()),
        "t" if *value == NO_TIME => nothing(),
        "i" | "n" | "t" | "y" | "a" => token(value),
        _ => {
            let fields = TYPES.get(form).into_iter().flatten().map(|field| (field, field.of(value)));
            let shown = fields.filter(|(field, value)| !field.leaves_out(value));
            Node::Fields(shown.map(|(field, value)| (field.shown.to_owned(), node(field.form, value, left))).collect())
        }
    }
}

/// Whether it is what Go has where nothing is said.
fn zero(value: &Value) -> bool {
    crate::tree::empty(value) || *value == 0 || *value == false
}

impl Node {
    fn compact(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    item.compact(out);
                }
                out.push(']');
            }
            Self::Fields(fields) => {
                out.push('{');
                for (at, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    token(&name.as_str().into()).compact(out);
                    out.push(':');
                    value.compact(out);
                }
                out.push('}');
            }
        }
    }

    /// A part a line, each level one space further in.
    fn indented(&self, depth: usize, out: &mut String) {
        let line = |out: &mut String, at: usize, depth: usize| {
            out.push_str(if at > 0 { ",\n" } else { "\n" });
            out.extend(std::iter::repeat_n(' ', depth));
        };
        match self {
            Self::List(items) if !items.is_empty() => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    line(out, at, depth + 1);
                    item.indented(depth + 1, out);
                }
                line(out, 0, depth);
                out.push(']');
            }
            Self::Fields(fields) if !fields.is_empty() => {
                out.push('{');
                for (at, (name, value)) in fields.iter().enumerate() {
                    line(out, at, depth + 1);
                    token(&name.as_str().into()).compact(out);
                    out.push_str(": ");
                    value.indented(depth + 1, out);
                }
                line(out, 0, depth);
                out.push('}');
            }
            other => other.compact(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_form_is_known() {
        for field in TYPES.values().flatten() {
            let form = field.form.trim_start_matches(['*', '[', ']', '{', '}']);
            assert!(matches!(form, "s" | "b" | "i" | "n" | "q" | "t" | "y" | "a") || TYPES.contains_key(form), "{}: {form}", field.shown);
        }
    }

    #[test]
    fn what_is_empty_is_written() {
        let context = json!({"capabilities": {"add": []}, "privileged": false, "seLinuxOptions": {"level": "<s0>"}});
        let told = text("core.SecurityContext", &context);
        assert!(
            told.starts_with(
                r#"{"Capabilities":{"Add":[],"Drop":null},"Privileged":false,"SELinuxOptions":{"User":"","Role":"","Type":"","Level":"\u003cs0\u003e"},"#
            ),
            "{told}"
        );
        assert!(!same("core.SecurityContext", &context, &json!({"privileged": false})));
        assert!(same("core.Capabilities", &json!({}), &json!({"add": [], "drop": null})));
        assert!(same("{}q", &json!({"storage": "1Gi"}), &json!({"storage": 1_073_741_824})) && !same("q", &json!("1"), &json!("1m")));
        assert_eq!(text("metav1.LabelSelector", &json!({"matchLabels": {"b": "1", "a": "2"}})), r#"{"matchLabels":{"a":"2","b":"1"}}"#);
        let owner = json!({"name": "a", "blockOwnerDeletion": false});
        assert_eq!(text("metav1.OwnerReference", &owner), r#"{"apiVersion":"","kind":"","name":"a","uid":"","blockOwnerDeletion":false}"#);
        assert!(!same("metav1.OwnerReference", &owner, &json!({"name": "a"})));
        assert!(text("core.Taint", &json!({"timeAdded": NO_TIME})).contains(r#""TimeAdded":null"#));
        assert_eq!(text("{}q", &json!({"cpu": "1000m", "memory": 5})), r#"{"cpu":"1","memory":"5"}"#);
    }
}
