//! Whether nodes live: a kubelet that neither renews its lease nor its status is unknown, and its node gets taints; a node
//! that is not ready gets others.
//!
//! Upstream looks at every node every five seconds. Here each node has one deadline, moved without any work by each sign
//! of life: only when it is reached is the node looked at. How fast dead nodes' pods are evicted `zones.rs` says.
//!
//! A dead node's pods are said to be not ready once, when the node turns silent, and each that is bound to it later once: what
//! a kubelet that lives after all says of them afterwards stands, or the two would write against one another without end. What
//! could not be written is tried again; what a former process left undone is done when the node is first seen.
//!
//! Before a node is taken for silent the server is asked for its lease: a watch that lags, or a server that was away, is no silence of
//! all nodes (upstream's gate `NodeControllerLeaseCircuitBreaker`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, EventType, Informer, ListParams, Meta, ObjectKey, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use instruments::{Counter, Families, Family, Histogram, Kind, Labelled, exponential};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::taints::{self, Evict};
use super::zones::{Word, Zones, zone};
use super::{condition, ready, reference};
use crate::meta::created;
use crate::pods;
use crate::work::{Controller, Cx, Step};

const LEASES: &str = "kube-node-lease";
/// How long a node may take until it tells for the first time how it is (upstream `--node-startup-grace-period`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// A node whose lease was renewed without this process having heard it is looked at again after this; it is heard by then.
const UNHEARD: Duration = Duration::from_secs(5);
/// What is not known of a node that is silent.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Labels, and those of old that say the same (upstream `labelReconcileInfo`).
const LABELS: [(&str, &str); 2] = [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];
const WORKERS: usize = 8;

const ZONE_HEALTH: Family = Family::new("node_collector_zone_health", Kind::Gauge, "[ALPHA] Gauge measuring percentage of healthy nodes per zone.");
const ZONE_SIZE: Family = Family::new("node_collector_zone_size", Kind::Gauge, "[ALPHA] Gauge measuring number of registered Nodes per zones.");
const ZONE_UNHEALTHY: Family =
    Family::new("node_collector_unhealthy_nodes_in_zone", Kind::Gauge, "[ALPHA] Gauge measuring number of not Ready Nodes per zones.");
const EVICTIONS: Family = Family::new(
    "node_collector_evictions_total",
    Kind::Counter,
    "[STABLE] Number of Node evictions that happened since current instance of NodeController started.",
);
const JUDGING: Family = Family::new(
    "node_collector_update_node_health_duration_seconds",
    Kind::Histogram,
    "[ALPHA] Duration in seconds for NodeController to update the health of a single node.",
);
static JUDGING_S: [f64; 8] = exponential(0.001, 4.0);

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("node-controller");
    let queue: WorkQueue<Key> = WorkQueue::default();
    let controller = Arc::new(Lifecycle {
        recorder: cx.recorder(&client, "node-controller"),
        client,
        nodes: cx.informers.informer(),
        pods: cx.informers.informer(),
        leases: cx.informers.informer_in(LEASES, ListParams::default()),
        grace: cx.config.node_monitor_grace,
        signs: Mutex::default(),
        zones: Mutex::default(),
        unmarked: Mutex::default(),
        queue: queue.clone(),
        evictions: cx.metrics().counters(&EVICTIONS, ["zone"]),
        judging: cx.metrics().histogram(&JUDGING, &JUDGING_S),
    });
    cx.metrics().collect(&[(&ZONE_HEALTH, &["zone"]), (&ZONE_SIZE, &["zone"]), (&ZONE_UNHEALTHY, &["zone"])], {
        let controller = Arc::downgrade(&controller);
        move |out| controller.upgrade().into_iter().for_each(|controller| controller.tell_zones(out))
    });
    pods::index_node(&controller.pods);
    cx.setup_with(queue, &controller)
        .on(&controller.nodes, |c, queue, change| {
            c.heard_node(change);
            queue.add(Key::Node(change.object().name().to_owned()));
        })
        .on(&controller.leases, |c, _, change| match change {
            Delta::Added(lease) => c.sign(lease.name()),
            // Not when only the listener hears again what there is.
            Delta::Updated { old, new } if old.spec != new.spec => c.sign(new.name()),
            Delta::Updated { .. } | Delta::Deleted(_) => {}
        })
        .on(&controller.pods, Lifecycle::heard_pod)
        .work(WORKERS)
        .await;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Node(String),
    /// A pod that was bound to a node that is not ready.
    Pod(ObjectKey),
}

