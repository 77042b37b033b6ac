//! Strategic merge patch: lists are merged by key where the schema says so, and directives in the patch say the rest.
//!
//! - `$patch: replace | delete | merge` in a map or a list element;
//! - `$retainKeys: [..]`: fields of the original that are not named go;
//! - `$deleteFromPrimitiveList/FIELD: [..]`: values to remove from a list of scalars;
//! - `$setElementOrder/FIELD: [..]`: the order of the list afterwards; what only the server has keeps its neighbours.
//!
//! Source: `apimachinery/pkg/util/strategicpatch` and the design `strategic-merge-patch.md` of the community.

use crate::{
    Map, Value,
    apply::typed::plain,
    schema::{Field, Type, TypeRef},
    status::Status,
};
use std::collections::{HashMap, HashSet};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Messages that upstream answers with 400; with others its handler does not know what to do, and it answers 500.
const BAD_FORMATS: [&str; 3] = [BAD_RETAIN_KEYS, BAD_PRIMITIVES, BAD_ORDER];
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_PRIMITIVES: &str = "invalid patch format of primitive list";
const BAD_ORDER: &str = "invalid patch format of setElementOrder list";

/// Applies a strategic merge patch in place.
///
/// # Errors
/// 400 or 500, as upstream, for directives and lists that make no sense.
pub fn strategic(ty: TypeRef<'_>, target: &mut Value, patch: &Value) -> Result<(), Status> {
    let (Value::Object(original), Value::Object(patch)) = (target, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    merge_map(Some(ty), original, patch.clone())
        .map_err(|message| if BAD_FORMATS.contains(&message.as_str()) { Status::bad_request(&message) } else { Status::new(500, "", message) })
}

fn merge_map(ty: Option<TypeRef<'_>>, original: &mut Object, mut patch: Object) -> Result<(), String> {
    if let Some(directive) = patch.remove(PATCH) {
        match directive.as_str() {
            Some("replace") => *original = patch,
            Some("delete") => original.clear(),
            _ => {
                let shown = as_text(&directive);
                patch.insert(PATCH.into(), directive);
                return Err(format!("unknown patch type: {shown} in map: {}", plain(&Value::Object(patch))));
            }
        }
        return Ok(());
    }
    retain_keys(original, &mut patch)?;
    set_orders(ty, original, &mut patch)?;
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_from(original, name, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = ty.and_then(|t| t.field(&key));
        let child = ty.and_then(|t| t.child(&key));
        match (original.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !has_strategy(field, "replace") => merge_map(child, old, new)?,
            (Some(Value::Array(old)), Value::Array(new)) if has_strategy(field, "merge") => {
                *old = merge_list(child.and_then(TypeRef::elem), field, std::mem::take(old), new)?;
            }
            (Some(Value::Object(_)), value @ Value::Object(_)) | (Some(Value::Array(_)), value @ Value::Array(_)) => {
                original.insert(key, value);
            }
            (_, value) => match without_directives(value) {
                Some(value) => drop(original.insert(key, value)),
                None => drop(original.remove(&key)),
            },
        }
    }
    Ok(())
}

fn has_strategy(field: Option<&Field>, strategy: &str) -> bool {
    field.is_some_and(|f| f.patch_strategy.split(',').any(|s| s == strategy))
}

/// What remains of a value that has nothing to be merged with: no nulls in maps, and nothing with `$patch`. Other directives stay, to be
/// told as unknown fields.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            Some(Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).filter_map(|(k, v)| without_directives(v).map(|v| (k, v))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn is_directive(name: &str) -> bool {
    name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER)
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), String> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || BAD_RETAIN_KEYS.to_owned();
    let keys: HashSet<&str> = keys.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    if patch.iter().any(|(name, value)| !value.is_null() && !is_directive(name) && !keys.contains(name.as_str())) {
        return Err(bad());
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

fn delete_from(original: &mut Object, name: &str, values: &Value) -> Result<(), String> {
    // Where there is no list nobody looks at what is to be taken from it.
    if let Some(Value::Array(items)) = original.get_mut(name) {
        let gone = values.as_array().ok_or(BAD_PRIMITIVES)?;
        alike(items, gone)?;
        let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

/// Handles the `$setElementOrder` directives together with the lists that they order.
fn set_orders(ty: Option<TypeRef<'_>>, original: &mut Object, patch: &mut Object) -> Result<(), String> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let bad = || BAD_ORDER.to_owned();
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            Some(Value::Null) => return Err("expected a []interface {}, but received a %!s(<nil>)".to_owned()),
            Some(other) => return Err(format!("expected a []interface {{}}, but received a {}", crate::tree::go_type(&other))),
            None => continue,
        };
        let name = &directive[SET_ORDER.len()..];
        let field = ty.and_then(|t| t.field(name));
        let go_struct = match ty.map(TypeRef::get) {
            Some(Type::Object(object)) => Some(object.go_name()),
            Some(Type::RawExtension) => Some("RawExtension"),
            Some(Type::Map { .. }) => return Err("merging an object in json but data type is not struct, instead is: map".to_owned()),
            _ => None,
        };
        if let Some(go_struct) = go_struct.filter(|_| field.is_none()) {
            return Err(format!("unable to find api field in struct {go_struct} for the json field {name:?}"));
        }
        let key = field.map_or("", |f| f.patch_merge_key.as_ref());
        let new = match patch.remove(name) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            Some(_) => return Err(bad()),
        };
        if let Some(new) = &new {
            check_order(new, &order, key)?;
        }
        let old = match original.get_mut(name) {
            None => None,
            Some(Value::Array(items)) => Some(std::mem::take(items)),
            Some(_) => return Err(bad()),
        };
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if has_strategy(field, "merge") => merge_list(ty.and_then(|t| t.child(name)).and_then(TypeRef::elem), field, old, new)?,
            (Some(_), Some(new)) => new,
        };
        let ordered = in_order(merged, &order, &server_order, key)?;
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// The elements of the patch must come in the order that the directive names.
fn check_order(new: &[Value], order: &[Value], key: &str) -> Result<(), String> {
    if order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter().map(|o| identity(o, key));
    for item in new.iter().filter(|i| i.get(PATCH).is_none()) {
        let own = identity(item, key);
        if !wanted.any(|w| w == own) {
            let (new, order) = (plain(&Value::from(new.to_vec())), plain(&Value::from(order.to_vec())));
            return Err(format!("The order in patch list:\n{new}\n doesn't match $setElementOrder list:\n{order}\n"));
        }
    }
    Ok(())
}

fn merge_list(elem: Option<TypeRef<'_>>, field: Option<&Field>, mut old: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, String> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    alike(&old, &new)?;
    if !old.iter().chain(&new).any(Value::is_object) {
        let mut seen = HashSet::new();
        let order = new.clone();
        let server_order = old.clone();
        old.extend(new);
        old.retain(|item| seen.insert(item.to_string()));
        return in_order(old, &order, &server_order, "");
    }
    let key = field.map_or("", |f| f.patch_merge_key.as_ref());
    if key.is_empty() {
        return Err(format!("cannot merge lists without merge key for {}", field.map_or("", |f| f.name.as_ref())));
    }
    let Some(new) = special_elements(&mut old, new, key)? else { return Ok(old) };
    let (order, server_order) = (new.clone(), old.clone());
    // The first of several elements with one key is meant: ports of one number differ by protocol, which is no part of the key.
    let mut places: HashMap<String, usize> = old.iter().enumerate().rev().map(|(at, item)| (identity(item, key), at)).collect();
    for item in new {
        if item.get(key).is_none() {
            return Err(no_merge_key(&item, key));
        }
        let own = identity(&item, key);
        match (places.get(&own).and_then(|at| old.get_mut(*at)), item) {
            (Some(Value::Object(old)), Value::Object(item)) => merge_map(elem, old, item)?,
            (_, item) => {
                places.insert(own, old.len());
                old.push(without_directives(item).unwrap_or_default());
            }
        }
    }
    in_order(old, &order, &server_order, key)
}

/// The elements of both lists are of one type (upstream's `sliceElementType`).
fn alike(old: &[Value], new: &[Value]) -> Result<(), String> {
    let mut known = None;
    for item in old.iter().chain(new) {
        let found = crate::tree::go_type(item);
        if known.is_none() && item.is_array() {
            return Err("lists of lists are not supported".to_owned());
        }
        if *known.get_or_insert(found) != found {
            return Err(format!("list element types are not identical: [{} {}]", plain(&Value::from(old.to_vec())), plain(&Value::from(new.to_vec()))));
        }
    }
    Ok(())
}

/// A value as Go's `%s` prints what is to be a text.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(as_text).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut members: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{}", as_text(value))).collect();
            members.sort_unstable();
            format!("map[{}]", members.join(" "))
        }
        Value::Null => "%!s(<nil>)".to_owned(),
        other => format!("%!s({}={})", crate::tree::go_type(other), plain(other)),
    }
}

