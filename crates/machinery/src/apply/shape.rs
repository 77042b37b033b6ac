//! How apply sees a value of a type: as a leaf, as fields, or as a list of elements with names of their own.

use crate::{
    Map, Value,
    schema::{Field, ListType, Object, Type, TypeRef},
};

/// What a type means to field ownership.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Owned as a whole: scalars, atomic lists and maps.
    Leaf,
    /// Owned by field.
    Struct(TypeRef<'a>, &'a Object),
    /// Owned by key; no type means that the values' types are deduced from the values.
    Map(Option<TypeRef<'a>>),
    /// Owned by element, which is its own name.
    Set,
    /// Owned by element, named by these keys.
    Keyed(TypeRef<'a>, &'a [crate::schema::Text]),
}

/// What a field says against its type: that it is owned as a whole, or by its parts.
pub(super) type Said = Option<bool>;

/// The shape of a type, or of a value whose type is not known: maps are granular then, lists atomic.
pub(super) fn shape<'a>(ty: Option<TypeRef<'a>>, said: Said, values: [Option<&Value>; 2]) -> Shape<'a> {
    let deduced = || if values.iter().flatten().any(|v| v.is_object()) { Shape::Map(None) } else { Shape::Leaf };
    let Some(ty) = ty else { return deduced() };
    if said == Some(true) {
        return Shape::Leaf;
    }
    match ty.get() {
        Type::Object(object) if object.atomic && said.is_none() => Shape::Leaf,
        Type::Object(object) if object.untyped && !values.iter().flatten().any(|v| v.is_object()) => Shape::Leaf,
        Type::Object(object) => Shape::Struct(ty, object),
        Type::Map { atomic: true, .. } => Shape::Leaf,
        Type::Map { elem, .. } => Shape::Map(Some(ty.to(*elem))),
        Type::List { list_type: ListType::Set, .. } => Shape::Set,
        Type::List { list_type: ListType::Map(keys), elem, .. } => Shape::Keyed(ty.to(*elem), keys),
        Type::Any => deduced(),
        _ => Shape::Leaf,
    }
}

/// The type of a field of a struct, and what the field says against it; unknown fields have no type.
pub(super) fn field_type<'a>(ty: TypeRef<'a>, field: Option<&'a Field>) -> (Option<TypeRef<'a>>, Said) {
    match field {
        Some(field) if field.atomic => (Some(ty.to(field.ty)), Some(true)),
        Some(field) => (Some(ty.to(field.ty)), field.map_type.map(|_| false)),
        None => (None, None),
    }
}

/// The path element of a list element. Keys that an element leaves out take their default, as `protocol` does, or what Go
/// writes for them; those that have neither are left out of the name.
pub(super) fn element(shape: Shape<'_>, item: &Value) -> String {
    match shape {
        Shape::Keyed(elem, keys) => {
            let mut name = Map::new();
            for key in keys {
                let value = item.get(key.as_ref()).cloned().or_else(|| default(elem, key));
                if let Some(value) = value {
                    name.insert(key.clone().into_owned(), value);
                }
            }
            format!("k:{}", written(&Value::Object(name)))
        }
        _ => match item.as_f64().filter(|number| item.is_f64() && number.trunc() == *number && number.abs() < WHOLE_MAX) {
            Some(whole) => format!("v:{}", whole as i64),
            None => format!("v:{}", written(item)),
        },
    }
}

/// A value as Go's encoder for sets writes it, which gives an exponent two digits.
fn written(item: &Value) -> String {
    let text = String::from_utf8_lossy(&crate::json::encode(item)).into_owned();
    match text.split_once("e-") {
        Some((digits, exponent)) if item.is_f64() && exponent.len() == 1 => format!("{digits}e-0{exponent}"),
        _ => text,
    }
}

/// Whole floats up to this one are whole numbers to Go's encoder.
const WHOLE_MAX: f64 = 1e15;

/// The one type whose key Go leaves out when it is empty though it has a default.
const LOCAL_REFERENCE: &str = "io.k8s.api.core.v1.LocalObjectReference";

fn ty_name(ty: TypeRef<'_>) -> &str {
    if let Type::Object(object) = ty.get() { &object.name } else { "" }
}

fn default(elem: TypeRef<'_>, key: &str) -> Option<Value> {
    let field = elem.field(key)?;
    let always = !field.go.pointer && !field.go.omit_empty && !field.go.omit_zero;
    field.default.clone().or_else(|| match elem.to(field.ty).get() {
        // Its name's default is published and empty, which the schema does not tell.
        Type::String if always || ty_name(elem) == LOCAL_REFERENCE => Some(Value::String(String::new())),
        Type::Int32 | Type::Int64 if always => Some(0.into()),
        _ => None,
    })
}
