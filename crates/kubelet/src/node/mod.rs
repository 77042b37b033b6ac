//! The Node object: registered once, its lease renewed every ten seconds, its status told when the API's differs and every
//! five minutes (both by [`Heartbeat`](crate::settings::Heartbeat)).
//!
//! Every ten seconds, too, the object is read and compared with what the node is, as upstream's `tryUpdateNodeStatus` does, not with
//! what was written last: a node controller that took the node for dead is answered at once, and so is anybody else.
//!
//! After a restart the node does not flap: this kubelet only ever writes `Ready` once it can run pods, and until then the
//! object that a former process wrote stands, with a lease that outlives a short absence.

pub mod csi;
mod oom;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Severity;
use crate::config::Config;
use crate::evict::state::Condition;
use crate::graceful;
use crate::machine::{architecture, disk, labels, meminfo};
use crate::pod::Context;
use crate::pod::refusals::HANDLERS;
use crate::reserve;
use crate::util::{self, time};

/// How often the status is written though nothing changed.
const REPORT: Duration = Duration::from_secs(300);
/// Images named in the status (upstream's `nodeStatusMaxImages`), and names of each.
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;
/// What this kubelet can do that others may not (KEP-5328), sorted: who schedules and changes pods asks for it.
const DECLARED_FEATURES: [&str; 4] =
    ["ExtendWebSocketsToKubelet", "InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits"];
/// What is told of a machine with version 1 of cgroups, in the original's words.
const CGROUP_V1: &str = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. Please migrate to cgroup v2. More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";
/// First and longest wait before registration is tried again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(7);

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn quantities(items: &[(&str, String)]) -> BTreeMap<String, Quantity> {
    // As the API writes them, or what is read back would not be what was written.
    let canonical = |v: &String| v.parse::<machinery::quantity::Quantity>().map_or_else(|_| v.clone(), |q| q.to_string());
    items.iter().map(|(k, v)| ((*k).to_owned(), Quantity(canonical(v)))).collect()
}

/// What the machine says of itself.
pub(crate) fn system_info(cx: &Context) -> NodeSystemInfo {
    let uname = nix::sys::utsname::uname().ok();
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    let (machine_id, system_uuid) = identity(read("/etc/machine-id"), read("/sys/class/dmi/id/product_uuid"), cx.config.apart.as_deref());
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: cx.runtime.version(),
        kernel_version: uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
        kubelet_version: cx.config.version.clone(),
        operating_system: "linux".into(),
        os_image: pretty,
        swap: swap(meminfo("SwapTotal")),
        system_uuid,
        machine_id,
        ..NodeSystemInfo::default()
    }
}

/// What the machine has of swap; nothing is said where it has none.
fn swap(bytes: i64) -> Option<NodeSwapStatus> {
    (bytes > 0).then_some(NodeSwapStatus { capacity: Some(bytes) })
}

/// `machineID` and `systemUUID`, by which programs tell machines of a cluster apart: those of the machine itself, and of each further node on it
/// (`apart`) others that are made of them, always the same.
fn identity(machine_id: String, uuid: String, apart: Option<&str>) -> (String, String) {
    let uuid = if uuid.is_empty() { machine_id.clone() } else { uuid };
    let Some(apart) = apart else { return (machine_id, uuid) };
    let made_of = |own: &str| -> String { Sha256::digest(format!("{own}/{apart}"))[..16].iter().map(|b| format!("{b:02x}")).collect() };
    let mut further = made_of(&uuid);
    if uuid.contains('-') {
        [20, 16, 12, 8].into_iter().for_each(|at| further.insert(at, '-'));
    }
    (made_of(&machine_id), further)
}

fn images(cx: &Context) -> Vec<ContainerImage> {
    let mut all = cx.runtime.images();
    all.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    all.into_iter()
        .take(MAX_IMAGES)
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(MAX_IMAGE_NAMES).collect()).filter(|n: &Vec<_>| !n.is_empty()),
            size_bytes: i64::try_from(i.size_bytes).ok(),
        })
        .collect()
}

