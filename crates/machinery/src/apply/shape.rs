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

/// The shape of a type, or of a value whose type is not known: maps are granular then, lists atomic.
pub(super) fn shape<'a>(ty: Option<TypeRef<'a>>, atomic: bool, values: [Option<&Value>; 2]) -> Shape<'a> {
    let deduced = || if values.iter().flatten().any(|v| v.is_object()) { Shape::Map(None) } else { Shape::Leaf };
    let Some(ty) = ty else { return deduced() };
    if atomic {
        return Shape::Leaf;
    }
    match ty.get() {
        Type::Object(object) if object.atomic => Shape::Leaf,
        Type::Object(object) => Shape::Struct(ty, object),
        Type::Map { atomic: true, .. } => Shape::Leaf,
        Type::Map { elem, .. } => Shape::Map(Some(ty.to(*elem))),
        Type::List { list_type: ListType::Set, .. } => Shape::Set,
        Type::List { list_type: ListType::Map(keys), elem, .. } => Shape::Keyed(ty.to(*elem), keys),
        Type::Any => deduced(),
        _ => Shape::Leaf,
    }
}

/// The type of a field of a struct, and whether the field is atomic against its type; unknown fields have no type.
pub(super) fn field_type<'a>(ty: TypeRef<'a>, field: Option<&'a Field>) -> (Option<TypeRef<'a>>, bool) {
    match field {
        Some(field) => (Some(ty.to(field.ty)), field.atomic),
        None => (None, false),
    }
}

/// The path element of a list element. Keys that an element leaves out take their default, as `protocol` does; without one
/// they are left out of the name.
pub(super) fn element(shape: Shape<'_>, item: &Value) -> String {
    match shape {
        Shape::Keyed(elem, keys) => {
            let mut name = Map::new();
            for key in keys {
                let value = item.get(key.as_ref()).cloned().or_else(|| elem.field(key)?.default.clone());
                if let Some(value) = value {
                    name.insert(key.clone().into_owned(), value);
                }
            }
            format!("k:{}", Value::Object(name))
        }
        _ => format!("v:{item}"),
    }
}

/// A key that an element of an applied list must have and has not.
pub(super) fn missing_key(shape: Shape<'_>, item: &Value) -> Option<String> {
    let Shape::Keyed(elem, keys) = shape else { return None };
    let missing = keys.iter().find(|k| item.get(k.as_ref()).is_none() && elem.field(k).is_none_or(|f| f.default.is_none()));
    missing.map(|k| k.clone().into_owned())
}
