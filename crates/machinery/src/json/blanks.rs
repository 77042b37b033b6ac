//! Lists and maps that a body has and that are empty, where Go leaves those out (`omitempty`).
//!
//! Upstream decodes a body into Go's types, in which such a field is not the same as none: whoever judges it can tell, and an error
//! shows it. What is written of it (to the store, to admission, to the client) is as if it were not there. So the tree goes without
//! them, and they are noted beside it for the few that ask.

use super::path::Node;
use crate::{
    Map, Value,
    schema::{ListType, Type, TypeRef},
};
use std::{borrow::Cow, collections::HashMap};

/// The most that are noted of one body: what is beyond is as if it were not there.
const NOTED_MAX: usize = 256;
/// Bytes of the paths that are noted: a key in one is as long as its sender likes.
const BYTES_MAX: usize = 64 << 10;

/// What a body has that is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blanks(Vec<Blank>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Blank {
    path: Vec<String>,
    /// As errors spell it.
    shown: String,
    is_list: bool,
}

impl Blank {
    fn value(&self) -> Value {
        if self.is_list { Value::Array(Vec::new()) } else { Value::Object(Map::new()) }
    }

    /// Whether it lies in an element of a list that is owned as a whole, or that lies in what is.
    fn is_in_whole_list(&self, mut ty: TypeRef<'_>) -> bool {
        let mut whole = false;
        for key in self.path.iter().take(self.path.len().saturating_sub(1)) {
            if whole && matches!(ty.get(), Type::List { .. }) {
                return true;
            }
            let field = ty.field(key);
            let Some(next) = ty.child(key).or_else(|| ty.elem()) else { return false };
            whole = whole
                || field.is_some_and(|field| field.atomic)
                || match next.get() {
                    Type::Object(object) => object.atomic && field.is_none_or(|field| field.map_type.is_none()),
                    Type::List { list_type, .. } => matches!(list_type, ListType::Atomic),
                    Type::Map { atomic, .. } => *atomic,
                    _ => false,
                };
            ty = next;
        }
        false
    }

    fn put_back(&self, object: &mut Value) {
        let Some((last, above)) = self.path.split_last() else { return };
        let holder = above.iter().try_fold(object, |value, key| match value {
            Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
            value => value.get_mut(key),
        });
        if let Some(Value::Object(holder)) = holder {
            holder.entry(last).or_insert_with(|| self.value());
        }
    }
}

impl Blanks {
    pub(super) fn note(&mut self, at: &Node<'_>, value: &Value) {
        let bytes = || self.0.iter().map(|blank| blank.shown.len()).sum::<usize>();
        if self.0.len() < NOTED_MAX && bytes() < BYTES_MAX && (value.is_array() || value.is_object()) {
            self.0.push(Blank { path: at.keys(), shown: at.strict(), is_list: value.is_array() });
        }
    }

    /// Those of an apply configuration that the object has nothing in the place of that it was merged into: what an empty list was merged
    /// into may be full.
    #[must_use]
    pub fn of(ty: TypeRef<'_>, applied: &Value, merged: &Value) -> Self {
        let mut blanks = Self::default();
        if !ty.schema.is_lenient() {
            blanks.look(ty, applied, merged, &Node::ROOT);
        }
        blanks
    }

