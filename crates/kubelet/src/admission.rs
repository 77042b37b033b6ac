//! Whether a pod may run on this node: the kubelet's own word after the scheduler's, since pods can be bound by anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::Context;
use crate::resources;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, `NodePorts`, …
    pub reason: String,
    /// In upstream's words.
    pub message: String,
}

fn active(pod: &Pod) -> bool {
    !pod.status.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")))
}

/// Checks a new pod against the node and the pods on it.
#[must_use]
pub fn check(cx: &Context, pod: &Pod, others: &[Arc<Pod>]) -> Option<Rejection> {
    let allocatable = BTreeMap::from([("cpu".to_owned(), cx.machine.cpu_milli), ("memory".to_owned(), cx.machine.memory_bytes)]);
    let active: Vec<&Pod> = others.iter().map(|p| &**p).filter(|p| active(p)).collect();
    let labels = crate::node::labels(&cx.config);
    fits(pod, &active, &allocatable, i64::from(cx.config.max_pods), &labels)
}

/// The pure part: `allocatable` in thousandths of CPU and in bytes.
fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, i64>, max_pods: i64, labels: &BTreeMap<String, String>) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    let out_of = |name: &str, asked: i64, used: i64, capacity: i64| Rejection {
        reason: format!("OutOf{name}"),
        message: format!("Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"),
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > max_pods {
        return Some(out_of("pods", 1, count, max_pods));
    }
    let asked = resources::pod_requests(spec);
    for (name, capacity) in allocatable {
        let want = asked.get(name).copied().unwrap_or(0);
        if want == 0 {
            continue;
        }
        let used: i64 = others.iter().filter_map(|p| p.spec.as_ref()).map(|s| resources::pod_requests(s).get(name).copied().unwrap_or(0)).sum();
        if used.saturating_add(want) > *capacity {
            return Some(out_of(name, want, used, *capacity));
        }
    }
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    if !selected {
        return Some(Rejection { reason: "NodeAffinity".into(), message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into() });
    }
    let mine = host_ports(pod);
    let clash = others.iter().flat_map(|p| host_ports(p)).any(|o| mine.iter().any(|m| m.1 == o.1 && m.2 == o.2 && (m.0 == o.0 || m.0.is_empty() || o.0.is_empty())));
    if clash {
        return Some(Rejection { reason: "NodePorts".into(), message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into() });
    }
    let os = spec.os.as_ref().map(|o| o.name.as_str());
    if os.is_some_and(|o| o != "linux") {
        return Some(Rejection { reason: "PodOSNotSupported".into(), message: "Failed to admit pod as the OS field doesn't match node OS".into() });
    }
    None
}

fn host_ports(pod: &Pod) -> Vec<(String, i32, String)> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter());
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let ip = p.host_ip.clone().filter(|i| i != "0.0.0.0").unwrap_or_default();
            Some((ip, p.host_port.filter(|n| *n > 0)?, p.protocol.clone().unwrap_or_else(|| "TCP".into())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(v: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": v})).unwrap()
    }

    #[test]
    fn reasons() {
        let all = BTreeMap::from([("cpu".to_owned(), 2000)]);
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let one = |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}, "ports": [{"containerPort": 1, "hostPort": 80}]}]}));
        let plain = pod(json!({"containers": [{"name": "c"}], "nodeSelector": {"disk": "hdd"}}));
        let reason = |p: &Pod, others: &[&Pod]| fits(p, others, &all, 2, &labels).map(|r| r.reason);
        assert_eq!(reason(&one("1"), &[]), None);
        assert_eq!(reason(&one("3"), &[]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&one("1"), &[&one("1500m")]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&one("1"), &[&one("1")]).as_deref(), Some("NodePorts"));
        assert_eq!(reason(&plain, &[]).as_deref(), Some("NodeAffinity"));
        assert_eq!(reason(&one("1"), &[&plain, &plain]).as_deref(), Some("OutOfpods"));
    }
}
