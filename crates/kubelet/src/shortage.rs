//! A node that runs short of memory or disk: what it tells of it, whom it lets in all the same, and who makes room for whom.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use machinery::placement;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cri::PodUid;
use crate::resources::{self, Qos};
use crate::util;

/// How long a shortage that is over is still told.
const TRANSITION: Duration = Duration::from_secs(300);

/// What the node runs short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Short {
    /// Memory.
    pub memory: bool,
    /// Disk, or its inodes.
    pub disk: bool,
}

/// The shortages of this node, as they were last seen.
#[derive(Default)]
pub struct Pressure {
    seen: Mutex<(Option<Instant>, Option<Instant>)>,
}

impl Pressure {
    /// What there is now.
    pub fn observe(&self, now: Short) {
        let (at, mut seen) = (Instant::now(), self.seen.lock());
        if now.memory {
            seen.0 = Some(at);
        }
        if now.disk {
            seen.1 = Some(at);
        }
    }

    /// What the node tells of: a shortage, and for a while that there was one.
    #[must_use]
    pub fn told(&self) -> Short {
        let seen = self.seen.lock();
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < TRANSITION);
        Short { memory: recent(seen.0), disk: recent(seen.1) }
    }
}

/// Whether a pod is let in while the node runs short; the message if not (upstream's `Admit` of the eviction manager).
#[must_use]
pub fn refuses(pod: &Pod, short: Short) -> Option<String> {
    if short == Short::default() || critical(pod) {
        return None;
    }
    if !short.disk && (resources::qos(pod) != Qos::BestEffort || tolerates_memory_pressure(pod)) {
        return None;
    }
    let names: Vec<&str> = [(short.memory, "MemoryPressure"), (short.disk, "DiskPressure")].into_iter().filter(|(on, _)| *on).map(|(_, n)| n).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerations = placement::Tolerations::new(&pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()));
    tolerations.bear(placement::Taint { key: "node.kubernetes.io/memory-pressure", value: "", effect: placement::NO_SCHEDULE })
}

/// Whether a pod is one that the cluster cannot be without (upstream's `IsCriticalPod`).
#[must_use]
pub fn critical(pod: &Pod) -> bool {
    /// `system-cluster-critical`.
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= SYSTEM_CRITICAL)
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
        let memory = Short { memory: true, disk: false };
        let disk = Short { memory: false, disk: true };
        assert_eq!(refuses(&best, memory).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        assert_eq!([refuses(&burst, memory), refuses(&bears, memory), refuses(&system, memory), refuses(&best, Short::default())], [None, None, None, None]);
        assert_eq!(refuses(&burst, disk).as_deref(), Some("The node had condition: [DiskPressure]. "));
        assert_eq!(refuses(&system, disk), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_is_told_for_a_while_after_it() {
        let pressure = Pressure::default();
        pressure.observe(Short { memory: true, disk: false });
        tokio::time::sleep(TRANSITION - Duration::from_secs(1)).await;
        pressure.observe(Short::default());
        assert_eq!(pressure.told(), Short { memory: true, disk: false });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pressure.told(), Short::default());
    }
}