fn conditions(cx: &Context, old: Option<&NodeStatus>, now: SystemTime) -> Vec<NodeCondition> {
    let short = cx.pressure.told();
    let one = |type_: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let before = old.and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == status));
        NodeCondition {
            last_heartbeat_time: Some(time(now)),
            last_transition_time: before.and_then(|b| b.last_transition_time.clone()).or_else(|| Some(time(now))),
            message: Some(message.into()),
            reason: Some(reason.into()),
            status: status.into(),
            type_: type_.into(),
        }
    };
    let of = |condition: Condition| {
        let (_, bad, good) = pressure_words(condition);
        let (status, (reason, message)) = if short.contains(&condition) { (true, bad) } else { (false, good) };
        one(condition.as_str(), status, reason, message)
    };
    let mut all: Vec<NodeCondition> = Condition::ALL.map(of).into();
    all.push(match cx.ending.is_near() {
        false => one("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        true => one("Ready", false, "KubeletNotReady", graceful::NODE_MESSAGE),
    });
    all
}

/// Reason and message of a condition.
type Words = (&'static str, &'static str);

/// Of a shortage: the Events of its coming and going, and what the condition says while there is one, and while there is none.
fn pressure_words(condition: Condition) -> ((&'static str, &'static str), Words, Words) {
    match condition {
        Condition::Memory => (
            ("NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        Condition::Disk => (
            ("NodeHasDiskPressure", "NodeHasNoDiskPressure"),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        Condition::Pids => (
            ("NodeHasInsufficientPID", "NodeHasSufficientPID"),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    }
}

/// What pods can ask of the runtime, by the names by which RuntimeClasses ask for it.
fn runtime_handlers(user_namespaces: bool) -> Vec<NodeRuntimeHandler> {
    let features = NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(user_namespaces) };
    HANDLERS.iter().map(|name| NodeRuntimeHandler { features: Some(features.clone()), name: Some((*name).to_owned()) }).collect()
}

/// The Events that a status is worth after another one, or after none.
fn turns(old: Option<&NodeStatus>, new: &NodeStatus) -> Vec<&'static str> {
    let status = |s: &NodeStatus, type_: &str| s.conditions.iter().flatten().find(|c| c.type_ == type_).map(|c| c.status.clone());
    let turned = |condition: Condition| {
        let now = status(new, condition.as_str())?;
        let before = old.and_then(|old| status(old, condition.as_str()));
        let (bad, good) = pressure_words(condition).0;
        (before.as_ref() != Some(&now)).then_some(if now == "True" { bad } else { good })
    };
    // Whether it is ready is one only where it was told otherwise.
    let ready = || {
        let (before, now) = (old.and_then(|old| status(old, "Ready"))?, status(new, "Ready")?);
        (before != now).then_some(if now == "True" { "NodeReady" } else { "NodeNotReady" })
    };
    Condition::ALL.into_iter().filter_map(turned).chain(ready()).collect()
}

/// The status of the node as it is now.
#[must_use]
pub fn status(cx: &Context, old: Option<&NodeStatus>, now: SystemTime) -> NodeStatus {
    let c = &cx.config;
    let (disk_bytes, _) = disk(&c.root_dir);
    let whole = |name: &str, amount: i64| match name {
        "cpu" => (amount / 1000).to_string(),
        "memory" => format!("{}Ki", amount / 1024),
        _ => amount.to_string(),
    };
    let settings = &c.settings;
    let disk_bytes = i64::try_from(disk_bytes).unwrap_or(i64::MAX);
    let resources = || cx.machine.huge_pages.iter().map(|(n, b)| (n.as_str(), *b)).chain([("cpu", cx.machine.cpu_milli), ("memory", cx.machine.memory_bytes)]);
    let mut in_all: Vec<(&str, String)> = resources().map(|(name, amount)| (name, whole(name, amount))).collect();
    in_all.extend([("pods", c.max_pods.to_string()), ("ephemeral-storage", format!("{}Ki", disk_bytes / 1024))]);
    let mut for_pods: Vec<(&str, String)> = resources()
        .map(|(name, amount)| match name {
            "cpu" => (name, format!("{}m", cx.allocatable(name))),
            "memory" => (name, whole(name, cx.allocatable(name))),
            _ => (name, whole(name, reserve::allocatable(settings, name, amount))),
        })
        .collect();
    for_pods.extend([("pods", c.max_pods.to_string()), ("ephemeral-storage", reserve::allocatable(settings, "ephemeral-storage", disk_bytes).to_string())]);
    // What others put there (extended resources) stays.
    let mut capacity = old.and_then(|s| s.capacity.clone()).unwrap_or_default();
    let mut allocatable = old.and_then(|s| s.allocatable.clone()).unwrap_or_default();
    for (k, v) in capacity.iter().filter(|(k, _)| k.contains('/')) {
        allocatable.insert(k.clone(), v.clone());
    }
    capacity.extend(quantities(&in_all));
    allocatable.extend(quantities(&for_pods));
    let mut addresses: Vec<NodeAddress> = cx.machine.host_ips.iter().map(|ip| NodeAddress { address: ip.to_string(), type_: "InternalIP".into() }).collect();
    addresses.push(NodeAddress { address: c.node_name.clone(), type_: "Hostname".into() });
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(cx, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(c.listen.port()) }) }),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        // What is empty is not there when it is read back.
        images: Some(images(cx)).filter(|i| !i.is_empty()),
        node_info: Some(system_info(cx)),
        runtime_handlers: Some(runtime_handlers(cx.runtime.user_namespaces().is_ok())),
        volumes_in_use: Some(cx.persistent.in_use()).filter(|v| !v.is_empty()),
        ..NodeStatus::default()
    }
}

