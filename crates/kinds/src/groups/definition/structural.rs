//! Whether the schema of a custom resource is structural (`apiextensions-apiserver/pkg/apiserver/schema`): every place has a
//! type, what is under `anyOf` and the like only narrows it, and what the root narrows is there.

use crate::tree;
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    regexp::Regex,
};

/// How deep a schema may be nested before it is no longer looked at.
pub(super) const DEPTH_MAX: usize = 128;

/// Whether one of the schemas of which this one is made is such.
pub(super) fn any(schema: &Value, test: &dyn Fn(&Value) -> bool) -> bool {
    any_below(schema, 0, &mut |schema| test(schema))
}

pub(super) fn any_below(schema: &Value, depth: usize, test: &mut dyn FnMut(&Value) -> bool) -> bool {
    if depth > DEPTH_MAX || !schema.is_object() {
        return false;
    }
    if test(schema) {
        return true;
    }
    let lists = ["items", "allOf", "anyOf", "oneOf"].into_iter().flat_map(|key| tree::list(schema, key));
    let maps = ["properties", "patternProperties", "definitions", "dependencies"];
    if any_below(&schema["items"], depth + 1, test) || lists.into_iter().any(|schema| any_below(schema, depth + 1, test)) {
        return true;
    }
    any_below(&schema["not"], depth + 1, test)
        || maps.into_iter().any(|key| tree::entries(schema, key).any(|(_, schema)| any_below(schema, depth + 1, test)))
        || ["additionalProperties", "additionalItems"].into_iter().any(|key| any_below(&schema[key], depth + 1, test))
}

/// Where in its parent a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Whether a schema can be made structural, and is.
pub(super) fn is_structural(schema: &Value) -> bool {
    unfit(schema).is_none() && check(schema, &Path::empty()).is_empty()
}

/// Why a schema has no structural form at all.
pub(crate) fn unfit(schema: &Value) -> Option<String> {
    unfit_below(schema, 0)
}

fn unfit_below(schema: &Value, depth: usize) -> Option<String> {
    if depth > DEPTH_MAX || !schema.is_object() {
        return None;
    }
    for (key, name) in [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ] {
        if !tree::empty(&schema[key]) {
            return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
        }
    }
    let nested = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|key| tree::list(schema, key));
    let mut inner = unfit_below(&schema["not"], depth + 1).or_else(|| nested.into_iter().find_map(|schema| unfit_below(schema, depth + 1)));
    if inner.is_none() && schema["x-kubernetes-preserve-unknown-fields"] == false {
        inner = Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".into());
    }
    if inner.is_none() && !tree::list(schema, "items").is_empty() {
        inner = Some("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    inner
        .or_else(|| unfit_below(&schema["items"], depth + 1))
        .or_else(|| tree::entries(schema, "properties").find_map(|(_, schema)| unfit_below(schema, depth + 1)))
        .or_else(|| unfit_below(&schema["additionalProperties"], depth + 1))
}

/// What is not structural, in the order of the texts.
pub(crate) fn check(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    place(schema, Level::Root, 0, path, &mut errors);
    missing(schema, schema, 0, path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
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
    let skip =
        Skip { any_of: is_either(tree::list(schema, "anyOf")), first: tree::list(schema, "allOf").first().is_some_and(|s| is_either(tree::list(s, "anyOf"))) };
    narrowings(schema, skip, depth, path, errors);
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
    if level == Level::Root && !schema["properties"]["metadata"].is_null() {
        metadata(&schema["properties"]["metadata"], &path.child("properties").key("metadata"), errors);
    }
    if embedded && !kept && tree::empty(&schema["properties"]) {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&path.child("properties"), detail));
    }
}

/// What is known of metadata need not be said; names alone may be narrowed.
fn metadata(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let known = |key: &String| matches!(key.as_str(), "type" | "default" | "properties");
    let other = schema.as_object().is_some_and(|m| m.iter().any(|(key, value)| !known(key) && !tree::empty(value) && value != false));
    let named = tree::entries(schema, "properties").all(|(key, _)| matches!(key, "name" | "generateName"));
    if other || !named {
        errors.push(Error::forbidden(path, "must not specify anything other than name and generateName, but metadata is implicitly specified"));
    }
}