/// A patch as upstream shows it once it is applied to `old`: what says what is to be done has been taken out of it where there was
/// something to do it to, and nulls where there was not.
pub(super) fn without_done(patch: &Value, old: &Value) -> Value {
    match (patch, old) {
        (Value::Object(fields), Value::Object(_)) => {
            let done = |name: &str, value: &Value| name == RETAIN_KEYS || name == PATCH && value.is_string();
            fields.iter().filter(|(name, value)| !done(name, value)).map(|(name, value)| (name.clone(), without_done(value, &old[name.as_str()]))).collect()
        }
        (Value::Array(items), Value::Array(known)) => {
            let none = Value::Object(Object::new());
            // Most lists that are merged are merged by names.
            let named: HashMap<&str, &Value> = known.iter().rev().filter_map(|old| Some((old["name"].as_str()?, old))).collect();
            let namesake = |item: &Value| item["name"].as_str().and_then(|name| named.get(name).copied());
            items.iter().map(|item| without_done(item, namesake(item).unwrap_or(&none))).collect()
        }
        _ => without_nulls(patch),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), without_nulls(value))).collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Carries out the elements that are directives. `None` if the patch replaces the list, which is then in `old`.
fn special_elements(old: &mut Vec<Value>, new: Vec<Value>, key: &str) -> Result<Option<Vec<Value>>, String> {
    let mut rest = Vec::with_capacity(new.len());
    let mut replace = false;
    let mut gone = HashSet::new();
    for item in new {
        match item.get(PATCH) {
            None => rest.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") if item.get(key).is_none() => return Err(no_merge_key(&item, key)),
                Some("delete") => drop(gone.insert(identity(&item, key))),
                Some("replace") => replace = true,
                Some("merge") => return Err("merging lists cannot yet be specified in the patch".to_owned()),
                _ => return Err(format!("unknown patch type: {} in map: {}", as_text(directive), plain(&item))),
            },
        }
    }
    if replace {
        *old = rest;
        return Ok(None);
    }
    // In one walk, however many they are.
    if !gone.is_empty() {
        old.retain(|o| !gone.contains(&identity(o, key)));
    }
    Ok(Some(rest))
}

