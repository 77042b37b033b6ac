//! Merging an applied configuration into the live object, and taking fields out of it again.

use super::{
    compare::places,
    set::{FieldSet, is_member},
    shape::{Said, Shape, element, field_type, shape},
};
use crate::{
    Map, Value,
    schema::{ListType, Type, TypeRef},
};
use std::collections::HashSet;

/// Merges `applied`, which fits the type, into `live`. An applied null or empty value of something granular takes nothing
/// away: what is below it may be somebody else's.
pub(super) fn merge(ty: TypeRef<'_>, live: &mut Value, applied: &Value) {
    merge_node(Some(ty), None, live, applied);
}

/// The paths of what is applied as a whole.
pub(super) fn atomics(ty: TypeRef<'_>, applied: &Value) -> Vec<String> {
    let mut out = Vec::new();
    find_atomics(ty, None, "", applied, &mut out);
    out
}

/// Only named fields and elements of lists are entered: upstream knows no type of a map's values here.
fn find_atomics(ty: TypeRef<'_>, said: Said, path: &str, applied: &Value, out: &mut Vec<String>) {
    match (ty.get(), applied) {
        (Type::Object(object), Value::Object(fields)) => {
            if said.unwrap_or(object.atomic) {
                out.push(path.to_owned());
            }
            for (name, value) in fields {
                if let (Some(ty), said) = field_type(ty, object.field(name)) {
                    find_atomics(ty, said, &format!("{path}.{name}"), value, out);
                }
            }
        }
        (Type::Map { atomic: whole, .. }, Value::Object(_)) if said.unwrap_or(*whole) => out.push(path.to_owned()),
        (Type::List { elem, list_type, .. }, Value::Array(items)) => {
            if said == Some(true) || *list_type == ListType::Atomic {
                out.push(path.to_owned());
            }
            for (at, item) in items.iter().enumerate() {
                find_atomics(ty.to(*elem), None, &format!("{path}[{at}]"), item, out);
            }
        }
        _ => {}
    }
}

fn merge_node(ty: Option<TypeRef<'_>>, said: Said, live: &mut Value, applied: &Value) {
    let shape = shape(ty, said, [Some(applied), Some(live)]);
    match (shape, &mut *live, applied) {
        (Shape::Struct(..) | Shape::Map(_), Value::Object(old), Value::Null) if !old.is_empty() => {}
        (Shape::Set | Shape::Keyed(..), Value::Array(old), Value::Null) if !old.is_empty() => {}
        (Shape::Struct(..) | Shape::Map(_), _, Value::Object(new)) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Value::Object(old) = live else { return };
            for (name, value) in new {
                let (child, said) = match shape {
                    Shape::Struct(ty, object) => field_type(ty, object.field(name)),
                    Shape::Map(elem) => (elem, None),
                    _ => (None, None),
                };
                merge_node(child, said, old.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Shape::Set | Shape::Keyed(..), _, Value::Array(new)) => {
            let old = match live {
                Value::Array(items) => std::mem::take(items),
                _ => Vec::new(),
            };
            *live = Value::Array(merge_list(shape, old, new));
        }
        _ => *live = applied.clone(),
    }
}

/// The applied elements in their order, and between them, in their places, the live elements that are not applied.
fn merge_list(shape: Shape<'_>, old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    let old_names: Vec<String> = old.iter().map(|i| element(shape, i)).collect();
    let new_names: Vec<String> = new.iter().map(|i| element(shape, i)).collect();
    let (in_old, in_new) = (places(&old_names), places(&new_names));
    let mut old: Vec<Option<Value>> = old.into_iter().map(Some).collect();
    // The next element that both have, in the applied order: live elements wait for it.
    let mut shared = new_names.iter().filter(|n| in_old.contains_key(n.as_str())).peekable();
    let mut merged = HashSet::new();
    let mut out = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < old_names.len() || r < new_names.len() {
        if let (Some(name), Some(wanted)) = (old_names.get(l), new_names.get(r)) {
            let elsewhere = in_new.contains_key(name.as_str()) && shared.peek().is_some_and(|s| *s != name);
            if name != wanted && elsewhere {
                l += 1;
                continue;
            }
        }
        match (old_names.get(l), new_names.get(r)) {
            (Some(name), _) if !in_new.contains_key(name.as_str()) => {
                out.extend(old.get_mut(l).and_then(Option::take));
                l += 1;
            }
            (Some(name), wanted) if wanted != Some(name) && merged.contains(name.as_str()) => l += 1,
            (name, Some(wanted)) => {
                if name == Some(wanted) {
                    l += 1;
                }
                if shared.peek().is_some_and(|s| *s == wanted) {
                    shared.next();
                }
                merged.insert(wanted.as_str());
                let mut item = in_old.get(wanted.as_str()).and_then(|at| old.get_mut(*at)?.take()).unwrap_or(Value::Null);
                let applied = new.get(r).unwrap_or(&Value::Null);
                match shape {
                    Shape::Keyed(elem, _) => merge_node(Some(elem), None, &mut item, applied),
                    _ => item = applied.clone(),
                }
                out.push(item);
                r += 1;
            }
            // Only live elements are left, and all that are applied are merged.
            (Some(_), None) => l += 1,
            (None, None) => break,
        }
    }
    out
}

/// Takes fields out of an object. A map or list that nothing is left of becomes `null`, as in upstream: who owns it keeps
/// owning it.
pub(super) fn remove(ty: TypeRef<'_>, value: &mut Value, gone: &FieldSet) {
    if !gone.is_empty() {
        remove_node(Some(ty), None, value, &gone.0);
    }
}

fn remove_node(ty: Option<TypeRef<'_>>, said: Said, value: &mut Value, gone: &Map<String, Value>) {
    let shape = shape(ty, said, [Some(value), None]);
    let decide = |name: &str| match gone.get(name) {
        Some(Value::Object(gone)) if is_member(gone) => Fate::Goes,
        Some(Value::Object(gone)) => Fate::Below(gone),
        _ => Fate::Stays,
    };
    let empty = match (shape, &mut *value) {
        (Shape::Struct(..) | Shape::Map(_), Value::Object(map)) => {
            map.retain(|name, value| match decide(&format!("f:{name}")) {
                Fate::Goes => false,
                Fate::Stays => true,
                Fate::Below(gone) => {
                    let (child, said) = match shape {
                        Shape::Struct(ty, object) => field_type(ty, object.field(name)),
                        Shape::Map(elem) => (elem, None),
                        _ => (None, None),
                    };
                    remove_node(child, said, value, gone);
                    true
                }
            });
            map.is_empty()
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            items.retain_mut(|item| match decide(&element(shape, item)) {
                Fate::Goes => false,
                Fate::Stays => true,
                Fate::Below(gone) => {
                    if let Shape::Keyed(elem, _) = shape {
                        remove_node(Some(elem), None, item, gone);
                    }
                    true
                }
            });
            items.is_empty()
        }
        _ => false,
    };
    if empty {
        *value = Value::Null;
    }
}

/// What becomes of a field when others are removed.
enum Fate<'a> {
    Goes,
    Stays,
    Below(&'a Map<String, Value>),
}
