//! A node that runs short of memory, disk or process numbers: what it tells of it, whom it lets in all the same, and who makes room for
//! whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use machinery::placement;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cri::PodUid;
use crate::evict::signals::{Observations, Threshold};
use crate::evict::state::{Condition, State};
use crate::resources::{self, Qos};
use crate::statics::{is_mirror, is_static};
use crate::util;

/// What a node tells that it is short of.
pub type Short = BTreeSet<Condition>;

/// The shortages of this node, as they were last seen, and who went for them.
pub struct Pressure {
    state: Mutex<State>,
    transition: Duration,
    evictions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Pressure {
    /// None yet; one that is over is told for so long.
    #[must_use]
    pub fn new(transition: Duration) -> Self {
        Self { state: Mutex::default(), transition, evictions: Mutex::default() }
    }

    /// What there is now; answers what is to be acted upon.
    pub fn step(&self, thresholds: &[Threshold], observed: &Observations) -> Vec<Threshold> {
        self.state.lock().step(thresholds, observed, Instant::now())
    }

    /// What the node tells of: a shortage, and for a while that there was one.
    #[must_use]
    pub fn told(&self) -> Short {
        self.state.lock().told(self.transition, Instant::now())
    }

    /// A pod was evicted for this.
    pub fn evicted(&self, signal: &'static str) {
        *self.evictions.lock().entry(signal).or_default() += 1;
    }

    /// How many were, by what for.
    #[must_use]
    pub fn evictions(&self) -> BTreeMap<&'static str, u64> {
        self.evictions.lock().clone()
    }
}

/// Whether a pod is let in while the node runs short; the message if not (upstream's `Admit` of the eviction manager).
#[must_use]
pub fn refuses(pod: &Pod, short: &Short) -> Option<String> {
    if short.is_empty() || critical(pod) {
        return None;
    }
    let of_memory = short.iter().all(|c| *c == Condition::Memory);
    if of_memory && (resources::qos(pod) != Qos::BestEffort || tolerates_memory_pressure(pod)) {
        return None;
    }
    let names: Vec<&str> = short.iter().map(|c| c.as_str()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerations = placement::Tolerations::new(&pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()));
    tolerations.bear(placement::Taint { key: "node.kubernetes.io/memory-pressure", value: "", effect: placement::NO_SCHEDULE })
}

/// Whether a pod is one that the cluster or its node cannot be without (upstream's `IsCriticalPod`): a static one is not let in again.
#[must_use]
pub fn critical(pod: &Pod) -> bool {
    /// `system-cluster-critical`.
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    is_static(pod) || is_mirror(pod) || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= SYSTEM_CRITICAL)
}

/// A resource of which a node has too little for a pod, and how much is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Its name.
    pub name: String,
    /// Thousandths of CPU, else whole units.
    pub amount: i64,
}

/// A pod that may be put out. What it asks for is worked out once: it is compared with every other one, again for each that goes.
struct Candidate {
    uid: PodUid,
    class: Qos,
    requests: BTreeMap<String, i64>,
}

impl Candidate {
    fn new(pod: &Pod) -> Self {
        let requests = pod.spec.as_ref().map(resources::pod_requests).unwrap_or_default();
        Self { uid: PodUid(util::uid(pod).to_owned()), class: resources::qos(pod), requests }
    }

    /// What it asks for of a resource; of pods it is one.
    fn asked(&self, name: &str) -> i64 {
        if name == "pods" { 1 } else { self.requests.get(name).copied().unwrap_or(0) }
    }
}

/// What is still missing when these are gone.
fn without<'p>(lacks: &[Lack], gone: impl IntoIterator<Item = &'p Candidate> + Clone) -> Vec<Lack> {
    let left = |lack: &Lack| gone.clone().into_iter().fold(lack.amount, |left, pod| left.saturating_sub(pod.asked(&lack.name)));
    lacks.iter().map(|lack| Lack { name: lack.name.clone(), amount: left(lack) }).filter(|lack| lack.amount > 0).collect()
}

/// How far a pod is from giving all that is missing: of each resource the square of the share that it does not give.
fn distance(lacks: &[Lack], pod: &Candidate) -> f64 {
    let rest = |lack: &Lack| (lack.amount.saturating_sub(pod.asked(&lack.name)).max(0) as f64) / (lack.amount as f64);
    lacks.iter().map(|lack| rest(lack).powi(2)).sum()
}

fn nobody(lacks: &[Lack]) -> String {
    let all: String = lacks.iter().map(|lack| format!("(res: {}, q: {}), ", lack.name, lack.amount)).collect();
    format!("no set of running pods found to reclaim resources: [{all}]")
}

