//! Small moves on the value tree. None of them panics: a branch of an unexpected type is left alone.

use machinery::{Map, Value, defaulting, gvk::Gvk, schema};
use std::{borrow::Cow, collections::HashMap};

/// An object's fields.
pub(crate) type Fields = Map<String, Value>;

pub(crate) use machinery::tree::text;

/// The elements of a list; none if it is absent.
pub(crate) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    machinery::tree::items(&value[key])
}

/// The elements of a list by a text that they have; the first of those with the same counts.
pub(crate) fn by_text<'v>(list: &'v [Value], key: &str) -> HashMap<&'v str, &'v Value> {
    let mut known = HashMap::with_capacity(list.len());
    for item in list {
        known.entry(text(item, key)).or_insert(item);
    }
    known
}

/// The entries of a map; none if it is absent.
pub(crate) fn entries<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v str, &'v Value)> {
    value[key].as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

/// Whether a value is absent, null, or an empty text, list or map.
pub(crate) fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Takes annotations from an object or a template, and the map of them if it had no others.
pub(crate) fn drop_annotations(owner: &mut Value, names: &[&str]) {
    let Some(metadata) = owner.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    let before = annotations.len();
    annotations.retain(|name, _| !names.contains(&name.as_str()));
    if before > 0 && annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// These annotations are the old object's.
pub(crate) fn keep_annotations(obj: &mut Value, old: &Value, names: &[&str]) {
    drop_annotations(obj, names);
    let kept = &old["metadata"]["annotations"];
    for (name, value) in names.iter().filter_map(|name| Some((*name, kept.get(*name)?))) {
        if let Some(annotations) = at(obj, &["metadata", "annotations"]) {
            annotations.insert(name.to_owned(), value.clone());
        }
    }
}

/// The fields of a nested object, made if absent.
pub(crate) fn child<'f>(fields: &'f mut Fields, key: &str) -> Option<&'f mut Fields> {
    if fields.get(key).is_none_or(Value::is_null) {
        fields.insert(key.to_owned(), Value::Object(Map::new()));
    }
    fields.get_mut(key).and_then(Value::as_object_mut)
}

/// The fields of a nested object, if it is there.
pub(crate) fn present<'f>(fields: &'f mut Fields, key: &str) -> Option<&'f mut Fields> {
    fields.get_mut(key).and_then(Value::as_object_mut)
}

/// The fields of the object at a path, made where absent.
pub(crate) fn at<'f>(value: &'f mut Value, path: &[&str]) -> Option<&'f mut Fields> {
    let mut fields = value.as_object_mut()?;
    for key in path {
        fields = child(fields, key)?;
    }
    Some(fields)
}

/// The objects in a list.
pub(crate) fn each<'f>(fields: &'f mut Fields, key: &str) -> impl Iterator<Item = &'f mut Fields> {
    fields.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets what is absent.
pub(crate) fn fill(fields: &mut Fields, key: &str, value: impl Into<Value>) {
    if fields.get(key).is_none_or(Value::is_null) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets a text that is absent or empty.
pub(crate) fn fill_text(fields: &mut Fields, key: &str, value: &str) {
    if fields.get(key).is_none_or(|v| v.is_null() || v == "") {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets a field of the metadata.
pub(crate) fn set_meta(obj: &mut Value, key: &str, value: Value) {
    if let Some(metadata) = at(obj, &["metadata"]) {
        metadata.insert(key.to_owned(), value);
    }
}

/// The status of a kind's new object: what Go writes for an empty one.
pub(crate) fn reset_status(obj: &mut Value) {
    let gvk = Gvk::parse(text(obj, "apiVersion"), text(obj, "kind"));
    let ty = schema::builtin().kind(&gvk);
    let Some(fields) = obj.as_object_mut() else { return };
    let had = fields.remove("status").is_some();
    if let Some(status) = ty.and_then(|ty| ty.child("status")).filter(|_| had) {
        let mut value = Value::Object(Map::new());
        defaulting::apply(status, &mut value);
        fields.insert("status".into(), value);
    }
}

/// A top-level field is the old object's.
pub(crate) fn keep(obj: &mut Value, old: &Value, key: &str) {
    let Some(fields) = obj.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => fields.insert(key.to_owned(), value.clone()),
        None => fields.remove(key),
    };
}

/// All top-level fields but metadata, status and the type are the old object's.
pub(crate) fn keep_all_but_status(obj: &mut Value, old: &Value) {
    let (Some(fields), Some(old)) = (obj.as_object_mut(), old.as_object()) else { return };
    let own = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    fields.retain(|key, _| own(key) || old.contains_key(key));
    for (key, value) in old {
        if !own(key) && fields.get(key) != Some(value) {
            fields.insert(key.clone(), value.clone());
        }
    }
}

/// Everything but the field at a path and who manages what is the old object's.
pub(crate) fn keep_all_but(obj: &mut Value, old: &Value, path: &[&str]) {
    let new = std::mem::replace(obj, old.clone());
    for path in [&["metadata", "managedFields"], path] {
        let Some((key, owner)) = path.split_last() else { continue };
        let wanted = path.iter().fold(&new, |value, key| &value[*key]);
        match (wanted, at(obj, owner)) {
            (Value::Null, Some(fields)) => drop(fields.remove(*key)),
            (wanted, Some(fields)) => drop(fields.insert((*key).to_owned(), wanted.clone())),
            (_, None) => {}
        }
    }
}

/// Whether anything but type, metadata and status differs. A list that is empty is none.
pub(crate) fn body_differs(obj: &Value, old: &Value) -> bool {
    let own = |key: &str| !matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let none = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let body = |v: &'_ Value| v.as_object().map(|m| m.iter().filter(|(k, v)| own(k) && !none(v)).count());
    let same = |(key, value): (&String, &Value)| !own(key) || none(value) || old.get(key) == Some(value);
    body(obj) != body(old) || !obj.as_object().is_none_or(|m| m.iter().all(same))
}

/// An object without those of these lists that are empty: to have them is no change.
pub(crate) fn without_blanks<'v>(obj: &'v Value, paths: &[&str]) -> Cow<'v, Value> {
    let is_blank = |path: &&str| path.split('.').fold(obj, |value, key| &value[key]).as_array().is_some_and(Vec::is_empty);
    let mut plain = Cow::Borrowed(obj);
    for (above, last) in paths.iter().copied().filter(is_blank).filter_map(|path| path.rsplit_once('.')) {
        let above: Vec<&str> = above.split('.').collect();
        if let Some(fields) = at(plain.to_mut(), &above) {
            fields.remove(last);
        }
    }
    plain
}

/// The generation is one more than the old object's.
pub(crate) fn bump_generation(obj: &mut Value, old: &Value) {
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0).saturating_add(1);
    set_meta(obj, "generation", generation.into());
}

/// All metadata but managed fields and the resource version is the old object's: status updates of custom resources.
pub(crate) fn keep_all_but_managers(obj: &mut Value, old: &Value) {
    let Some(new) = at(obj, &["metadata"]) else { return };
    let Some(old) = old["metadata"].as_object() else { return };
    let own = |key: &str| matches!(key, "managedFields" | "resourceVersion");
    new.retain(|key, _| own(key) || old.contains_key(key));
    for (key, value) in old {
        if !own(key) && new.get(key) != Some(value) {
            new.insert(key.clone(), value.clone());
        }
    }
}
