//! Sample values made from the schema: every field set, to a value that tells its place. For the tests of the codecs.

use super::{Field, Type, TypeRef};
use crate::{Map, Value};

/// A value of a type; `seed` varies the scalars, `depth` bounds the recursion of self-nesting types.
pub(crate) fn sample(ty: TypeRef<'_>, seed: u32, depth: usize) -> Value {
    match ty.get() {
        Type::Object(object) => {
            // The one type that nests in itself, in a dozen fields.
            let depth = if object.name.ends_with(".JSONSchemaProps") { depth.min(3) } else { depth };
            let mut map = Map::new();
            for field in object.fields.iter().filter(|f| wanted(ty, f, depth)) {
                let value = match (field.name.as_ref(), &object.gvk) {
                    ("apiVersion", Some(gvk)) => Value::String(gvk.api_version()),
                    ("kind", Some(gvk)) => Value::String(gvk.kind.clone()),
                    _ => sample(ty.to(field.ty), seed + field.tag, depth.saturating_sub(1)),
                };
                map.insert(field.name.clone().into_owned(), value);
            }
            Value::Object(map)
        }
        Type::List { elem, .. } => Value::Array((0..2).map(|n| sample(ty.to(*elem), seed + n, depth)).collect()),
        Type::Map { elem, .. } => {
            let keys = ["a", "b.c/d"].into_iter();
            Value::Object(keys.map(|k| (k.to_owned(), sample(ty.to(*elem), seed, depth))).collect())
        }
        Type::String | Type::IntOrString => Value::String(format!("text-{seed}")),
        Type::Bool => Value::Bool(true),
        Type::Int32 | Type::Int64 => (-i64::from(seed) - 1).into(),
        Type::Double => (f64::from(seed) + 0.5).into(),
        Type::Bytes => Value::String("AAEC/w==".into()),
        Type::Quantity => Value::String(format!("{}Mi", seed % 900 + 1)),
        Type::Time => Value::String(format!("2026-11-24T15:19:{:02}Z", seed % 60)),
        Type::MicroTime => Value::String(format!("2026-11-24T15:19:{:02}.000123Z", seed % 60)),
        Type::RawExtension | Type::Fields => serde_json::json!({"any": {"n": seed}}),
        Type::RawJson | Type::Any => serde_json::json!([seed, "any"]),
        Type::SchemaOrArray(schema) | Type::SchemaOrBool(schema) => sample(ty.to(*schema), seed, depth.saturating_sub(1)),
        Type::SchemaOrStrings(_) => serde_json::json!(["one", "two"]),
    }
}

/// Fields that the wire has; self-nesting ones only while there is depth left.
fn wanted(ty: TypeRef<'_>, field: &Field, depth: usize) -> bool {
    let leaf = !matches!(ty.to(field.ty).get(), Type::Object(_) | Type::List { .. } | Type::Map { .. } | Type::SchemaOrArray(_) | Type::SchemaOrBool(_));
    leaf || depth > 1
}