fn taints(config: &Config) -> Option<Vec<Taint>> {
    let parse = |text: &String| -> Option<Taint> {
        let (rest, effect) = text.rsplit_once(':')?;
        let (key, value) = rest.split_once('=').map_or((rest, None), |(k, v)| (k, Some(v.to_owned())));
        Some(Taint { effect: effect.into(), key: key.into(), value, ..Taint::default() })
    };
    let list: Vec<Taint> = config.taints.iter().filter_map(parse).collect();
    (!list.is_empty()).then_some(list)
}

/// The labels of a node that is there that its kubelet writes again (upstream's `updateDefaultLabels`).
const KEPT_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Those that it answers for as long as it runs (upstream's `updateNode`): a pod that selects `linux` finds no node without.
const MACHINE_LABELS: [&str; 2] = ["kubernetes.io/os", "kubernetes.io/arch"];

/// What the labels of the machine are to be that somebody changed or took away.
fn strayed(config: &Config, node: &Node) -> BTreeMap<String, String> {
    let have = |key: &str| node.metadata.labels.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let mut wanted = labels(config);
    wanted.retain(|key, value| MACHINE_LABELS.contains(&key.as_str()) && have(key) != Some(value.as_str()));
    wanted
}

/// Registers the node, or brings an object that exists up to date. Tries until it succeeds or the kubelet stops.
async fn register(cx: &Arc<Context>, stop: &CancellationToken) -> Option<Node> {
    let mut wait = RETRY_MIN;
    loop {
        match try_register(cx).await {
            Ok(node) => return Some(node),
            Err(e) => tracing::warn!(error = %e, "node not registered; will be tried again"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            () = stop.cancelled() => return None,
        }
    }
}

/// The object of a node as it is made, without a status. Where the control plane gives it the range of its pods, that is before its kubelet
/// runs: its network waits for the range.
#[must_use]
pub fn fresh(config: &Config) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(config.node_name.clone());
    node.metadata.labels = Some(labels(config));
    node.metadata.annotations = Some(BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]));
    let pod_cidrs = Some(config.pod_cidrs.clone()).filter(|all| !all.is_empty());
    node.spec = Some(NodeSpec { pod_cidr: config.pod_cidrs.first().cloned(), pod_cidrs, taints: taints(config), ..NodeSpec::default() });
    node
}

async fn try_register(cx: &Arc<Context>) -> Result<Node, crate::api::ApiError> {
    let c = &cx.config;
    let now = SystemTime::now();
    let Some(found) = cx.api.get_node(&c.node_name).await? else {
        let mut node = fresh(c);
        node.status = Some(status(cx, None, now));
        let created = match cx.api.create_node(&node).await {
            Err(crate::api::ApiError::Forbidden(_)) if c.pod_cidr_is_asked_for => {
                let spec = node.spec.get_or_insert_default();
                (spec.pod_cidr, spec.pod_cidrs) = (None, None);
                cx.api.create_node(&node).await?
            }
            created => created?,
        };
        // Its conditions turn to what they are by being there (upstream's `initialNode` tells so, too).
        if created.status.as_ref().is_some_and(|status| status.conditions.as_ref().is_some_and(|all| !all.is_empty())) {
            node.status.iter().flat_map(|status| turns(None, status)).for_each(|event| tell_turn(cx, event));
        }
        // The API drops a status on creation where it has the kind's rules from upstream: it is written on its own.
        let fresh = status(cx, created.status.as_ref(), now);
        return write_status(cx, created.status.as_ref(), fresh).await.or(Ok(created));
    };
    // The others are given once: what somebody makes of them afterwards stands.
    let mut wanted = labels(c);
    wanted.retain(|key, _| KEPT_LABELS.contains(&key.as_str()));
    let have = found.metadata.labels.clone().unwrap_or_default();
    if wanted.iter().any(|(k, v)| have.get(k) != Some(v)) {
        cx.api.patch_node(&c.node_name, json!({"metadata": {"labels": wanted}}), false).await?;
    }
    if gains_a_family(found.spec.as_ref(), &c.pod_cidrs) {
        cx.api.patch_node(&c.node_name, json!({"spec": {"podCIDRs": c.pod_cidrs}}), false).await?;
    }
    let fresh = status(cx, found.status.as_ref(), now);
    write_status(cx, found.status.as_ref(), fresh).await
}

