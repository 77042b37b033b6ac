//! Whether a pod may run on this node: the kubelet's own word after the scheduler's, since pods can be bound by anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint};
use machinery::placement;
use network::pod::OwnPort;

use crate::cri::PodUid;
use crate::graceful;
use crate::machine;
use crate::pod::Context;
use crate::resources;
use crate::shortage::{self, Lack};
use crate::statics::is_static;
use crate::util;

/// Begins the reasons that a resource is short.
const OUT_OF: &str = "OutOf";
/// Kernel parameters that concern a pod alone (upstream's safe list).
const SAFE_SYSCTLS: [&str; 14] = [
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
    "net.ipv4.tcp_notsent_lowat",
];

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, `NodePorts`, …
    pub reason: String,
    /// In upstream's words.
    pub message: String,
    /// The node's object says so, which may have changed.
    pub by_node: bool,
}

impl Rejection {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), by_node: false }
    }

    fn predicate(name: &str, why: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"))
    }
}

/// Whether a pod may run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Admitted,
    /// It may not.
    Refused(Rejection),
    /// It may when these have made room for it, and else not.
    MakeRoom {
        /// Who must go.
        victims: Vec<PodUid>,
        /// Why it may not otherwise.
        otherwise: Rejection,
    },
}

/// What the node can give: thousandths of CPU, bytes of memory, and what its object tells besides (ephemeral storage, huge
/// pages, extended resources).
#[must_use]
pub fn allocatable(cx: &Context) -> BTreeMap<String, i64> {
    let node = cx.node.read().clone();
    let told = node.iter().flat_map(|n| n.status.iter()).flat_map(|s| s.allocatable.iter().flatten());
    let mut out: BTreeMap<String, i64> = told.filter(|(n, _)| *n != "pods").map(|(n, q)| (n.clone(), resources::value(q))).collect();
    out.insert("cpu".to_owned(), cx.allocatable("cpu"));
    out.insert("memory".to_owned(), cx.allocatable("memory"));
    out
}

/// Checks a new pod against the node and the pods on it that have not ended.
pub fn check(cx: &Context, pod: &Pod, others: &[Arc<Pod>]) -> Verdict {
    if let Some(message) = shortage::refuses(pod, &cx.pressure.told()) {
        return Verdict::Refused(Rejection::new("Evicted", message));
    }
    if cx.ending.is_near() {
        return Verdict::Refused(Rejection::new(graceful::REFUSED_REASON, graceful::REFUSED_MESSAGE));
    }
    if let Some(message) = unconfinable(pod).filter(|_| !crate::cri::apparmor_enabled()) {
        return Verdict::Refused(Rejection::new("AppArmor", message));
    }
    let node = cx.node.read().clone();
    let default = machine::labels(&cx.config);
    let place = Place {
        name: &cx.config.node_name,
        labels: node.as_ref().and_then(|n| n.metadata.labels.as_ref()).unwrap_or(&default),
        taints: node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default(),
        allocatable: &allocatable(cx),
        max_pods: i64::from(cx.config.max_pods),
        own_ports: &cx.config.own_ports,
    };
    let running: Vec<&Pod> = others.iter().map(|p| &**p).collect();
    let Some(refused) = fits(pod, &running, &place) else { return Verdict::Admitted };
    if !shortage::critical(pod) || !refused.reason.starts_with(OUT_OF) {
        return Verdict::Refused(refused);
    }
    // No room is made for what cannot run here all the same.
    let Some(spec) = pod.spec.as_ref() else { return Verdict::Refused(refused) };
    if let Some(refused) = misplaced(pod, spec, &running, &place) {
        return Verdict::Refused(refused);
    }
    let lacks: Vec<Lack> = shortages(pod, spec, &running, &place).iter().map(Shortage::lack).collect();
    match shortage::victims(pod, others, &lacks) {
        Ok(victims) => Verdict::MakeRoom { victims, otherwise: refused },
        Err(why) => {
            let message =
                format!("Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: {why}");
            Verdict::Refused(Rejection::new("UnexpectedAdmissionError", message))
        }
    }
}

