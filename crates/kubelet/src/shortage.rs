//! A node that runs short of memory, disk or process numbers: what it tells of it, whom it lets in all the same, and who makes room for
//! whom.

use std::collections::{BTreeMap, BTreeSet, HashSet};
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

/// The pods in these that may be put out for one that the cluster cannot be without, in upstream's order of harm: the lowest
/// priority first, of these the smallest that is enough is not sought: what is asked for is taken from as few as follow.
#[must_use]
pub fn victims(pod: &Pod, others: &[Arc<Pod>], lack: &dyn Fn(&HashSet<PodUid>) -> bool) -> Option<Vec<PodUid>> {
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let mut may: Vec<&Arc<Pod>> = others.iter().filter(|o| !critical(o) && priority(o) < priority(pod)).collect();
    let class = |p: &Pod| match resources::qos(p) {
        Qos::BestEffort => 0,
        Qos::Burstable => 1,
        Qos::Guaranteed => 2,
    };
    may.sort_by_key(|p| (class(p), priority(p)));
    let mut out = HashSet::new();
    let mut order = Vec::new();
    for victim in may {
        if !lack(&out) {
            break;
        }
        let uid = PodUid(util::uid(victim).to_owned());
        out.insert(uid.clone());
        order.push(uid);
    }
    (!lack(&out)).then_some(order)
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
}
