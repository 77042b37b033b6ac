//! Requests and limits: sums over a pod, QoS class, and the cgroup numbers that follow from them.
//!
//! The arithmetic is upstream's (`pkg/kubelet/cm/helpers_linux.go`, `pkg/apis/core/v1/helper/qos`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::{Format, Quantity};

use crate::cri::CgroupLimits;

/// Shares of a container without a CPU request: the kernel's minimum.
const MIN_SHARES: u64 = 2;
/// The kernel's maximum.
const MAX_SHARES: u64 = 262_144;
/// Length of a CPU period in microseconds, the kernel's and upstream's default.
pub const PERIOD_US: u64 = 100_000;
/// Least CPU quota the kernel takes, in microseconds.
const MIN_QUOTA_US: i64 = 1_000;

/// Quality of service of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Limits equal requests for CPU and memory in every container.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As the API names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Thousandths of a CPU (or of anything), 0 if it cannot be parsed.
#[must_use]
pub fn milli(q: &ApiQuantity) -> i64 {
    q.0.parse::<Quantity>().map_or(0, |q| q.milli_value())
}

/// Whole units, rounded up; 0 if it cannot be parsed.
#[must_use]
pub fn value(q: &ApiQuantity) -> i64 {
    q.0.parse::<Quantity>().map_or(0, |q| q.value())
}

/// Thousandths of a CPU, whole units of all else.
#[must_use]
pub fn amount(name: &str, q: &ApiQuantity) -> i64 {
    if name == "cpu" { milli(q) } else { value(q) }
}

/// Such an amount as the API has it.
#[must_use]
pub fn quantity(name: &str, amount: i64) -> ApiQuantity {
    let bytes = name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-");
    ApiQuantity(match name {
        "cpu" => Quantity::from_milli(amount, Format::Decimal).to_string(),
        _ => Quantity::from_value(amount, if bytes { Format::Binary } else { Format::Decimal }).to_string(),
    })
}

/// A named limit of a container: thousandths for `cpu`, units for the rest.
#[must_use]
pub fn limit(r: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    r?.limits.as_ref()?.get(name).map(|q| amount(name, q))
}

/// A named request; a limit without a request counts as one (the API's defaulting does the same).
#[must_use]
pub fn request(r: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    r?.requests.as_ref().and_then(|m| m.get(name)).map(|q| amount(name, q)).or_else(|| limit(r, name))
}

/// Whether an init container is a sidecar.
#[must_use]
pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// The ports of the containers that run as long as the pod does: a sidecar's are held with it, an init container's are not, and so
/// lead nowhere. (The original's scheduler and admission hold a sidecar's as well; its kubelet forgets to open them.)
pub fn held_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| is_sidecar(c));
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter()).chain(sidecars);
    containers.flat_map(|c| c.ports.iter().flatten())
}

/// The QoS class, from CPU and memory of all containers, or of the pod level where that is set.
#[must_use]
pub fn qos(pod: &Pod) -> Qos {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        match class {
            "Guaranteed" => return Qos::Guaranteed,
            "Burstable" => return Qos::Burstable,
            "BestEffort" => return Qos::BestEffort,
            _ => {}
        }
    }
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let parts: Vec<Option<&ResourceRequirements>> = if pod_level(spec) {
        vec![spec.resources.as_ref()]
    } else {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.resources.as_ref()).collect()
    };
    let mut any = false;
    let mut guaranteed = !parts.is_empty();
    for r in parts {
        for name in ["cpu", "memory"] {
            let (req, lim) = (request(r, name).filter(|v| *v > 0), limit(r, name).filter(|v| *v > 0));
            any |= req.is_some() || lim.is_some();
            guaranteed &= lim.is_some() && req == lim;
        }
    }
    match (any, guaranteed) {
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
        _ => Qos::BestEffort,
    }
}

fn pod_level(spec: &PodSpec) -> bool {
    spec.resources.as_ref().is_some_and(|r| r.requests.as_ref().is_some_and(|m| !m.is_empty()) || r.limits.as_ref().is_some_and(|m| !m.is_empty()))
}

/// What a pod counts for on the node: the sum of its containers and sidecars, or its largest step of initialising, plus overhead.
#[must_use]
pub fn pod_requests(spec: &PodSpec) -> BTreeMap<String, i64> {
    aggregate(spec, |r| r.requests.as_ref().or(r.limits.as_ref()))
}