/// The one way in which a narrowing schema may name types.
fn is_either(list: &[Value]) -> bool {
    let only = |schema: &Value, kind: &str| {
        schema["type"] == kind && schema.as_object().is_some_and(|m| m.iter().all(|(key, value)| key == "type" || tree::empty(value) || value == false))
    };
    matches!(list, [first, second] if only(first, "integer") && only(second, "string"))
}

/// What of a schema need not be looked at.
#[derive(Clone, Copy, Default)]
struct Skip {
    /// Its `anyOf`.
    any_of: bool,
    /// That of the first of its `allOf`.
    first: bool,
}

/// `anyOf`, `allOf`, `oneOf`, `not`, and the pattern.
fn narrowings(schema: &Value, skip: Skip, depth: usize, path: &Path, errors: &mut ErrorList) {
    for key in ["anyOf", "allOf", "oneOf"] {
        if key == "anyOf" && skip.any_of {
            continue;
        }
        for (at, nested) in tree::list(schema, key).iter().enumerate() {
            let inner = Skip { any_of: key == "allOf" && at == 0 && skip.first, first: false };
            narrowing(nested, inner, depth + 1, &path.child(key).index(at), errors);
        }
    }
    if schema["not"].is_object() {
        narrowing(&schema["not"], Skip::default(), depth + 1, &path.child("not"), errors);
    }
    let pattern = tree::text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(why) = Regex::new(pattern)
    {
        errors.push(Error::invalid(&path.child("pattern"), pattern, format!("must be a valid regular expression, but isn't: {why}")));
    }
}

fn narrowing(schema: &Value, skip: Skip, depth: usize, path: &Path, errors: &mut ErrorList) {
    if depth > DEPTH_MAX {
        return;
    }
    narrowings(schema, skip, depth, path, errors);
    if schema["items"].is_object() {
        narrowing(&schema["items"], Skip::default(), depth + 1, &path.child("items"), errors);
    }
    for (name, property) in tree::entries(schema, "properties") {
        narrowing(property, Skip::default(), depth + 1, &path.child("properties").key(name), errors);
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
        ("x-kubernetes-validations", "empty"),
    ] {
        let value = &schema[key];
        let unsaid = match key {
            // No additional properties are as good as none said.
            "additionalProperties" => value == false,
            _ => word != "undefined" && (tree::empty(value) || value == false),
        };
        if !value.is_null() && !unsaid {
            errors.push(Error::forbidden(&path.child(key), format!("must be {word} to be structural")));
        }
    }
    if !schema["properties"]["metadata"].is_null() {
        errors.push(Error::forbidden(&path.child("properties").key("metadata"), "must not be specified in a nested context"));
    }
}

/// What narrowing schemas of `nested` speak of, and `schema` does not: `said` is where they do.
fn missing(nested: &Value, schema: &Value, depth: usize, path: &Path, said: &Path, errors: &mut ErrorList) {
    let mut below = |nested: &Value, said: &Path| missing_in(nested, schema, depth + 1, path, said, errors);
    below(&nested["not"], &said.child("not"));
    for key in ["allOf", "anyOf", "oneOf"] {
        for (at, nested) in tree::list(nested, key).iter().enumerate() {
            below(nested, &said.child(key).index(at));
        }
    }
}

fn missing_in(nested: &Value, schema: &Value, depth: usize, path: &Path, said: &Path, errors: &mut ErrorList) {
    if depth > DEPTH_MAX || !nested.is_object() {
        return;
    }
    if !schema.is_object() {
        errors.push(Error::required(path, format!("because it is defined in {said}")));
        return;
    }
    missing(nested, schema, depth, path, said, errors);
    missing_in(&nested["items"], &schema["items"], depth + 1, &path.child("items"), &said.child("items"), errors);
    for (name, nested) in tree::entries(nested, "properties") {
        let (path, said) = (path.child("properties").key(name), said.child("properties").key(name));
        missing_in(nested, &schema["properties"][name], depth + 1, &path, &said, errors);
    }
}
