//! Schemas of custom kinds, as the original publishes them: what a definition says, with the fields that every object has.
//!
//! Version 2 cannot say all of it: alternatives, what may be null and what keeps unknown fields is left out there, in the way
//! that `kubectl` copes with. Source: `apiextensions-apiserver/pkg/controller/openapi/{builder,v2}`.

use super::Version;
use crate::{Map, Value, gvk::Gvk};
use serde_json::json;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const MORE: &str = "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
/// Schemas are nested as deep as their JSON; below this nothing is said any more.
const DEPTH_MAX: usize = 128;
/// What a definition may hold beside a schema, and no document tells.
const UNTOLD: [&str; 3] = ["$schema", "id", "definitions"];

/// `com.example.v1.Widget`.
pub(super) fn name(kind: &Gvk) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').rev().collect();
    parts.extend([kind.version.as_str(), kind.kind.as_str()]);
    parts.join(".")
}

/// What the documents tell of kinds in general.
pub(super) struct General {
    pub(super) version: Version,
    /// `apiVersion` and `kind`, as every kind has them.
    pub(super) type_meta: Map<String, Value>,
}

impl General {
    fn reference(&self, name: &str, text: &str) -> Value {
        let text = format!("{text}. {MORE}#{}", if name == "ListMeta" { "types-kinds" } else { "metadata" });
        match self.version {
            Version::V2 => json!({"$ref": format!("#/definitions/{META}.{name}"), "description": text}),
            Version::V3 => json!({"allOf": [{"$ref": format!("#/components/schemas/{META}.{name}")}], "description": text}),
        }
    }

    fn metadata(&self) -> Value {
        self.reference("ObjectMeta", "Standard object's metadata")
    }

    /// The schema of a kind. `described` is the version as its definition has it.
    pub(super) fn kind(&self, kind: &Gvk, described: &Value) -> Value {
        let schema = &described["schema"]["openAPIV3Schema"];
        let untold = !schema.is_object() || self.version == Version::V2 && schema["x-kubernetes-preserve-unknown-fields"] == true;
        let mut out = if untold {
            json!({"type": "object"})
        } else {
            let mut own = schema.clone();
            self.published(&mut own, 0);
            let mut properties = own["properties"].take().as_object().cloned().unwrap_or_default();
            properties.extend(self.type_meta.clone());
            properties.insert("metadata".into(), self.metadata());
            own["properties"] = Value::Object(properties);
            own
        };
        self.extend(&mut out, kind, described);
        out
    }

    /// The schema of its lists.
    pub(super) fn list(&self, kind: &Gvk, list_kind: &str, plural: &str, described: &Value, item: &Value) -> Value {
        let mut properties = self.type_meta.clone();
        properties.insert("metadata".into(), self.reference("ListMeta", "Standard list metadata"));
        properties.insert("items".into(), json!({"description": format!("List of {plural}. {MORE}"), "type": "array", "items": item}));
        let mut out = json!({
            "description": format!("{list_kind} is a list of {}", kind.kind), "type": "object", "required": ["items"], "properties": properties,
        });
        self.extend(&mut out, &Gvk { kind: list_kind.to_owned(), ..kind.clone() }, described);
        out
    }

    fn extend(&self, out: &mut Value, kind: &Gvk, described: &Value) {
        out["x-kubernetes-group-version-kind"] = json!([gvk_value(kind)]);
        let fields = described["selectableFields"].as_array().filter(|fields| !fields.is_empty());
        if let Some(fields) = fields {
            let path = |field: &Value| field["jsonPath"].as_str().map(|path| path.strip_prefix('.').unwrap_or(path).to_owned());
            out["x-kubernetes-selectable-fields"] = fields.iter().map(|field| json!({"fieldPath": path(field)})).collect();
        }
    }