/// The limits of a pod: the sums of those that there are, or the pod's own.
#[must_use]
pub fn pod_limits_by_name(spec: &PodSpec) -> BTreeMap<String, i64> {
    let mut limits = aggregate(spec, |r| r.limits.as_ref());
    // Overhead makes no limit where there is none.
    let own = |name: &String| {
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.resources.as_ref());
        all.chain([spec.resources.as_ref()]).any(|r| limit(r, name).is_some_and(|l| l > 0))
    };
    limits.retain(|name, _| own(name));
    limits
}

/// The limit of one resource for the pod as a whole: the sum of those that there are; none if there is none.
#[must_use]
pub fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    aggregate(spec, |r| r.limits.as_ref()).get(name).copied()
}

fn aggregate<'a>(spec: &'a PodSpec, pick: impl Fn(&'a ResourceRequirements) -> Option<&'a BTreeMap<String, ApiQuantity>>) -> BTreeMap<String, i64> {
    let mut sum = of_containers(spec, &pick);
    if let Some(level) = spec.resources.as_ref().and_then(&pick) {
        for (n, q) in level {
            sum.insert(n.clone(), amount(n, q));
        }
    }
    let overhead: BTreeMap<String, i64> = spec.overhead.iter().flatten().map(|(n, q)| (n.clone(), amount(n, q))).collect();
    add(&mut sum, &overhead);
    sum
}

/// What the containers take together: their sum, or the largest step of initialising.
fn of_containers<'a>(spec: &'a PodSpec, pick: impl Fn(&'a ResourceRequirements) -> Option<&'a BTreeMap<String, ApiQuantity>>) -> BTreeMap<String, i64> {
    let of = |c: &'a Container| -> BTreeMap<String, i64> {
        c.resources.as_ref().and_then(&pick).into_iter().flatten().map(|(n, q)| (n.clone(), amount(n, q))).collect()
    };
    let mut sum = BTreeMap::new();
    for c in &spec.containers {
        add(&mut sum, &of(c));
    }
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for c in spec.init_containers.iter().flatten() {
        let mut step = of(c);
        if is_sidecar(c) {
            add(&mut sum, &step);
            add(&mut sidecars, &step);
            step = sidecars.clone();
        } else {
            add(&mut step, &sidecars);
        }
        max(&mut peak, &step);
    }
    max(&mut sum, &peak);
    sum
}

fn add(to: &mut BTreeMap<String, i64>, other: &BTreeMap<String, i64>) {
    for (n, v) in other {
        let slot = to.entry(n.clone()).or_default();
        *slot = slot.saturating_add(*v);
    }
}

fn max(to: &mut BTreeMap<String, i64>, other: &BTreeMap<String, i64>) {
    for (n, v) in other {
        let slot = to.entry(n.clone()).or_default();
        *slot = (*slot).max(*v);
    }
}

/// CPU shares for thousandths of a CPU.
#[must_use]
pub fn shares(milli_cpu: i64) -> u64 {
    if milli_cpu <= 0 {
        return MIN_SHARES;
    }
    (u64::try_from(milli_cpu).unwrap_or(0).saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota in microseconds per period for thousandths of a CPU; 0: none.
#[must_use]
pub fn quota_us(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { milli_cpu.saturating_mul(i64::try_from(PERIOD_US / 1000).unwrap_or(100)).max(MIN_QUOTA_US) }
}

/// `oom_score_adj` of a container (upstream's `GetContainerOOMScoreAdjust`).
#[must_use]
pub fn oom_score_adj(pod: &Pod, c: &Container, capacity_bytes: i64) -> i32 {
    const GUARANTEED: i32 = -997;
    const BEST_EFFORT: i32 = 1000;
    if matches!(pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref()), Some("system-node-critical")) {
        return GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => GUARANTEED,
        Qos::BestEffort => BEST_EFFORT,
        Qos::Burstable => {
            let adj = 1000 - 1000_i64.saturating_mul(counted_memory(pod, c)) / capacity_bytes.max(1);
            let adj = i32::try_from(adj).unwrap_or(3);
            adj.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
        }
    }
}

/// The bytes by which a container of a burstable pod is protected: what it asked for, with its share of what the pod as a whole asked for
/// beyond its containers. A sidecar is protected no less than the regular container that is protected least.
fn counted_memory(pod: &Pod, c: &Container) -> i64 {
    let asked = |c: &Container| request(c.resources.as_ref(), "memory").unwrap_or(0);
    let Some(spec) = &pod.spec else { return asked(c) };
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("memory")).map_or(0, value);
    let share = if whole > 0 {
        let own = of_containers(spec, |r| r.requests.as_ref().or(r.limits.as_ref())).get("memory").copied().unwrap_or(0);
        let containers = spec.containers.len() + spec.init_containers.iter().flatten().count();
        whole.saturating_sub(own).max(0) / i64::try_from(containers).unwrap_or(i64::MAX).max(1)
    } else {
        0
    };
    let sidecar = is_sidecar(c) && spec.init_containers.iter().flatten().any(|i| i.name == c.name);
    let least = spec.containers.iter().map(asked).min().filter(|_| sidecar).unwrap_or(0);
    asked(c).max(least).saturating_add(share)
}