/// Whether a node that has a range of one family is to have one of the other as well: the cluster has become one of both.
fn gains_a_family(found: Option<&NodeSpec>, wanted: &[String]) -> bool {
    let have = found.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    !have.is_empty() && wanted.len() > have.len() && wanted.starts_with(have)
}

async fn write_status(cx: &Arc<Context>, old: Option<&NodeStatus>, new: NodeStatus) -> Result<Node, crate::api::ApiError> {
    let (turns, rebooted) = (turns(old, &new), rebooted(old, &new).map(str::to_owned));
    let mut patch = serde_json::to_value(&new).unwrap_or_default();
    if let (Value::Object(map), true) = (&mut patch, old.is_some()) {
        // Addresses merge by type: the whole list replaces the old one.
        if let Some(Value::Array(list)) = map.get_mut("addresses") {
            list.push(json!({"$patch": "replace"}));
        }
        // What is not in use any more is to be gone.
        map.entry("volumesInUse").or_insert(Value::Null);
    }
    let written = cx.api.patch_node(&cx.config.node_name, json!({"status": patch}), true).await?;
    for event in turns {
        tell_turn(cx, event);
    }
    if let Some(boot) = rebooted {
        cx.api.node_event(Severity::Warning, "Rebooted", &format!("Node {} has been rebooted, boot id: {boot}", cx.config.node_name));
    }
    Ok(written)
}

fn tell_turn(cx: &Context, event: &str) {
    cx.api.node_event(Severity::Normal, event, &format!("Node {} status is now: {event}", cx.config.node_name));
}

/// The kernel's run that the status tells of, if it is another than was told last.
fn rebooted<'a>(old: Option<&NodeStatus>, new: &'a NodeStatus) -> Option<&'a str> {
    let before = old?.node_info.as_ref()?.boot_id.as_str();
    let now = new.node_info.as_ref()?.boot_id.as_str();
    (!before.is_empty() && before != now).then_some(now)
}

/// Whether somebody keeps new pods away from the node.
fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true))
}

/// Whether the API tells of the node what the node is: all that this kubelet says, but for the times of its conditions. What
/// others add (conditions, resources) is theirs.
fn told(api: &NodeStatus, fresh: &NodeStatus) -> bool {
    let conditions = |s: &NodeStatus| -> Vec<_> {
        let own = |c: &&NodeCondition| fresh.conditions.iter().flatten().any(|f| f.type_ == c.type_);
        let mut list: Vec<_> =
            s.conditions.iter().flatten().filter(own).map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone())).collect();
        list.sort();
        list
    };
    let tree = |s: &NodeStatus| serde_json::to_value(s).unwrap_or_default();
    // Nothing in use is told by not telling it.
    let in_use = api.volumes_in_use.as_deref().unwrap_or_default() == fresh.volumes_in_use.as_deref().unwrap_or_default();
    // The default handler's name is empty, and may not be there when it is read back.
    let handlers =
        |s: &NodeStatus| -> Vec<_> { s.runtime_handlers.iter().flatten().map(|h| (h.name.clone().unwrap_or_default(), h.features.clone())).collect() };
    let (api_tree, fresh_tree) = (tree(api), tree(fresh));
    let rest = fresh_tree.as_object().into_iter().flatten().filter(|(key, _)| !matches!(key.as_str(), "conditions" | "runtimeHandlers"));
    in_use && conditions(api) == conditions(fresh) && handlers(api) == handlers(fresh) && rest.into_iter().all(|(key, value)| api_tree.get(key) == Some(value))
}