struct Lifecycle {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    grace: Duration,
    /// The last sign of life of each node, by this process' own clock.
    signs: Mutex<HashMap<String, Instant>>,
    zones: Mutex<Zones>,
    /// Nodes that turned silent and whose pods do not all say so yet.
    unmarked: Mutex<HashSet<String>>,
    queue: WorkQueue<Key>,
    /// Nodes whose pods were sent away.
    evictions: Arc<Labelled<1, Counter>>,
    /// How long a look at a node takes.
    judging: Arc<Histogram>,
}

impl Lifecycle {
    fn tell_zones(&self, out: &mut Families) {
        self.zones.lock().each(|zone, alive, dead| {
            let (size, labels) = ((alive + dead) as f64, [("zone", zone)]);
            out.add(&ZONE_HEALTH, &labels, 100.0 * alive as f64 / size, None);
            out.add(&ZONE_SIZE, &labels, size, None);
            out.add(&ZONE_UNHEALTHY, &labels, dead as f64, None);
        });
    }

    fn sign(&self, node: &str) {
        self.signs.lock().insert(node.to_owned(), Instant::now());
    }

    /// A pod that is bound to a dead node is not ready.
    fn heard_pod(&self, queue: &WorkQueue<Key>, change: &Delta<Pod>) {
        let bound = match change {
            Delta::Added(_) => true,
            Delta::Updated { old, new } => pods::node_name(old) != pods::node_name(new),
            Delta::Deleted(_) => false,
        };
        let pod = change.object();
        if bound && self.is_dead(pods::node_name(pod)) {
            queue.add(Key::Pod(pod.key()));
        }
    }

    fn is_dead(&self, node: &str) -> bool {
        !node.is_empty() && self.nodes.get("", node).is_some_and(|n| ready(&n).is_some_and(|r| r != "True"))
    }

    fn heard_node(&self, change: &Delta<Node>) {
        let heartbeat = |n: &Node| condition(n, "Ready").map(|c| (c.last_heartbeat_time.clone(), c.status.clone()));
        match change {
            Delta::Added(node) => {
                self.sign(node.name());
                // All of the first list before anything is judged: else the first dead node would seem to be all there is.
                self.note_zone(node.name(), Some(node));
                if ready(node) == Some("Unknown") {
                    self.unmarked.lock().insert(node.name().to_owned());
                }
                let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
                self.recorder.event(&reference(node), EventType::Normal, "RegisteredNode", message);
            }
            // This controller's own word, Unknown, is no sign.
            Delta::Updated { old, new } if heartbeat(old) != heartbeat(new) && ready(new) != Some("Unknown") => self.sign(new.name()),
            Delta::Updated { .. } => {}
            Delta::Deleted(node) => {
                self.signs.lock().remove(node.name());
                self.unmarked.lock().remove(node.name());
                let message = format!("Node {0} event: Removing Node {0} from Controller", node.name());
                self.recorder.event(&reference(node), EventType::Normal, "RemovingNode", message);
            }
        }
    }

    /// How long until the node counts as silent; zero if it does.
    fn left(&self, node: &Node) -> Duration {
        let last = *self.signs.lock().entry(node.name().to_owned()).or_insert_with(Instant::now);
        let grace = if ready(node).is_none() { self.grace.max(STARTUP_GRACE) } else { self.grace };
        (last + grace).saturating_duration_since(Instant::now())
    }

    /// Whether the server has another lease of a node than this process has heard of: then nothing can be said of its silence yet.
    async fn is_unheard(&self, node: &str) -> client::Result<bool> {
        let live = self.client.namespaced::<Lease>(LEASES).get_opt(node).await?;
        let heard = self.leases.get(LEASES, node);
        Ok(live.is_some_and(|live| heard.is_none_or(|heard| heard.resource_version() != live.resource_version())))
    }