/// The cgroup numbers of one container on a machine of so much memory, with these bytes of huge pages by resource.
#[must_use]
pub fn container_limits(pod: &Pod, c: &Container, capacity_bytes: i64, pages: &BTreeMap<String, i64>) -> CgroupLimits {
    let r = c.resources.as_ref();
    let level = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    // A limit of nothing is none.
    let limit = |name: &str| limit(r, name).filter(|v| *v > 0).or_else(|| limit(level, name)).unwrap_or(0);
    CgroupLimits {
        // Who does not say what it asks for weighs what it may take; who asks for nothing has the least (upstream's `calculateLinuxResources`).
        cpu_shares: shares(request(r, "cpu").unwrap_or_else(|| limit("cpu"))),
        cpu_quota_us: quota_us(limit("cpu")),
        cpu_period_us: PERIOD_US,
        memory_limit_bytes: limit("memory"),
        oom_score_adj: oom_score_adj(pod, c, capacity_bytes),
        huge_pages: page_limits(pages, limit),
    }
}

/// How much of the machine's huge pages of each size one may have: none that it did not ask for (upstream's
/// `GetHugepageLimitsFromResources`). Where the machine has none of any size nobody need be kept from them.
fn page_limits(pages: &BTreeMap<String, i64>, limit: impl Fn(&str) -> i64) -> BTreeMap<String, u64> {
    if pages.values().all(|bytes| *bytes <= 0) {
        return BTreeMap::new();
    }
    let of = |name: &String| {
        let size = value(&ApiQuantity(name.strip_prefix("hugepages-")?.to_owned()));
        let (shift, unit): (u32, &str) = match size {
            1_073_741_824.. => (30, "GB"),
            1_048_576.. => (20, "MB"),
            _ => (10, "KB"),
        };
        Some((format!("{}{unit}", size >> shift), u64::try_from(limit(name)).unwrap_or(0)))
    };
    pages.keys().filter_map(of).collect()
}

/// The machine's huge pages that the pod's containers may have together (upstream's `ResourceConfigForPod`).
#[must_use]
pub fn pod_pages(pod: &Pod, pages: &BTreeMap<String, i64>) -> BTreeMap<String, u64> {
    page_limits(pages, |name| pod.spec.as_ref().and_then(|spec| pod_limit(spec, name)).unwrap_or(0))
}

/// What the pod as a whole may take of a resource; none, unless the pod or every container is limited.
#[must_use]
pub fn pod_limit_of_all(pod: &Pod, name: &str) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all = limit(spec.resources.as_ref(), name).is_some() || containers.all(|c| limit(c.resources.as_ref(), name).is_some_and(|v| v > 0));
    if all { pod_limit(spec, name) } else { None }
}

