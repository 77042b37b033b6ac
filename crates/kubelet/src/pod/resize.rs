//! Resources that change while a pod runs (KEP-1287), those of the pod as a whole among them (KEP-5419): what each container has, what
//! it is to have, and how it gets there.
//!
//! What a container has stands in its status, and what the pod has in its own, so a restarted kubelet knows it too. A container whose `resizePolicy` asks for it
//! is killed and started anew by the planner; the others get new numbers in place. A pod that asks for more than the node
//! can give keeps what it has, and its status says why.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use super::Context;
use super::plan::{find_spec, latest};
use crate::admission;
use crate::cri::{Container, ContainerId, PodUid};
use crate::resources;
use crate::util;

/// The resources that can change in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// At or below it a limit of CPU is as good as the kernel's least (upstream's `MinMilliCPULimit`): it is told as it was asked for.
const LEAST_LIMIT_MILLI: i64 = 10;
/// Likewise a request (upstream compares it with `MinShares`).
const LEAST_REQUEST_MILLI: i64 = 2;

/// Amounts by resource, as the API has them.
type List = BTreeMap<String, Quantity>;

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
    wanted(pod, containers, applied).filter(|(run, _)| run.running()).map(|(_, change)| change).collect()
}

/// Whether any container has other resources than the spec now names, or had when it ended.
#[must_use]
pub fn is_wanted(pod: &Pod, containers: &[Container], applied: &Applied) -> bool {
    wanted(pod, containers, applied).next().is_some()
}

/// The containers that have ended with other resources than the spec now names, and those that it names.
#[must_use]
pub fn ended(pod: &Pod, containers: &[Container], applied: &Applied) -> Vec<(ContainerId, ResourceRequirements)> {
    let asked = |name: &str| find_spec(pod, name).and_then(|(_, spec)| spec.resources).unwrap_or_default();
    wanted(pod, containers, applied).filter(|(run, _)| !run.running()).map(|(_, change)| (change.id, asked(&change.name))).collect()
}

/// The newest runs of which is known what they have, where that is not what the spec now names.
fn wanted<'a>(pod: &'a Pod, containers: &'a [Container], applied: &'a Applied) -> impl Iterator<Item = (&'a Container, Change)> {
    let all = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    all.filter_map(move |c| {
        // One that is only being started is not among them.
        let run = containers.iter().filter(|run| run.name == c.name && applied.contains_key(&run.id)).max_by_key(|run| (run.attempt, run.created))?;
        let (has, asked) = (applied.get(&run.id)?, c.resources.clone().unwrap_or_default());
        let changed: Vec<&str> = RESIZABLE.into_iter().filter(|n| !same(has, &asked, n)).collect();
        let change = Change { id: run.id.clone(), name: c.name.clone(), restart: changed.iter().any(|n| restarts(c, n)) };
        (!changed.is_empty()).then_some((run, change))
    })
}

/// What the specification says of each container, none of which has been begun.
#[must_use]
pub fn asked_by_name(pod: &Pod) -> HashMap<String, (Option<u32>, ResourceRequirements)> {
    let all = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    all.map(|c| (c.name.clone(), (None, c.resources.clone().unwrap_or_default()))).collect()
}

/// What the specification says of the pod as a whole.
#[must_use]
pub fn of_all(pod: &Pod) -> ResourceRequirements {
    pod.spec.as_ref().and_then(|s| s.resources.clone()).unwrap_or_default()
}

/// Whether the pod as a whole has something else than the specification now names.
#[must_use]
pub fn is_outgrown(pod: &Pod, has: &ResourceRequirements) -> bool {
    let wanted = of_all(pod);
    RESIZABLE.into_iter().any(|name| !same(has, &wanted, name))
}

/// The running containers that are limited by what the pod as a whole may take, having no limit of their own.
#[must_use]
pub fn limited_by_pod(pod: &Pod, containers: &[Container]) -> Vec<(ContainerId, Spec)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let without = all.filter(|c| RESIZABLE.into_iter().any(|name| resources::limit(c.resources.as_ref(), name).is_none()));
    without.filter_map(|c| Some((latest(containers, &c.name, None).filter(|r| r.running())?.id.clone(), c.clone()))).collect()
}

fn restarts(c: &Spec, resource: &str) -> bool {
    c.resize_policy.iter().flatten().any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
}

