//! Structural schemas: the `openAPIV3Schema` of a custom resource as a [`Schema`], and validation against it.
//!
//! The schema decides what is kept, defaulted, merged and owned. A [`Node`], compiled once, says what is wrong with an object, in
//! the words of `kube-openapi`. CEL rules (`x-kubernetes-validations`) are not evaluated here.
//!
//! Source: `apiextensions-apiserver/pkg/apiserver/{schema,validation}`, the "structural schema" rules of the CRD documentation.

mod formats;
mod node;
mod ratchet;
#[cfg(test)]
mod tests;
mod validation;
mod walk;

pub use formats::is_recognized;
pub use node::{Listed, Node, Purpose};

use crate::{
    Map, Value,
    field::{ErrorList, Path},
    gvk::Gvk,
    schema::{self, Builder, Field, ListType, Object, Schema, Text, Type, TypeId},
};

impl Node {
    /// What is wrong with a value that stands at `path`.
    pub fn validate(&self, value: &Value, path: &Path) -> ErrorList {
        validation::validate(self, value, path)
    }

    /// What is wrong with a value that was another, and was not wrong before.
    pub fn validate_update(&self, value: &Value, old: &Value, path: &Path) -> ErrorList {
        validation::validate_update(self, value, old, path)
    }

    /// Which elements of sets, and of lists that are maps, are there twice.
    pub fn repeated(&self, value: &Value, path: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        walk::lists(self, value, path, &mut errors);
        errors
    }

    /// Visits the resources that are embedded in a value.
    pub fn embedded<'v>(&self, value: &'v Value, path: &Path, visit: &mut dyn FnMut(&Path, &'v Map<String, Value>)) {
        walk::embedded(self, value, path, visit);
    }

    /// Whether a value has fields that are not known and not kept.
    pub fn has_unknown(&self, value: &Value) -> bool {
        walk::has_unknown(Some(self), value)
    }
}

/// Schemas nest as deep as their JSON, which the decoder bounds; below this nothing is described any more.
const DEPTH_LIMIT: usize = 128;

/// The schema of the versions of a custom kind, each with its own; without one everything is kept. apiVersion, kind and
/// metadata are as in every kind.
pub fn schema(versions: &[(Gvk, Option<&Value>)]) -> Schema {
    let mut builder = Builder::lenient();
    for (gvk, structural) in versions {
        let mut root = match structural {
            Some(structural) => object(&mut builder, structural, 0),
            None => Object::anonymous(true, false),
        };
        add_meta(&mut builder, &mut root);
        root.gvk = Some(gvk.clone());
        root.name = Text::from(format!("{}.{}.{}", gvk.group, gvk.version, gvk.kind));
        builder.object(root);
    }
    builder.build()
}

/// The fields that every object has, whatever its schema says of them.
fn add_meta(builder: &mut Builder, object: &mut Object) {
    object.fields.retain(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind" | "metadata"));
    let text = builder.plain(&Type::String);
    object.fields.push(Field::new("apiVersion", text));
    object.fields.push(Field::new("kind", text));
    if let Some(meta) = schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        object.fields.push(Field::new("metadata", builder.import(meta)));
    }
}

fn flag(structural: &Value, name: &str) -> bool {
    structural.get(name) == Some(&Value::Bool(true))
}

/// The object type of a schema with properties.
fn object(builder: &mut Builder, structural: &Value, depth: usize) -> Object {
    let atomic = structural.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic");
    let mut out = Object::anonymous(flag(structural, "x-kubernetes-preserve-unknown-fields"), atomic);
    for (name, property) in structural.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mut field = Field::new(name.clone(), type_of(builder, property, depth + 1));
        field.default = property.get("default").cloned();
        field.nullable = flag(property, "nullable");
        out.fields.push(field);
    }
    if flag(structural, "x-kubernetes-embedded-resource") {
        add_meta(builder, &mut out);
    }
    out
}

fn type_of(builder: &mut Builder, structural: &Value, depth: usize) -> TypeId {
    if depth > DEPTH_LIMIT {
        return builder.plain(&Type::Any);
    }
    if flag(structural, "x-kubernetes-int-or-string") {
        return builder.plain(&Type::IntOrString);
    }
    match structural.get("type").and_then(Value::as_str).unwrap_or_default() {
        "object" => match structural.get("additionalProperties") {
            Some(values) if values.is_object() || *values == Value::Bool(true) => {
                let elem = type_of(builder, values, depth + 1);
                let atomic = structural.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic");
                if flag(values, "nullable") { builder.map_to_nullable(elem, atomic) } else { builder.map(elem, atomic) }
            }
            _ => {
                let object = object(builder, structural, depth);
                builder.object(object)
            }
        },
        "array" => {
            let elem = match structural.get("items") {
                Some(items) => type_of(builder, items, depth + 1),
                None => builder.plain(&Type::Any),
            };
            let keys = structural.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
            let keys = keys.filter_map(Value::as_str).map(|k| Text::from(k.to_owned())).collect();
            let list_type = match structural.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(keys),
                _ => ListType::Atomic,
            };
            builder.list(elem, list_type, false)
        }
        // A text with a format is any scalar to those who apply (`schemaconv`), as an amount is among the built-in types.
        "string" => match structural.get("format").and_then(Value::as_str).unwrap_or_default() {
            "" | "byte" => builder.plain(&Type::String),
            _ => builder.plain(&Type::Quantity),
        },
        // Anything may be what says no type (it keeps unknown fields then). Of an object the fields that are told of count all the same.
        "" if structural.get("properties").and_then(Value::as_object).is_some_and(|properties| !properties.is_empty()) => {
            let mut object = object(builder, structural, depth);
            object.untyped = true;
            builder.object(object)
        }
        "boolean" => builder.plain(&Type::Bool),
        "integer" => builder.plain(&Type::Int64),
        "number" => builder.plain(&Type::Double),
        _ => builder.plain(&Type::Any),
    }
}
