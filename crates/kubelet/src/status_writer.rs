//! Statuses on their way to the API: one writer a pod, in order, the newest only.
//!
//! While one patch is under way newer statuses replace each other, so a slow API server gets few writes and never an old one
//! after a new one. A patch carries only what changed since the last answer, and the pod's UID, so that it cannot hit a later
//! pod of the same name. Conditions are merged by type: those of other writers are left alone.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::api::{ApiError, SharedApi};

/// First and longest wait before a failed write is tried again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Lists whose elements strategic merge would merge by key, though they are to be replaced.
const MERGED_LISTS: [&str; 2] = ["podIPs", "hostIPs"];

/// The writer of one pod's status.
#[derive(Clone)]
pub struct StatusWriter {
    wanted: watch::Sender<(u64, Option<PodStatus>)>,
    written: watch::Receiver<u64>,
}

impl StatusWriter {
    /// Starts the writer's task; it ends with the last handle.
    #[must_use]
    pub fn spawn(api: SharedApi, pod: &Pod) -> Self {
        let (wanted, receiver) = watch::channel((0, None));
        let (done, written) = watch::channel(0);
        let last = pod.status.clone().unwrap_or_default();
        tokio::spawn(write(api, pod.metadata.clone(), last, receiver, done));
        Self { wanted, written }
    }

    /// Wants this status in the API.
    pub fn publish(&self, status: PodStatus) {
        self.wanted.send_if_modified(|(version, held)| {
            if held.as_ref() == Some(&status) {
                return false;
            }
            *version += 1;
            *held = Some(status);
            true
        });
    }

    /// Waits until the API has what was published last, or will never have it.
    pub async fn flush(&self) {
        let version = self.wanted.borrow().0;
        let mut written = self.written.clone();
        let _ = written.wait_for(|w| *w >= version).await;
    }
}

async fn write(
    api: SharedApi,
    meta: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    mut last: PodStatus,
    mut wanted: watch::Receiver<(u64, Option<PodStatus>)>,
    done: watch::Sender<u64>,
) {
    let (ns, name, uid) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default(), meta.uid.unwrap_or_default());
    let mut wait = RETRY_MIN;
    while wanted.changed().await.is_ok() {
        loop {
            let (version, status) = wanted.borrow_and_update().clone();
            let Some(status) = status else { break };
            let Some(change) = difference(&last, &status) else {
                let _ = done.send(version);
                break;
            };
            match api.patch_pod_status(&ns, &name, json!({"metadata": {"uid": uid}, "status": change})).await {
                Ok(_) => {
                    last = status;
                    wait = RETRY_MIN;
                    let _ = done.send(version);
                    break;
                }
                Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => {
                    // The pod is gone, or another has its name: there is nobody to tell.
                    let _ = done.send(u64::MAX);
                    return;
                }
                Err(e) => {
                    tracing::debug!(pod = %format!("{ns}/{name}"), error = %e, "status not written; will be tried again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

/// The strategic merge patch from one status to another; none if they are the same.
#[must_use]
pub fn difference(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new)) else { return None };
    let mut out = Map::new();
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let change = match (key.as_str(), value) {
            ("conditions", Value::Array(list)) => match conditions(before, list) {
                Some(c) => c,
                None => continue,
            },
            (k, Value::Array(list)) if MERGED_LISTS.contains(&k) && before.is_some() => {
                let mut list = list.clone();
                list.push(json!({"$patch": "replace"}));
                Value::Array(list)
            }
            _ => value.clone(),
        };
        out.insert(key.clone(), change);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        out.insert(key.clone(), Value::Null);
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// The kubelet's own conditions that changed; fields that went away are named as null.
fn conditions(before: Option<&Value>, now: &[Value]) -> Option<Value> {
    const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let find = |t: &Value| before.and_then(Value::as_array).into_iter().flatten().find(|c| c.get("type") == Some(t));
    let mut out = Vec::new();
    for c in now {
        let Some(type_) = c.get("type").filter(|t| t.as_str().is_some_and(|t| OWN.contains(&t))) else { continue };
        let old = find(type_);
        // The scheduler writes that a pod is scheduled; it is added only where nobody did.
        if old == Some(c) || (type_ == "PodScheduled" && old.is_some()) {
            continue;
        }
        let mut c = c.clone();
        if let (Some(Value::Object(old)), Value::Object(new)) = (old, &mut c) {
            for key in old.keys() {
                new.entry(key.clone()).or_insert(Value::Null);
            }
        }
        out.push(c);
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(v: Value) -> PodStatus {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_what_changed_is_written_and_what_went_away_is_null() {
        let old = status(json!({"phase": "Pending", "message": "m", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
            {"type": "Other", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]}));
        let d = difference(&old, &new).unwrap();
        assert_eq!(d["phase"], "Running");
        assert_eq!(d["message"], Value::Null);
        assert_eq!(d["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "replace"}]));
        assert_eq!(d["conditions"], json!([{"type": "Ready", "status": "True", "reason": null}]));
        assert_eq!(difference(&new, &new), None);
    }
}
