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
    printed::{plain, text},
    quote::Quoted,
    schema::{Field, Type, TypeRef},
    status::Status,
};
use std::collections::{HashMap, HashSet};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// The messages that upstream answers with 400; with nearly all others its handler does not know what to do, and it answers 500.
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_DELETE_FROM: &str = "invalid patch format of primitive list";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";
/// The message that upstream answers with 422, and does not tell.
const LISTS_OF_LISTS: &str = "lists of lists are not supported";

/// Applies a strategic merge patch in place.
///
/// # Errors
/// 400, 422 or 500, as upstream, for directives and lists that make no sense.
pub fn strategic(ty: TypeRef<'_>, target: &mut Value, patch: &Value) -> Result<(), Status> {
    strategic_leaving(ty, target, &mut patch.clone())
}

/// As [`strategic`]. Of the patch is left what upstream leaves of it, which it shows to those whose patch makes no object: directives are gone
/// that were carried out, nulls where there was nothing to delete, and what was appended to a list is there with what was merged into it.
pub(super) fn strategic_leaving(ty: TypeRef<'_>, target: &mut Value, patch: &mut Value) -> Result<(), Status> {
    let (Value::Object(original), Value::Object(patch)) = (target, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    merge_map(Some(ty), original, patch).map_err(|message| match message.as_str() {
        LISTS_OF_LISTS => super::unprocessable(),
        BAD_RETAIN_KEYS | BAD_DELETE_FROM | BAD_SET_ORDER => Status::bad_request(message),
        _ => Status::new(500, "", message),
    })
}

fn merge_map(ty: Option<TypeRef<'_>>, original: &mut Object, patch: &mut Object) -> Result<(), String> {
    if let Some(directive) = patch.get(PATCH).cloned() {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                original.clone_from(patch);
            }
            Some("delete") => original.clear(),
            _ => return Err(unknown_directive(&directive, &Value::Object(patch.clone()))),
        }
        return Ok(());
    }
    retain_keys(original, patch)?;
    set_orders(ty, original, patch)?;
    for (key, value) in patch.iter_mut() {
        let (name, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(name) => (name.strip_prefix('/').ok_or(BAD_DELETE_FROM)?, true),
            None => (key.as_str(), false),
        };
        if value.is_null() {
            original.remove(name);
            continue;
        }
        let child = ty.and_then(|t| t.child(name));
        match (original.get_mut(name), &mut *value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                if has_strategy(field_of(ty, name)?, "replace") {
                    old.clone_from(new);
                } else {
                    merge_map(child, old, new)?;
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let field = field_of(ty, name)?;
                if child.is_some_and(|c| !matches!(c.get(), Type::List { .. } | Type::Bytes)) {
                    return Err("expected slice or array type, but got: struct".to_owned());
                }
                if deletes || has_strategy(field, "merge") {
                    *old = merge_list(child.and_then(TypeRef::elem), field, std::mem::take(old), new, deletes)?;
                } else {
                    old.clone_from(new);
                }
            }
            // There is nothing to delete from.
            _ if deletes => {}
            (_, value) => {
                super::forget_nulls(value);
                match settled(value) {
                    Some(value) => drop(original.insert(name.to_owned(), value)),
                    None => drop(original.remove(name)),
                }
            }
        }
    }
    Ok(())
}

/// The field of a name; none where nothing is known of the type.
fn field_of<'t>(ty: Option<TypeRef<'t>>, name: &str) -> Result<Option<&'t Field>, String> {
    let Some(ty) = ty else { return Ok(None) };
    let unknown = |go_struct: &str| format!("unable to find api field in struct {go_struct} for the json field {}", Quoted(name));
    match ty.get() {
        Type::Object(object) => object.field(name).map(Some).ok_or_else(|| unknown(object.go_name())),
        Type::RawExtension => Err(unknown("RawExtension")),
        Type::Map { .. } => Err("merging an object in json but data type is not struct, instead is: map".to_owned()),
        _ => Ok(None),
    }
}

fn has_strategy(field: Option<&Field>, strategy: &str) -> bool {
    field.is_some_and(|f| f.patch_strategy.split(',').any(|s| s == strategy))
}

/// What is put where there is nothing to merge it with: all but what says `$patch`. Other directives stay, to be told as unknown fields.
/// The elements of a list that say it are left in the patch, as are those of lists in it, and all else that says it is not.
fn settled(value: &mut Value) -> Option<Value> {
    match value {
        Value::Array(items) => Some(items.iter_mut().filter_map(settled).collect()),
        other => settle(other).then(|| other.clone()),
    }
}