/// The cgroup numbers of the pod as a whole: limits only where every container has one.
#[must_use]
pub fn pod_limits(pod: &Pod) -> CgroupLimits {
    let Some(spec) = &pod.spec else { return CgroupLimits::default() };
    CgroupLimits {
        cpu_shares: shares(pod_requests(spec).get("cpu").copied().unwrap_or(0)),
        cpu_quota_us: quota_us(pod_limit_of_all(pod, "cpu").unwrap_or(0)),
        cpu_period_us: PERIOD_US,
        memory_limit_bytes: pod_limit_of_all(pod, "memory").unwrap_or(0),
        ..CgroupLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_held_by_who_runs_as_long_as_the_pod() {
        let port = |n: i32| serde_json::json!([{"containerPort": n, "hostPort": n}]);
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "containers": [{"name": "c", "ports": port(1)}],
            "initContainers": [{"name": "i", "ports": port(2)}, {"name": "s", "restartPolicy": "Always", "ports": port(3)}]}}))
        .unwrap();
        assert_eq!(held_ports(&pod).map(|p| p.container_port).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn shares_and_quota_follow_upstreams_arithmetic() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(1), 2);
        assert_eq!(shares(250), 256);
        assert_eq!(shares(1000), 1024);
        assert_eq!(quota_us(0), 0);
        assert_eq!(quota_us(5), 1000);
        assert_eq!(quota_us(500), 50_000);
        assert_eq!(quota_us(i64::MAX), i64::MAX, "as good as none, and not the least");
    }

    #[test]
    fn qos_needs_limits_equal_requests_everywhere_to_be_guaranteed() {
        let pod = |v| -> Pod { serde_json::from_value(serde_json::json!({"spec": {"containers": v}})).unwrap() };
        let full = serde_json::json!({"name": "a", "resources": {"limits": {"cpu": "100m", "memory": "1Mi"}}});
        let some = serde_json::json!({"name": "b", "resources": {"requests": {"cpu": "100m"}}});
        let none = serde_json::json!({"name": "c"});
        assert_eq!(qos(&pod(serde_json::json!([full.clone()]))), Qos::Guaranteed);
        assert_eq!(qos(&pod(serde_json::json!([full, some]))), Qos::Burstable);
        assert_eq!(qos(&pod(serde_json::json!([none]))), Qos::BestEffort);
    }

    #[test]
    fn a_sidecar_is_protected_no_less_than_a_regular_container_and_a_pods_own_request_is_shared() {
        const GI: i64 = 1 << 30;
        let memory = |bytes: i64| serde_json::json!({"requests": {"memory": bytes.to_string()}});
        let pod = |level: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"resources": level,
                "initContainers": [{"name": "i", "resources": memory(0)}, {"name": "s", "restartPolicy": "Always", "resources": memory(GI)}],
                "containers": [{"name": "a", "resources": memory(3 * GI)}, {"name": "b", "resources": memory(2 * GI)}]}}))
            .unwrap()
        };
        let scores = |pod: &Pod| {
            let spec = pod.spec.as_ref().unwrap();
            let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            all.map(|c| oom_score_adj(pod, c, 20 * GI)).collect::<Vec<_>>()
        };
        assert_eq!(scores(&pod(serde_json::json!({}))), [850, 900, 999, 900]);
        // Four containers share the four GiB beyond their own six.
        assert_eq!(scores(&pod(memory(10 * GI))), [800, 850, 950, 850]);
    }

    #[test]
    fn who_does_not_ask_for_cpu_weighs_what_the_pod_may_take() {
        let of = |container: serde_json::Value| {
            let spec = serde_json::json!({"resources": {"limits": {"cpu": "2"}}, "containers": [{"name": "a", "resources": container}]});
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
            container_limits(&pod, &pod.spec.as_ref().unwrap().containers[0], 1, &BTreeMap::new()).cpu_shares
        };
        assert_eq!(of(serde_json::json!({})), 2048);
        assert_eq!(of(serde_json::json!({"requests": {"cpu": "0"}})), 2);
        assert_eq!(of(serde_json::json!({"requests": {"cpu": "1"}})), 1024);
        assert_eq!(of(serde_json::json!({"limits": {"cpu": "1"}})), 1024);
    }

    #[test]
    fn nobody_has_huge_pages_that_he_did_not_ask_for() {
        let spec = serde_json::json!({"containers": [{"name": "a", "resources": {"limits": {"hugepages-2Mi": "4Mi"}}}, {"name": "b"}]});
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
        let limits = |c: usize, bytes: i64| {
            let pages = BTreeMap::from([("hugepages-1Gi".to_owned(), 0), ("hugepages-2Mi".to_owned(), bytes), ("hugepages-64Ki".to_owned(), 0)]);
            container_limits(&pod, &pod.spec.as_ref().unwrap().containers[c], 1, &pages).huge_pages
        };
        let of = |two: u64| BTreeMap::from([("1GB".to_owned(), 0), ("2MB".to_owned(), two), ("64KB".to_owned(), 0)]);
        assert_eq!((limits(0, 8 << 20), limits(1, 8 << 20)), (of(4 << 20), of(0)));
        assert!(limits(1, 0).is_empty(), "there are none");
        let pages = BTreeMap::from([("hugepages-2Mi".to_owned(), 8 << 20)]);
        assert_eq!(pod_pages(&pod, &pages), BTreeMap::from([("2MB".to_owned(), 4 << 20)]));
        let spec = serde_json::json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}, "containers": [{"name": "a"}, {"name": "b"}]});
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
        assert_eq!(pod_pages(&pod, &pages), BTreeMap::from([("2MB".to_owned(), 2 << 20)]), "not as much for each");
    }

    #[test]
    fn a_pod_counts_for_its_largest_step() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "2"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}}))
        .unwrap();
        assert_eq!(pod_requests(pod.spec.as_ref().unwrap())["cpu"], 2100);
    }
}
