//! Subresources that are more than a part of their object: `scale`, `binding`, `eviction`; and the rules of those that
//! are a part (`ephemeralcontainers`, `resize`, `approval`, `finalize`): which fields a request to them may change.

mod binding;
mod eviction;
mod scale;

pub(crate) use binding::bind;
pub(crate) use eviction::evict;
pub(crate) use scale::{get as scale_get, patch as scale_patch, update as scale_update};

use machinery::{
    Value,
    field::{self, ErrorList, Path},
};
use serde_json::json;

/// Subresources whose body and answer are the object itself.
pub(crate) const PARTS: [&str; 5] = ["status", "ephemeralcontainers", "resize", "approval", "finalize"];

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
            for list in ["containers", "initContainers"] {
                resize(&mut value["spec"][list], &new["spec"][list]);
            }
            if value["spec"] != old["spec"] {
                grow(value);
            }
        }
        "approval" => value["status"]["conditions"] = new["status"]["conditions"].clone(),
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

fn resize(list: &mut Value, wanted: &Value) {
    for container in list.as_array_mut().into_iter().flatten() {
        let twin = wanted.as_array().into_iter().flatten().find(|w| w["name"] == container["name"]);
        if let Some(twin) = twin {
            for field in ["resources", "resizePolicy"] {
                if !twin[field].is_null() {
                    container[field] = twin[field].clone();
                }
            }
        }
    }
}

/// What the subresource's own fields must hold.
pub(crate) fn validate(subresource: &str, value: &Value, old: &Value) -> ErrorList {
    match subresource {
        "ephemeralcontainers" => ephemeral(value, old),
        _ => ErrorList::new(),
    }
}

/// Ephemeral containers may be added, never changed or removed; their names are new and they have an image.
fn ephemeral(value: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::root("spec").child("ephemeralContainers");
    let list = |v: &Value| v["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let (new, had) = (list(value), list(old));
    for known in &had {
        match new.iter().find(|n| n["name"] == known["name"]) {
            None => {
                let detail = format!("existing ephemeral containers {} may not be removed\n", known["name"]);
                errors.push(field::Error::forbidden(&path, &detail));
            }
            Some(same) if same != known => {
                let detail = format!("existing ephemeral containers {} may not be changed\n", known["name"]);
                errors.push(field::Error::forbidden(&path, &detail));
            }
            Some(_) => {}
        }
    }
    let others = |name: &Value| {
        let lists = ["containers", "initContainers"];
        lists.iter().any(|l| value["spec"][*l].as_array().into_iter().flatten().any(|c| c["name"] == *name))
    };
    for (at, container) in new.iter().enumerate() {
        let own = path.index(at);
        let name = &container["name"];
        if name.as_str().unwrap_or_default().is_empty() {
            errors.push(field::Error::required(&own.child("name"), ""));
        } else if others(name) || new[..at].iter().any(|c| c["name"] == *name) {
            errors.push(field::Error::duplicate(&own.child("name"), json!(name)));
        }
        if container["image"].as_str().unwrap_or_default().is_empty() {
            errors.push(field::Error::required(&own.child("image"), ""));
        }
        for forbidden in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !container[forbidden].is_null() {
                errors.push(field::Error::forbidden(&own.child(forbidden), "cannot be set for an Ephemeral Container"));
            }
        }
    }
    errors
}
