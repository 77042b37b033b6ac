//! Pods that nobody else will remove: of nodes that are gone, ended ones beyond a number, deleted ones that no node ever had.
//!
//! The original looks at all pods and nodes every twenty seconds. Here each pod and each node says by its change that it is to
//! be looked at, those from before the start among them: a pod whose node is not there names its node, for the end of the
//! quarantine.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Delta, Informer, Meta, ObjectKey, Patch, PatchParams, WorkQueue};
use instruments::{Counter, Family, Kind, Labelled};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::meta::created;
use crate::node::{eviction::disruption, is_ready};
use crate::pods;
use crate::work::{Controller, Cx, Step};

/// A node that is gone may come back: its pods wait (upstream `quarantineTime`).
const QUARANTINE: Duration = Duration::from_secs(40);

const REMOVED: Family = Family::new(
    "pod_gc_collector_force_delete_pods_total",
    Kind::Counter,
    "[ALPHA] Number of pods that are being forcefully deleted since the Pod GC Controller started.",
);
const FAILED: Family = Family::new(
    "pod_gc_collector_force_delete_pod_errors_total",
    Kind::Counter,
    "[ALPHA] Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
);

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("pod-garbage-collector");
    let (nodes, pods) = (cx.informers.informer(), cx.informers.informer());
    let (removed, failed) = (cx.metrics().counters(&REMOVED, ["namespace", "reason"]), cx.metrics().counters(&FAILED, ["namespace", "reason"]));
    let collector = Arc::new(Collector { client, nodes, pods, ended_max: cx.config.terminated_pods_max, removed, failed });
    pods::index_node(&collector.pods);
    cx.setup(&collector).on(&collector.nodes, Collector::heard_node).on(&collector.pods, Collector::heard_pod).work(1).await;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The pods of a node that may be gone, or out of service.
    Node(String),
    Pod(ObjectKey),
    /// Whether too many have ended.
    Ended,
}

struct Collector {
    client: Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    ended_max: usize,
    removed: Arc<Labelled<2, Counter>>,
    failed: Arc<Labelled<2, Counter>>,
}

/// Why a pod is removed.
#[derive(Clone, Copy)]
enum Why {
    Terminated,
    Unscheduled,
    OutOfService,
    Orphaned,
}

impl Why {
    /// As it is counted.
    fn reason(self) -> &'static str {
        match self {
            Self::Terminated => "terminated",
            Self::Unscheduled => "unscheduled",
            Self::OutOfService => "out-of-service",
            Self::Orphaned => "orphaned",
        }
    }

    /// What is told of it, if the pod itself cannot tell its end.
    fn told(self) -> Option<&'static str> {
        match self {
            Self::Terminated | Self::Unscheduled => None,
            Self::OutOfService => Some("PodGC: node out of service"),
            Self::Orphaned => Some("PodGC: node no longer exists"),
        }
    }
}

fn is_out_of_service(node: &Node) -> bool {
    !is_ready(node) && node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == "node.kubernetes.io/out-of-service")
}

impl Controller for Collector {
    const QUEUE: &'static str = "orphaned_pods_nodes";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Step {
        match key {
            Key::Pod(key) => {
                if let Some(pod) = self.pods.get_key(key).filter(|p| p.is_deleting() && pods::node_name(p).is_empty()) {
                    self.remove(&pod, Why::Unscheduled).await?;
                }
            }
            Key::Node(name) => self.node(name).await?,
            Key::Ended => self.ended().await?,
        }
        Ok(None)
    }
}

impl Collector {
    fn heard_node(&self, queue: &WorkQueue<Key>, change: &Delta<Node>) {
        match change {
            Delta::Deleted(node) => queue.add_after(Key::Node(node.name().to_owned()), QUARANTINE),
            Delta::Added(node) if is_out_of_service(node) => queue.add(Key::Node(node.name().to_owned())),
            Delta::Updated { old, new } if is_out_of_service(new) && !is_out_of_service(old) => queue.add(Key::Node(new.name().to_owned())),
            _ => {}
        }
    }

    fn heard_pod(&self, queue: &WorkQueue<Key>, change: &Delta<Pod>) {
        let (Delta::Added(pod) | Delta::Updated { new: pod, .. }) = change else { return };
        let node = pods::node_name(pod);
        if node.is_empty() {
            if pod.is_deleting() {
                queue.add(Key::Pod(pod.key()));
            }
        } else if let Some(node) = self.nodes.get("", node) {
            if pod.is_deleting() && is_out_of_service(&node) {
                queue.add(Key::Node(node.name().to_owned()));
            }
        } else {
            // Of several delays the soonest counts, so this does not move.
            queue.add_after(Key::Node(node.to_owned()), QUARANTINE);
        }
        if pods::is_terminal(pod) {
            queue.add_after(Key::Ended, Duration::from_secs(1));
        }
    }

    async fn node(&self, name: &str) -> client::Result<()> {
        let pods = pods::on_node(&self.pods, name);
        if let Some(node) = self.nodes.get("", name) {
            if is_out_of_service(&node) {
                for pod in pods.iter().filter(|p| p.is_deleting()) {
                    self.remove(pod, Why::OutOfService).await?;
                }
            }
            return Ok(());
        }
        if pods.is_empty() || self.client.all::<Node>().get_opt(name).await?.is_some() {
            return Ok(());
        }
        for pod in &pods {
            self.remove(pod, Why::Orphaned).await?;
        }
        Ok(())
    }

    /// The oldest of the ended ones go.
    async fn ended(&self) -> client::Result<()> {
        let mut ended: Vec<_> = self.pods.list().into_iter().filter(|p| pods::is_terminal(p)).collect();
        if self.ended_max == 0 || ended.len() <= self.ended_max {
            return Ok(());
        }
        ended.sort_by(|a, b| created(&**a).cmp(&created(&**b)).then_with(|| a.name().cmp(b.name())));
        for pod in &ended[..ended.len() - self.ended_max] {
            self.remove(pod, Why::Terminated).await?;
        }
        Ok(())
    }

    async fn remove(&self, pod: &Pod, why: Why) -> client::Result<()> {
        let labels = [pod.namespace(), why.reason()];
        self.removed.with(labels).inc();
        let done = self.delete(pod, why.told()).await;
        if done.is_err() {
            self.failed.with(labels).inc();
        }
        done
    }

    async fn delete(&self, pod: &Pod, why: Option<&str>) -> client::Result<()> {
        let api = self.client.namespaced::<Pod>(pod.namespace());
        if let Some(why) = why.filter(|_| !pods::is_terminal(pod)) {
            let patch = disruption(pod, "DeletionByPodGC", why, Some("Failed"));
            match api.patch_status(pod.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
                Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
                other => other.map(drop)?,
            }
        }
        match api.delete(pod.name(), &DeleteParams::now().uid(pod.uid())).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}
