//! Reads the generated schema file; its grammar stands in `xtask/src/generate_types.rs`.
//!
//! The file is part of the program, so a line that makes no sense is skipped rather than reported: the tests hold that
//! there is none.

use super::{Builder, Field, GoFlags, ListType, Object, Schema, Text, Type, TypeId};
use crate::gvk::Gvk;

const SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

pub(super) fn load(text: &'static str) -> Schema {
    let mut builder = Builder::new();
    let mut object: Option<Object> = None;
    for line in text.lines() {
        let mut parts = line.split('\t');
        match parts.next() {
            Some("T") => {
                if let Some(done) = object.take() {
                    builder.object(done);
                }
                object = read_type(&mut builder, parts);
            }
            Some("F") => {
                if let Some(object) = &mut object {
                    read_field(&mut builder, object, parts);
                }
            }
            _ => {}
        }
    }
    if let Some(done) = object {
        builder.object(done);
    }
    builder.build()
}

/// A `T` line: an object to be filled, or nothing for a special encoding, which is complete.
fn read_type(builder: &mut Builder, mut parts: std::str::Split<'static, char>) -> Option<Object> {
    let (name, proto, shape) = (parts.next()?, parts.next()?, parts.next()?);
    let (gvk, atomic) = (parts.next()?, parts.next()? == "atomic");
    if shape != "object" {
        let ty = special(builder, shape);
        builder.define(name, ty);
        return None;
    }
    let mut gvk_parts = gvk.split('/');
    let gvk = match (gvk_parts.next(), gvk_parts.next(), gvk_parts.next()) {
        (Some(group), Some(version), Some(kind)) => Some(Gvk { group: group.into(), version: version.into(), kind: kind.into() }),
        _ => None,
    };
    let proto = if proto == "-" { "" } else { proto };
    Some(Object { name: name.into(), proto: proto.into(), gvk, atomic, ..Object::default() })
}

fn special(builder: &mut Builder, shape: &str) -> Type {
    let schema = builder.declare(SCHEMA_PROPS);
    match shape {
        "raw-json" => Type::RawJson,
        "schema-or-array" => Type::SchemaOrArray(schema),
        "schema-or-bool" => Type::SchemaOrBool(schema),
        "schema-or-strings" => Type::SchemaOrStrings(schema),
        "quantity" => Type::Quantity,
        "fields" => Type::Fields,
        "micro-time" => Type::MicroTime,
        "time" => Type::Time,
        "raw-extension" => Type::RawExtension,
        "int-or-string" => Type::IntOrString,
        _ => Type::Any,
    }
}

fn read_field(builder: &mut Builder, object: &mut Object, mut parts: std::str::Split<'static, char>) -> Option<()> {
    let (name, tag, ty) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let (flags, go_type) = (parts.next()?, parts.next()?);
    if flags.contains('i') {
        let id = builder.declare(ty);
        object.embedded.push((tag, id));
        return Some(());
    }
    let mut field = Field::new(name, TypeId(0));
    let (mut list_type, mut keys) = ("", Vec::new());
    for part in parts {
        let (key, value) = part.split_once('=')?;
        match key {
            "d" => field.default = serde_json::from_str(value).ok(),
            "e" => field.enum_values = value.split(',').map(Text::from).collect(),
            "l" => (list_type, field.list_type_said) = (value, true),
            "k" => keys = value.split(',').map(Text::from).collect(),
            "m" => (field.atomic, field.map_type) = (value == "atomic", Some(value)),
            "s" => field.patch_strategy = value.into(),
            "g" => field.patch_merge_key = value.into(),
            _ => {}
        }
    }
    let list_type = match list_type {
        "set" => ListType::Set,
        "map" => ListType::Map(keys),
        _ => ListType::Atomic,
    };
    field.ty = type_of(builder, ty, list_type, field.atomic);
    field.required = flags.contains('r');
    field.tag = if flags.contains('n') { 0 } else { tag };
    field.go = GoFlags { pointer: flags.contains('p'), omit_empty: flags.contains('e'), omit_zero: flags.contains('z') };
    field.go_type = go_type.into();
    object.fields.push(field);
    Some(())
}

fn type_of(builder: &mut Builder, expression: &'static str, list_type: ListType, atomic: bool) -> TypeId {
    if let Some(elem) = expression.strip_prefix("map[string]") {
        let elem = type_of(builder, elem, ListType::Atomic, false);
        return builder.map(elem, atomic);
    }
    if let Some(elem) = expression.strip_prefix("wrapped[]") {
        let elem = type_of(builder, elem, ListType::Atomic, false);
        return builder.list(elem, list_type, true);
    }
    if let Some(elem) = expression.strip_prefix("[]") {
        let elem = type_of(builder, elem, ListType::Atomic, false);
        return builder.list(elem, list_type, false);
    }
    match expression {
        "string" => builder.plain(&Type::String),
        "boolean" => builder.plain(&Type::Bool),
        "int32" => builder.plain(&Type::Int32),
        "int64" => builder.plain(&Type::Int64),
        "double" => builder.plain(&Type::Double),
        "bytes" => builder.plain(&Type::Bytes),
        name => builder.declare(name),
    }
}
