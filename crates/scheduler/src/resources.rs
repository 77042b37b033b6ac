//! What a pod asks for and what a node has, as plain numbers.
//!
//! CPU counts in thousandths, everything else in whole units. The rules of init containers, sidecars, pod-level requests,
//! overhead and resizing in place are upstream's `PodRequests`.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::Quantity;

/// What a container without a CPU request counts as when nodes are scored (upstream `DefaultMilliCPURequest`).
const SCORED_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts as when nodes are scored (upstream `DefaultMemoryRequest`).
const SCORED_MEMORY: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, Text>;

/// Amounts by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral_storage: i64,
    /// Everything else: huge pages, extended resources.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From a list of the API.
    #[must_use]
    pub fn from_list(list: Option<&List>) -> Self {
        let mut out = Self::default();
        for (name, amount) in list.into_iter().flatten() {
            out.set(name, amount_of(name, amount));
        }
        out
    }

    fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.milli_cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral_storage = amount,
            "pods" => {}
            _ => {
                self.scalar.insert(name.to_owned(), amount);
            }
        }
    }

    /// Takes what is said for a pod as a whole in the place of what its containers say.
    fn set_for_all(&mut self, list: Option<&List>) {
        for (name, amount) in list.into_iter().flatten().filter(|(name, _)| is_for_all(name)) {
            self.set(name, amount_of(name, amount));
        }
    }

    /// The amount of one resource.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            name => self.scalar.get(name).copied().unwrap_or_default(),
        }
    }

    /// Adds another's amounts.
    pub fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let have = self.scalar.entry(name.clone()).or_default();
            *have = have.saturating_add(*amount);
        }
    }

    /// Takes another's amounts off.
    pub fn subtract(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            if let Some(have) = self.scalar.get_mut(name) {
                *have = have.saturating_sub(*amount);
            }
        }
    }

    /// Raises every amount to at least the other's.
    fn raise(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let have = self.scalar.entry(name.clone()).or_default();
            *have = (*have).max(*amount);
        }
    }
}

/// Whether a resource is counted by the piece: huge pages, extended resources (upstream `IsScalarResourceName`).
#[must_use]
pub fn is_scalar(name: &str) -> bool {
    !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods" | "storage")
}

fn amount_of(name: &str, text: &Text) -> i64 {
    // The API validates quantities; one that came by another way counts as nothing.
    let quantity = Quantity::from_str(&text.0).unwrap_or(Quantity::ZERO);
    if name == "cpu" { quantity.milli_value() } else { quantity.value() }
}

/// How many pods a node takes.
#[must_use]
pub fn allowed_pods(list: Option<&List>) -> i64 {
    list.and_then(|l| l.get("pods")).map_or(0, |q| amount_of("pods", q))
}

/// CPU and memory as scoring sees them: what asks for nothing counts as a little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scored {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
}

/// What a pod takes from its node: while it is resized in place, the most of what is asked for, granted and in force.
#[must_use]
pub fn requested(pod: &Pod) -> Resources {
    requests(pod, true, |_, _| {})
}

/// What a pod's specification asks for.
#[must_use]
pub fn asked(pod: &Pod) -> Resources {
    requests(pod, false, |_, _| {})
}

/// What a pod counts as when nodes are scored.
#[must_use]
pub fn scored(pod: &Pod) -> Scored {
    let all = requests(pod, true, |own, list| {
        let asks = |name: &str| list.is_some_and(|a| a.contains_key(name));
        if !asks("cpu") {
            own.milli_cpu = SCORED_MILLI_CPU;
        }
        if !asks("memory") {
            own.memory = SCORED_MEMORY;
        }
    });
    Scored { milli_cpu: all.milli_cpu, memory: all.memory }
}

/// What a pod's specification limits it to, where it does (upstream's `PodLimits`).
#[must_use]
pub fn limited(pod: &Pod) -> Resources {
    let mut total = of_containers(pod, |container| Resources::from_list(container.resources.as_ref().and_then(|r| r.limits.as_ref())));
    let Some(spec) = &pod.spec else { return total };
    total.set_for_all(spec.resources.as_ref().and_then(|r| r.limits.as_ref()));
    // It makes no limit where there is none.
    let overhead = Resources::from_list(spec.overhead.as_ref());
    let beside = |limit: &mut i64, more: i64| *limit = if *limit == 0 { 0 } else { limit.saturating_add(more) };
    beside(&mut total.milli_cpu, overhead.milli_cpu);
    beside(&mut total.memory, overhead.memory);
    beside(&mut total.ephemeral_storage, overhead.ephemeral_storage);
    total.scalar.iter_mut().for_each(|(name, limit)| beside(limit, overhead.get(name)));
    total
}