/// What the status of a running container tells that it has: beside what it names itself that which the kernel was told for it since the
/// pod as a whole has it (upstream's `convertContainerStatusResources` reads that back), in a list that the container has.
#[must_use]
pub fn shown(has: &ResourceRequirements, level: &ResourceRequirements) -> ResourceRequirements {
    let lacks = |list: &List, name: &str| list.get(name).is_none_or(|q| resources::amount(name, q) == 0);
    let limit_of = |of: &ResourceRequirements, name: &str| resources::limit(Some(of), name).filter(|amount| *amount > 0);
    let mut out = has.clone();
    if let Some(requests) = out.requests.as_mut().filter(|list| !list.contains_key("cpu")) {
        // Its weight is what it may take: that of one that asks for nothing is the least.
        let weighs = limit_of(has, "cpu").or_else(|| limit_of(level, "cpu")).filter(|milli| *milli > LEAST_REQUEST_MILLI);
        requests.extend(weighs.map(|milli| ("cpu".to_owned(), resources::quantity("cpu", milli))));
    }
    for (name, least) in [("cpu", LEAST_LIMIT_MILLI), ("memory", 0)] {
        if let Some(limits) = out.limits.as_mut().filter(|list| lacks(list, name)) {
            let whole = limit_of(level, name).filter(|amount| *amount > least);
            limits.extend(whole.map(|amount| (name.to_owned(), resources::quantity(name, amount))));
        }
    }
    out
}

/// What a container has of its own, of what its status tells ([`shown`]).
fn own(named: Option<&ResourceRequirements>, told: &ResourceRequirements) -> ResourceRequirements {
    let kept = |told: Option<&List>, named: Option<&List>| -> Option<List> {
        let own = told?.iter().filter(|(name, _)| named.is_some_and(|list| list.contains_key(*name)));
        Some(own.map(|(name, amount)| (name.clone(), amount.clone())).collect()).filter(|list: &List| !list.is_empty())
    };
    let requests = kept(told.requests.as_ref(), named.and_then(|n| n.requests.as_ref()));
    let limits = kept(told.limits.as_ref(), named.and_then(|n| n.limits.as_ref()));
    ResourceRequirements { requests, limits, ..told.clone() }
}

/// What the API's status says that running containers have.
#[must_use]
pub fn told(pod: &Pod, status: &PodStatus, scheme: &str) -> BTreeMap<String, ResourceRequirements> {
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let prefix = format!("{scheme}://");
    all.filter_map(|s| {
        let id = s.container_id.as_deref()?.strip_prefix(&prefix)?.to_owned();
        let named = find_spec(pod, &s.name).and_then(|(_, spec)| spec.resources);
        Some((id, own(named.as_ref(), s.resources.as_ref()?)))
    })
    .collect()
}

/// What a status says that the pod as a whole has, of what it may be told; none: nothing is said.
#[must_use]
pub fn told_of_all(pod: &Pod, status: &PodStatus) -> Option<ResourceRequirements> {
    let has = status.resources.as_ref()?;
    let wanted = of_all(pod);
    let overhead = |name: &str| pod.spec.as_ref().and_then(|s| s.overhead.as_ref()?.get(name)).map_or(0, |q| resources::amount(name, q));
    let kept = |wanted: Option<&List>, has: Option<&List>| -> Option<List> {
        let has = has.cloned().unwrap_or_default();
        wanted.map(|w| w.keys().filter_map(|name| Some((name.clone(), has.get(name)?.clone()))).collect())
    };
    let (mut requests, mut limits) = (kept(wanted.requests.as_ref(), has.requests.as_ref()), kept(wanted.limits.as_ref(), has.limits.as_ref()));
    // The kernel's numbers are of all that the pod is counted for; before it runs so is every number (see `totals`).
    let own = |list: &mut Option<List>, name: &str| {
        if let Some(told) = list.as_mut().and_then(|l| l.get_mut(name)) {
            *told = resources::quantity(name, resources::amount(name, told).saturating_sub(overhead(name)));
        }
    };
    own(&mut requests, "cpu");
    own(&mut limits, "cpu");
    own(&mut limits, "memory");
    if status.phase.as_deref() != Some("Running") {
        own(&mut requests, "memory");
    }
    Some(ResourceRequirements { requests, limits, ..ResourceRequirements::default() })
}

/// Whether a pod asks for more than the node could give it.
#[must_use]
pub fn is_pending(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "PodResizePending" && c.status == "True")
}