    fn look(&mut self, ty: TypeRef<'_>, value: &Value, merged: &Value, at: &Node<'_>) {
        match (ty.get(), value, merged) {
            (Type::Object(object), Value::Object(fields), _) => {
                for (name, value) in fields {
                    let Some(field) = object.field(name) else { continue };
                    let node = at.field(name, ty);
                    match merged.get(name) {
                        None if ty.leaves_out(field, value) => self.note(&node, value),
                        Some(there) => self.look(ty.to(field.ty), value, there, &node),
                        None => {}
                    }
                }
            }
            (Type::List { elem, list_type, .. }, Value::Array(items), Value::Array(all)) => {
                for (item, place) in items.iter().zip(places(list_type, items, all)) {
                    if let Some((place, there)) = place.and_then(|place| Some((place, all.get(place)?))) {
                        self.look(ty.to(*elem), item, there, &at.index(place));
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether one lies below a field of the object.
    #[must_use]
    pub fn is_below(&self, field: &str) -> bool {
        self.0.iter().any(|blank| blank.path.first().is_some_and(|first| first == field))
    }

    /// The empty value that stands where an error says that there is none.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<Value> {
        self.0.iter().find(|blank| blank.shown == path).map(Blank::value)
    }

    /// Whether one is a field of what stands at a path, as errors spell it.
    #[must_use]
    pub fn lie_in(&self, path: &str) -> bool {
        let is_field = |rest: &str| rest.strip_prefix('.').is_some_and(|name| !name.contains(['.', '[']));
        self.0.iter().any(|blank| blank.shown.strip_prefix(path).is_some_and(is_field))
    }

    /// The object with all of them, as far as what they lie in is there.
    #[must_use]
    pub fn restored<'v>(&self, object: &'v Value) -> Cow<'v, Value> {
        let mut whole = Cow::Borrowed(object);
        if !self.0.is_empty() {
            self.0.iter().for_each(|blank| blank.put_back(whole.to_mut()));
        }
        whole
    }

    /// The object with those that lie in lists that are owned as a whole: upstream compares such by its Go values, to which an empty
    /// list is not none.
    #[must_use]
    pub fn restored_in_lists<'v>(&self, ty: TypeRef<'_>, object: &'v Value) -> Cow<'v, Value> {
        let mut whole = Cow::Borrowed(object);
        for blank in self.0.iter().filter(|blank| blank.is_in_whole_list(ty)) {
            blank.put_back(whole.to_mut());
        }
        whole
    }

    /// Puts those of these paths back into the object, as far as what they lie in is there.
    pub fn put_back(&self, object: &mut Value, paths: &[&str]) {
        for blank in self.0.iter().filter(|blank| paths.contains(&blank.shown.as_str())) {
            blank.put_back(object);
        }
    }
}

/// Where the elements of an applied list are in the one that it was merged into.
fn places(list_type: &ListType, items: &[Value], all: &[Value]) -> Vec<Option<usize>> {
    match list_type {
        ListType::Map(keys) => {
            let name = |item: &Value| keys.iter().map(|key| item.get(&**key).map(Value::to_string)).collect::<Vec<_>>();
            let known: HashMap<Vec<Option<String>>, usize> = all.iter().enumerate().map(|(at, item)| (name(item), at)).collect();
            items.iter().map(|item| known.get(&name(item)).copied()).collect()
        }
        // Owned as a whole, it has replaced what there was.
        _ => (0..items.len()).map(|at| (items.len() == all.len()).then_some(at)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        json::{Validation, decode},
        schema,
    };
    use serde_json::json;

    #[test]
    fn lists_that_are_owned_as_a_whole_have_their_empty_lists() {
        let ty = schema::builtin().named("io.k8s.api.apps.v1.DaemonSet").unwrap();
        let spec = json!({"containers": [{"name": "a", "args": []}], "topologySpreadConstraints": [{"matchLabelKeys": [], "topologyKey": "z"}]});
        let expression = json!({"key": "k", "operator": "Exists", "values": []});
        let selector = json!({"matchExpressions": [expression], "matchLabels": {}});
        let body = json!({"spec": {"selector": selector, "template": {"metadata": {"labels": {}}, "spec": spec}}});
        let decoded = decode(body.to_string().as_bytes(), Some(ty), Validation::Strict).unwrap();
        assert_eq!(decoded.value["spec"]["selector"], json!({"matchExpressions": [{"key": "k", "operator": "Exists"}]}));
        let whole = decoded.blanks.restored_in_lists(ty, &decoded.value);
        assert_eq!(whole["spec"]["selector"], json!({"matchExpressions": [expression]}), "a map in no list is left out");
        assert_eq!(whole["spec"]["template"], decoded.value["spec"]["template"], "constraints are owned one by one");
    }

    #[test]
    fn an_empty_list_that_is_applied_to_a_full_one_is_none() {
        let ty = schema::builtin().named("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration").unwrap();
        let left = super::Blanks::of(ty, &json!({"webhooks": [], "metadata": {"labels": {}}}), &json!({"webhooks": [{"name": "a"}], "metadata": {}}));
        assert_eq!((left.at("webhooks"), left.at("metadata.labels")), (None, Some(json!({}))));
        let left = super::Blanks::of(ty, &json!({"webhooks": [{"name": "b", "rules": []}]}), &json!({"webhooks": [{"name": "a"}, {"name": "b"}]}));
        assert_eq!((left.at("webhooks[0].rules"), left.at("webhooks[1].rules")), (None, Some(json!([]))));
    }

    #[test]
    fn what_is_empty_is_noted_and_can_be_put_back() {
        let ty = schema::builtin().named("io.k8s.api.apps.v1.DaemonSet").unwrap();
        let body =
            json!({"spec": {"selector": {}, "template": {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "a", "args": []}], "volumes": null}}}});
        let decoded = decode(body.to_string().as_bytes(), Some(ty), Validation::Strict).unwrap();
        let template = &decoded.value["spec"]["template"];
        assert_eq!((template["metadata"].get("labels"), template["spec"]["containers"][0].get("args")), (None, None));
        assert_eq!(decoded.blanks.at("spec.template.metadata.labels"), Some(json!({})));
        assert_eq!(decoded.blanks.at("spec.template.spec.containers[0].args"), Some(json!([])));
        assert_eq!(decoded.blanks.at("spec.template.spec.volumes"), None);
        assert!(decoded.blanks.is_below("spec") && !decoded.blanks.is_below("metadata"));
        assert!(decoded.blanks.lie_in("spec.template.metadata") && !decoded.blanks.lie_in("spec.template"));
        let mut some = decoded.value.clone();
        decoded.blanks.put_back(&mut some, &["spec.template.spec.containers[0].args", "spec.none"]);
        assert_eq!(some["spec"]["template"]["spec"]["containers"][0]["args"], json!([]));
        assert_eq!(some["spec"]["template"]["metadata"], json!({}));
        let whole = decoded.blanks.restored(&decoded.value);
        assert_eq!(whole["spec"]["template"]["metadata"], json!({"labels": {}}));
        assert_eq!(whole["spec"]["template"]["spec"].get("volumes"), None);
    }
}
