//! Whether the schema of a custom resource is structural (`apiextensions-apiserver/pkg/apiserver/schema`): every place has a
//! type, and what is under `anyOf` and the like only narrows it.

use super::checks;
use crate::tree;
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

/// How deep a schema may be nested before it is no longer looked at.
const DEPTH_MAX: usize = 100;

/// Where in its parent a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Checks the schema of one version.
pub(super) fn check(schema: &Value, has_status: bool, path: &Path, errors: &mut ErrorList) {
    if schema.is_null() {
        return;
    }
    if has_status && !tree::empty(&schema["type"]) && schema["type"] != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(Error::invalid(&path.child("type"), schema["type"].clone(), detail));
    }
    if schema["nullable"] == true {
        errors.push(Error::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    // Upstream sorts these by their text.
    let mut found = ErrorList::new();
    place(schema, Level::Root, 0, path, &mut found);
    found.sort_by_key(ToString::to_string);
    errors.extend(found);
    dialect(schema, 0, path, errors);
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

fn place(schema: &Value, level: Level, depth: usize, path: &Path, errors: &mut ErrorList) {
    if depth > DEPTH_MAX {
        return;
    }
    let kind = tree::text(schema, "type");
    if kind == "array" && schema["items"].is_null() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    if schema["items"].is_object() {
        place(&schema["items"], Level::Item, depth + 1, &path.child("items"), errors);
    }
    for (name, property) in tree::entries(schema, "properties") {
        place(property, Level::Field, depth + 1, &path.child("properties").key(name), errors);
    }
    let more = &schema["additionalProperties"];
    if !more.is_null() && level == Level::Root {
        errors.push(Error::forbidden(&path.child("additionalProperties"), "must not be used at the root"));
    }
    if more.is_object() {
        place(more, Level::Field, depth + 1, &path.child("additionalProperties"), errors);
    }
    let (either, kept, embedded) =
        (flag(schema, "x-kubernetes-int-or-string"), flag(schema, "x-kubernetes-preserve-unknown-fields"), flag(schema, "x-kubernetes-embedded-resource"));
    for (set, name) in [(kept, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")] {
        if either && set {
            errors.push(Error::invalid(&path.child(name), true, "must be false if x-kubernetes-int-or-string is true"));
        }
    }
    narrowings(schema, either, depth, path, errors);
    types(schema, level, kind, [either, kept, embedded], path, errors);
}

fn types(schema: &Value, level: Level, kind: &str, [either, kept, embedded]: [bool; 3], path: &Path, errors: &mut ErrorList) {
    let place = path.child("type");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if kind.is_empty() { Error::required(&place, detail) } else { Error::invalid(&place, kind, detail) });
    } else if kind.is_empty() && !either && !kept {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(&place, detail));
    }
    if embedded && !schema["additionalProperties"].is_null() {
        errors.push(Error::forbidden(&path.child("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set"));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(Error::invalid(&place, kind, "must be object at the root"));
    }
    if level == Level::Root || embedded {
        for (name, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
            let property = &schema["properties"][name];
            if !property.is_null() && property["type"] != wanted {
                let place = path.child("properties").key(name).child("type");
                errors.push(Error::invalid(&place, tree::text(property, "type"), format!("must be {wanted}")));
            }
        }
    }
    if level == Level::Root {
        metadata(&schema["properties"]["metadata"], &path.child("properties").key("metadata"), errors);
    }
    if embedded && !kept && tree::empty(&schema["properties"]) {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&path.child("properties"), detail));
    }
}

/// What is known of metadata need not be said; names alone may be narrowed.
fn metadata(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let known = |key: &String| matches!(key.as_str(), "type" | "description" | "default" | "properties");
    let other = schema.as_object().is_some_and(|m| m.iter().any(|(key, value)| !known(key) && !tree::empty(value) && value != false));
    let named = tree::entries(schema, "properties").all(|(key, _)| matches!(key, "name" | "generateName"));
    if other || !named {
        errors.push(Error::forbidden(path, "must not specify anything other than name and generateName, but metadata is implicitly specified"));
    }
}