/// Keeps the node's object and lease.
pub async fn run(cx: Arc<Context>, stop: CancellationToken, registered: tokio::sync::watch::Sender<bool>) {
    let Some(mut node) = register(&cx, &stop).await else { return };
    cx.api.node_event(Severity::Normal, "Starting", "Starting kubelet.");
    if cx.cgroups.version() == 1 {
        cx.api.node_event(Severity::Warning, "CgroupV1", CGROUP_V1);
    }
    let (mut cordoned, mut kernel) = (false, oom::Kernel::open());
    *cx.node.write() = Some(Arc::new(node.clone()));
    let _ = registered.send(true);
    cx.persistent.reported(in_use(&node));
    let (mut volumes, mut ending) = (cx.persistent.changes(), cx.ending.changes());
    let mut reported = Instant::now();
    let heartbeat = cx.config.settings.heartbeat;
    let [mut renewals, mut looks] = [heartbeat.renew(), heartbeat.look].map(|period| {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    });
    loop {
        tokio::select! {
            _ = renewals.tick() => {
                if let Err(e) = cx.api.renew_lease(&node, heartbeat.lease_s).await {
                    tracing::warn!(error = %e, "node lease not renewed");
                }
                continue;
            }
            _ = looks.tick() => for message in kernel.news() {
                cx.api.node_event(Severity::Warning, "SystemOOM", &message);
            },
            // Whoever waits for a volume to be attached waits for this; volumes that are not attached change nothing of it.
            Ok(()) = volumes.changed() => if in_use(&node) == cx.persistent.in_use() {
                continue;
            },
            Ok(()) = ending.changed() => {}
            () = stop.cancelled() => return,
        }
        match cx.api.get_node(&cx.config.node_name).await {
            Ok(Some(found)) => node = found,
            // Somebody deleted the object: this node still exists, and says so.
            Ok(None) => match register(&cx, &stop).await {
                Some(again) => node = again,
                None => return,
            },
            Err(e) => {
                tracing::debug!(error = %e, "node not read");
                continue;
            }
        }
        let wrong = strayed(&cx.config, &node);
        if !wrong.is_empty() {
            match cx.api.patch_node(&cx.config.node_name, json!({"metadata": {"labels": wrong}}), false).await {
                Ok(patched) => node = patched,
                Err(e) => tracing::warn!(error = %e, "labels of the node's machine not written"),
            }
        }
        if is_cordoned(&node) != cordoned {
            cordoned = !cordoned;
            tell_turn(&cx, if cordoned { "NodeNotSchedulable" } else { "NodeSchedulable" });
        }
        let now = SystemTime::now();
        let fresh = {
            let (cx, old) = (Arc::clone(&cx), node.status.clone());
            util::blocking(move || status(&cx, old.as_ref(), now)).await
        };
        if !node.status.as_ref().is_some_and(|api| told(api, &fresh)) || reported.elapsed() >= REPORT {
            match write_status(&cx, node.status.as_ref(), fresh).await {
                Ok(written) => {
                    node = written;
                    reported = Instant::now();
                }
                Err(e) => tracing::warn!(error = %e, "node status not written"),
            }
        }
        cx.persistent.reported(in_use(&node));
        *cx.node.write() = Some(Arc::new(node.clone()));
    }
}

