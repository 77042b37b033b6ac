//! Defaults that the schema alone knows.
//!
//! Two sorts, in one walk: published defaults (`protocol: TCP`, and those of custom resources), and the zeros that Go
//! always writes because the field is a struct or has no `omitempty` (`status: {}`, `resources: {}`, `name: ""`, and `null`
//! for a time, a list, a map or a pointer: `lastProbeTime: null`). The second sort is not told from the first by anybody who
//! reads the object, and is owned in managedFields like it.
//!
//! The walk also rounds the amounts of lists of resources up to thousandths, as upstream's `SetDefaults_ResourceList`.
//!
//! Defaults that depend on other fields are the business of `kinds`.

use crate::{
    Map, Value, quantity,
    schema::{Field, Object, Type, TypeRef},
};

/// The Go type of the maps whose amounts are rounded.
const RESOURCE_LIST: &str = "v1.ResourceList";

/// The group that has no defaults upstream, and so rounds nothing.
const UNROUNDED: &str = "io.k8s.api.node.";

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

/// Leaves of an empty list or map what a message in the store leaves of it: `null` where it is always written, and nothing else.
pub fn settle(ty: TypeRef<'_>, value: &mut Value) {
    leave_out(ty, value, true);
}

/// Leaves of it what JSON in the store leaves of it: itself where it is always written, and else nothing.
pub fn settle_text(ty: TypeRef<'_>, value: &mut Value) {
    leave_out(ty, value, false);
}

fn leave_out(ty: TypeRef<'_>, value: &mut Value, message: bool) {
    match (ty.get(), value) {
        (Type::Object(object), Value::Object(map)) => {
            let mut candidates = object.fields.iter().peekable();
            for (name, value) in map.iter_mut() {
                while candidates.next_if(|field| field.name.as_ref() < name.as_str()).is_some() {}
                let Some(field) = candidates.peek().filter(|field| field.name == name.as_str()) else { continue };
                let always = message && !field.go.omit_empty && !field.go.omit_zero && !field.go.pointer;
                match (ty.to(field.ty).get(), &*value) {
                    (Type::List { .. }, Value::Array(items)) if always && items.is_empty() => *value = Value::Null,
                    (Type::Map { .. }, Value::Object(entries)) if always && entries.is_empty() => *value = Value::Null,
                    _ => leave_out(ty.to(field.ty), value, message),
                }
            }
            map.retain(|name, value| !is_blank(value) || ty.field(name).is_none_or(|field| !ty.leaves_out(field, value)));
        }
        (Type::List { elem, .. }, Value::Array(items)) if nests(ty.to(*elem)) => items.iter_mut().for_each(|item| leave_out(ty.to(*elem), item, message)),
        (Type::Map { elem, .. }, Value::Object(map)) if nests(ty.to(*elem)) => map.values_mut().for_each(|value| leave_out(ty.to(*elem), value, message)),
        _ => {}
    }
}

fn is_blank(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Rounds the amounts of a list of resources.
fn round(list: &mut Value) {
    for amount in list.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(rounded) = amount.as_str().and_then(quantity::rounded_to_milli) {
            *amount = Value::String(rounded);
        }
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
            Some(f) if f.name == name.as_str() && f.go_type == RESOURCE_LIST && !object.name.starts_with(UNROUNDED) => round(value),
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
    let always = !field.go.omit_empty;
    if field.go.pointer || field.go.omit_zero {
        return (always && !field.go.omit_zero).then_some(Value::Null);
    }
    match ty.to(field.ty).get() {
        // `omitempty` leaves out no struct.
        Type::Time | Type::MicroTime => Some(Value::Null),
        Type::List { .. } | Type::Map { .. } | Type::Bytes | Type::RawExtension if always => Some(Value::Null),
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
    fn an_empty_list_stays_in_json_where_it_is_always_written() {
        let ty = schema::builtin().named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition").unwrap();
        let value = json!({"metadata": {"finalizers": []}, "spec": {"names": {"shortNames": []}}, "status": {"conditions": [], "storedVersions": ["v1"]}});
        let settled = |settle: fn(TypeRef<'_>, &mut Value)| {
            let mut value = value.clone();
            settle(ty, &mut value);
            value
        };
        let left = |conditions: Value| json!({"metadata": {}, "spec": {"names": {}}, "status": {"conditions": conditions, "storedVersions": ["v1"]}});
        assert_eq!(settled(settle_text), left(json!([])));
        assert_eq!(settled(settle), left(Value::Null));
    }

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
    fn what_go_cannot_leave_out_is_null() {
        let of = |kind: &str, mut value: Value| {
            apply(schema::builtin().named(kind).unwrap(), &mut value);
            value
        };
        let node = of("io.k8s.api.core.v1.Node", json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        assert_eq!(node["status"]["conditions"][0], json!({"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}));
        assert_eq!(node["metadata"], json!({}), "with omitzero it can");
        let claim = of("io.k8s.api.core.v1.PersistentVolumeClaim", json!({"spec": {"dataSource": {"kind": "A", "name": "b"}}}));
        assert_eq!(claim["spec"]["dataSource"], json!({"kind": "A", "name": "b", "apiGroup": null}));
        assert_eq!(of("io.k8s.api.rbac.v1.Role", json!({})), json!({"metadata": {}, "rules": null}));
        assert_eq!(of("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", json!({}))["status"], json!({"desiredReplicas": 0, "currentMetrics": null}));
    }

    #[test]
    fn what_is_stored_empty_comes_back_as_null() {
        let mut role = json!({"metadata": {"labels": {}}, "rules": [], "x": []});
        settle(schema::builtin().named("io.k8s.api.rbac.v1.Role").unwrap(), &mut role);
        assert_eq!(role, json!({"metadata": {}, "rules": null, "x": []}));
    }

    #[test]
    fn amounts_are_rounded_up_to_thousandths() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.Pod").unwrap();
        let mut value = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1n", "memory": "1Gi"}}}]}});
        apply(ty, &mut value);
        assert_eq!(value["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "1m", "memory": "1Gi"}}));
        let mut class = json!({"handler": "h", "overhead": {"podFixed": {"cpu": "1n"}}});
        apply(schema::builtin().named("io.k8s.api.node.v1.RuntimeClass").unwrap(), &mut class);
        assert_eq!(class["overhead"]["podFixed"]["cpu"], "1n", "its group has no defaults");
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