    /// Notes that a silent node's state is not known. None if that is noted.
    async fn note_silence(&self, node: &Node) -> client::Result<Option<Node>> {
        let now = client::now();
        let mut changed = node.clone();
        let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut any = false;
        for kind in CONDITIONS {
            match conditions.iter_mut().find(|c| c.type_ == kind) {
                None => {
                    any = true;
                    conditions.push(NodeCondition {
                        type_: kind.to_owned(),
                        status: "Unknown".to_owned(),
                        reason: Some("NodeStatusNeverUpdated".to_owned()),
                        message: Some("Kubelet never posted node status.".to_owned()),
                        last_heartbeat_time: Some(crate::meta::seconds(created(node))),
                        last_transition_time: Some(now.clone()),
                    });
                }
                Some(c) if c.status != "Unknown" => {
                    any = true;
                    c.status = "Unknown".to_owned();
                    c.reason = Some("NodeStatusUnknown".to_owned());
                    c.message = Some("Kubelet stopped posting node status.".to_owned());
                    c.last_transition_time = Some(now.clone());
                }
                Some(_) => {}
            }
        }
        if !any {
            return Ok(None);
        }
        self.client.all::<Node>().replace_status(node.name(), &changed).await.map(Some)
    }

    /// Notes a node's state in its zone; who is concerned by a zone's turn is looked at again.
    fn note_zone(&self, name: &str, node: Option<&Node>) {
        let turned = self.zones.lock().note(name, node);
        if turned.came_back {
            // Nobody was heard while this side was cut off: everybody gets the whole time again.
            let now = Instant::now();
            self.signs.lock().values_mut().for_each(|s| *s = now);
        }
        turned.nodes.into_iter().filter(|n| n != name).for_each(|n| self.queue.add(Key::Node(n)));
    }

    /// Whether a node's pods are to go, and when to ask again.
    fn may_evict(&self, node: &Node) -> (Evict, Option<Duration>) {
        if ready(node).is_none_or(|r| r == "True") {
            return (Evict::Wait, None);
        }
        let mut zones = self.zones.lock();
        // What was begun goes on, unless nobody lives; it takes no other node's turn.
        if taints::evicts(node) && !zones.is_cut_off() {
            return (Evict::Wait, None);
        }
        match zones.may_evict(node, Instant::now()) {
            Word::Now => (Evict::Yes, None),
            Word::In(wait) => (Evict::Wait, Some(wait)),
            Word::Not => (Evict::Wait, None),
            Word::CutOff => (Evict::No, None),
        }
    }

    /// The pods of a node that turned silent are not ready, whatever their last word was.
    async fn mark_pods(&self, node: &str) -> client::Result<()> {
        let mut result = Ok(());
        for pod in pods::on_node(&self.pods, node) {
            result = self.mark(&pod).await.and(result);
        }
        result
    }

    async fn mark(&self, pod: &Pod) -> client::Result<()> {
        if !pods::is_ready(pod) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"uid": pod.uid()},
            "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": client::now()}]},
        });
        let api = self.client.namespaced::<Pod>(pod.namespace());
        match api.patch_status(pod.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
            Ok(_) => {
                self.recorder.event(&object_reference(pod), EventType::Warning, "NodeNotReady", "Node is not ready");
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn node(&self, name: &str) -> Step {
        let Some(seen) = self.nodes.get("", name) else {
            self.note_zone(name, None);
            return Ok(None);
        };
        let left = self.left(&seen);
        if left.is_zero() && ready(&seen) != Some("Unknown") && self.is_unheard(name).await? {
            return Ok(Some(UNHEARD));
        }
        let mut node = (*seen).clone();
        if left.is_zero()
            && let Some(noted) = self.note_silence(&node).await?
        {
            if ready(&seen) == Some("True") {
                let message = format!("Node {name} status is now: NodeNotReady");
                self.recorder.event(&reference(&node), EventType::Normal, "NodeNotReady", message);
                self.unmarked.lock().insert(name.to_owned());
            }
            node = noted;
        }
        self.note_zone(name, Some(&node));
        let (evict, turn) = self.may_evict(&node);
        if let Some(taints) = taints::wanted(&node, evict, &client::now()) {
            let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
            match self.client.all::<Node>().patch(name, &Patch::Merge(patch), &PatchParams::default()).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other.map(drop)?,
            }
            if evict == Evict::Yes && !taints::evicts(&node) {
                self.evictions.with([&zone(&node)]).inc();
            }
        }
        if ready(&node).is_none_or(|r| r == "True") {
            self.unmarked.lock().remove(name);
        } else if self.unmarked.lock().contains(name) {
            self.mark_pods(name).await?;
            self.unmarked.lock().remove(name);
        }
        let labels = outdated(&node);
        if !labels.is_empty() {
            let patch = json!({"metadata": {"uid": node.uid(), "labels": labels}});
            match self.client.all::<Node>().patch(name, &Patch::Strategic(patch), &PatchParams::default()).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other.map(drop)?,
            }
        }
        let deadline = (!left.is_zero()).then_some(left + Duration::from_millis(10));
        Ok(deadline.into_iter().chain(turn).min())
    }
}

