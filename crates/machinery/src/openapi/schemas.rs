//! Schemas of types, and of everything that they refer to.

use super::{Custom, Version, custom, descriptions::Descriptions};
use crate::{
    Map, Value,
    gvk::Gvk,
    schema::{self, Field, ListType, Type, TypeId, TypeRef},
};
use serde_json::json;
use std::collections::HashMap;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Collects the schemas of a document.
pub(super) struct Schemas {
    version: Version,
    descriptions: Descriptions,
    names: HashMap<TypeId, &'static str>,
    out: Map<String, Value>,
}

impl Schemas {
    pub(super) fn new(version: Version, descriptions: Descriptions) -> Self {
        let names = schema::builtin().names().map(|(name, ty)| (ty.id, name)).collect();
        Self { version, descriptions, names, out: Map::new() }
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.out
    }

    /// A reference to a schema of this document.
    pub(super) fn reference(&self, name: &str) -> Value {
        match self.version {
            Version::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Version::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }

    /// Adds a built-in type with all that it refers to; answers a reference to it.
    pub(super) fn add(&mut self, name: &str) -> Value {
        if !self.out.contains_key(name) {
            // The place is taken first: types refer to themselves.
            self.out.insert(name.to_owned(), Value::Null);
            let schema = schema::builtin().named(name).map_or_else(|| json!({"type": "object"}), |ty| self.definition(name, ty));
            self.out.insert(name.to_owned(), schema);
        }
        self.reference(name)
    }

    /// Adds the schema of a built-in kind, or of its list; `None` if there is no such kind.
    pub(super) fn add_kind(&mut self, gvk: &Gvk) -> Option<Value> {
        let name = schema::builtin().kind(gvk)?.object()?.name.clone();
        Some(self.add(&name))
    }

    /// Adds a custom kind and its list; answers references to both.
    pub(super) fn add_custom(&mut self, kind: &Gvk, custom: &Custom<'_>, plural: &str) -> (Value, Value) {
        for meta in ["ObjectMeta", "ListMeta"] {
            self.add(&format!("{META}.{meta}"));
        }
        let general = custom::General { version: self.version, type_meta: self.type_meta() };
        let list_kind = Gvk { kind: custom.list_kind.to_owned(), ..kind.clone() };
        let (name, list_name) = (custom::name(kind), custom::name(&list_kind));
        let reference = self.reference(&name);
        let list = general.list(kind, custom.list_kind, plural, custom.described, &reference);
        self.out.insert(name, general.kind(kind, custom.described));
        self.out.insert(list_name.clone(), list);
        (reference, self.reference(&list_name))
    }

    /// The properties apiVersion and kind, as every kind has them.
    fn type_meta(&self) -> Map<String, Value> {
        let text = |field: &str| self.descriptions.of("io.k8s.api.core.v1.Pod", field).unwrap_or_default().to_owned();
        let property = |field: &str| (field.to_owned(), json!({"type": "string", "description": text(field)}));
        [property("apiVersion"), property("kind")].into_iter().collect()
    }

    fn definition(&mut self, name: &str, ty: TypeRef<'static>) -> Value {
        let mut out = match ty.get() {
            Type::Object(object) => {
                let mut properties = Map::new();
                for field in &object.fields {
                    let schema = self.property(name, ty, field);
                    properties.insert(field.name.clone().into_owned(), schema);
                }
                let required: Vec<&str> = object.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
                let mut out = json!({"type": "object"});
                if !properties.is_empty() {
                    out["properties"] = Value::Object(properties);
                }
                if !required.is_empty() {
                    out["required"] = json!(required);
                }
                if let Some(gvk) = &object.gvk {
                    out["x-kubernetes-group-version-kind"] = json!([gvk_value(gvk)]);
                }
                if object.atomic {
                    out["x-kubernetes-map-type"] = "atomic".into();
                }
                out
            }
            _ => self.special(ty),
        };
        if let Some(text) = self.descriptions.of(name, "") {
            out["description"] = text.into();
        }
        out
    }

    /// The schema of a field of a type.
    fn property(&mut self, owner: &str, ty: TypeRef<'static>, field: &Field) -> Value {
        let schema = self.value(ty.to(field.ty));
        let mut out = self.described(schema, self.descriptions.of(owner, &field.name));
        if let Some(default) = &field.default {
            out["default"] = default.clone();
        }
        if !field.enum_values.is_empty() {
            out["enum"] = json!(field.enum_values);
        }
        for (key, value) in [("strategy", &field.patch_strategy), ("merge-key", &field.patch_merge_key)] {
            if !value.is_empty() {
                out[format!("x-kubernetes-patch-{key}")] = value.as_ref().into();
            }
        }
        if field.atomic {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        out
    }

    /// A schema with a description. In version 3 a reference takes no company, so that it moves into an `allOf`.
    fn described(&self, schema: Value, text: Option<&str>) -> Value {
        let Some(text) = text else { return schema };
        let mut out = if self.version == Version::V3 && schema.get("$ref").is_some() { json!({"allOf": [schema]}) } else { schema };
        out["description"] = text.into();
        out
    }

    /// The schema of a value of a type, by reference where the type has a name.
    fn value(&mut self, ty: TypeRef<'static>) -> Value {
        if let Some(name) = self.names.get(&ty.id).copied() {
            return self.add(name);
        }
        match ty.get() {
            Type::List { elem, list_type, .. } => {
                let mut out = json!({"type": "array", "items": self.value(ty.to(*elem))});
                match list_type {
                    ListType::Atomic => out["x-kubernetes-list-type"] = "atomic".into(),
                    ListType::Set => out["x-kubernetes-list-type"] = "set".into(),
                    ListType::Map(keys) => {
                        out["x-kubernetes-list-type"] = "map".into();
                        out["x-kubernetes-list-map-keys"] = json!(keys);
                    }
                }
                out
            }
            Type::Map { elem, .. } => json!({"type": "object", "additionalProperties": self.value(ty.to(*elem))}),
            _ => self.special(ty),
        }
    }

    /// Scalars and types with an encoding of their own.
    fn special(&self, ty: TypeRef<'_>) -> Value {
        let v3 = self.version == Version::V3;
        match ty.get() {
            Type::String => json!({"type": "string"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::IntOrString if v3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            Type::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Type::Quantity if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Type::Quantity => json!({"type": "string"}),
            Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
            Type::RawExtension | Type::Fields => json!({"type": "object"}),
            _ => json!({}),
        }
    }
}

/// As extensions name a kind.
pub(super) fn gvk_value(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}