/// `anyOf`, `allOf`, `oneOf`, `not`.
fn narrowings(schema: &Value, either: bool, depth: usize, path: &Path, errors: &mut ErrorList) {
    let is_pattern = |list: &[Value]| list.len() == 2 && list[0]["type"] == "integer" && list[1]["type"] == "string";
    for key in ["anyOf", "allOf", "oneOf"] {
        let list = tree::list(schema, key);
        if key == "anyOf" && either && is_pattern(list) {
            continue;
        }
        for (at, nested) in list.iter().enumerate() {
            let skip = key == "allOf" && at == 0 && either && is_pattern(tree::list(nested, "anyOf"));
            if !skip {
                narrowing(nested, depth + 1, &path.child(key).index(at), errors);
            }
        }
    }
    if schema["not"].is_object() {
        narrowing(&schema["not"], depth + 1, &path.child("not"), errors);
    }
}

fn narrowing(schema: &Value, depth: usize, path: &Path, errors: &mut ErrorList) {
    if depth > DEPTH_MAX {
        return;
    }
    narrowings(schema, false, depth, path, errors);
    if schema["items"].is_object() {
        narrowing(&schema["items"], depth + 1, &path.child("items"), errors);
    }
    for (name, property) in tree::entries(schema, "properties") {
        narrowing(property, depth + 1, &path.child("properties").key(name), errors);
    }
    for (key, word) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
    ] {
        let value = &schema[key];
        if !(value.is_null() || (word != "undefined" && (tree::empty(value) || value == false))) {
            errors.push(Error::forbidden(&path.child(key), format!("must be {word} to be structural")));
        }
    }
    if !schema["properties"]["metadata"].is_null() {
        errors.push(Error::forbidden(&path.child("properties").key("metadata"), "must not be specified in a nested context"));
    }
}

/// What JSON Schema has and custom resources have not.
fn dialect(schema: &Value, depth: usize, path: &Path, errors: &mut ErrorList) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    if depth > DEPTH_MAX || !schema.is_object() {
        return;
    }
    let kind = tree::text(schema, "type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !tree::empty(&schema[key]) {
            errors.push(Error::forbidden(&path.child(key), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        errors.push(Error::forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative"));
    }
    if schema["items"].is_array() {
        errors.push(Error::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(&path.child("uniqueItems"), detail));
    }
    let more = &schema["additionalProperties"];
    if !tree::empty(&schema["properties"]) && (more.is_object() || more == false) {
        errors.push(Error::forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive"));
    }
    lists(schema, kind, path, errors);
    dialect(more, depth + 1, &path.child("additionalProperties"), errors);
    dialect(&schema["items"], depth + 1, &path.child("items"), errors);
    for (name, property) in tree::entries(schema, "properties") {
        dialect(property, depth + 1, &path.child("properties").key(name), errors);
    }
}

/// How lists and maps are merged.
fn lists(schema: &Value, kind: &str, path: &Path, errors: &mut ErrorList) {
    let (list_type, keys) = (&schema["x-kubernetes-list-type"], tree::list(schema, "x-kubernetes-list-map-keys"));
    if let Some(word) = list_type.as_str() {
        let place = path.child("x-kubernetes-list-type");
        if !matches!(word, "atomic" | "set" | "map") {
            errors.push(Error::not_supported(&place, word, &["atomic", "map", "set"]));
        }
        if kind != "array" {
            let place = path.child("type");
            errors.push(match kind {
                "" => Error::required(&place, "must be array if x-kubernetes-list-type is specified"),
                kind => Error::invalid(&place, kind, "must be array if x-kubernetes-list-type is specified"),
            });
        }
    }
    let place = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() && list_type == "map" {
        errors.push(Error::required(&place, "must not be empty if x-kubernetes-list-type is map"));
    }
    if !keys.is_empty() && list_type != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        let place = path.child("x-kubernetes-list-type");
        errors.push(if list_type.is_null() { Error::required(&place, detail) } else { Error::invalid(&place, list_type.clone(), detail) });
    }
    for (at, key) in checks::texts(schema, "x-kubernetes-list-map-keys") {
        if schema["items"]["properties"][key].is_null() {
            errors.push(Error::invalid(&place.index(at), key, "entries must all be names of item properties"));
        }
    }
    if let Some(word) = schema["x-kubernetes-map-type"].as_str()
        && !matches!(word, "atomic" | "granular")
    {
        errors.push(Error::not_supported(&path.child("x-kubernetes-map-type"), word, &["atomic", "granular"]));
    }
}