/// The pod with the resources that its status says it has: what it waits for is nobody's yet (upstream's `UpdatePodFromAllocation`).
#[must_use]
pub fn as_told(pod: &Pod, status: &PodStatus) -> Pod {
    let has_of_all = told_of_all(pod, status);
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    let told: Vec<_> = status.container_statuses.iter().chain(&status.init_container_statuses).flatten().collect();
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(has) = told.iter().find(|s| s.name == c.name).and_then(|s| s.resources.as_ref()) {
            c.resources = Some(own(c.resources.as_ref(), has));
        }
    }
    if let Some(has) = has_of_all.filter(|_| spec.resources.is_some()) {
        spec.resources = Some(has);
    }
    pod
}

/// Why a change waits, as the API was told last.
#[must_use]
pub fn told_pending(status: &PodStatus) -> Option<Pending> {
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == "PodResizePending")?;
    let reason = if condition.reason.as_deref() == Some("Infeasible") { "Infeasible" } else { "Deferred" };
    Some((reason, condition.message.clone().unwrap_or_default()))
}

/// The pod as it runs: with the resources that its containers and itself have.
#[must_use]
pub fn in_force(pod: &Pod, containers: &[Container], applied: &Applied, has: Option<&ResourceRequirements>) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(known) = latest(containers, &c.name, None).and_then(|running| applied.get(&running.id)) {
            c.resources = Some(known.clone());
        }
    }
    if let Some(has) = has {
        spec.resources = Some(has.clone()).filter(|r| *r != ResourceRequirements::default());
    }
    pod
}

