//! The checks that the schema alone knows: a value of an enumeration is one of its values.

use crate::{rules, tree};
use machinery::{
    Value,
    field::{ErrorList, Path},
    gvk::Gvk,
    schema::{self, Type, TypeRef},
};

/// Reports values that their enumerations do not have; metadata and status are not looked at, and neither are empty texts,
/// whose kinds decide whether they are allowed.
pub(crate) fn check_enums(obj: &Value, errors: &mut ErrorList) {
    let gvk = Gvk::parse(tree::text(obj, "apiVersion"), tree::text(obj, "kind"));
    // These groups and kinds check their enumerations themselves, each where the original does.
    if matches!(gvk.group.as_str(), "" | "apps" | "batch" | "events.k8s.io") {
        return;
    }
    if matches!(gvk.kind.as_str(), "NetworkPolicy" | "ResourceSlice") {
        return;
    }
    let Some(ty) = schema::builtin().kind(&gvk) else { return };
    for (key, value) in obj.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind") {
            continue;
        }
        if let Some(field) = ty.field(key) {
            check(ty.to(field.ty), &field.enum_values, value, &mut Place { up: None, step: Step::Field(key) }, errors);
        }
    }
}

/// A step on the way down; the path is spelled out only when there is an error.
enum Step<'s> {
    Field(&'s str),
    Index(usize),
    Key(&'s str),
}

struct Place<'s> {
    up: Option<&'s Place<'s>>,
    step: Step<'s>,
}

impl Place<'_> {
    fn path(&self) -> Path {
        let up = self.up.map(Place::path).unwrap_or_default();
        match self.step {
            Step::Field(name) => up.child(name),
            Step::Index(at) => up.index(at),
            Step::Key(key) => up.key(key),
        }
    }
}

fn check(ty: TypeRef<'_>, allowed: &[schema::Text], value: &Value, place: &mut Place<'_>, errors: &mut ErrorList) {
    match (ty.get(), value) {
        (Type::String, Value::String(text)) if !allowed.is_empty() && !text.is_empty() && !allowed.iter().any(|a| a == text) => {
            let path = place.path();
            if !errors.iter().any(|e| e.path == path) {
                errors.push(rules::not_supported(&path, text.as_str(), allowed));
            }
        }
        (Type::Object(object), Value::Object(map)) => {
            for (key, value) in map {
                if matches!(value, Value::Object(_) | Value::Array(_) | Value::String(_))
                    && let Some(field) = object.field(key)
                {
                    let mut down = Place { up: Some(place), step: Step::Field(key) };
                    check(ty.to(field.ty), &field.enum_values, value, &mut down, errors);
                }
            }
        }
        (Type::List { elem, .. }, Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                check(ty.to(*elem), allowed, item, &mut Place { up: Some(place), step: Step::Index(at) }, errors);
            }
        }
        (Type::Map { elem, .. }, Value::Object(map)) if matches!(ty.to(*elem).get(), Type::Object(_)) => {
            for (key, item) in map {
                check(ty.to(*elem), &[], item, &mut Place { up: Some(place), step: Step::Key(key) }, errors);
            }
        }
        _ => {}
    }
}