/// `with_status`: whether what is granted and in force counts, too. `fill` may add to what a container's list says.
fn requests(pod: &Pod, with_status: bool, fill: impl Fn(&mut Resources, Option<&List>)) -> Resources {
    let read = |list: Option<&List>| {
        let mut own = Resources::from_list(list);
        fill(&mut own, list);
        own
    };
    let refused = resize_infeasible(pod);
    let overhead = Resources::from_list(pod.spec.as_ref().and_then(|s| s.overhead.as_ref()));
    // The node says of the pod as a whole what it takes with its overhead, which is added to all below. (The original adds it twice.)
    let without = |list: Option<&List>| {
        let mut own = Resources::from_list(list);
        own.subtract(&overhead);
        own
    };
    let mut total = if with_status && refused { Resources::default() } else { of_containers(pod, |container| read(requests_of(container))) };
    if let Some(status) = pod.status.as_ref().filter(|_| with_status) {
        // What is said of the pod as a whole is the sum already.
        let whole = status.allocated_resources.as_ref().zip(status.resources.as_ref().and_then(|r| r.requests.as_ref()));
        let (granted, in_force) = match whole {
            Some((granted, in_force)) => (without(Some(granted)), without(Some(in_force))),
            None => {
                let of = |container: &'_ Container, in_force: bool| {
                    let status = status_of(pod, &container.name);
                    let running = status.and_then(|s| s.resources.as_ref()?.requests.as_ref()).filter(|_| in_force);
                    let known = running.or_else(|| status.and_then(|s| s.allocated_resources.as_ref()));
                    read(known.or_else(|| requests_of(container).filter(|_| !refused)))
                };
                (of_containers(pod, |c| of(c, false)), of_containers(pod, |c| of(c, true)))
            }
        };
        total.raise(&granted);
        total.raise(&in_force);
    }
    let Some(spec) = &pod.spec else { return total };
    if let Some(of_all) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).filter(|list| list.keys().any(|name| is_for_all(name))) {
        let status = pod.status.as_ref().filter(|_| with_status);
        match status.and_then(|s| Some((s.resources.as_ref()?, s.allocated_resources.as_ref()))) {
            None => total.set_for_all(Some(of_all)),
            Some((in_force, granted)) => {
                let lists = [Some(of_all).filter(|_| !refused), in_force.requests.as_ref(), granted];
                let mut most = Resources::from_list(lists[0]);
                lists[1..].iter().for_each(|list| most.raise(&without(*list)));
                for name in lists.into_iter().flatten().flat_map(BTreeMap::keys).filter(|name| is_for_all(name)) {
                    total.set(name, most.get(name));
                }
            }
        }
    }
    total.add(&overhead);
    total
}

fn requests_of(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

/// Whether a resource may be asked for by a pod as a whole.
fn is_for_all(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// The most that a pod's containers take at one time.
fn of_containers(pod: &Pod, request: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else {
        return Resources::default();
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&request(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = request(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&own);
            sidecars.add(&own);
            peak.raise(&sidecars);
        } else {
            let mut now = own;
            now.add(&sidecars);
            peak.raise(&now);
        }
    }
    total.raise(&peak);
    total
}

fn status_of<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == name)
}