/// Puts the merged list in order: what the patch names in the patch's order, and what only the server has where the
/// server had it in relation to those.
fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: &str) -> Result<Vec<Value>, String> {
    let index = |list: &[Value]| -> HashMap<String, usize> {
        // The first of equal elements counts.
        list.iter().enumerate().rev().map(|(at, item)| (identity(item, key), at)).collect()
    };
    let (wanted, server) = (index(order), index(server_order));
    let (mut named, mut server_only) = (Vec::new(), Vec::new());
    for item in merged {
        if !key.is_empty() && item.get(key).is_none() {
            return Err(no_merge_key(&item, key));
        }
        let own = identity(&item, key);
        if wanted.contains_key(&own) { named.push((own, item)) } else { server_only.push((own, item)) }
    }
    named.sort_by_key(|(own, _)| wanted.get(own).copied().unwrap_or(usize::MAX));
    server_only.sort_by_key(|(own, _)| server.get(own).copied().unwrap_or(usize::MAX));
    let (mut named, mut server_only) = (named.into_iter().peekable(), server_only.into_iter().peekable());
    let mut out = Vec::new();
    while let (Some((n, _)), Some((s, _))) = (named.peek(), server_only.peek()) {
        let server_first = matches!((server.get(s), server.get(n)), (Some(s), Some(n)) if s < n);
        out.extend(if server_first { server_only.next() } else { named.next() }.map(|p| p.1));
    }
    out.extend(named.chain(server_only).map(|p| p.1));
    Ok(out)
}

/// What tells an element from others: its merge key's value, or itself.
fn identity(item: &Value, key: &str) -> String {
    if key.is_empty() { item.to_string() } else { item.get(key).map(Value::to_string).unwrap_or_default() }
}

fn no_merge_key(item: &Value, key: &str) -> String {
    format!("map: {} does not contain declared merge key: {key}", plain(item))
}