/// Takes out of a value what says `$patch`. False if it says so itself.
fn settle(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => {
            let stays = !fields.contains_key(PATCH);
            if stays {
                fields.retain(|_, value| settle(value));
            }
            stays
        }
        Value::Array(items) => {
            items.retain_mut(settle);
            true
        }
        _ => true,
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

/// Handles the `$setElementOrder` directives together with the lists that they order, which are not looked at again.
fn set_orders(ty: Option<TypeRef<'_>>, original: &mut Object, patch: &mut Object) -> Result<(), String> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            Some(other) => return Err(other_than("[]interface {}", &other)),
            None => continue,
        };
        let name = directive[SET_ORDER.len()..].strip_prefix('/').ok_or(BAD_SET_ORDER)?;
        if let Some(other) = [original.get(name), patch.get(name)].into_iter().flatten().find(|list| !list.is_array()) {
            return Err(other_than("[]interface {}", other));
        }
        let field = field_of(ty, name)?;
        let key = field.map_or("", |f| f.patch_merge_key.as_ref());
        let mut new = patch.get(name).and_then(Value::as_array).cloned();
        check_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let old = original.get(name).and_then(Value::as_array).cloned();
        let mut server_order = old.clone().unwrap_or_default();
        let types = alike(&server_order, new.as_deref().unwrap_or_default());
        let is_empty = server_order.is_empty() && new.as_ref().is_none_or(Vec::is_empty);
        let merged = match (old, &mut new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.iter_mut().filter_map(settled).collect(),
            (Some(old), Some(new)) if has_strategy(field, "merge") => {
                left_behind(&mut server_order, new, key);
                merge_list(ty.and_then(|t| t.child(name)).and_then(TypeRef::elem), field, old, new, false)?
            }
            (Some(_), Some(new)) => new.clone(),
        };
        check_keys(&merged, &order, key)?;
        types?;
        if is_empty {
            return Err("no elements in any of the given slices".to_owned());
        }
        // Each place of the order, too, which one may well have written by another field.
        check_keys(&order, &[], key)?;
        let ordered = in_order(merged, &order, &server_order, key)?;
        original.insert(name.to_owned(), Value::Array(ordered));
        patch.remove(name);
    }
    Ok(())
}

/// What upstream's merging leaves in the list that it takes the server's order from: what is appended goes into the places of what was
/// deleted, at the end, as far as there are such.
fn left_behind(list: &mut Vec<Value>, new: &[Value], key: &str) {
    let deletes = |item: &&Value| item.get(PATCH).is_some_and(|directive| directive == "delete");
    let gone: HashSet<String> = new.iter().filter(deletes).map(|item| identity(item, key)).collect();
    if key.is_empty() || gone.is_empty() {
        return;
    }
    let places = list.len();
    list.retain(|item| !gone.contains(&identity(item, key)));
    let free = places - list.len();
    let mut known: HashSet<String> = list.iter().map(|item| identity(item, key)).collect();
    list.extend(new.iter().filter(|item| item.get(PATCH).is_none() && known.insert(identity(item, key))).take(free).cloned());
}

/// The elements of the patch must come in the order that the directive names.
fn check_order(new: &[Value], order: &[Value], key: &str) -> Result<(), String> {
    if order.is_empty() || new.is_empty() {
        return Ok(());
    }
    if let Some(other) = new.iter().find(|item| !key.is_empty() && !item.is_object()) {
        return Err(other_than(MAP, other));
    }
    let stays = |item: &&Value| key.is_empty() || item.get(PATCH).is_none_or(|directive| directive != "delete");
    let mut wanted = new.iter().filter(stays).peekable();
    let mut places = order.iter();
    while let Some(item) = wanted.peek() {
        // Directives have no place of their own, but where none is left there is none for them either.
        if places.as_slice().is_empty() {
            let (new, order) = (plain(&Value::from(new.to_vec())), plain(&Value::from(order.to_vec())));
            return Err(format!("The order in patch list:\n{new}\n doesn't match $setElementOrder list:\n{order}\n"));
        }
        let passes = match places.as_slice().first().filter(|_| item.get(PATCH).is_none()) {
            None => true,
            Some(place) => {
                places.next();
                is_same_element(item, place, key)?
            }
        };
        if passes {
            wanted.next();
        }
    }
    Ok(())
}

fn is_same_element(left: &Value, right: &Value, key: &str) -> Result<bool, String> {
    if key.is_empty() {
        return Ok(left == right);
    }
    if let Some(other) = [left, right].into_iter().find(|item| !item.is_object()) {
        return Err(other_than(MAP, other));
    }
    match (left.get(key), right.get(key)) {
        (None, _) => Err(no_merge_key(left, key)),
        (_, None) => Err(no_merge_key(right, key)),
        (left, right) => Ok(left == right),
    }
}

/// Each of the merged elements must have a key, and so must be a map, and each in the directive up to the one of the same key a map.
fn check_keys(merged: &[Value], order: &[Value], key: &str) -> Result<(), String> {
    if key.is_empty() {
        return Ok(());
    }
    let strange = order.iter().position(|item| !item.is_object());
    let known: HashSet<String> = order.iter().take(strange.unwrap_or(order.len())).map(|item| identity(item, key)).collect();
    for item in merged {
        if !item.is_object() {
            return Err(other_than(MAP, item));
        }
        if item.get(key).is_none() {
            return Err(no_merge_key(item, key));
        }
        if let Some(at) = strange.filter(|_| !known.contains(&identity(item, key))) {
            return Err(format!("value for key {at} is not a map"));
        }
    }
    Ok(())
}

