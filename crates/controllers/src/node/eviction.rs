//! Pods on nodes with NoExecute taints that they do not tolerate, or no longer, are deleted (upstream `tainteviction`). Each
//! names the end of its time; after a restart the time begins anew, as the original's does. The end stays what it was when the pod began
//! to be borne, as there: a further taint that is borne for a while, too, neither shortens nor lengthens it.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use instruments::{Counter, Family, Histogram, Kind};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use machinery::placement::{NO_EXECUTE, Tolerations};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::taints;
use crate::pods;
use crate::work::{Controller, Cx, Step};

const WORKERS: usize = 8;

const DELETIONS: Family = Family::new(
    "taint_eviction_controller_pod_deletions_total",
    Kind::Counter,
    "[ALPHA] Total number of Pods deleted by TaintEvictionController since its start.",
);
const LATENCY: Family = Family::new(
    "taint_eviction_controller_pod_deletion_duration_seconds",
    Kind::Histogram,
    "[ALPHA] Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
);
/// Upper ends of its buckets, of the controller of devices' taints as well.
pub(crate) static LATENCY_S: [f64; 12] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("node-controller");
    let controller = Arc::new(Eviction {
        recorder: cx.recorder(&client, "taint-eviction-controller"),
        client,
        nodes: cx.informers.informer(),
        pods: cx.informers.informer(),
        due: Mutex::default(),
        deletions: cx.metrics().counter(&DELETIONS),
        latency: cx.metrics().histogram(&LATENCY, &LATENCY_S),
    });
    pods::index_node(&controller.pods);
    cx.setup(&controller).on(&controller.nodes, Eviction::heard_node).on(&controller.pods, Eviction::heard_pod).work(WORKERS).await;
}

fn no_execute(node: &Node) -> Vec<&Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == NO_EXECUTE).collect()
}

struct Eviction {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// When which pod, by key and UID, is to leave.
    due: Mutex<HashMap<ObjectKey, (String, Instant)>>,
    deletions: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Controller for Eviction {
    const QUEUE: &'static str = "noexec_taint_pod";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(pod) = self.pods.get_key(key).filter(|p| !p.is_deleting()) else {
            self.due.lock().remove(key);
            return Ok(None);
        };
        let taints: Vec<Taint> = self.nodes.get("", pods::node_name(&pod)).map(|n| no_execute(&n).into_iter().cloned().collect()).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()).map(Tolerations::new).unwrap_or_default();
        let Some(stay) = taints::stay(&taints, &tolerations) else {
            if self.due.lock().remove(key).is_some() {
                let message = format!("Cancelling deletion of Pod {key}");
                self.recorder.event(&object_reference(&*pod), EventType::Normal, "TaintManagerEviction", message);
            }
            return Ok(None);
        };
        let now = Instant::now();
        // A time beyond all clocks is for ever.
        let Some(end) = now.checked_add(stay) else { return Ok(None) };
        let due = {
            let mut all = self.due.lock();
            let known = all.entry(key.clone()).or_insert_with(|| (pod.uid().to_owned(), end));
            if known.0 != pod.uid() {
                *known = (pod.uid().to_owned(), end);
            } else if stay.is_zero() {
                known.1 = known.1.min(end);
            }
            known.1
        };
        let left = due.saturating_duration_since(now);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        if self.evict(&pod).await? {
            self.deletions.inc();
            // From when its time had come.
            self.latency.took(due.elapsed());
        }
        self.due.lock().remove(key);
        Ok(None)
    }
}

impl Eviction {
    /// A node's taints are its pods' affair.
    fn heard_node(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Node>) {
        let changed = match change {
            Delta::Updated { old, new } => no_execute(old) != no_execute(new),
            Delta::Added(node) => !no_execute(node).is_empty(),
            Delta::Deleted(_) => false,
        };
        if changed {
            pods::on_node(&self.pods, change.object().name()).iter().for_each(|p| queue.add(p.key()));
        }
    }