/// The labels of old that a node lacks, or that say something else than those of today.
fn outdated(node: &Node) -> BTreeMap<&'static str, &str> {
    let of_today = LABELS.iter().filter_map(|(today, old)| Some((*old, node.label(today)?)));
    of_today.filter(|(old, value)| node.label(old) != Some(*value)).collect()
}

impl Controller for Lifecycle {
    const QUEUE: &'static str = "node_lifecycle_controller";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Node(name) => {
                let begun = Instant::now();
                let step = self.node(name).await;
                self.judging.took(begun.elapsed());
                step
            }
            Key::Pod(key) => {
                let pod = self.pods.get_key(key).filter(|p| self.is_dead(pods::node_name(p)));
                match pod {
                    Some(pod) => self.mark(&pod).await.map(|()| None),
                    None => Ok(None),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use instruments::Registry;

    use super::*;
    use crate::fake::{Fake, refusal};

    /// What is written about a node with these conditions of which nothing was heard for long, while the server says this of its lease.
    async fn written(lease: Option<&'static str>, conditions: serde_json::Value) -> (Vec<String>, client::Result<Option<Duration>>) {
        let of = |version: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n", "namespace": LEASES, "resourceVersion": version}});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"conditions": conditions}});
        let told = node.clone();
        let fake = Fake::new(move |_, path: &str| match (path.contains("/leases/"), lease) {
            (true, Some("")) => refusal(503, "ServiceUnavailable"),
            (true, Some(version)) => (200, of(version)),
            (true, None) => refusal(404, "NotFound"),
            (false, _) => (200, told.clone()),
        });
        let (client, registry) = (fake.client(), Registry::default());
        let lifecycle = Lifecycle {
            recorder: Recorder::new(client.clone(), "node-controller", ""),
            client,
            nodes: Informer::fixed([client::typed::<Node>(&node).expect("a node")]),
            pods: Informer::fixed([]),
            leases: Informer::fixed([client::typed::<Lease>(&of("7")).expect("a lease")]),
            grace: Duration::ZERO,
            signs: Mutex::default(),
            zones: Mutex::default(),
            unmarked: Mutex::default(),
            queue: WorkQueue::default(),
            evictions: registry.counters(&EVICTIONS, ["zone"]),
            judging: registry.histogram(&JUDGING, &JUDGING_S),
        };
        pods::index_node(&lifecycle.pods);
        let step = lifecycle.reconcile(&Key::Node("n".to_owned())).await;
        (fake.written().into_iter().filter(|w| w.contains("/nodes/")).collect(), step)
    }

    #[test]
    fn labels_of_old_follow_those_of_today() {
        let outdated = |labels: serde_json::Value| {
            let node: Node = client::typed(&json!({"metadata": {"name": "n", "labels": labels}})).expect("a node");
            outdated(&node).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        };
        let (os, arch) = ("beta.kubernetes.io/os", "beta.kubernetes.io/arch");
        assert_eq!(
            outdated(json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", arch: "amd64"})),
            [format!("{arch}=arm64"), format!("{os}=linux")]
        );
        assert_eq!(outdated(json!({"kubernetes.io/os": "linux", os: "linux", arch: "amd64"})), [""; 0]);
    }

    #[tokio::test]
    async fn a_node_is_silent_only_when_its_lease_says_so_too() {
        let ready = || json!([{"type": "Ready", "status": "True"}]);
        let (writes, step) = written(Some("8"), ready()).await;
        assert!(writes.is_empty(), "it was renewed, and this process has not heard it: {writes:?}");
        assert_eq!(step.expect("a step"), Some(UNHEARD));
        let (writes, step) = written(Some(""), ready()).await;
        assert!(writes.is_empty() && step.is_err(), "the server cannot say: {writes:?}");
        for lease in [Some("7"), None] {
            let (writes, _) = written(lease, ready()).await;
            assert!(writes.first().is_some_and(|w| w.starts_with("PUT /api/v1/nodes/n/status ")), "{lease:?}: {writes:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_has_told_nothing_yet_has_a_minute() {
        let (writes, step) = written(None, json!([])).await;
        assert!(writes.is_empty(), "{writes:?}");
        assert!(step.expect("a step").is_some_and(|left| left > STARTUP_GRACE / 2));
    }
}
