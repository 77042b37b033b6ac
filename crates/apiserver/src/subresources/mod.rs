//! Subresources that are more than a part of their object: `scale`, `binding`, `eviction`. Which fields a request to
//! those that are a part may change, the kinds know (`Strategy::prepare_through`).

mod binding;
mod eviction;
mod scale;

pub(crate) use binding::bind;
pub(crate) use eviction::evict;
pub(crate) use scale::{answered as scale_of, get as scale_get, patch as scale_patch, update as scale_update};

use machinery::Value;

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