/// As few of these as give what is missing: again and again the one that gives most of it, and of equals the one that asks for less.
fn fewest(mut pods: Vec<&Candidate>, mut lacks: Vec<Lack>) -> Result<Vec<&Candidate>, String> {
    let mut out = Vec::new();
    while !lacks.is_empty() {
        let size = |pod: &Candidate| (pod.asked("memory"), pod.asked("cpu"));
        let nearer = |a: &Candidate, b: &Candidate| distance(&lacks, a).total_cmp(&distance(&lacks, b)).then_with(|| size(a).cmp(&size(b)));
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| nearer(a, b)).map(|(at, _)| at).ok_or_else(|| nobody(&lacks))?;
        let pod = pods.swap_remove(best);
        lacks = without(&lacks, [pod]);
        out.push(pod);
    }
    Ok(out)
}

/// The pods among these that are put out for one that the cluster cannot be without, which lacks this (upstream's `getPodsToPreempt`):
/// none that does not give any of it, and of a better class only what those of the worse ones do not give. The error is why there are none.
pub fn victims(pod: &Pod, others: &[Arc<Pod>], lacks: &[Lack]) -> Result<Vec<PodUid>, String> {
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority);
    let may = |o: &&Arc<Pod>| !critical(o) || priority(pod).zip(priority(o)).is_some_and(|(own, its)| own > its);
    let candidates: Vec<Candidate> = others.iter().filter(may).map(|o| Candidate::new(o)).collect();
    let of = |class: Qos| -> Vec<&Candidate> { candidates.iter().filter(|c| c.class == class).collect() };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let missing = without(lacks, &candidates);
    if !missing.is_empty() {
        return Err(nobody(&missing));
    }
    let of_guaranteed = fewest(guaranteed, without(lacks, best_effort.iter().chain(&burstable).copied()))?;
    let of_burstable = fewest(burstable, without(lacks, best_effort.iter().chain(&of_guaranteed).copied()))?;
    let of_best_effort = fewest(best_effort, without(lacks, of_burstable.iter().chain(&of_guaranteed).copied()))?;
    Ok(of_best_effort.into_iter().chain(of_burstable).chain(of_guaranteed).map(|c| c.uid.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, spec: serde_json::Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"uid": uid, "name": uid}, "spec": spec})).unwrap())
    }

    #[test]
    fn a_short_node_lets_in_what_matters() {
        let best = pod("b", json!({"containers": [{"name": "c"}]}));
        let burst = pod("m", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let bears = pod("t", json!({"containers": [{"name": "c"}], "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}));
        let system = pod("s", json!({"containers": [{"name": "c"}], "priority": 2_000_001_000}));
        let memory = Short::from([Condition::Memory]);
        let disk = Short::from([Condition::Disk]);
        assert_eq!(refuses(&best, &memory).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        assert_eq!(
            [refuses(&burst, &memory), refuses(&bears, &memory), refuses(&system, &memory), refuses(&best, &Short::default())],
            [None, None, None, None]
        );
        assert_eq!(refuses(&burst, &disk).as_deref(), Some("The node had condition: [DiskPressure]. "));
        let both = Short::from(Condition::ALL);
        assert_eq!(refuses(&bears, &both).as_deref(), Some("The node had condition: [MemoryPressure DiskPressure PIDPressure]. "));
        assert_eq!(refuses(&system, &disk), None);
    }

    #[test]
    fn those_that_give_what_is_missing_make_room_and_no_others() {
        let asks = |uid: &str, priority: i32, requests: serde_json::Value, limits: serde_json::Value| {
            pod(uid, json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}))
        };
        let burstable = |uid: &str, cpu: &str| asks(uid, 0, json!({"cpu": cpu}), json!({}));
        let sure = json!({"cpu": "4", "memory": "1Gi"});
        let others = [
            pod("idle", json!({"priority": 0, "containers": [{"name": "c"}]})),
            burstable("small", "100m"),
            burstable("fits", "1"),
            burstable("large", "2"),
            asks("sure", 0, sure.clone(), sure),
            asks("system", 2_000_000_000, json!({"cpu": "8"}), json!({})),
        ];
        let new = pod("new", json!({"priority": 2_000_000_000, "containers": [{"name": "c"}]}));
        let of = |lacks: &[(&str, i64)]| {
            let lacks: Vec<Lack> = lacks.iter().map(|(name, amount)| Lack { name: (*name).to_owned(), amount: *amount }).collect();
            victims(&new, &others, &lacks).map(|all| all.into_iter().map(|uid| uid.0).collect::<Vec<_>>())
        };
        let uids = |all: &[&str]| Ok(all.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[("cpu", 900)]), uids(&["fits"]), "the smallest that is enough; who asks for nothing gives nothing");
        assert_eq!(of(&[("cpu", 2_500)]), uids(&["large", "fits"]));
        assert_eq!(of(&[("cpu", 4_000)]), uids(&["sure"]), "of the better class where the others are not enough, and then of them none too many");
        assert_eq!(of(&[("pods", 1)]), uids(&["idle"]));
        let none = "no set of running pods found to reclaim resources: [(res: cpu, q: 900), ]";
        assert_eq!(of(&[("cpu", 8_000)]), Err(none.to_owned()), "another that the cluster cannot be without stays");
    }
}
