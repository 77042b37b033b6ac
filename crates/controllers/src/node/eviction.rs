//! Pods on nodes with NoExecute taints that they do not tolerate, or no longer, are deleted (upstream `tainteviction`). Each
//! names the end of its time; after a restart the time begins anew, as the original's does. The end stays what it was when the pod began
//! to be borne, as there: a further taint that is borne for a while, too, neither shortens nor lengthens it. A pod that goes before its end, or
//! must leave at once after all, is told that the deletion which was due is off. Pods that are being deleted already are no exception: on a dead
//! node nobody ends them, and they are targets like the others.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Client, DeleteParams, Delta, EventType, Informer, Meta, ObjectKey, Patch, PatchParams, Recorder, WorkQueue};
use instruments::{Counter, Family, Histogram, Kind};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint};
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
        let Some(pod) = self.pods.get_key(key) else {
            self.call_off(key);
            return Ok(None);
        };
        // Of a node that is gone or has no taints any more nothing is to be borne.
        let taints: Vec<Taint> = self.nodes.get("", pods::node_name(&pod)).map(|n| no_execute(&n).into_iter().cloned().collect()).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()).map(Tolerations::new).unwrap_or_default();
        let Some(stay) = taints::stay(&taints, &tolerations) else {
            self.call_off(key);
            return Ok(None);
        };
        let now = Instant::now();
        // A time beyond all clocks is for ever.
        let Some(end) = now.checked_add(stay) else { return Ok(None) };
        let due = self.due(&pod, now, end);
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

/// The pod that Events are about, as the original names it: by its name alone.
fn about(key: &ObjectKey) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        ..ObjectReference::default()
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
        let bears = |p: &Pod| p.spec.as_ref().and_then(|s| s.tolerations.clone());
        if let Delta::Updated { old, new } = change
            && old.uid() == new.uid()
            && pods::node_name(old) == pods::node_name(new)
            && bears(old) == bears(new)
        {
            // What it was told is not taken back by what it is meanwhile, and not told twice.
            return;
        }
        let tainted = || self.nodes.get("", pods::node_name(pod)).is_some_and(|n| !no_execute(&n).is_empty());
        if self.due.lock().contains_key(&pod.key()) || (!pods::node_name(pod).is_empty() && tainted()) {
            queue.add(pod.key());
        }
    }

    /// When a pod is to leave that may stay until `end`. What was due and is not any more is off: for a former pod of its name, and for
    /// one that must leave at once.
    fn due(&self, pod: &Pod, now: Instant, end: Instant) -> Instant {
        let (key, mut all) = (pod.key(), self.due.lock());
        let before = all.get(&key).cloned();
        if let Some((uid, due)) = &before
            && uid == pod.uid()
            && (end > now || *due <= now)
        {
            return *due;
        }
        all.insert(key.clone(), (pod.uid().to_owned(), end));
        drop(all);
        if before.is_some() {
            self.tell_off(&key);
        }
        end
    }

    /// A pod may stay, or is gone.
    fn call_off(&self, key: &ObjectKey) {
        let was_due = self.due.lock().remove(key).is_some();
        if was_due {
            self.tell_off(key);
        }
    }

    fn tell_off(&self, key: &ObjectKey) {
        self.recorder.event(&about(key), EventType::Normal, "TaintManagerEviction", format!("Cancelling deletion of Pod {key}"));
    }

    /// Whether it was there to be deleted.
    async fn evict(&self, pod: &Pod) -> client::Result<bool> {
        let key = pod.key();
        self.recorder.event(&about(&key), EventType::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
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
    let before = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True");
    let since = before.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(client::now);
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": pod.meta().generation,
    });
    // What is new comes last, as upstream's patch has it.
    let mut order: Vec<_> = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| json!({"type": c.type_})).collect();
    let own = json!({"type": "DisruptionTarget"});
    if !order.contains(&own) {
        order.push(own);
    }
    let mut patch = json!({"metadata": {"uid": pod.uid()}, "status": {"$setElementOrder/conditions": order, "conditions": [condition]}});
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
    #[tokio::test(start_paused = true)]
    async fn what_was_due_and_is_not_any_more_is_told_to_be_off() {
        let fake = Fake::new(|_, path: &str| {
            (200, json!({"kind": if path.ends_with("/events") { "Event" } else { "Pod" }, "apiVersion": "v1", "metadata": {"name": "p"}}))
        });
        let (client, key) = (fake.client(), ObjectKey::new("d", "p"));
        let due = || Mutex::new(HashMap::from([(key.clone(), ("u".to_owned(), Instant::now() + Duration::from_secs(300)))]));
        let told = async |eviction: &Eviction| {
            let before = fake.written().len();
            eviction.reconcile(&key).await.expect("a step");
            // Events are written in the background.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut told = Vec::new();
            for line in fake.written().into_iter().skip(before).filter(|line| line.starts_with("POST ")) {
                let event: serde_json::Value = line.splitn(3, ' ').nth(2).and_then(|body| serde_json::from_str(body).ok()).expect("an event");
                assert_eq!(event["involvedObject"], json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "d"}));
                told.push(event["message"].as_str().unwrap_or_default().to_owned());
            }
            told
        };
        let (off, marked) = ("Cancelling deletion of Pod d/p", "Marking for deletion Pod d/p");
        assert_eq!(told(&Eviction { pods: Informer::fixed([]), ..eviction(&client, &["a"], due()) }).await, [off], "it is gone");
        assert_eq!(told(&eviction(&client, &[], due())).await, [off], "the taint is");
        let mut at_once = told(&eviction(&client, &["other"], due())).await;
        at_once.sort();
        assert_eq!(at_once, [off, marked]);
        assert_eq!(told(&eviction(&client, &["other"], Due::default())).await, [marked]);
    }
}
