//! What stands in for nodes: it tells each pod of a Job done as soon as it sees it.

use crate::pods::NAMESPACE;
use client::{Api, Client, Event, ListParams, Patch, PatchParams};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::time::Duration;

/// Pods whose end is told at once.
const SIDE_BY_SIDE: usize = 32;
/// Before a server that is gone is asked again.
const AGAIN: Duration = Duration::from_millis(20);

/// What a pod is to do: nothing, and nowhere.
pub(super) fn pod_spec(restart: &str) -> Value {
    json!({"restartPolicy": restart, "containers": [{"name": "main", "image": "none.example/none:1", "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}]})
}

/// Until it is aborted; what a server that was killed did not take is told again after a new look at all pods.
pub(super) async fn run(client: Client, job: String) {
    let pods = client.namespaced::<Pod>(NAMESPACE);
    let own = ListParams::labels(format!("job-name={job}"));
    loop {
        if let Ok(events) = pods.watch(&own, "").await {
            let told = events.try_filter_map(|event| async { Ok(waiting(event)) });
            // Either ends it: a watch that ended, or a write that failed.
            let _ = told.try_for_each_concurrent(SIDE_BY_SIDE, |name| done(&pods, name)).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The name of a pod that has not ended.
fn waiting(event: Event<Pod>) -> Option<String> {
    let (Event::Added(pod) | Event::Modified(pod)) = event else { return None };
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    (phase == "Pending" && pod.metadata.deletion_timestamp.is_none()).then_some(pod.metadata.name?)
}

async fn done(pods: &Api<Pod>, name: String) -> client::Result<()> {
    let status = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    match pods.patch_status(&name, &status, &PatchParams::default()).await {
        // Deleted meanwhile.
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}
