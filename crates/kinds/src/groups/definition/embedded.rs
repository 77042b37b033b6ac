//! Resources within resources: what each must have (`apiserver/schema/objectmeta`).

use crate::{NameRule, Strategy, meta, tree};
use machinery::{
    Map, Value,
    field::{Error, ErrorList, Path},
    gvk::Gvk,
    json::{self, Validation},
    names, schema,
    structural::Node,
};

/// How embedded resources are named: anything that can be part of a path.
struct Names;

impl Strategy for Names {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn any_finalizer(&self) -> bool {
        true
    }
}

/// Checks all resources that are embedded in a value at `path`.
pub(crate) fn check(node: &Node, value: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    node.embedded(value, path, &mut |path, object| check_one(path, object, &mut errors));
    errors
}

fn check_one(path: &Path, object: &Map<String, Value>, errors: &mut ErrorList) {
    for key in ["apiVersion", "kind"] {
        if !object.contains_key(key) {
            errors.push(Error::required(&path.child(key), ""));
        }
    }
    for (key, value) in object {
        let place = path.child(key);
        match (key.as_str(), value.as_str()) {
            ("apiVersion" | "kind", None) => errors.push(Error::invalid(&place, value.clone(), "must be a string")),
            ("apiVersion" | "kind", Some("")) => errors.push(Error::invalid(&place, "", "must not be empty")),
            ("apiVersion", Some(text)) if text.matches('/').count() > 1 => {
                errors.push(Error::invalid(&place, text, format!("unexpected GroupVersion string: {text}")));
            }
            ("kind", Some(text)) => {
                let problems = names::dns1035_label(&names::lower(text));
                if !problems.is_empty() {
                    errors.push(Error::invalid(&place, text, format!("may have mixed case, but should otherwise match: {}", problems.join(","))));
                }
            }
            ("metadata", _) => check_metadata(path, value, errors),
            _ => {}
        }
    }
}

fn check_metadata(path: &Path, metadata: &Value, errors: &mut ErrorList) {
    if let Some(why) = unreadable(metadata) {
        errors.push(Error::invalid(&path.child("metadata"), metadata.clone(), why));
        return;
    }
    let mut object = Map::from_iter([("metadata".to_owned(), metadata.clone())]);
    if let Some(metadata) = tree::child(&mut object, "metadata") {
        tree::fill_text(metadata, "name", "fakename");
    }
    let namespaced = !tree::text(metadata, "namespace").is_empty();
    for mut error in meta::validate_meta(&Value::Object(object), namespaced, &Names) {
        error.path = path.child(error.path.as_str());
        errors.push(error);
    }
}

/// Why metadata cannot be read as such, in Go's words.
pub(super) fn unreadable(metadata: &Value) -> Option<String> {
    json::normalize(metadata.clone(), metadata_type()?, Validation::Ignore).err().map(|status| status.message)
}

fn metadata_type() -> Option<schema::TypeRef<'static>> {
    schema::builtin().kind(&Gvk::new("", "v1", "Pod"))?.child("metadata")
}

/// Takes what metadata has not out of the metadata of resources in a schema's defaults, as upstream does when it looks at them.
pub(crate) fn tidy_defaults(schema: &mut Value) {
    if !schema["default"].is_null() {
        let mut default = schema["default"].take();
        tidy(schema, &mut default);
        schema["default"] = default;
    }
    let Some(fields) = schema.as_object_mut() else { return };
    for (name, below) in fields {
        match (name.as_str(), below) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(tidy_defaults),
            ("items" | "additionalProperties", below @ Value::Object(_)) => tidy_defaults(below),
            _ => {}
        }
    }
}

fn tidy(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let read = |metadata: &Value| Some(json::normalize(metadata.clone(), metadata_type()?, Validation::Ignore).ok()?.value);
            if schema["x-kubernetes-embedded-resource"] == true
                && let Some(mut metadata) = fields.get("metadata").filter(|metadata| metadata.is_object()).and_then(read)
            {
                if let Some(metadata) = metadata.as_object_mut().filter(|metadata| metadata.get("creationTimestamp").is_some_and(Value::is_null)) {
                    metadata.remove("creationTimestamp");
                }
                fields.insert("metadata".into(), metadata);
            }
            for (name, value) in fields {
                let below = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                if below.is_object() {
                    tidy(below, value);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => items.iter_mut().for_each(|item| tidy(&schema["items"], item)),
        _ => {}
    }
}