/// What the pod's status says of it as a whole: what was granted, and what is in force (upstream's
/// `convertToAPIPodLevelResourcesStatus`). Before it runs that is all that is asked for; then what the kernel was told.
#[must_use]
pub fn totals(running: &Pod, runs: bool) -> (Option<List>, Option<ResourceRequirements>) {
    let Some(spec) = &running.spec else { return (None, None) };
    let of =
        |amounts: BTreeMap<String, i64>| -> List { amounts.into_iter().map(|(name, amount)| (name.clone(), resources::quantity(&name, amount))).collect() };
    let some = |list: List| Some(list).filter(|l| !l.is_empty());
    let granted = of(resources::pod_requests(spec));
    let all = if runs {
        let told = of_all(running);
        let (mut requests, mut limits) = (told.requests.unwrap_or_default(), told.limits.unwrap_or_default());
        requests.extend(granted.iter().filter(|(name, amount)| *name == "cpu" && resources::amount(name, amount) > 0).map(|(n, q)| (n.clone(), q.clone())));
        if let Some(memory) = granted.get("memory") {
            requests.entry("memory".to_owned()).or_insert_with(|| memory.clone());
        }
        for (name, amount) in [("cpu", resources::pod_limit_of_all(running, "cpu")), ("memory", resources::pod_limit_of_all(running, "memory"))] {
            limits.extend(amount.map(|amount| (name.to_owned(), resources::quantity(name, amount))));
        }
        (requests, limits)
    } else {
        (granted.clone(), of(resources::pod_limits_by_name(spec)))
    };
    (some(granted), Some(ResourceRequirements { requests: some(all.0), limits: some(all.1), ..ResourceRequirements::default() }))
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
/// [`narrow`] follows when all containers have what they are to have. `running`: the pod with what it has.
pub async fn apply(
    cx: &Arc<Context>,
    pod: &Arc<Pod>,
    running: &Pod,
    containers: Vec<(ContainerId, Spec)>,
) -> (Vec<(ContainerId, ResourceRequirements)>, Option<String>) {
    if let Some(why) = in_use(cx, pod, running, &containers).await {
        return (Vec::new(), Some(why));
    }
    let (c, p) = (Arc::clone(cx), Arc::clone(pod));
    util::blocking(move || c.cgroups.widen_pod(&p)).await;
    let (mut done, mut error) = (Vec::new(), None);
    for (id, spec) in containers {
        let limits = resources::container_limits(pod, &spec, cx.machine.memory_bytes, &cx.machine.huge_pages);
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

/// Why memory cannot be taken away now: more than is to be left is in use, and the kernel would kill for it (upstream's
/// `validateMemoryResizeAction`).
async fn in_use(cx: &Arc<Context>, pod: &Pod, running: &Pod, containers: &[(ContainerId, Spec)]) -> Option<String> {
    let shrinks = |before: i64, now: i64| now > 0 && (before == 0 || now < before);
    let limit_of = |of: &Pod, c: &Spec| resources::container_limits(of, c, cx.machine.memory_bytes, &cx.machine.huge_pages).memory_limit_bytes;
    let had = |name: &str| find_spec(running, name).map_or(0, |(_, c)| limit_of(running, &c));
    let smaller: BTreeMap<&ContainerId, (&str, i64)> =
        containers.iter().map(|(id, c)| (id, (c.name.as_str(), limit_of(pod, c)))).filter(|(_, (name, now))| shrinks(had(name), *now)).collect();
    let (before, now) = (resources::pod_limits(running).memory_limit_bytes, resources::pod_limits(pod).memory_limit_bytes);
    if smaller.is_empty() && !shrinks(before, now) {
        return None;
    }
    let (mut all, mut errors) = (0_i64, Vec::new());
    for c in cx.runtime.pod_containers(&PodUid(util::uid(pod).to_owned())).into_iter().filter(Container::running) {
        let used = cx.runtime.stats(&c.id).await.map(|stats| i64::try_from(stats.memory_usage_bytes).unwrap_or(i64::MAX));
        match (used, smaller.get(&c.id)) {
            (Ok(used), asked) => {
                all = all.saturating_add(used);
                if let Some((name, limit)) = asked.filter(|(_, limit)| used >= *limit) {
                    errors.push(format!("attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"));
                }
            }
            (Err(_), Some((name, _))) => errors.push(format!("missing container {name:?} memory usage")),
            (Err(_), None) => {}
        }
    }
    if shrinks(before, now) && all >= now {
        errors.insert(0, format!("attempting to set pod memory limit ({now}) below current usage ({all})"));
    }
    let told = match errors.as_slice() {
        [] => return None,
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Some(format!("cannot decrease memory limits: {told}"))
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
        let ended: Vec<Container> = ["a", "b", "c"].iter().map(|n| container(n, 0, State::Exited, 1)).collect();
        assert!(changes(&pod, &ended, &applied).is_empty() && is_wanted(&pod, &ended, &applied), "who has ended had other ones");
        assert!(!is_wanted(&pod, &ended[2..], &applied));
    }

    #[test]
    fn a_container_is_told_to_have_what_it_has_from_its_pod_and_keeps_its_own() {
        let of = |v| serde_json::from_value::<ResourceRequirements>(v).unwrap();
        let level = of(json!({"limits": {"cpu": "2", "memory": "128Mi"}}));
        for (has, told) in [
            (json!({}), json!({})),
            (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}), json!({"limits": {"cpu": "1", "memory": "128Mi"}, "requests": {"cpu": "1"}})),
            (json!({"requests": {"memory": "1Mi"}}), json!({"requests": {"cpu": "2", "memory": "1Mi"}})),
            (json!({"requests": {"cpu": "0"}}), json!({"requests": {"cpu": "0"}})),
            (
                json!({"limits": {"memory": "1Mi"}, "requests": {"memory": "1Mi"}}),
                json!({"limits": {"cpu": "2", "memory": "1Mi"}, "requests": {"cpu": "2", "memory": "1Mi"}}),
            ),
        ] {
            let (has, told) = (of(has), of(told));
            assert_eq!(shown(&has, &level), told);
            assert_eq!(own(Some(&has), &told), has, "after a restart of the kubelet it is not taken for its own");
        }
        assert_eq!(shown(&of(json!({"limits": {"memory": "1Mi"}})), &of(json!({"limits": {"cpu": "10m"}}))), of(json!({"limits": {"memory": "1Mi"}})));
    }

    #[test]
    fn what_was_told_of_a_pod_with_overhead_is_what_it_asks_for() {
        let asks = json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "128Mi"}});
        let spec = json!({"overhead": {"cpu": "250m", "memory": "16Mi"}, "resources": asks, "containers": [{"name": "a"}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        for (runs, phase) in [(true, "Running"), (false, "Pending")] {
            let status = PodStatus { phase: Some(phase.to_owned()), resources: totals(&pod, runs).1, ..PodStatus::default() };
            assert!(!is_outgrown(&pod, &told_of_all(&pod, &status).unwrap()), "{phase}");
        }
    }
}
