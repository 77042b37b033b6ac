//! Schemas of types, and of everything that they refer to.

use super::{
    Custom, Version, custom,
    descriptions::Descriptions,
    known::{self, Scope},
};
use crate::{
    Map, Value,
    gvk::Gvk,
    schema::{self, Field, ListType, Type, TypeId, TypeRef},
};
use serde_json::json;
use std::collections::HashMap;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Collects the schemas of a document.
pub(super) struct Schemas<'a> {
    version: Version,
    scope: Scope<'a>,
    descriptions: Descriptions,
    names: HashMap<TypeId, &'static str>,
    out: Map<String, Value>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(version: Version, scope: Scope<'a>, descriptions: Descriptions) -> Self {
        let names = schema::builtin().names().map(|(name, ty)| (ty.id, name)).collect();
        Self { version, scope, descriptions, names, out: Map::new() }
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
                // In the order of the struct.
                let mut required: Vec<(u16, &str)> =
                    object.fields.iter().enumerate().filter(|(_, f)| f.required).map(|(at, f)| (object.rank(at), f.name.as_ref())).collect();
                required.sort_unstable();
                let required: Vec<&str> = required.into_iter().map(|(_, name)| name).collect();
                let mut out = json!({"type": "object"});
                if !properties.is_empty() {
                    out["properties"] = Value::Object(properties);
                }
                if !required.is_empty() {
                    out["required"] = json!(required);
                }
                if let Some(gvk) = &object.gvk {
                    let general = name.strip_prefix(META).is_some_and(|name| matches!(name, ".DeleteOptions" | ".WatchEvent"));
                    out["x-kubernetes-group-version-kind"] = if general { self.scope.kinds(&gvk.kind) } else { json!([custom::gvk_value(gvk)]) };
                }
                if let Some(unions) = known::unions(name) {
                    out["x-kubernetes-unions"] = unions;
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
        let of = ty.to(field.ty);
        let schema = self.value(of);
        let default = if self.version == Version::V2 { None } else { field.default.clone().or_else(|| zero(of, field, known::has_zero(owner, &field.name))) };
        let text = self.descriptions.of(owner, &field.name).map(str::to_owned);
        let mut out = self.beside(schema, text.is_some() || default.is_some());
        if let Some(text) = text {
            out["description"] = text.into();
        }
        if let Some(default) = default {
            out["default"] = default;
        }
        let values = known::values(owner, &field.name).map(|values| json!(values));
        if let Some(values) = values.or_else(|| (!field.enum_values.is_empty()).then(|| json!(field.enum_values))) {
            let place = match of.get() {
                Type::List { .. } => &mut out["items"],
                Type::Map { .. } => &mut out["additionalProperties"],
                _ => &mut out,
            };
            place["enum"] = values;
        }
        for (key, value) in [("strategy", &field.patch_strategy), ("merge-key", &field.patch_merge_key)] {
            if !value.is_empty() {
                out[format!("x-kubernetes-patch-{key}")] = value.as_ref().into();
            }
        }
        if let Some(said) = field.map_type {
            out["x-kubernetes-map-type"] = said.into();
        }
        if field.list_type_said {
            let (said, keys) = match of.get() {
                Type::List { list_type: ListType::Set, .. } => ("set", None),
                Type::List { list_type: ListType::Map(keys), .. } => ("map", Some(keys)),
                _ => ("atomic", None),
            };
            out["x-kubernetes-list-type"] = said.into();
            if let Some(keys) = keys {
                out["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
        out
    }

    /// A schema that says more than its type. In version 3 a reference takes no company, so that it moves into an `allOf`.
    fn beside(&self, schema: Value, more: bool) -> Value {
        if more && self.version == Version::V3 && schema.get("$ref").is_some() { json!({"allOf": [schema]}) } else { schema }
    }

    /// The schema of a value of a type, by reference where the type has a name.
    fn value(&mut self, ty: TypeRef<'static>) -> Value {
        if let Some(name) = self.names.get(&ty.id).copied() {
            return self.add(name);
        }
        match ty.get() {
            Type::List { elem, .. } => json!({"type": "array", "items": self.value(ty.to(*elem))}),
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

/// What a field is where it is absent, if Go always writes it or the type says so.
fn zero(ty: TypeRef<'_>, field: &Field, said: bool) -> Option<Value> {
    if field.go.pointer && !said {
        return None;
    }
    match ty.get() {
        Type::Object(_) => Some(json!({})),
        _ if field.go.omit_empty && !said => None,
        Type::String => Some(json!("")),
        Type::Bool => Some(json!(false)),
        Type::Int32 | Type::Int64 | Type::Double => Some(json!(0)),
        _ => None,
    }
}