/// Why an AppArmor profile cannot be enforced, if the pod names one (upstream's `appArmorAdmitHandler`). What runs already is
/// not asked again.
fn unconfinable(pod: &Pod) -> Option<String> {
    if pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p != "Pending") {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = containers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref());
    let named = of_pod.into_iter().chain(own).any(|p| p.type_ != "Unconfined");
    named.then(|| "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned())
}

/// The node, as pods are put on it.
struct Place<'a> {
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    taints: &'a [Taint],
    /// Thousandths of CPU, else whole units.
    allocatable: &'a BTreeMap<String, i64>,
    max_pods: i64,
    own_ports: &'a [OwnPort],
}

/// The pure part, in upstream's order (`predicateAdmitHandler`, `generalFilter`).
fn fits(pod: &Pod, others: &[&Pod], place: &Place<'_>) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    // The pod's own label, whatever the node's says; what it selects nodes by comes below (upstream's `rejectPodAdmissionBasedOnOSSelector`).
    if pod.metadata.labels.as_ref().and_then(|all| all.get("kubernetes.io/os")).is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(Rejection::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|o| o.name != "linux") {
        return Some(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    if let Some(short) = shortages(pod, spec, others, place).first() {
        return Some(short.rejection());
    }
    misplaced(pod, spec, others, place)
}

/// Why a pod cannot run on this node, however much room there is.
fn misplaced(pod: &Pod, spec: &PodSpec, others: &[&Pod], place: &Place<'_>) -> Option<Rejection> {
    let by_node = |r: Rejection| Some(Rejection { by_node: true, ..r });
    if !selected(spec, place.name, place.labels) {
        return by_node(Rejection::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let mine = host_ports(pod);
    let clash = |o: &HostPort| mine.iter().any(|m| m.1 == o.1 && m.2 == o.2 && (m.0 == o.0 || m.0.is_empty() || o.0.is_empty()));
    if takes_own(pod, &mine, place.own_ports) || others.iter().flat_map(|p| host_ports(p)).any(|o| clash(&o)) {
        return Some(Rejection::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tolerations = placement::Tolerations::new(&spec.tolerations);
    let borne = |t: &Taint| tolerations.bear(placement::Taint { key: &t.key, value: t.value.as_deref().unwrap_or_default(), effect: &t.effect });
    // What a node's taints keep away is not what the node itself runs.
    if !is_static(pod) && place.taints.iter().any(|t| t.effect == placement::NO_EXECUTE && !borne(t)) {
        return by_node(Rejection::predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    sysctls.into_iter().flatten().find_map(|s| {
        let why = forbidden(&kinds::dotted_sysctl(&s.name), spec)?;
        Some(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}")))
    })
}

/// Why a pod may not set a kernel parameter: it is not a pod's alone, or not this one's, which shares the host's (upstream's
/// `validateSysctl`).
fn forbidden(sysctl: &str, spec: &PodSpec) -> Option<String> {
    if !SAFE_SYSCTLS.contains(&sysctl) {
        return Some(format!("{sysctl:?} not allowlisted"));
    }
    let (of, shared) = if sysctl.starts_with("net.") { ("Net", spec.host_network) } else { ("IPC", spec.host_ipc) };
    (shared == Some(true)).then(|| format!("{sysctl:?} not allowed with host {of} enabled"))
}

/// A resource that the node has not enough of.
struct Shortage {
    name: String,
    asked: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    fn rejection(&self) -> Rejection {
        let Self { name, asked, used, capacity } = self;
        let message = format!("Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}");
        Rejection::new(&format!("{OUT_OF}{name}"), message)
    }

    fn lack(&self) -> Lack {
        Lack { name: self.name.clone(), amount: self.asked.saturating_sub(self.capacity.saturating_sub(self.used)) }
    }
}

/// The resources that the node has not enough of. One that the node does not know is somebody else's, as upstream has it, and what the pod has as
/// devices (KEP 5004) is not counted.
fn shortages(pod: &Pod, spec: &PodSpec, others: &[&Pod], place: &Place<'_>) -> Vec<Shortage> {
    let mut out = Vec::new();
    let mut short = |name: &str, asked: i64, used: i64, capacity: i64| out.push(Shortage { name: name.to_owned(), asked, used, capacity });
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count >= place.max_pods {
        short("pods", 1, count, place.max_pods);
    }
    let asked = resources::pod_requests(spec);
    let used: Vec<_> = others.iter().filter_map(|p| p.spec.as_ref()).map(resources::pod_requests).collect();
    let first = ["cpu", "memory", "ephemeral-storage"];
    let devices = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let is_device = |name: &str| devices.is_some_and(|d| d.request_mappings.iter().any(|mapping| mapping.resource_name == name));
    let rest = asked.keys().map(String::as_str).filter(|n| !first.contains(n) && !is_device(n));
    for name in first.into_iter().chain(rest) {
        let want = asked.get(name).copied().unwrap_or(0);
        let Some(capacity) = place.allocatable.get(name).copied().filter(|_| want > 0) else { continue };
        let used = used.iter().map(|r| r.get(name).copied().unwrap_or(0)).fold(0, i64::saturating_add);
        if used.saturating_add(want) > capacity {
            short(name, want, used, capacity);
        }
    }
    out
}

/// Whether the node has what `nodeSelector` and the required node affinity ask for.
fn selected(spec: &PodSpec, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    placement::Required::new(spec.node_selector.as_ref(), required).allows(placement::Place::new(node, Some(labels)))
}

/// Address (empty: all), port and protocol.
type HostPort = (String, i32, String);

/// Whether one of a pod's ports of the host is the node's own. Who is on the host's network takes nothing from it: he listens himself, at an
/// address that is free.
fn takes_own(pod: &Pod, ports: &[HostPort], own: &[OwnPort]) -> bool {
    let meets = |(ip, port, protocol): &HostPort, own: &OwnPort| u16::try_from(*port).is_ok_and(|port| own.meets(ip.parse().ok(), port, protocol));
    !util::host_network(pod) && ports.iter().any(|p| own.iter().any(|o| meets(p, o)))
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    resources::held_ports(pod)
        .filter_map(|p| {
            let ip = p.host_ip.clone().filter(|i| i != "0.0.0.0" && i != "::").unwrap_or_default();
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
        let allocatable = BTreeMap::from([("cpu".to_owned(), 2000), ("ephemeral-storage".to_owned(), 100), ("example.com/gpu".to_owned(), 1)]);
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned()), ("kubernetes.io/os".to_owned(), "linux".to_owned())]);
        let mut taints = Vec::new();
        let own_ports = [OwnPort { ip: Some([10, 0, 0, 1].into()), port: 6443, protocol: "TCP" }];
        let one =
            |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}, "ports": [{"containerPort": 1, "hostPort": 80}]}]}));
        let plain = pod(json!({"containers": [{"name": "c"}], "nodeSelector": {"disk": "hdd"}}));
        let check = |p: &Pod, others: &[&Pod], taints: &[Taint]| {
            let place = Place { name: "node-1", labels: &labels, taints, allocatable: &allocatable, max_pods: 2, own_ports: &own_ports };
            fits(p, others, &place).map(|r| r.reason)
        };
        let reason = |p: &Pod, others: &[&Pod]| check(p, others, &[]);
        assert_eq!(reason(&one("1"), &[]), None);
        assert_eq!(reason(&one("3"), &[]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&one("1"), &[&one("1500m")]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(&one("1"), &[&one("1")]).as_deref(), Some("NodePorts"));
        let side = pod(
            json!({"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
        );
        assert_eq!(reason(&side, &[&one("1")]).as_deref(), Some("NodePorts"), "a sidecar's port too");
        let holds = |port: serde_json::Value, host: bool| pod(json!({"hostNetwork": host, "containers": [{"name": "c", "ports": [port]}]}));
        let api = |ip: &str| json!({"containerPort": 6443, "hostPort": 6443, "hostIP": ip});
        for ip in ["", "0.0.0.0", "10.0.0.1"] {
            assert_eq!(reason(&holds(api(ip), false), &[]).as_deref(), Some("NodePorts"), "the node's own, at {ip:?}");
        }
        assert_eq!(reason(&holds(api("10.0.0.2"), false), &[]), None);
        assert_eq!(reason(&holds(json!({"containerPort": 6443, "hostPort": 6443, "protocol": "UDP"}), false), &[]), None);
        assert_eq!(reason(&holds(api(""), true), &[]), None, "who is on the host's network takes nothing from it");
        assert_eq!(reason(&plain, &[]).as_deref(), Some("NodeAffinity"));
        assert_eq!(reason(&one("1"), &[&plain, &plain]).as_deref(), Some("OutOfpods"));
        let sysctl = pod(json!({"containers": [{"name": "c"}], "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}));
        assert_eq!(reason(&sysctl, &[]).as_deref(), Some("SysctlForbidden"));
        let sets =
            |name: &str| pod(json!({"containers": [{"name": "c"}], "hostNetwork": true, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        let why = |name: &str| forbidden(name, sets(name).spec.as_ref().unwrap());
        assert_eq!(why("net.ipv4.tcp_notsent_lowat").as_deref(), Some(r#""net.ipv4.tcp_notsent_lowat" not allowed with host Net enabled"#));
        assert_eq!(why("net.core.somaxconn").as_deref(), Some(r#""net.core.somaxconn" not allowlisted"#));
        assert_eq!(reason(&sets("net.ipv4.tcp_syncookies"), &[]).as_deref(), Some("SysctlForbidden"), "it would be the host's");
        assert_eq!(why("kernel.shm_rmid_forced"), None);
        let set = |name: &str| pod(json!({"containers": [{"name": "c"}], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        assert_eq!(reason(&set("net/ipv4/tcp_syncookies"), &[]), None);
        assert_eq!(reason(&set("net.ipv4/tcp_syncookies"), &[]).as_deref(), Some("SysctlForbidden"), "a slash stands inside a part there");
        let asks = |name: &str, n: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {name: n}, "limits": {name: n}}}]}));
        assert_eq!(reason(&asks("ephemeral-storage", "101"), &[]).as_deref(), Some("OutOfephemeral-storage"));
        assert_eq!(reason(&asks("example.com/gpu", "1"), &[&asks("example.com/gpu", "1")]).as_deref(), Some("OutOfexample.com/gpu"));
        assert_eq!(reason(&asks("example.com/other", "9"), &[]), None, "what the node does not know is not its own");
        let mut windows = pod(json!({"containers": [{"name": "c"}], "nodeSelector": {"kubernetes.io/os": "windows"}}));
        assert_eq!(reason(&windows, &[]).as_deref(), Some("NodeAffinity"));
        windows.metadata.labels = Some(BTreeMap::from([("kubernetes.io/os".to_owned(), "windows".to_owned())]));
        assert_eq!(reason(&windows, &[]).as_deref(), Some("PodOSSelectorNodeLabelDoesNotMatch"));
        taints.push(Taint { key: "k".into(), effect: "NoExecute".into(), ..Taint::default() });
        taints.push(Taint { key: "soft".into(), effect: "NoSchedule".into(), ..Taint::default() });
        assert_eq!(check(&one("1"), &[], &taints).as_deref(), Some("TaintToleration"));
        let bears = pod(json!({"containers": [{"name": "c"}], "tolerations": [{"key": "k", "operator": "Exists"}]}));
        assert_eq!(check(&bears, &[], &taints), None);
    }

    #[test]
    fn profiles_that_cannot_be_enforced_are_refused() {
        let with = |phase: &str, v: serde_json::Value| -> Pod { serde_json::from_value(json!({"spec": v, "status": {"phase": phase}})).unwrap() };
        let own = |type_: &str| json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": type_}}}]});
        for type_ in ["RuntimeDefault", "Localhost"] {
            assert_eq!(unconfinable(&with("Pending", own(type_))).as_deref(), Some("Cannot enforce AppArmor: AppArmor is not enabled on the host"));
        }
        assert_eq!(unconfinable(&with("Pending", own("Unconfined"))), None);
        assert_eq!(unconfinable(&with("Running", own("Localhost"))), None, "what runs is not asked again");
        let level = json!({"containers": [{"name": "c"}], "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}});
        assert!(unconfinable(&with("Pending", level)).is_some());
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
