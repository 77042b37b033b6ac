//! What an OpenAPI schema of a definition may say, place by place.

use super::{Asked, defaults, shown, structural};
use crate::{
    groups::definition_rules::{self, Options},
    rules::LISTS_TOLD_MAX,
    tree,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use std::collections::HashSet;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What the root may say besides its type if the status is apart, by the names of the original's fields.
const ROOT_FIELDS: &str = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems \
                           MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations";
/// What it may not, in the order in which the original looks: before the type and after it.
const NOT_AT_ROOT: [(&str, bool); 22] = [
    ("id", true),
    ("$schema", true),
    ("$ref", true),
    ("nullable", false),
    ("default", false),
    ("enum", false),
    ("maxProperties", false),
    ("minProperties", false),
    ("allOf", false),
    ("oneOf", false),
    ("anyOf", false),
    ("not", false),
    ("additionalProperties", false),
    ("patternProperties", false),
    ("dependencies", false),
    ("additionalItems", false),
    ("definitions", false),
    ("x-kubernetes-embedded-resource", false),
    ("x-kubernetes-int-or-string", false),
    ("x-kubernetes-list-map-keys", false),
    ("x-kubernetes-list-type", false),
    ("x-kubernetes-map-type", false),
];

/// Whether a field of the original's form has more than nothing in it: what it holds by a pointer may be false or empty.
fn is_said(schema: &Value, key: &str) -> bool {
    match key {
        "id" | "$schema" => !tree::text(schema, key).is_empty(),
        "nullable" | "x-kubernetes-embedded-resource" | "x-kubernetes-int-or-string" => schema[key] == true,
        _ => !schema[key].is_null(),
    }
}

/// Calls `see` with a schema and all that it is made of.
pub(super) fn visit(schema: &Value, see: &mut dyn FnMut(&Value)) {
    structural::any_below(schema, 0, &mut |schema| {
        see(schema);
        false
    });
}

/// Whether a schema says what only structural schemas may.
pub(super) fn has_extensions(schema: &Value) -> bool {
    let flags = ["x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"].into_iter().any(|key| schema[key] == true);
    let there = ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type"].into_iter().any(|key| !schema[key].is_null());
    flags || there || ["x-kubernetes-list-map-keys", "x-kubernetes-validations"].into_iter().any(|key| !tree::list(schema, key).is_empty())
}

pub(super) fn is_unknown_type(kind: &str) -> bool {
    !kind.is_empty() && !TYPES.contains(&kind)
}

/// Whether a list is a set of what is merged field by field.
pub(super) fn is_set_of_parts(schema: &Value) -> bool {
    schema["x-kubernetes-list-type"] == "set" && part_of_set(schema).is_some()
}

/// What the items of a set lack.
fn part_of_set(schema: &Value) -> Option<&'static str> {
    let items = &schema["items"];
    match tree::text(items, "type") {
        "array" if !items["x-kubernetes-list-type"].is_null() && items["x-kubernetes-list-type"] != "atomic" => Some("x-kubernetes-list-type"),
        "object" if items["x-kubernetes-map-type"] != "atomic" => Some("x-kubernetes-map-type"),
        _ => None,
    }
}

/// What the places above say of one.
#[derive(Clone, Copy, Default)]
struct Above<'a> {
    /// Why there may be no default.
    no_default: Option<&'a str>,
    in_meta: bool,
}

/// The schema of one version, or of all: `validation` is what holds it.
pub(super) fn check(validation: &Value, has_status: bool, asked: Asked, options: &Options, path: &Path, errors: &mut ErrorList) {
    let (schema, place) = (&validation["openAPIV3Schema"], path.child("openAPIV3Schema"));
    if schema.is_null() {
        return;
    }
    let before = errors.len();
    if has_status {
        check_root(schema, &place, errors);
    }
    if schema["nullable"] == true {
        errors.push(Error::forbidden(&place.child("nullable"), "nullable cannot be true at the root"));
    }
    let (mut unfit, mut may_have_rules) = (None, false);
    if asked.structural {
        // What cannot be made structural is told below in better words, if there are any.
        unfit = structural::unfit(schema);
        if unfit.is_none() {
            let found = structural::check(schema, &place);
            let known = errors.len();
            if found.is_empty() {
                defaults::check(schema, asked.pruned_defaults, &place, errors);
                may_have_rules = errors.len() == known;
            } else {
                errors.extend(found);
            }
        }
    }
    let told = errors.len();
    check_place(schema, true, 0, Above::default(), asked, &place, errors);
    if may_have_rules {
        let found = definition_rules::check(schema, &place, errors.get(told..).unwrap_or_default(), options);
        errors.extend(found);
    }
    if let Some(why) = unfit.filter(|_| errors.len() == before) {
        errors.push(Error::invalid(&place, "", why));
    }
}