fn resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn containers_add_up_and_init_containers_peak() {
        let of = |spec: Value| requested(&pod(spec)).milli_cpu;
        assert_eq!(of(json!({"containers": [container("100m", "1Mi"), container("0.25", "1Mi")]})), 350);
        assert_eq!(of(json!({"containers": [container("100m", "1")], "initContainers": [container("1", "1"), container("2", "1")]})), 2000);
        // A sidecar runs beside the containers, and beside the init containers after it, but not before it.
        let sidecars = |init: Value| json!({"containers": [container("100m", "1")], "initContainers": init});
        assert_eq!(of(sidecars(json!([sidecar("200m")]))), 300);
        assert_eq!(of(sidecars(json!([sidecar("200m"), container("1", "1")]))), 1200);
        assert_eq!(of(sidecars(json!([container("1", "1"), sidecar("200m")]))), 1000);
    }

    #[test]
    fn overhead_and_pod_level_requests() {
        let with = pod(json!({"containers": [container("100m", "1Mi")], "overhead": {"cpu": "50m"},
            "resources": {"requests": {"cpu": "2", "hugepages-2Mi": "4Mi"}}}));
        let got = requested(&with);
        assert_eq!((got.milli_cpu, got.memory, got.scalar["hugepages-2Mi"]), (2050, 1 << 20, 4 << 20));
    }

    #[test]
    fn overhead_makes_no_limit_where_there_is_none() {
        let with = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "example.com/x": "2"}}}],
            "overhead": {"cpu": "50m", "memory": "1Mi"}}));
        let got = limited(&with);
        assert_eq!((got.milli_cpu, got.memory, got.scalar["example.com/x"]), (1050, 0, 2));
        assert_eq!(limited(&pod(json!({"containers": [container("1", "1")]}))), Resources::default());
    }

    #[test]
    fn what_asks_for_nothing_still_counts_in_scores() {
        let got = scored(&pod(json!({"containers": [{"name": "a"}, container("1", "1Gi")]})));
        assert_eq!(got, Scored { milli_cpu: 1100, memory: SCORED_MEMORY + (1 << 30) });
    }

    #[test]
    fn a_resize_holds_the_larger_until_it_is_done() {
        let mut value = json!({"spec": {"containers": [container("100m", "1Mi")]},
            "status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "500m"}, "resources": {"requests": {"cpu": "300m"}}}]}});
        assert_eq!(requested(&serde_json::from_value(value.clone()).unwrap()).milli_cpu, 500);
        value["spec"]["containers"][0] = container("2", "1Mi");
        assert_eq!(requested(&serde_json::from_value(value.clone()).unwrap()).milli_cpu, 2000);
        value["status"]["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(requested(&serde_json::from_value(value).unwrap()).milli_cpu, 500);
    }

    #[test]
    fn a_pod_that_is_resized_as_a_whole_holds_the_larger_until_it_is_done() {
        let of = |cpu: &str, status: &Value| -> Pod {
            let asks = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}], "resources": asks}, "status": status})).unwrap()
        };
        let mut status = json!({"allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}});
        let shrinks = of("1", &status);
        assert_eq!((requested(&shrinks).milli_cpu, scored(&shrinks).milli_cpu), (3000, 3000));
        assert_eq!((asked(&shrinks).milli_cpu, limited(&shrinks).milli_cpu), (1000, 1000), "what is told is the specification's");
        assert_eq!(requested(&of("8", &status)).milli_cpu, 8000);
        // What can never be is not waited for.
        status["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(requested(&of("8", &status)).milli_cpu, 3000);
    }

    #[test]
    fn one_that_grows_while_another_shrinks_takes_what_both_take_at_one_time() {
        let told =
            |name: &str, cpu: &str| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": {"cpu": cpu}});
        let named = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut value = json!({"spec": {"containers": [named("a", "300m"), named("b", "100m")]},
            "status": {"containerStatuses": [told("a", "100m"), told("b", "250m")]}});
        let of = |value: &Value| serde_json::from_value::<Pod>(value.clone()).unwrap();
        // 400m are asked for, 350m granted: not 300m and 250m.
        assert_eq!((requested(&of(&value)).milli_cpu, asked(&of(&value)).milli_cpu), (400, 400));
        // What the node says of the pod as a whole counts in the place of what it says of its containers.
        value["status"]["allocatedResources"] = json!({"cpu": "700m"});
        value["status"]["resources"] = json!({"requests": {"cpu": "600m"}});
        assert_eq!((requested(&of(&value)).milli_cpu, asked(&of(&value)).milli_cpu), (700, 400));
        // With its overhead, which counts once.
        value["spec"]["overhead"] = json!({"cpu": "50m"});
        assert_eq!((requested(&of(&value)).milli_cpu, asked(&of(&value)).milli_cpu), (700, 450));
    }
}