    fn heard_pod(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<Pod>) {
        let pod = change.object();
        let tainted = || self.nodes.get("", pods::node_name(pod)).is_some_and(|n| !no_execute(&n).is_empty());
        if self.due.lock().contains_key(&pod.key()) || (!pods::node_name(pod).is_empty() && tainted()) {
            queue.add(pod.key());
        }
    }

    /// Whether it was there to be deleted.
    async fn evict(&self, pod: &Pod) -> client::Result<bool> {
        let message = format!("Marking for deletion Pod {}", pod.key());
        self.recorder.event(&object_reference(pod), EventType::Normal, "TaintManagerEviction", message);
        delete_as_target(&self.client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint").await
    }
}

/// Tells why a pod is deleted, and deletes it; whether it was there to be deleted, and still this one.
pub(crate) async fn delete_as_target(client: &Client, pod: &Pod, reason: &str, message: &str) -> client::Result<bool> {
    let api = client.namespaced::<Pod>(pod.namespace());
    match api.patch_status(pod.name(), &Patch::Strategic(disruption(pod, reason, message, None)), &PatchParams::default()).await {
        Err(error) if error.is_not_found() || error.is_conflict() => return Ok(false),
        other => other.map(drop)?,
    }
    match api.delete(pod.name(), &DeleteParams::default().uid(pod.uid())).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        other => Ok(other.is_ok()),
    }
}

/// A patch that tells why a pod is about to be deleted by the cluster; with a phase if it will not tell its own.
pub(crate) fn disruption(pod: &Pod, reason: &str, message: &str, phase: Option<&str>) -> serde_json::Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": client::now(), "observedGeneration": pod.meta().generation,
    });
    let mut patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    if let Some(phase) = phase {
        patch["status"]["phase"] = phase.into();
    }
    patch
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use instruments::Registry;

    use super::*;
    use crate::fake::Fake;

    type Due = Mutex<HashMap<ObjectKey, (String, Instant)>>;

    /// A node with these taints, and a pod that bears `a` for 300 s, `b` for 60 s and `c` for longer than any clock goes.
    fn eviction(client: &Client, taints: &[&str], due: Due) -> Eviction {
        let taints: Vec<_> = taints.iter().map(|key| json!({"key": key, "effect": NO_EXECUTE})).collect();
        let node: Node = client::typed(&json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})).expect("a node");
        let borne = [("a", 300), ("b", 60), ("c", i64::MAX)].map(|(key, s)| json!({"key": key, "operator": "Exists", "tolerationSeconds": s}));
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"nodeName": "n", "containers": [], "tolerations": borne}});
        let registry = Registry::default();
        Eviction {
            recorder: Recorder::new(client.clone(), "taint-eviction-controller", ""),
            client: client.clone(),
            nodes: Informer::fixed([node]),
            pods: Informer::fixed([client::typed::<Pod>(&pod).expect("a pod")]),
            due,
            deletions: registry.counter(&DELETIONS),
            latency: registry.histogram(&LATENCY, &LATENCY_S),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_further_taint_does_not_move_the_end() {
        let fake = Fake::new(|_, _: &str| (200, json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}})));
        let (client, key) = (fake.client(), ObjectKey::new("d", "p"));
        let deletes = || fake.written().iter().filter(|w| w.starts_with("DELETE ")).count();
        let step = async |eviction: &Eviction| eviction.reconcile(&key).await.expect("a step");
        let first = eviction(&client, &["a"], Due::default());
        assert_eq!(step(&first).await, Some(Duration::from_secs(300)));
        tokio::time::advance(Duration::from_secs(200)).await;
        let both = eviction(&client, &["a", "b"], first.due);
        assert_eq!(step(&both).await, Some(Duration::from_secs(100)), "not at once, though it bears the second for a minute only");
        let unborne = eviction(&client, &["a", "other"], both.due);
        assert_eq!((step(&unborne).await, deletes()), (None, 1), "what it does not bear makes it go at once");
        let forever = eviction(&client, &["c"], unborne.due);
        assert_eq!((step(&forever).await, deletes()), (None, 1));
    }
}