/// The status is checked by its own part of the schema: what the root says of all of it would be lost.
fn check_root(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let forbidden = |first: bool| NOT_AT_ROOT.iter().any(|(key, before)| *before == first && is_said(schema, key));
    let kind = tree::text(schema, "type");
    if !forbidden(true) && !kind.is_empty() && kind != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(Error::invalid(&path.child("type"), kind, detail));
    } else if forbidden(true) || forbidden(false) {
        let detail = format!("only [{ROOT_FIELDS}] fields are allowed at the root of the schema if the status subresource is enabled");
        errors.push(shown::invalid(path, &shown::schema(schema), &detail));
    }
}

fn check_place(schema: &Value, is_root: bool, depth: usize, above: Above<'_>, asked: Asked, path: &Path, errors: &mut ErrorList) {
    if depth > structural::DEPTH_MAX || !schema.is_object() {
        return;
    }
    dialect(schema, above, asked, path, errors);
    if schema["uniqueItems"] == true {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(&path.child("uniqueItems"), detail));
    }
    let more = &schema["additionalProperties"];
    if !more.is_null() {
        if !tree::empty(&schema["properties"]) && more != true {
            errors.push(Error::forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive"));
        }
        let no_default = if above.in_meta { Some("inside additionalProperties applying to object metadata") } else { above.no_default };
        check_place(more, false, depth + 1, Above { no_default, ..above }, asked, &path.child("additionalProperties"), errors);
    }
    for (name, property) in tree::entries(schema, "properties") {
        let is_meta = (is_root || schema["x-kubernetes-embedded-resource"] == true) && matches!(name, "metadata" | "kind" | "apiVersion");
        let reason = format!("in top-level {name}");
        let no_default = if is_meta && is_root { Some(reason.as_str()) } else { above.no_default };
        let above = Above { no_default, in_meta: above.in_meta || is_meta };
        check_place(property, false, depth + 1, above, asked, &path.child("properties").key(name), errors);
    }
    check_place(&schema["not"], false, depth + 1, above, asked, &path.child("not"), errors);
    for key in ["allOf", "oneOf", "anyOf"] {
        for (at, nested) in tree::list(schema, key).iter().enumerate() {
            check_place(nested, false, depth + 1, above, asked, &path.child(key).index(at), errors);
        }
    }
    for (name, nested) in tree::entries(schema, "definitions") {
        check_place(nested, false, depth + 1, above, asked, &path.child("definitions").key(name), errors);
    }
    check_place(&schema["items"], false, depth + 1, above, asked, &path.child("items"), errors);
    for (at, nested) in tree::list(schema, "items").iter().enumerate() {
        check_place(nested, false, depth + 1, above, asked, &path.child("items").index(at), errors);
    }
    for (name, nested) in tree::entries(schema, "dependencies") {
        check_place(nested, false, depth + 1, above, asked, &path.child("dependencies").key(name), errors);
    }
    extensions(schema, asked, path, errors);
    definition_rules::check_place(schema, path, errors);
}

