//! Subresources that are more than a part of their object: `scale`, `binding`, `eviction`; and the rules of those that
//! are a part (`ephemeralcontainers`, `resize`, `finalize`): which fields a request to them may change.

mod binding;
mod eviction;
mod scale;

pub(crate) use binding::bind;
pub(crate) use eviction::evict;
pub(crate) use scale::{get as scale_get, patch as scale_patch, update as scale_update};

use machinery::{Value, field::ErrorList};

/// Subresources whose body and answer are the object itself.
pub(crate) const PARTS: [&str; 5] = ["status", "ephemeralcontainers", "resize", "approval", "finalize"];

/// Notes a condition of a pod; its time of transition stays if its status is what it was.
fn set_condition(pod: &mut Value, mut condition: Value, now: &str) {
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(list) = conditions.as_array_mut() else { return };
    condition["lastProbeTime"] = Value::Null;
    condition["lastTransitionTime"] = now.into();
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(have) => {
            if have["status"] == condition["status"] {
                condition["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            if let Some(generation) = have.get("observedGeneration") {
                condition["observedGeneration"] = generation.clone();
            }
            *have = condition;
        }
        None => list.push(condition),
    }
}

/// Takes everything but the subresource's own fields from the present object.
pub(crate) fn prepare(subresource: &str, value: &mut Value, old: &Value) {
    let new = std::mem::replace(value, old.clone());
    // What apply and updates record belongs to the new object, whatever the subresource.
    value["metadata"]["managedFields"] = new["metadata"]["managedFields"].clone();
    match subresource {
        "ephemeralcontainers" => {
            value["spec"]["ephemeralContainers"] = new["spec"]["ephemeralContainers"].clone();
            grow(value);
        }
        "resize" => {
            let mut wanted = new.clone();
            kinds::prepare_resize(&mut wanted, old);
            value["spec"] = wanted["spec"].take();
            if value["spec"] != old["spec"] {
                grow(value);
            }
        }
        "finalize" => value["spec"]["finalizers"] = new["spec"]["finalizers"].clone(),
        // A subresource of which nothing is known is its object's status.
        _ => value["status"] = new["status"].clone(),
    }
    drop_nulls(value);
}

fn drop_nulls(value: &mut Value) {
    for part in ["metadata", "spec", "status"] {
        if let Some(map) = value[part].as_object_mut() {
            map.retain(|_, v| !v.is_null());
        }
    }
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

fn grow(value: &mut Value) {
    if let Some(generation) = value["metadata"]["generation"].as_i64() {
        value["metadata"]["generation"] = (generation + 1).into();
    }
}

/// What the subresource's own fields must hold.
pub(crate) fn validate(subresource: &str, value: &Value, old: &Value) -> ErrorList {
    match subresource {
        "ephemeralcontainers" => kinds::check_ephemeral(value, old),
        "resize" => kinds::check_resize(value, old),
        _ => ErrorList::new(),
    }
}
