//! Merging an applied configuration into the live object, and taking fields out of it again.

use super::{
    compare::places,
    set::{FieldSet, is_member},
    shape::{Shape, element, field_type, missing_key, shape},
};
use crate::{Map, Value, schema::TypeRef};
use std::collections::HashSet;

/// Merges `applied` into `live`.
///
/// # Errors
/// A list element that lacks one of its keys, as upstream words it.
pub(super) fn merge(ty: TypeRef<'_>, live: &mut Value, applied: &Value) -> Result<(), String> {
    merge_node(Some(ty), false, live, applied, &mut String::new())
}

fn merge_node(ty: Option<TypeRef<'_>>, atomic: bool, live: &mut Value, applied: &Value, path: &mut String) -> Result<(), String> {
    let shape = shape(ty, atomic, [Some(applied), None]);
    match (shape, &mut *live, applied) {
        (Shape::Struct(..) | Shape::Map(_), _, Value::Object(new)) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Value::Object(old) = live else { return Ok(()) };
            for (name, value) in new {
                let (child, atomic) = match shape {
                    Shape::Struct(ty, object) => field_type(ty, object.field(name)),
                    Shape::Map(elem) => (elem, false),
                    _ => (None, false),
                };
                let before = path.len();
                path.push('.');
                path.push_str(name);
                merge_node(child, atomic, old.entry(name.clone()).or_insert(Value::Null), value, path)?;
                path.truncate(before);
            }
        }
        (Shape::Set | Shape::Keyed(..), _, Value::Array(new)) => {
            let old = match live {
                Value::Array(items) => std::mem::take(items),
                _ => Vec::new(),
            };
            *live = Value::Array(merge_list(shape, old, new, path)?);
        }
        _ => *live = applied.clone(),
    }
    Ok(())
}

/// The applied elements in their order, and between them, in their places, the live elements that are not applied.
fn merge_list(shape: Shape<'_>, old: Vec<Value>, new: &[Value], path: &mut String) -> Result<Vec<Value>, String> {
    let old_names: Vec<String> = old.iter().map(|i| element(shape, i)).collect();
    let new_names: Vec<String> = new.iter().map(|i| element(shape, i)).collect();
    check_elements(shape, new, &new_names, path)?;
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
                let before = path.len();
                path.push_str("[]");
                let elem = match shape {
                    Shape::Keyed(elem, _) => Some(elem),
                    _ => None,
                };
                match elem {
                    Some(elem) => merge_node(Some(elem), false, &mut item, applied, path)?,
                    None => item = applied.clone(),
                }
                path.truncate(before);
                out.push(item);
                r += 1;
            }
            // Only live elements are left, and all that are applied are merged.
            (Some(_), None) => l += 1,
            (None, None) => break,
        }
    }
    Ok(out)
}

/// An applied list must be able to name its elements, once each.
fn check_elements(shape: Shape<'_>, items: &[Value], names: &[String], path: &str) -> Result<(), String> {
    let mut seen = HashSet::new();
    for (at, (item, name)) in items.iter().zip(names).enumerate() {
        if let Some(key) = missing_key(shape, item) {
            return Err(format!(
                "{path}: element {at}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
            ));
        }
        if !seen.insert(name) {
            let mut shown = String::new();
            FieldSet(std::iter::once((name.clone(), Value::Object(Map::new()))).collect()).for_each(&mut |p| p.clone_into(&mut shown));
            return Err(format!("{path}: duplicate entries for key {shown}"));
        }
    }
    Ok(())
}

/// Takes the fields of `gone` out of the object, unless they are in `kept`.
pub(super) fn remove(ty: TypeRef<'_>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    remove_node(Some(ty), false, value, &gone.0, Some(&kept.0));
}

fn remove_node(ty: Option<TypeRef<'_>>, atomic: bool, value: &mut Value, gone: &Map<String, Value>, kept: Option<&Map<String, Value>>) {
    let shape = shape(ty, atomic, [Some(value), None]);
    let decide = |name: &str| -> Fate<'_> {
        let Some(Value::Object(gone)) = gone.get(name) else { return Fate::Stays };
        let kept = kept.and_then(|k| k.get(name)).and_then(Value::as_object);
        if is_member(gone) && !kept.is_some_and(is_member) { Fate::Goes } else { Fate::Below(gone, kept) }
    };
    match (shape, value) {
        (Shape::Struct(..) | Shape::Map(_), Value::Object(map)) => map.retain(|name, value| match decide(&format!("f:{name}")) {
            Fate::Goes => false,
            Fate::Stays => true,
            Fate::Below(gone, kept) => {
                let (child, atomic) = match shape {
                    Shape::Struct(ty, object) => field_type(ty, object.field(name)),
                    Shape::Map(elem) => (elem, false),
                    _ => (None, false),
                };
                remove_node(child, atomic, value, gone, kept);
                if is_empty(value) {
                    *value = Value::Null;
                }
                true
            }
        }),
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => items.retain_mut(|item| match decide(&element(shape, item)) {
            Fate::Goes => false,
            Fate::Stays => true,
            Fate::Below(gone, kept) => {
                if let Shape::Keyed(elem, _) = shape {
                    remove_node(Some(elem), false, item, gone, kept);
                }
                true
            }
        }),
        _ => {}
    }
}

/// A map or list that nothing is left of becomes `null`, as in upstream: who owns it keeps owning it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What becomes of a field when others are removed.
enum Fate<'a> {
    Goes,
    Stays,
    Below(&'a Map<String, Value>, Option<&'a Map<String, Value>>),
}
