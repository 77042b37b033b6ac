//! Whether nodes live: a kubelet that neither renews its lease nor its status is unknown, and its node gets taints; a node
//! that is not ready gets others.
//!
//! Upstream looks at every node every five seconds. Here each node has one deadline, moved without any work by each sign
//! of life: only when it is reached is the node looked at.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Delta, EventType, Informer, ListParams, Meta, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::{condition, ready, reference, taints};
use crate::meta::{created, secs};
use crate::pods;
use crate::work::{Controller, Cx, Step};

const LEASES: &str = "kube-node-lease";
/// What is not known of a node that is silent.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const WORKERS: usize = 8;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("node-controller");
    let queue: WorkQueue<String> = WorkQueue::default();
    let controller = Arc::new(Lifecycle {
        recorder: cx.recorder(&client, "node-controller"),
        client,
        nodes: cx.informers.informer(),
        pods: cx.informers.informer(),
        grace: secs(cx.config.node_monitor_grace_s),
        signs: Mutex::default(),
        all_dead: AtomicBool::new(false),
        queue: queue.clone(),
    });
    pods::index_node(&controller.pods);
    cx.setup_with(queue, &controller)
        .on(&controller.nodes, |c, queue, change| {
            c.heard_node(change);
            queue.add(change.object().name().to_owned());
        })
        .on(&cx.informers.informer_in::<Lease>(LEASES, ListParams::default()), |c, _, change| match change {
            Delta::Added(lease) | Delta::Updated { new: lease, .. } => c.sign(lease.name()),
            Delta::Deleted(_) => {}
        })
        .on(&controller.pods, Lifecycle::heard_pod)
        .work(WORKERS)
        .await;
}

struct Lifecycle {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    grace: Duration,
    /// The last sign of life of each node, by this process' own clock.
    signs: Mutex<HashMap<String, Instant>>,
    /// No node is ready: then it is rather this side that is cut off, and no pod is evicted.
    all_dead: AtomicBool,
    queue: WorkQueue<String>,
}

impl Lifecycle {
    fn sign(&self, node: &str) {
        self.signs.lock().insert(node.to_owned(), Instant::now());
    }

    /// A pod that turns up, or ready, on a dead node is not ready.
    fn heard_pod(&self, queue: &WorkQueue<String>, change: &Delta<Pod>) {
        if let Delta::Added(pod) | Delta::Updated { new: pod, .. } = change
            && pods::is_ready(pod)
            && self.nodes.get("", pods::node_name(pod)).is_some_and(|n| ready(&n).is_some_and(|r| r != "True"))
        {
            queue.add(pods::node_name(pod).to_owned());
        }
    }

    fn heard_node(&self, change: &Delta<Node>) {
        let heartbeat = |n: &Node| condition(n, "Ready").map(|c| (c.last_heartbeat_time.clone(), c.status.clone()));
        match change {
            Delta::Added(node) => {
                self.sign(node.name());
                let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
                self.recorder.event(&reference(node), EventType::Normal, "RegisteredNode", message);
            }
            // This controller's own word, Unknown, is no sign.
            Delta::Updated { old, new } if heartbeat(old) != heartbeat(new) && ready(new) != Some("Unknown") => self.sign(new.name()),
            Delta::Updated { .. } => {}
            Delta::Deleted(node) => {
                self.signs.lock().remove(node.name());
                let message = format!("Node {0} event: Removing Node {0} from Controller", node.name());
                self.recorder.event(&reference(node), EventType::Normal, "RemovingNode", message);
            }
        }
    }

    /// How long until the node counts as silent; zero if it does.
    fn left(&self, node: &str) -> Duration {
        let last = *self.signs.lock().entry(node.to_owned()).or_insert_with(Instant::now);
        (last + self.grace).saturating_duration_since(Instant::now())
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

    /// Whether nobody is ready; when that turns, all nodes are looked at.
    fn look_around(&self) -> bool {
        let nodes = self.nodes.list();
        let all_dead = !nodes.is_empty() && nodes.iter().all(|n| ready(n) != Some("True"));
        if self.all_dead.swap(all_dead, Ordering::Relaxed) != all_dead {
            nodes.iter().for_each(|n| self.queue.add(n.name().to_owned()));
        }
        all_dead
    }

    /// The pods of a node that is not ready are not ready, whatever their last word was.
    async fn mark_pods(&self, node: &Node) -> client::Result<()> {
        let mut result = Ok(());
        for pod in pods::on_node(&self.pods, node.name()).iter().filter(|p| pods::is_ready(p)) {
            let now = client::now();
            let patch = json!({
                "metadata": {"uid": pod.uid()},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]},
            });
            let api = self.client.namespaced::<Pod>(pod.namespace());
            match api.patch_status(pod.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
                Ok(_) => self.recorder.event(&object_reference(&**pod), EventType::Warning, "NodeNotReady", "Node is not ready"),
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

impl Controller for Lifecycle {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(seen) = self.nodes.get("", name) else {
            self.look_around();
            return Ok(None);
        };
        let left = self.left(name);
        let mut node = (*seen).clone();
        if left.is_zero()
            && let Some(noted) = self.note_silence(&node).await?
        {
            if ready(&seen) == Some("True") {
                let message = format!("Node {name} status is now: NodeNotReady");
                self.recorder.event(&reference(&node), EventType::Normal, "NodeNotReady", message);
            }
            node = noted;
        }
        let all_dead = self.look_around();
        if let Some(taints) = taints::wanted(&node, !all_dead, &client::now()) {
            let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
            match self.client.all::<Node>().patch(name, &Patch::Merge(patch), &PatchParams::default()).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other.map(drop)?,
            }
        }
        if ready(&node).is_some_and(|r| r != "True") {
            self.mark_pods(&node).await?;
        }
        Ok((!left.is_zero()).then_some(left + Duration::from_millis(10)))
    }
}
