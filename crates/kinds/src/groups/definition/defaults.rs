//! Defaults fit their schema, and say nothing that is not in it (`apiserver/schema/defaulting`).

use super::{embedded, schema, structural};
use crate::tree;
use machinery::{
    Map, Value,
    field::{Error, ErrorList, Path},
    structural::{Node, Purpose},
};

/// One step from an embedded resource to a default within its metadata.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item,
}

/// Where in a resource a schema is.
struct Within<'a> {
    resource: &'a Node,
    steps: Vec<Step<'a>>,
    in_meta: bool,
}

/// The schema, its root an embedded resource as every object is one.
fn as_resource(schema: &Value) -> Value {
    let mut clone = schema.clone();
    if let Some(fields) = clone.as_object_mut() {
        fields.insert("x-kubernetes-embedded-resource".into(), true.into());
    }
    clone
}

fn has_defaults(schema: &Value) -> bool {
    schema::any(schema, &|schema| !schema["default"].is_null())
}

/// Whether a schema has defaults of which something is not in it.
pub(super) fn has_unpruned(schema: &Value) -> bool {
    if schema.is_null() || !has_defaults(schema) || !structural::is_structural(schema) {
        return false;
    }
    let mut errors = ErrorList::new();
    check(schema, true, &Path::empty(), &mut errors);
    errors.iter().any(|error| error.detail == UNKNOWN)
}

const UNKNOWN: &str = "must not have unknown fields";

/// Checks the defaults of a structural schema.
pub(super) fn check(schema: &Value, pruned: bool, path: &Path, errors: &mut ErrorList) {
    if !has_defaults(schema) {
        return;
    }
    let whole = as_resource(schema);
    let root = Node::compile(&whole, Purpose::Defaults);
    let mut within = Within { resource: &root, steps: Vec::new(), in_meta: false };
    check_place(&whole, &root, &mut within, pruned, path, errors);
}

fn check_place<'a>(schema: &'a Value, node: &'a Node, within: &mut Within<'a>, pruned: bool, path: &Path, errors: &mut ErrorList) {
    let is_resource = schema["x-kubernetes-embedded-resource"] == true;
    if is_resource {
        let mut within = Within { resource: node, steps: Vec::new(), in_meta: false };
        check_below(schema, node, &mut within, pruned, path, errors);
    } else {
        check_below(schema, node, within, pruned, path, errors);
    }
}

fn check_below<'a>(schema: &'a Value, node: &'a Node, within: &mut Within<'a>, pruned: bool, path: &Path, errors: &mut ErrorList) {
    let is_resource = schema["x-kubernetes-embedded-resource"] == true;
    let default = &schema["default"];
    if !default.is_null() {
        check_default(default, node, within, pruned, &path.child("default"), errors);
    }
    if let (true, Some(items)) = (schema["items"].is_object(), node.items()) {
        within.steps.push(Step::Item);
        check_place(&schema["items"], items, within, pruned, &path.child("items"), errors);
        within.steps.pop();
    }
    for (name, property) in tree::entries(schema, "properties") {
        let Some(node) = node.property(name) else { continue };
        let before = within.in_meta;
        within.in_meta |= is_resource && matches!(name, "metadata" | "apiVersion" | "kind");
        within.steps.push(Step::Field(name));
        check_place(property, node, within, pruned, &path.child("properties").key(name), errors);
        within.steps.pop();
        within.in_meta = before;
    }
}

fn check_default(default: &Value, node: &Node, within: &Within<'_>, pruned: bool, path: &Path, errors: &mut ErrorList) {
    if within.in_meta {
        if let Some(why) = bad_metadata(default, within) {
            errors.push(Error::invalid(path, default.clone(), format!("must result in valid metadata: {why}")));
            return;
        }
        errors.extend(node.validate(default, path));
        return;
    }
    if pruned && node.has_unknown(default) {
        errors.push(Error::invalid(path, default.clone(), UNKNOWN));
    }
    let mut unreadable = None;
    node.embedded(default, path, &mut |path, object| unreadable = unreadable.take().or_else(|| uncoercible(path, object)));
    if let Some(error) = unreadable {
        errors.push(error);
        return;
    }
    let found = embedded::check(node, default, path);
    errors.extend(if found.is_empty() { node.validate(default, path) } else { found });
}

/// What of an embedded resource cannot be read at all.
fn uncoercible(path: &Path, object: &Map<String, Value>) -> Option<Error> {
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key).filter(|value| !value.is_string()) {
            return Some(Error::invalid(&path.child(key), value.clone(), "must be a string"));
        }
    }
    let metadata = object.get("metadata")?;
    embedded::unreadable(metadata).map(|why| Error::invalid(&path.child("metadata"), metadata.clone(), why))
}

/// What is wrong with a resource that has nothing but this default in its metadata.
fn bad_metadata(default: &Value, within: &Within<'_>) -> Option<String> {
    let mut object = default.clone();
    for step in within.steps.iter().rev() {
        object = match step {
            Step::Field(name) => Value::Object(Map::from_iter([((*name).to_owned(), object)])),
            Step::Item => Value::Array(vec![object]),
        };
    }
    let fields = object.as_object_mut()?;
    fields.entry("kind").or_insert_with(|| "Validation".into());
    fields.entry("apiVersion").or_insert_with(|| "validation/v1".into());
    if let Some(error) = uncoercible(&Path::empty(), fields) {
        return Some(error.to_string());
    }
    let found = embedded::check(within.resource, &object, &Path::empty());
    match found.as_slice() {
        [] => None,
        [one] => Some(one.to_string()),
        many => Some(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
    }
}
