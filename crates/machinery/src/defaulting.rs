//! Defaults that the schema alone knows.
//!
//! Two sorts, in one walk: published defaults (`protocol: TCP`, and those of custom resources), and the zeros that Go
//! always writes because the field is a struct or has no `omitempty` (`status: {}`, `resources: {}`, `name: ""`). The
//! second sort is not told from the first by anybody who reads the object, and is owned in managedFields like it. Lists
//! and maps are the exception: Go writes their absence as `null`, which is left out here.
//!
//! Defaults that depend on other fields are the business of `kinds`.

use crate::{
    Map, Value,
    schema::{Field, Object, Type, TypeRef},
};

/// Adds what is absent, all the way down.
pub fn apply(ty: TypeRef<'_>, value: &mut Value) {
    match (ty.get(), value) {
        (Type::Object(object), Value::Object(map)) => fields(ty, object, map),
        (Type::List { elem, .. }, Value::Array(items)) if nests(ty.to(*elem)) => {
            items.iter_mut().for_each(|item| apply(ty.to(*elem), item));
        }
        (Type::Map { elem, .. }, Value::Object(map)) if nests(ty.to(*elem)) => {
            map.values_mut().for_each(|value| apply(ty.to(*elem), value));
        }
        _ => {}
    }
}

fn nests(ty: TypeRef<'_>) -> bool {
    matches!(ty.get(), Type::Object(_) | Type::List { .. } | Type::Map { .. })
}

fn fields(ty: TypeRef<'_>, object: &Object, map: &mut Map<String, Value>) {
    for field in object.fillable() {
        let present = map.get(field.name.as_ref());
        if present.is_some_and(|v| !v.is_null() || field.nullable || field.default.is_none()) {
            continue;
        }
        if let Some(value) = missing(ty, field) {
            map.insert(field.name.clone().into_owned(), value);
        }
    }
    let mut candidates = object.fields.iter();
    let mut candidate = candidates.next();
    for (name, value) in map.iter_mut() {
        while candidate.is_some_and(|f| f.name.as_ref() < name.as_str()) {
            candidate = candidates.next();
        }
        match candidate {
            Some(f) if f.name == name.as_str() => apply(ty.to(f.ty), value),
            Some(_) => {}
            None => break,
        }
    }
}

/// What an absent field becomes, if anything.
fn missing(ty: TypeRef<'_>, field: &Field) -> Option<Value> {
    if let Some(default) = &field.default {
        return Some(default.clone());
    }
    if field.go.pointer || field.go.omit_zero {
        return None;
    }
    let always = !field.go.omit_empty;
    match ty.to(field.ty).get() {
        Type::Object(_) => Some(Value::Object(Map::new())),
        Type::Quantity => Some(Value::String("0".into())),
        Type::IntOrString => Some(0.into()),
        Type::String if always => Some(Value::String(String::new())),
        Type::Bool if always => Some(Value::Bool(false)),
        Type::Int32 | Type::Int64 | Type::Double if always => Some(0.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    #[test]
    fn published_defaults_and_written_zeros() {
        let ty = schema::builtin().named("io.k8s.api.apps.v1.Deployment").unwrap();
        let mut value = json!({"metadata": {"name": "a"}, "spec": {"selector": {}, "template": {"spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 80}]}]}}}});
        apply(ty, &mut value);
        assert_eq!(
            value,
            json!({"metadata": {"name": "a"}, "spec": {"selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": [
                {"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {}}]}}}, "status": {}})
        );
    }

    #[test]
    fn a_service_gets_its_empty_status() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.Service").unwrap();
        let mut value = json!({"spec": {"ports": [{"port": 80}]}});
        apply(ty, &mut value);
        assert_eq!(value["status"], json!({"loadBalancer": {}}));
        assert_eq!(value["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 0}));
    }

    #[test]
    fn nothing_is_added_twice() {
        for (gvk, ty) in schema::builtin().kinds() {
            let mut value = json!({});
            apply(ty, &mut value);
            let once = value.clone();
            apply(ty, &mut value);
            assert_eq!(value, once, "{gvk:?}");
        }
    }
}