/// Merges a list of the patch into one of the object, or takes scalars out of it. In the patch, an element that was appended is one with
/// what was appended, and shows what others of its key have changed in it.
fn merge_list(elem: Option<TypeRef<'_>>, field: Option<&Field>, mut old: Vec<Value>, new: &mut [Value], deletes: bool) -> Result<Vec<Value>, String> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    alike(&old, new)?;
    let key = field.map_or("", |f| f.patch_merge_key.as_ref());
    if let Some(scalar) = old.iter().chain(new.iter()).find(|item| !item.is_object()).cloned() {
        if deletes {
            let gone: HashSet<String> = new.iter().map(Value::to_string).collect();
            old.retain(|item| !gone.contains(&item.to_string()));
            return Ok(old);
        }
        if !key.is_empty() {
            return Err(other_than(MAP, &scalar));
        }
        let mut seen = HashSet::new();
        let server_order = old.clone();
        old.extend(new.iter().cloned());
        old.retain(|item| seen.insert(item.to_string()));
        return in_order(old, new, &server_order, "");
    }
    if key.is_empty() {
        return Err(format!("cannot merge lists without merge key for {}", elem.map_or("struct", go_kind)));
    }
    let Some(rest) = special_elements(&mut old, new, key)? else { return Ok(old) };
    let order: Vec<Value> = rest.iter().filter_map(|at| new.get(*at).cloned()).collect();
    let server_order = old.clone();
    // The first of several elements with one key is meant: ports of one number differ by protocol, which is no part of the key.
    let mut places: HashMap<String, usize> = old.iter().enumerate().rev().map(|(at, item)| (identity(item, key), at)).collect();
    let (mut appended, mut changed) = (HashMap::<usize, usize>::new(), HashMap::<usize, usize>::new());
    for at in rest {
        if new[at].get(key).is_none() {
            return Err(no_merge_key(&new[at], key));
        }
        let own = identity(&new[at], key);
        if let Some(place) = places.get(&own).copied() {
            if let (Some(Value::Object(known)), Value::Object(item)) = (old.get_mut(place), &mut new[at]) {
                merge_map(elem, known, item)?;
            }
            changed.extend(appended.get(&place).map(|first| (place, *first)));
        } else {
            places.insert(own, old.len());
            appended.insert(old.len(), at);
            old.push(new[at].clone());
        }
    }
    // Once, however many have changed it.
    for (place, first) in changed {
        new[first] = old[place].clone();
    }
    in_order(old, &order, &server_order, key)
}

/// The elements of both lists are of one type (upstream's `sliceElementType`).
fn alike(old: &[Value], new: &[Value]) -> Result<(), String> {
    let mut known = None;
    for item in old.iter().chain(new) {
        let found = crate::tree::go_type(item);
        if known.is_none() && item.is_array() {
            return Err(LISTS_OF_LISTS.to_owned());
        }
        if *known.get_or_insert(found) != found {
            return Err(format!("list element types are not identical: [{} {}]", plain(&Value::from(old.to_vec())), plain(&Value::from(new.to_vec()))));
        }
    }
    Ok(())
}

/// Go's kind of a type.
fn go_kind(ty: TypeRef<'_>) -> &'static str {
    match ty.get() {
        Type::String => "string",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        Type::Map { .. } => "map",
        Type::List { .. } | Type::Bytes => "slice",
        _ => "struct",
    }
}

const MAP: &str = "map[string]interface {}";

fn other_than(expected: &str, found: &Value) -> String {
    let found = if found.is_null() { "%!s(<nil>)" } else { crate::tree::go_type(found) };
    format!("expected a {expected}, but received a {found}")
}

fn unknown_directive(directive: &Value, within: &Value) -> String {
    format!("unknown patch type: {} in map: {}", text(directive), plain(within))
}

/// Carries out the elements that are directives, and tells where the others are. `None` if the patch replaces the list, which is then in
/// `old`.
fn special_elements(old: &mut Vec<Value>, new: &[Value], key: &str) -> Result<Option<Vec<usize>>, String> {
    let mut rest = Vec::with_capacity(new.len());
    let mut replace = false;
    let mut gone = HashSet::new();
    for (at, item) in new.iter().enumerate() {
        match item.get(PATCH) {
            None => rest.push(at),
            Some(directive) => match directive.as_str() {
                Some("delete") if item.get(key).is_none() => return Err(no_merge_key(item, key)),
                Some("delete") => drop(gone.insert(identity(item, key))),
                Some("replace") => replace = true,
                Some("merge") => return Err("merging lists cannot yet be specified in the patch".to_owned()),
                _ => return Err(unknown_directive(directive, item)),
            },
        }
    }
    if replace {
        *old = rest.into_iter().filter_map(|at| new.get(at).cloned()).collect();
        check_keys(old, &[], key)?;
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
