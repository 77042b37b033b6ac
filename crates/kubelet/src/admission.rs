//! Whether a pod may run on this node: the kubelet's own word after the scheduler's, since pods can be bound by anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Pod, PodSpec};

use crate::pod::Context;
use crate::resources;

const NODE_AFFINITY: &str = "NodeAffinity";
/// Kernel parameters that concern a pod alone (upstream's safe list).
const SAFE_SYSCTLS: [&str; 13] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
];

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, `NodePorts`, …
    pub reason: String,
    /// In upstream's words.
    pub message: String,
}

/// What the node can give: thousandths of CPU, bytes of memory.
#[must_use]
pub fn allocatable(cx: &Context) -> BTreeMap<String, i64> {
    let memory = cx.machine.memory_bytes - crate::node::RESERVED_MEMORY_BYTES;
    BTreeMap::from([("cpu".to_owned(), cx.machine.cpu_milli), ("memory".to_owned(), memory)])
}

/// Checks a new pod against the node and the pods on it that have not ended.
pub async fn check(cx: &Context, pod: &Pod, others: &[Arc<Pod>]) -> Option<Rejection> {
    let allocatable = allocatable(cx);
    let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
    let max_pods = i64::from(cx.config.max_pods);
    let try_with = |labels: &BTreeMap<String, String>| fits(pod, &others, &allocatable, max_pods, &cx.config.node_name, labels);
    let verdict = try_with(&cx.node_labels.read());
    if verdict.as_ref().is_none_or(|r| r.reason != NODE_AFFINITY) {
        return verdict;
    }
    // The scheduler may have seen a label that this kubelet has not: it looks before it refuses.
    if let Ok(Some(node)) = cx.api.get_node(&cx.config.node_name).await {
        *cx.node_labels.write() = node.metadata.labels.unwrap_or_default();
    }
    try_with(&cx.node_labels.read())
}

/// The pure part: `allocatable` in thousandths of CPU and in bytes.
fn fits(pod: &Pod, others: &[&Pod], allocatable: &BTreeMap<String, i64>, max_pods: i64, node: &str, labels: &BTreeMap<String, String>) -> Option<Rejection> {
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
    if !selected(spec, node, labels) {
        return Some(Rejection {
            reason: NODE_AFFINITY.into(),
            message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        });
    }
    let mine = host_ports(pod);
    let clash =
        others.iter().flat_map(|p| host_ports(p)).any(|o| mine.iter().any(|m| m.1 == o.1 && m.2 == o.2 && (m.0 == o.0 || m.0.is_empty() || o.0.is_empty())));
    if clash {
        return Some(Rejection {
            reason: "NodePorts".into(),
            message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        });
    }
    let os = spec.os.as_ref().map(|o| o.name.as_str());
    if os.is_some_and(|o| o != "linux") {
        return Some(Rejection { reason: "PodOSNotSupported".into(), message: "Failed to admit pod as the OS field doesn't match node OS".into() });
    }
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    if let Some(s) = sysctls.into_iter().flatten().find(|s| !SAFE_SYSCTLS.contains(&s.name.replace('/', ".").as_str())) {
        return Some(Rejection { reason: "SysctlForbidden".into(), message: format!("forbidden sysctl: {:?} not allowlisted", s.name) });
    }
    None
}

/// Whether the node has what `nodeSelector` and the required node affinity ask for.
fn selected(spec: &PodSpec, node: &str, labels: &BTreeMap<String, String>) -> bool {
    if !spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    required.node_selector_terms.iter().any(|t| {
        let (labelled, fields) = (t.match_expressions.as_deref().unwrap_or_default(), t.match_fields.as_deref().unwrap_or_default());
        // A term that asks for nothing selects nothing.
        (!labelled.is_empty() || !fields.is_empty())
            && labelled.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
            && fields.iter().all(|r| holds(r, (r.key == "metadata.name").then_some(node)))
    })
}

fn holds(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let order = || value?.parse::<i64>().ok().zip(values.first()?.parse::<i64>().ok());
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => order().is_some_and(|(a, b)| a > b),
        "Lt" => order().is_some_and(|(a, b)| a < b),
        _ => false,
    }
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
        let one =
            |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}, "ports": [{"containerPort": 1, "hostPort": 80}]}]}));
        let plain = pod(json!({"containers": [{"name": "c"}], "nodeSelector": {"disk": "hdd"}}));
        let reason = |p: &Pod, others: &[&Pod]| fits(p, others, &all, 2, "node-1", &labels).map(|r| r.reason);
        assert_eq!(reason(&one("1"), &[]), None);
        assert_eq!(reason(&one("3"), &[]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&one("1"), &[&one("1500m")]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&one("1"), &[&one("1")]).as_deref(), Some("NodePorts"));
        assert_eq!(reason(&plain, &[]).as_deref(), Some("NodeAffinity"));
        assert_eq!(reason(&one("1"), &[&plain, &plain]).as_deref(), Some("OutOfpods"));
        let sysctl = pod(json!({"containers": [{"name": "c"}], "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}));
        assert_eq!(reason(&sysctl, &[]).as_deref(), Some("SysctlForbidden"));
    }

    #[test]
    fn required_affinity_is_any_of_its_terms() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned()), ("size".to_owned(), "7".to_owned())]);
        let with = |terms: serde_json::Value| {
            let p =
                pod(json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}));
            selected(p.spec.as_ref().unwrap(), "node-1", &labels)
        };
        let term = |key: &str, op: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        assert!(with(json!([term("disk", "In", &["hdd"]), term("size", "Gt", &["6"])])));
        assert!(!with(json!([term("disk", "NotIn", &["ssd"])])));
        assert!(!with(json!([{}])));
        assert!(with(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}])));
    }
}