/// The volumes that a node's status says are in use.
fn in_use(node: &Node) -> &[String] {
    node.status.as_ref().and_then(|s| s.volumes_in_use.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_turns_is_an_event() {
        let of = |disk: &str| -> NodeStatus {
            let condition = |type_: &str, status: &str| json!({"type": type_, "status": status});
            serde_json::from_value(
                json!({"conditions": [condition("MemoryPressure", "False"), condition("DiskPressure", disk), condition("PIDPressure", "False")]}),
            )
            .unwrap()
        };
        assert_eq!(turns(None, &of("False")), ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
        assert!(turns(Some(&of("True")), &of("True")).is_empty());
        assert_eq!(turns(Some(&of("False")), &of("True")), ["NodeHasDiskPressure"]);
        assert_eq!(turns(Some(&of("Unknown")), &of("False")), ["NodeHasNoDiskPressure"]);
        let ready = |status: &str| -> NodeStatus { serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": status}]})).unwrap() };
        assert_eq!(turns(Some(&ready("True")), &ready("False")), ["NodeNotReady"]);
        assert_eq!(turns(Some(&ready("Unknown")), &ready("True")), ["NodeReady"]);
        assert!(turns(None, &ready("True")).is_empty() && turns(Some(&ready("True")), &ready("True")).is_empty());
    }

    #[test]
    fn swap_is_told_where_there_is_some() {
        assert_eq!(swap(0), None);
        assert_eq!(swap(2 << 30).and_then(|s| s.capacity), Some(2 << 30));
    }

    #[test]
    fn further_nodes_of_a_machine_are_told_from_it_and_from_each_other() {
        let of = |uuid: &str, apart: Option<&str>| identity("3d1219c7c4c5404aaa1f6d2a48adfda4".into(), uuid.into(), apart);
        let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        assert_eq!(of(uuid, None), ("3d1219c7c4c5404aaa1f6d2a48adfda4".into(), uuid.into()));
        let [second, third] = ["c/node-2", "c/node-3"].map(|apart| of(uuid, Some(apart)));
        assert!(second.0 != third.0 && second.1 != third.1 && second == of(uuid, Some("c/node-2")), "{second:?} {third:?}");
        assert_eq!((second.0.len(), second.1.split('-').map(str::len).collect::<Vec<_>>()), (32, vec![8, 4, 4, 4, 12]));
        let plain = of("", Some("c/node-2"));
        assert_eq!(plain.0, plain.1, "without a maker's word they are one");
    }

    #[test]
    fn another_run_of_the_kernel_is_an_event_and_the_first_is_none() {
        let of = |boot: &str| NodeStatus { node_info: Some(NodeSystemInfo { boot_id: boot.into(), ..NodeSystemInfo::default() }), ..NodeStatus::default() };
        let now = of("b");
        assert_eq!(rebooted(Some(&of("a")), &now), Some("b"));
        for before in [None, Some(of("")), Some(of("b")), Some(NodeStatus::default())] {
            assert_eq!(rebooted(before.as_ref(), &now), None);
        }
    }

    #[test]
    fn labels_of_the_machine_are_answered_for_and_others_are_whose_they_are() {
        let mut config = Config::new("n", std::net::IpAddr::from([10, 0, 0, 1]), "/data");
        config.labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let mut node = fresh(&config);
        assert_eq!(strayed(&config, &node), BTreeMap::new());
        let have = node.metadata.labels.get_or_insert_default();
        have.insert("disk".to_owned(), "hdd".to_owned());
        have.insert("kubernetes.io/os".to_owned(), "odd".to_owned());
        let arch = have.remove("kubernetes.io/arch").unwrap();
        have.remove("beta.kubernetes.io/arch");
        let wrong = [("kubernetes.io/arch".to_owned(), arch), ("kubernetes.io/os".to_owned(), "linux".to_owned())];
        assert_eq!(strayed(&config, &node), BTreeMap::from(wrong));
    }

    #[test]
    fn what_others_say_of_the_node_is_answered_and_what_they_add_is_theirs() {
        let of = |v: Value| serde_json::from_value::<NodeStatus>(v).unwrap();
        let ready = |status: &str, time: &str| json!({"type": "Ready", "status": status, "reason": "r", "message": "m", "lastHeartbeatTime": time, "lastTransitionTime": time});
        let fresh = of(json!({"capacity": {"cpu": "2"}, "conditions": [ready("True", "2026-01-01T00:00:00Z")]}));
        let other = json!({"type": "KernelDeadlock", "status": "False"});
        let same = of(
            json!({"capacity": {"cpu": "2"}, "conditions": [other, ready("True", "2025-01-01T00:00:00Z")], "volumesAttached": [{"name": "x", "devicePath": ""}]}),
        );
        assert!(told(&same, &fresh));
        let used = of(json!({"capacity": {"cpu": "2"}, "conditions": [ready("True", "2025-01-01T00:00:00Z")], "volumesInUse": ["x"]}));
        assert!(!told(&used, &fresh), "a volume that nobody has is not in use");
        assert!(!told(&of(json!({"capacity": {"cpu": "2"}, "conditions": [ready("Unknown", "2026-01-01T00:00:00Z")]})), &fresh));
        assert!(!told(&of(json!({"capacity": {"cpu": "3"}, "conditions": [ready("True", "2026-01-01T00:00:00Z")]})), &fresh));
        assert!(!told(&of(json!({"capacity": {"cpu": "2"}})), &fresh));
        let handlers = |of_default: Value| of(json!({"runtimeHandlers": [of_default, {"name": "runc", "features": {"userNamespaces": true}}]}));
        let named = handlers(json!({"name": "", "features": {"userNamespaces": true}}));
        assert!(told(&handlers(json!({"features": {"userNamespaces": true}})), &named));
        assert!(!told(&handlers(json!({"features": {"userNamespaces": false}})), &named));
    }
}
