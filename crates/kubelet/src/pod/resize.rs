//! Resources that change while a pod runs (KEP-1287): what each container has, what it is to have, and how it gets there.
//!
//! What a container has stands in its status, so a restarted kubelet knows it too. A container whose `resizePolicy` asks for it
//! is killed and started anew by the planner; the others get new numbers in place. A pod that asks for more than the node
//! can give keeps what it has, and its status says why.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus, ResourceRequirements};
use serde::Serialize;

use super::Context;
use super::plan::latest;
use crate::admission;
use crate::cri::{Container, ContainerId};
use crate::resources;
use crate::util;

/// The resources that can change in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What containers have, as far as it differs or may differ from their spec.
pub type Applied = HashMap<ContainerId, ResourceRequirements>;

/// One container that is to have other resources than it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The container.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// It must be started anew for it.
    pub restart: bool,
}

/// Why a change waits: reason and message of the condition `PodResizePending`.
pub type Pending = (&'static str, String);

fn same(a: &ResourceRequirements, b: &ResourceRequirements, name: &str) -> bool {
    resources::request(Some(a), name) == resources::request(Some(b), name) && resources::limit(Some(a), name) == resources::limit(Some(b), name)
}

/// The containers that are running with other resources than the spec now names.
#[must_use]
pub fn changes(pod: &Pod, containers: &[Container], applied: &Applied) -> Vec<Change> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut out = Vec::new();
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let Some(running) = latest(containers, &c.name, None).filter(|r| r.running()) else { continue };
        let Some(has) = applied.get(&running.id) else { continue };
        let wanted = c.resources.clone().unwrap_or_default();
        let changed: Vec<&str> = RESIZABLE.into_iter().filter(|n| !same(has, &wanted, n)).collect();
        if !changed.is_empty() {
            out.push(Change { id: running.id.clone(), name: c.name.clone(), restart: changed.iter().any(|n| restarts(c, n)) });
        }
    }
    out
}

fn restarts(c: &Spec, resource: &str) -> bool {
    c.resize_policy.iter().flatten().any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
}

/// What the API's status says that running containers have.
#[must_use]
pub fn told(status: &PodStatus, scheme: &str) -> BTreeMap<String, ResourceRequirements> {
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let prefix = format!("{scheme}://");
    all.filter_map(|s| Some((s.container_id.as_deref()?.strip_prefix(&prefix)?.to_owned(), s.resources.clone()?))).collect()
}

/// Whether the node can give what the pod now asks for; none if it can.
#[must_use]
pub fn pending(cx: &Context, pod: &Pod, others: &[Arc<Pod>]) -> Option<Pending> {
    let spec = pod.spec.as_ref()?;
    let asked = resources::pod_requests(spec);
    for (name, capacity) in admission::allocatable(cx) {
        let want = asked.get(&name).copied().unwrap_or(0);
        if want > capacity {
            return Some(("Infeasible", format!("Node didn't have enough capacity: {name}, requested: {want}, capacity: {capacity}")));
        }
        let used: i64 = others.iter().filter_map(|p| p.spec.as_ref()).map(|s| resources::pod_requests(s).get(&name).copied().unwrap_or(0)).sum();
        if want > 0 && used.saturating_add(want) > capacity {
            return Some(("Deferred", format!("Node didn't have enough resource: {name}, requested: {want}, used: {used}, capacity: {capacity}")));
        }
    }
    None
}

/// What an Event of a change says, as upstream's `podResizeMessage`: the resources of the spec.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Asked<'a>>,
    containers: Vec<Asked<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Asked<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// The message of such an Event.
#[must_use]
pub fn message(what: &str, pod: &Pod, generation: i64, error: &str) -> String {
    fn asked(list: Option<&Vec<Spec>>) -> Vec<Asked<'_>> {
        list.into_iter().flatten().map(|c| Asked { name: &c.name, resources: c.resources.clone().unwrap_or_default() }).collect()
    }
    let spec = pod.spec.as_ref();
    let init_containers = asked(spec.and_then(|s| s.init_containers.as_ref()));
    let summary = Summary { init_containers, containers: asked(spec.map(|s| &s.containers)), generation, error };
    format!("Pod resize {what}: {}", serde_json::to_string(&summary).unwrap_or_default())
}

/// Whether a pod's own cgroup is without its limits, so that its containers can grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wide {
    /// Nothing has been looked at yet.
    Unknown,
    /// It has the limits of its spec.
    No,
    /// It was made wide for the spec of this generation.
    For(i64),
}

/// Makes the pod's cgroup wide enough and gives containers the numbers of the spec. Answers who has them now, and what went wrong.
/// [`narrow`] follows when all containers have what they are to have.
pub async fn apply(cx: &Arc<Context>, pod: &Arc<Pod>, containers: Vec<(ContainerId, Spec)>) -> (Vec<(ContainerId, ResourceRequirements)>, Option<String>) {
    let (c, p) = (Arc::clone(cx), Arc::clone(pod));
    util::blocking(move || c.cgroups.widen_pod(&p)).await;
    let (mut done, mut error) = (Vec::new(), None);
    for (id, spec) in containers {
        let limits = resources::container_limits(pod, &spec, cx.machine.memory_bytes);
        match cx.runtime.update_resources(&id, limits).await {
            Ok(()) => done.push((id, spec.resources.unwrap_or_default())),
            Err(e) => error = Some(e.to_string()),
        }
    }
    if error.is_some() {
        // It is made wide again when it is tried again.
        narrow(cx, pod).await;
    }
    (done, error)
}

/// Gives the pod as a whole the limits of its spec: the kernel takes none that is below a container's.
pub async fn narrow(cx: &Arc<Context>, pod: &Arc<Pod>) {
    let (c, p) = (Arc::clone(cx), Arc::clone(pod));
    util::blocking(move || {
        c.cgroups.limit_pod(&p);
        c.balance(None);
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::State;
    use crate::testing::container;
    use serde_json::json;

    #[test]
    fn only_what_differs_changes_and_the_policy_decides_how() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "200m"}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]},
            {"name": "b", "resources": {"requests": {"memory": "2Mi"}}, "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]},
            {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}))
        .unwrap();
        let running: Vec<Container> = ["a", "b", "c"].iter().map(|n| container(n, 0, State::Running, 0)).collect();
        let had = |v| serde_json::from_value::<ResourceRequirements>(json!({"requests": v})).unwrap();
        let applied = Applied::from([
            (ContainerId("a-0".into()), had(json!({"cpu": "100m"}))),
            (ContainerId("b-0".into()), had(json!({"memory": "1Mi"}))),
            (ContainerId("c-0".into()), had(json!({"cpu": "1000m"}))),
        ]);
        let found: Vec<(String, bool)> = changes(&pod, &running, &applied).into_iter().map(|c| (c.name, c.restart)).collect();
        assert_eq!(found, [("a".to_owned(), false), ("b".to_owned(), true)]);
    }
}