    /// Turns a part of a definition's schema into what is published of it.
    fn published(&self, schema: &mut Value, depth: usize) {
        let Value::Object(map) = schema else { return };
        UNTOLD.iter().for_each(|key| drop(map.remove(*key)));
        // What is false, empty or of no meaning is not told.
        map.retain(|key, value| match value {
            Value::Null => false,
            // A value of any kind is one.
            _ if matches!(key.as_str(), "default" | "example") => true,
            Value::Bool(false) => key == "additionalProperties",
            Value::Array(items) => !items.is_empty(),
            Value::Object(inner) => !inner.is_empty() || matches!(key.as_str(), "items" | "additionalProperties" | "not"),
            Value::String(text) => !text.is_empty(),
            Value::Bool(true) | Value::Number(_) => true,
        });
        if depth > DEPTH_MAX {
            return map.clear();
        }
        let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
        if is(map, "x-kubernetes-int-or-string") {
            let alternatives = json!([{"type": "integer"}, {"type": "string"}]);
            let said =
                map.get("anyOf").is_some_and(|any| *any == alternatives) || map["x-kubernetes-int-or-string"] == true && first_of(map, "allOf") == alternatives;
            match (said, map.contains_key("anyOf")) {
                (true, _) => {}
                (false, false) => drop(map.insert("anyOf".into(), alternatives)),
                (false, true) => {
                    let mut all = vec![json!({"anyOf": alternatives})];
                    all.extend(map.remove("allOf").and_then(|all| all.as_array().cloned()).unwrap_or_default());
                    map.insert("allOf".into(), all.into());
                }
            }
        }
        if self.version == Version::V2 {
            map.remove("default");
            map.get_mut("example").into_iter().for_each(as_float);
            plain(map);
        }
        if let Some(Value::Object(properties)) = map.get_mut("properties") {
            properties.values_mut().for_each(|property| self.published(property, depth + 1));
        }
        for key in ["items", "additionalProperties"] {
            map.get_mut(key).into_iter().for_each(|inner| self.published(inner, depth + 1));
        }
        if is(map, "x-kubernetes-embedded-resource") && !(self.version == Version::V2 && is(map, "x-kubernetes-preserve-unknown-fields")) {
            self.embed(map);
        }
    }

    /// An object inside of another has what every object has.
    fn embed(&self, map: &mut Map<String, Value>) {
        let text = |what: &str, part: &str| json!({"type": "string", "description": format!("{what} {MORE}#{part}")});
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = text("apiVersion defines the versioned schema of this representation of an object.", "resources");
        properties["kind"] = text("kind is a string value representing the type of this object. In CamelCase.", "types-kinds");
        properties["metadata"] = self.metadata();
        let required = map.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            for field in ["kind", "apiVersion"] {
                if !required.iter().any(|name| name == field) {
                    required.push(field.into());
                }
            }
        }
    }
}

/// A whole number as a float holds it: version 2 is made by way of such.
fn as_float(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_i64().filter(|n| n.unsigned_abs() > 1 << 53).map(|n| n as f64) {
                *value = float.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(as_float),
        Value::Object(map) => map.values_mut().for_each(as_float),
        _ => {}
    }
}

fn first_of(map: &Map<String, Value>, key: &str) -> Value {
    map.get(key).and_then(|all| all.get(0)).map_or(Value::Null, |first| first["anyOf"].clone())
}

/// What version 2 cannot say is left out.
fn plain(map: &mut Map<String, Value>) {
    for key in ["allOf", "oneOf", "anyOf", "not"] {
        map.remove(key);
    }
    let keeps = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    if nullable {
        map.remove("type");
    }
    if nullable || keeps {
        map.remove("items");
        map.remove("properties");
    }
    let is = |map: &Map<String, Value>, kind: &str| map.get("type").is_some_and(|own| own == kind);
    if !map.contains_key("items") && is(map, "array") || keeps && is(map, "object") {
        map.remove("type");
    }
    // What may be null may be absent.
    let absent = |name: &Value| name.as_str().and_then(|name| map.get("properties")?.get(name)).is_some_and(|property| property["nullable"] == true);
    let values_absent = map.get("additionalProperties").is_some_and(|values| values["nullable"] == true);
    let required =
        map.get("required").and_then(Value::as_array).map(|all| all.iter().filter(|name| !absent(name) && !values_absent).cloned().collect::<Vec<_>>());
    match required {
        Some(required) if required.is_empty() => drop(map.remove("required")),
        Some(required) => drop(map.insert("required".into(), required.into())),
        None => {}
    }
}

/// As extensions name a kind.
pub(super) fn gvk_value(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}
