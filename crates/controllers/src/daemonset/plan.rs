//! Which nodes are to have a DaemonSet's pod, and how its pods are replaced: no input, no output.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::Meta;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::jiff::Timestamp;
use machinery::placement::{NO_EXECUTE, Place, Required, Tolerations};

use crate::affinity;
use crate::claim::owner_reference;
use crate::deployment::scaled;
use crate::history::HASH_LABEL;
use crate::meta::{annotations, created, generation};
use crate::node::asked;
use crate::pods::{self, is_available, is_ready};

/// What of a node's troubles a daemon bears (upstream `AddOrUpdateDaemonPodTolerations`).
const BORNE: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Counted up by the API server with each change of the template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) type ByNode = HashMap<String, Vec<Arc<Pod>>>;

/// The steps of one pass.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that lack a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Ended pods that are replaced: told in events.
    pub(super) failed: Vec<Arc<Pod>>,
    pub(super) succeeded: Vec<Arc<Pod>>,
    /// When a failed pod that is held back may be replaced.
    pub(super) again: Option<Duration>,
}

pub(super) fn min_ready_s(ds: &DaemonSet) -> i32 {
    ds.spec.min_ready_seconds.unwrap_or(0)
}

/// The spec of the set's pods, with what daemons bear.
pub(super) fn spec(ds: &DaemonSet) -> PodSpec {
    let mut spec = ds.spec.template.spec.clone().unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in BORNE.into_iter().chain(network) {
        let own = Toleration { key: Some(key.to_owned()), operator: Some("Exists".to_owned()), effect: Some(effect.to_owned()), ..Toleration::default() };
        if !tolerations.contains(&own) {
            tolerations.push(own);
        }
    }
    spec
}

/// What the set's pods ask of nodes, compiled.
#[derive(Debug)]
pub(super) struct Demands {
    node_name: Option<String>,
    required: Required,
    tolerations: Tolerations,
}

impl Demands {
    pub(super) fn of(ds: &DaemonSet) -> Self {
        let spec = spec(ds);
        let node = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            node_name: spec.node_name.clone().filter(|n| !n.is_empty()),
            required: Required::new(spec.node_selector.as_ref(), required),
            tolerations: spec.tolerations.as_ref().map(Tolerations::new).unwrap_or_default(),
        }
    }

    /// Whether a pod is to be made on a node, and whether one that is there may stay (upstream `NodeShouldRunDaemonPod`).
    pub(super) fn want(&self, node: &Node) -> (bool, bool) {
        let named = self.node_name.as_deref().is_none_or(|n| n == node.name());
        if !named || !self.required.allows(Place::new(node.name(), node.metadata.labels.as_ref())) {
            return (false, false);
        }
        let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let (mut run, mut stay) = (true, true);
        for taint in taints.map(asked).filter(|t| t.keeps_away() && !self.tolerations.bear(*t)) {
            run = false;
            stay &= taint.effect != NO_EXECUTE;
        }
        (run, stay)
    }
}

/// What of a node decides (upstream `shouldIgnoreNodeUpdate`): its labels and taints. Heartbeats change neither.
pub(super) fn is_same_place(old: &Node, new: &Node) -> bool {
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
    old.metadata.labels == new.metadata.labels && taints(old) == taints(new)
}

