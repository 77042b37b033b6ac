//! What controllers ask of pods, and how they make and unmake them.

use std::cmp::Ordering;
use std::sync::Arc;

use client::{Client, DeleteParams, EventType, Informer, Meta, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::meta::{annotations, created, plus, secs, time};

/// The index of pods by the UID of their controller; see [`index_controller`].
const BY_CONTROLLER: &str = "controller";
/// The index of pods by the node that they are bound to.
const BY_NODE: &str = "node";
/// What a pod's deletion costs, by its user's word.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Indexes pods by controller; those without one under their namespace (a UID has no `/`).
pub(crate) fn index_controller(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, |pod| vec![pod.controller().map_or_else(|| format!("/{}", pod.namespace()), |o| o.uid.clone())]);
}

/// The pods that a controller has, with those of its namespace that nobody has.
pub(crate) fn of_controller_and_orphans(pods: &Informer<Pod>, uid: &str, namespace: &str) -> Vec<Arc<Pod>> {
    let mut all = pods.by_index(BY_CONTROLLER, uid);
    all.extend(pods.by_index(BY_CONTROLLER, &format!("/{namespace}")));
    all
}

/// The pods that a controller has.
pub(crate) fn of_controller(pods: &Informer<Pod>, uid: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CONTROLLER, uid)
}

/// Indexes pods by node.
pub(crate) fn index_node(pods: &Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| vec![node_name(pod).to_owned()]);
}

/// The pods that are bound to a node; to none: the name is empty.
pub(crate) fn on_node(pods: &Informer<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_NODE, node)
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Whether it has ended.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it counts as a replica: it has not ended and is not being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.is_deleting()
}

/// Whether it is being deleted and has not ended yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.is_deleting()
}

pub(crate) fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When a pod that is ready now will be, or became, available; none if it is not ready.
pub(crate) fn available_at(pod: &Pod, min_ready_s: i32) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    if min_ready_s == 0 {
        return Some(Timestamp::MIN);
    }
    ready.last_transition_time.as_ref().map(|since| plus(since.0, secs(min_ready_s)))
}

pub(crate) fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_s).is_some_and(|at| at <= now)
}

/// The pod of a template: labels, annotations, finalizers and spec of it, a name by the server.
pub(crate) fn from_template(template: &PodTemplateSpec, prefix: &str, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates and deletes pods, and tells so at their owner.
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
}

impl PodControl {
    pub(crate) async fn create(&self, pod: &Pod, owner: &ObjectReference) -> client::Result<Pod> {
        match self.client.namespaced::<Pod>(pod.namespace()).create(pod).await {
            Ok(pod) => {
                self.recorder.event(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {}", pod.name()));
                Ok(pod)
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.recorder.event(owner, EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error)
            }
        }
    }

    /// A pod that is gone already is an error 404, without an event; a later pod of the same name a conflict.
    pub(crate) async fn delete(&self, pod: &Pod, owner: &ObjectReference) -> client::Result<()> {
        let deleted = self.client.namespaced::<Pod>(pod.namespace()).delete(pod.name(), &DeleteParams::default().uid(pod.uid())).await;
        match &deleted {
            Ok(()) => self.recorder.event(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name())),
            Err(error) if error.is_not_found() => {}
            Err(error) => self.recorder.event(owner, EventType::Warning, "FailedDelete", format!("Error deleting: {error}")),
        }
        deleted
    }
}

/// Calls `each` `count` times in batches that double from one, so that what cannot succeed (a quota) fails once and not a
/// hundred times. How many succeeded, and the first error.
pub(crate) async fn slow_start<F>(count: usize, mut each: impl FnMut(usize) -> F) -> (usize, client::Result<()>)
where
    F: Future<Output = client::Result<()>>,
{
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let size = batch.min(count - done);
        let results = futures_util::future::join_all((done..done + size).map(&mut each)).await;
        let good = results.iter().filter(|r| r.is_ok()).count();
        done += good;
        if let Some(error) = results.into_iter().find_map(Result::err) {
            return (done, Err(error));
        }
        batch *= 2;
    }
    (done, Ok(()))
}

/// Which of two pods is to go first (upstream `ActivePodsWithRanks`): unassigned, pending, not ready, cheap, doubled up on
/// a node (`rank`), ready for a shorter time, restarted more often, younger. Times are compared by their order of
/// magnitude, so that not always the youngest of a large set goes.
pub(crate) fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let ready_since = |pod: &Pod| time(condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref()));
    (!node_name(a).is_empty())
        .cmp(&!node_name(b).is_empty())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| if is_ready(a) { magnitude(ready_since(a), now).cmp(&magnitude(ready_since(b), now)) } else { Ordering::Equal })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| magnitude(created(a), now).cmp(&magnitude(created(b), now)))
        .then_with(|| a.uid().cmp(b.uid()))
}

/// The order of magnitude of an age. (Upstream lets the UID decide between ages of one magnitude before it looks at
/// restarts, which is no total order.)
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    now.duration_since(since).as_nanos().max(1).ilog2()
}

fn deletion_cost(pod: &Pod) -> i32 {
    annotations(pod).get(DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0)
}

/// The most restarts of an ordinary container, then of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let status = pod.status.as_ref();
    let most = |all: Option<&Vec<k8s_openapi::api::core::v1::ContainerStatus>>| all.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0);
    let sidecar = |name: &str| {
        let spec = pod.spec.as_ref();
        spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let inits = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    let sidecars = inits.filter(|c| sidecar(&c.name)).map(|c| c.restart_count).max().unwrap_or(0);
    (most(status.and_then(|s| s.container_statuses.as_ref())), sidecars)
}