/// What JSON Schema has and custom resources have not.
fn dialect(schema: &Value, above: Above<'_>, asked: Asked, path: &Path, errors: &mut ErrorList) {
    let kind = tree::text(schema, "type");
    if asked.known_types && is_unknown_type(kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    if let Some(reason) = above.no_default.filter(|_| !schema["default"].is_null()) {
        errors.push(Error::forbidden(&path.child("default"), format!("must not be set {reason}")));
    }
    for (key, may_be_empty) in
        [("id", true), ("additionalItems", false), ("patternProperties", true), ("definitions", true), ("dependencies", false), ("$ref", false)]
    {
        let value = &schema[key];
        if !(value.is_null() || may_be_empty && tree::empty(value)) {
            errors.push(Error::forbidden(&path.child(key), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        errors.push(Error::forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative"));
    }
    if !tree::list(schema, "items").is_empty() {
        errors.push(Error::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if above.in_meta && schema["x-kubernetes-embedded-resource"] == true {
        errors.push(Error::forbidden(&path.child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta"));
    }
}

/// An error of a type that another word asks for.
fn type_for(kind: &str, path: &Path, detail: &str) -> Error {
    match kind {
        "" => Error::required(&path.child("type"), detail),
        kind => Error::invalid(&path.child("type"), kind, detail),
    }
}

/// How lists and maps are merged.
fn extensions(schema: &Value, asked: Asked, path: &Path, errors: &mut ErrorList) {
    let kind = tree::text(schema, "type");
    let (list_type, map_type) = (&schema["x-kubernetes-list-type"], &schema["x-kubernetes-map-type"]);
    let list_place = path.child("x-kubernetes-list-type");
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        errors.push(Error::invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"));
    }
    if let Some(word) = map_type.as_str() {
        if kind != "object" {
            errors.push(type_for(kind, path, "must be object if x-kubernetes-map-type is specified"));
        }
        if !matches!(word, "atomic" | "granular") {
            errors.push(Error::not_supported(&path.child("x-kubernetes-map-type"), word, &["atomic", "granular"]));
        }
    }
    if !list_type.is_null() && kind != "array" {
        errors.push(type_for(kind, path, "must be array if x-kubernetes-list-type is specified"));
    } else if let Some(key) = part_of_set(schema).filter(|_| asked.atomic_sets && list_type == "set") {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        errors.push(Error::invalid(&path.child("items").child(key), schema["items"]["x-kubernetes-list-type"].clone(), detail));
    }
    if let Some(word) = list_type.as_str().filter(|word| !matches!(*word, "atomic" | "set" | "map")) {
        errors.push(Error::not_supported(&list_place, word, &["atomic", "set", "map"]));
    }
    if !tree::list(schema, "x-kubernetes-list-map-keys").is_empty() && list_type != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(if list_type.is_null() { Error::required(&list_place, detail) } else { Error::invalid(&list_place, list_type.clone(), detail) });
    }
    if list_type == "map" {
        keyed_list(schema, path, errors);
    }
    if asked.map_keys {
        errors.extend(map_keys(schema, path));
    }
}

/// A list whose elements are told apart by keys.
fn keyed_list(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let (keys, items) = (tree::list(schema, "x-kubernetes-list-map-keys"), &schema["items"]);
    let (keys_place, items_place) = (path.child("x-kubernetes-list-map-keys"), path.child("items"));
    if keys.is_empty() {
        errors.push(Error::required(&keys_place, "must not be empty if x-kubernetes-list-type is map"));
    }
    let kind = tree::text(items, "type");
    match items {
        Value::Null => errors.push(Error::required(&items_place, "must have a schema if x-kubernetes-list-type is map")),
        Value::Object(_) if kind != "object" => {
            errors.push(Error::invalid(&items_place.child("type"), kind, "must be object if parent array's x-kubernetes-list-type is map"));
        }
        Value::Object(_) => {
            let (mut seen, before) = (HashSet::new(), errors.len());
            for key in keys {
                // Each error holds all keys.
                if errors.len() - before >= LISTS_TOLD_MAX {
                    break;
                }
                match items["properties"].get(key.as_str().unwrap_or_default()) {
                    Some(property) if matches!(tree::text(property, "type"), "array" | "object") => {
                        let place = items_place.child("properties").key(key.as_str().unwrap_or_default()).child("type");
                        errors.push(Error::invalid(&place, kind, "must be a scalar type if parent array's x-kubernetes-list-type is map"));
                    }
                    Some(_) => {}
                    None => errors.push(Error::invalid(&keys_place, keys.to_vec(), "entries must all be names of item properties")),
                }
                if !seen.insert(key.as_str()) {
                    errors.push(Error::invalid(&keys_place, keys.to_vec(), "must not contain duplicate entries"));
                }
            }
        }
        other => {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            errors.push(shown::invalid(&items_place, &shown::items(other), detail));
        }
    }
}

/// Keys of lists are always there and never null, and neither are the elements of what is no plain list.
pub(super) fn map_keys(schema: &Value, path: &Path) -> ErrorList {
    let (mut errors, items) = (ErrorList::new(), &schema["items"]);
    let word = tree::text(schema, "x-kubernetes-list-type");
    if !items.is_object() || !matches!(word, "set" | "map") {
        return errors;
    }
    let place = path.child("items");
    if items["nullable"] == true {
        errors.push(Error::forbidden(&place.child("nullable"), format!("cannot be nullable when x-kubernetes-list-type is {word}")));
    }
    if word == "set" {
        return errors;
    }
    let required: HashSet<&str> = tree::list(items, "required").iter().filter_map(Value::as_str).collect();
    for key in tree::list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = items["properties"].get(key) else { continue };
        let place = place.child("properties").key(key);
        if property["default"].is_null() && !required.contains(key) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&place.child("default"), detail));
        }
        if property["nullable"] == true {
            errors.push(Error::forbidden(&place.child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"));
        }
    }
    errors
}