/// The set's pods by the node that they are on, or meant for. One that has ended and is only waited for (a finalizer) holds no place,
/// and one that is meant for no node is none of any node's.
pub(super) fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let mut out = ByNode::new();
    for pod in pods.iter().filter(|p| !(pods::is_terminal(p) && p.is_deleting())) {
        let bound = Some(pods::node_name(pod)).filter(|n| !n.is_empty());
        if let Some(node) = bound.or_else(|| pod.spec.as_ref().and_then(affinity::target)) {
            out.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    out
}

/// The nodes that are to have a pod have one, and no other has. `held_back` says of a node where pods failed how long the
/// next is to wait; it is asked once for each failed pod that is to be replaced.
pub(super) fn manage(
    ds: &DaemonSet,
    demands: &Demands,
    (nodes, pods): (&[Arc<Node>], &ByNode),
    hash: &str,
    now: Timestamp,
    mut held_back: impl FnMut(&str) -> Option<Duration>,
) -> Plan {
    let mut plan = Plan::default();
    for node in nodes {
        let (run, stay) = demands.want(node);
        let here = pods.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        if !stay {
            plan.delete.extend(here.iter().filter(|p| !p.is_deleting()).cloned());
            continue;
        }
        let mut alive = Vec::new();
        for pod in here.iter().filter(|p| !p.is_deleting()) {
            match pods::phase(pod) {
                "Failed" => match held_back(node.name()) {
                    Some(left) => plan.again = Some(plan.again.map_or(left, |a| a.min(left))),
                    None => plan.failed.push(pod.clone()),
                },
                "Succeeded" => plan.succeeded.push(pod.clone()),
                _ => alive.push(pod.clone()),
            }
        }
        // A set that may surge does not wait for the end of one that goes.
        if run && if surges(ds) { here.iter().all(|p| p.is_deleting()) } else { here.is_empty() } {
            plan.create.push(node.name().to_owned());
        }
        plan.delete.extend(surplus(ds, alive, hash, now));
    }
    // Nobody will ever place what is meant for a node that is gone (upstream `getUnscheduledPodsWithoutNode`).
    let homeless = |name: &String| !nodes.iter().any(|n| n.name() == name);
    let waiting = pods.iter().filter(|(name, _)| homeless(name)).flat_map(|(_, pods)| pods);
    plan.delete.extend(waiting.filter(|p| pods::node_name(p).is_empty() && !p.is_deleting()).cloned());
    plan
}

/// Of a node's pods the first: one that is bound, the oldest (upstream `podByCreationTimestampAndPhase`).
fn first_of_all(a: &Arc<Pod>, b: &Arc<Pod>) -> Ordering {
    let unbound = |p: &Pod| pods::node_name(p).is_empty();
    unbound(a).cmp(&unbound(b)).then_with(|| created(&**a).cmp(&created(&**b))).then_with(|| a.name().cmp(b.name()))
}

/// Of several pods on a node the first stays; while a roll-out surges one of each template, until the new one serves, or the old one
/// does not.
fn surplus(ds: &DaemonSet, mut alive: Vec<Arc<Pod>>, hash: &str, now: Timestamp) -> Vec<Arc<Pod>> {
    if alive.len() < 2 {
        return Vec::new();
    }
    alive.sort_by(first_of_all);
    if !surges(ds) {
        return alive.split_off(1);
    }
    let (new, old): (Vec<_>, Vec<_>) = alive.into_iter().partition(|p| is_new(ds, p, hash));
    let replaced = match (new.first(), old.first()) {
        (Some(new), Some(old)) => !is_ready(old) || is_available(new, min_ready_s(ds), now),
        _ => false,
    };
    new.into_iter().skip(1).chain(old.into_iter().skip(usize::from(!replaced))).collect()
}

/// Whether a pod is of the present template: by its revision's hash, or by the number that templates had before there were revisions
/// (upstream `IsPodUpdated`).
fn is_new(ds: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let generation = annotations(ds).get(TEMPLATE_GENERATION);
    pod.label(HASH_LABEL) == Some(hash) || generation.is_some_and(|g| pod.label("pod-template-generation") == Some(g))
}

/// Only what rolls surges; with `OnDelete` what else the strategy says is not looked at.
fn surges(ds: &DaemonSet) -> bool {
    rolls(ds) && limits(ds, 1).1 > 0
}

/// `maxUnavailable` and `maxSurge` in pods.
fn limits(ds: &DaemonSet, desired: usize) -> (i32, i32) {
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let rolling = ds.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).map_or(0, |m| scaled(m, total, true));
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(i32::from(surge == 0), |m| scaled(m, total, true));
    // Without either nothing would ever roll.
    if (unavailable, surge) == (0, 0) { (1, 0) } else { (unavailable, surge) }
}

