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
use serde_json::json;

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

fn is_evicted(pod: &Pod) -> bool {
    pods::phase(pod) == "Failed" && pod.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some("Evicted"))
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
            let lost = pods.iter().filter(|p| p.is_deleting() && is_out_of_service(&node));
            return self.remove_all(lost, Why::OutOfService).await;
        }
        if pods.is_empty() || self.client.all::<Node>().get_opt(name).await?.is_some() {
            return Ok(());
        }
        self.remove_all(pods.iter(), Why::Orphaned).await
    }

    /// Of ended ones beyond the number those go that were evicted, then the oldest (upstream `byEvictionAndCreationTimestamp`).
    async fn ended(&self) -> client::Result<()> {
        let mut ended: Vec<_> = self.pods.list().into_iter().filter(|p| pods::is_terminal(p)).collect();
        if self.ended_max == 0 || ended.len() <= self.ended_max {
            return Ok(());
        }
        ended.sort_by(|a, b| is_evicted(b).cmp(&is_evicted(a)).then_with(|| created(&**a).cmp(&created(&**b))).then_with(|| a.name().cmp(b.name())));
        self.remove_all(ended[..ended.len() - self.ended_max].iter(), Why::Terminated).await
    }

    /// Each of them, even if one cannot be removed; the first error.
    async fn remove_all(&self, pods: impl Iterator<Item = &Arc<Pod>>, why: Why) -> client::Result<()> {
        let mut result = Ok(());
        for pod in pods {
            result = result.and(self.remove(pod, why).await);
        }
        result
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
        if !pods::is_terminal(pod) {
            // Nobody else will say that it ended: what waits for that, and keeps it by a finalizer, would wait for ever.
            let mut patch = why.map_or_else(
                || json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}}),
                |why| disruption(pod, "DeletionByPodGC", why, Some("Failed")),
            );
            patch["status"]["observedGeneration"] = pod.meta().generation.into();
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fake::{Fake, refusal};

    fn pod(name: &str, created: u32, status: &Value) -> Pod {
        let metadata = json!({"namespace": "n", "name": name, "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": [], "nodeName": "gone"}, "status": status}))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The pods that are deleted, in order; the server lets nobody delete `stuck`.
    async fn removed(pods: Vec<Pod>, ended_max: usize, key: Key) -> Vec<String> {
        let server = Fake::new(|method, path| match (method, path) {
            ("GET", _) => refusal(404, "NotFound"),
            ("DELETE", path) if path.ends_with("/stuck") => refusal(403, "Forbidden"),
            _ => (200, json!({"kind": "Pod", "metadata": {"name": "p"}})),
        });
        let registry = instruments::Registry::default();
        let counters = |family| registry.counters(family, ["namespace", "reason"]);
        let collector = Collector {
            client: server.client(),
            nodes: Informer::fixed([]),
            pods: Informer::fixed(pods),
            ended_max,
            removed: counters(&REMOVED),
            failed: counters(&FAILED),
        };
        pods::index_node(&collector.pods);
        let _ = collector.reconcile(&key).await;
        let name = |line: &String| line.strip_prefix("DELETE ")?.split(' ').next()?.rsplit('/').next().map(str::to_owned);
        server.written().iter().filter_map(name).collect()
    }

    #[tokio::test]
    async fn what_never_had_a_node_has_failed() {
        let server = Fake::new(|_, _| (200, json!({"kind": "Pod", "metadata": {"name": "p"}})));
        let registry = instruments::Registry::default();
        let counters = |family| registry.counters(family, ["namespace", "reason"]);
        let metadata = json!({"namespace": "n", "name": "p", "uid": "u", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let pod: Pod = client::typed(&json!({"metadata": metadata, "spec": {"containers": []}, "status": {"phase": "Pending"}})).expect("a pod");
        let collector = Collector {
            client: server.client(),
            nodes: Informer::fixed([]),
            pods: Informer::fixed([pod]),
            ended_max: 0,
            removed: counters(&REMOVED),
            failed: counters(&FAILED),
        };
        collector.reconcile(&Key::Pod(ObjectKey::new("n", "p"))).await.expect("a step");
        let written = server.written();
        assert!(written[0].starts_with("PATCH ") && written[0].contains(r#""observedGeneration":2,"phase":"Failed""#), "{written:?}");
        assert!(written[1].starts_with("DELETE "), "{written:?}");
    }

    #[tokio::test]
    async fn what_was_evicted_goes_first_and_what_is_stuck_holds_up_no_other() {
        let done = json!({"phase": "Succeeded"});
        let evicted = json!({"phase": "Failed", "reason": "Evicted"});
        let all = vec![pod("old", 1, &done), pod("new", 2, &done), pod("evicted", 3, &evicted)];
        assert_eq!(removed(all, 1, Key::Ended).await, ["evicted", "old"]);
        let all = vec![pod("stuck", 1, &done), pod("b", 2, &done), pod("c", 3, &done)];
        assert_eq!(removed(all, 1, Key::Ended).await, ["stuck", "b"]);
        let lost = removed(vec![pod("stuck", 1, &done), pod("b", 2, &done)], 0, Key::Node("gone".to_owned())).await;
        assert!(lost.contains(&"b".to_owned()) && lost.len() == 2, "{lost:?}");
    }
}