pub(super) fn rolls(ds: &DaemonSet) -> bool {
    ds.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// A step of a roll-out: old pods to delete, and nodes that get a new one beside the old. Nodes that are not to have a pod and have
/// one take part: theirs goes as the others do.
pub(super) fn roll(ds: &DaemonSet, demands: &Demands, (nodes, pods): (&[Arc<Node>], &ByNode), hash: &str, now: Timestamp) -> Plan {
    let wanted: BTreeSet<&str> = nodes.iter().filter(|n| demands.want(n).0).map(|n| n.name()).collect();
    let limits = limits(ds, wanted.len());
    let places: BTreeSet<&str> = wanted.iter().copied().chain(pods.keys().map(String::as_str)).collect();
    let places = places.into_iter().map(|node| (node, in_order(ds, pods.get(node).map(Vec::as_slice).unwrap_or_default(), hash)));
    let available = |p: &Pod| is_available(p, min_ready_s(ds), now);
    if limits.1 == 0 { replace(places, limits.0, available) } else { surge(places, &wanted, limits.1, available) }
}

/// The new and the old pod of a node.
type Pair = (Option<Arc<Pod>>, Option<Arc<Pod>>);

/// Of a node's pods that are to stay the new and the old one; none if there are more, which are not for a roll-out to judge.
fn in_order(ds: &DaemonSet, here: &[Arc<Pod>], hash: &str) -> Option<Pair> {
    let (new, old): (Vec<_>, Vec<_>) = here.iter().filter(|p| !p.is_deleting()).cloned().partition(|p| is_new(ds, p, hash));
    (new.len() < 2 && old.len() < 2).then(|| (new.into_iter().next(), old.into_iter().next()))
}

/// Old pods go before the new ones come: at most so many nodes are without one that serves.
fn replace<'n>(places: impl Iterator<Item = (&'n str, Option<Pair>)>, max_unavailable: i32, available: impl Fn(&Pod) -> bool) -> Plan {
    let (mut plan, mut missing, mut candidates) = (Plan::default(), 0, Vec::new());
    for (_, pair) in places {
        match pair {
            None | Some((None, None) | (Some(_), Some(_))) => missing += 1,
            Some((Some(new), None)) => missing += i32::from(!available(&new)),
            // One that does not serve is replaced at once.
            Some((None, Some(old))) if !available(&old) => {
                missing += 1;
                plan.delete.push(old);
            }
            Some((None, Some(old))) => candidates.push(old),
        }
    }
    plan.delete.extend(candidates.into_iter().take(usize::try_from(max_unavailable - missing).unwrap_or(0)));
    plan
}

/// New pods come beside the old ones, at most so many at once; beside one that does not serve at once.
fn surge<'n>(places: impl Iterator<Item = (&'n str, Option<Pair>)>, wanted: &BTreeSet<&str>, max_surge: i32, available: impl Fn(&Pod) -> bool) -> Plan {
    let (mut plan, mut surging, mut serving) = (Plan::default(), 0, 0);
    let (mut candidates, mut away) = (Vec::new(), Vec::new());
    for (node, pair) in places {
        let Some((new, old)) = pair else {
            surging += 1;
            continue;
        };
        serving += usize::from(old.as_ref().or(new.as_ref()).is_some_and(|p| available(p)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (wanted.contains(node), available(&old)) {
                (true, true) => candidates.push(node.to_owned()),
                (true, false) => plan.create.push(node.to_owned()),
                (false, true) => away.push(old),
                (false, false) => plan.delete.push(old),
            },
            (Some(new), Some(old)) if available(&new) => plan.delete.push(old),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    // What is where none is to be goes when enough serve where they are to be.
    plan.delete.extend(away.into_iter().take(serving.saturating_sub(wanted.len())));
    plan.create.extend(candidates.into_iter().take(usize::try_from(max_surge - surging).unwrap_or(0)));
    plan
}

/// The pod for a node.
pub(super) fn pod(ds: &DaemonSet, node: &str, hash: &str) -> Pod {
    let mut pod = pods::from_template(&ds.spec.template, ds.name(), ds.namespace(), owner_reference(ds));
    let mut spec = spec(ds);
    affinity::bind(&mut spec, node);
    pod.spec = Some(spec);
    let template_generation = annotations(ds).get(TEMPLATE_GENERATION).cloned();
    let labels = pod.meta_mut().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    labels.extend(template_generation.map(|g| ("pod-template-generation".to_owned(), g)));
    pod
}

/// The status that these pods on these nodes make.
pub(super) fn status(
    ds: &DaemonSet,
    demands: &Demands,
    (nodes, pods): (&[Arc<Node>], &ByNode),
    hash: &str,
    collisions: Option<i32>,
    now: Timestamp,
) -> DaemonSetStatus {
    let old = ds.status.clone().unwrap_or_default();
    let mut s =
        DaemonSetStatus { observed_generation: Some(generation(ds)), collision_count: collisions, conditions: old.conditions, ..DaemonSetStatus::default() };
    let (mut updated, mut available, mut unavailable) = (0, 0, 0);
    for node in nodes {
        let here = pods.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        if !demands.want(node).0 {
            s.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        s.desired_number_scheduled += 1;
        // The first tells for its node.
        let Some(first) = here.iter().min_by(|a, b| first_of_all(a, b)) else {
            unavailable += 1;
            continue;
        };
        s.current_number_scheduled += 1;
        s.number_ready += i32::from(is_ready(first));
        if is_ready(first) && is_available(first, min_ready_s(ds), now) {
            available += 1;
        } else {
            unavailable += 1;
        }
        updated += i32::from(is_new(ds, first, hash));
    }
    s.updated_number_scheduled = Some(updated);
    s.number_available = Some(available);
    s.number_unavailable = Some(unavailable);
    s
}
