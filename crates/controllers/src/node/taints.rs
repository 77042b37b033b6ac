//! Taints by conditions, and what pods tolerate. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use machinery::placement::{self, NO_EXECUTE, NO_SCHEDULE, Tolerations};

use super::{condition, ready};
use crate::meta::secs;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that, when true, keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Whether a dead node's pods are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evict {
    /// Yes.
    Yes,
    /// Not yet; but what was begun goes on.
    Wait,
    /// No, and what was begun is taken back.
    No,
}

/// Whether the eviction of a dead node's pods was begun.
pub(super) fn evicts(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.into_iter().any(|t| t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE))
}

/// The taints that a node is to have; none if it has them.
pub(super) fn wanted(node: &Node, evict: Evict, now: &Time) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let mut keys: Vec<(&str, &str)> = Vec::new();
    let dead = match ready(node) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) => Some(NOT_READY),
        // It has not told yet: what admission gave it stays.
        None => spec.taints.iter().flatten().find(|t| t.key == NOT_READY).map(|_| NOT_READY),
    };
    if let Some(key) = dead {
        keys.push((key, NO_SCHEDULE));
        let evict = evict == Evict::Yes || (evict == Evict::Wait && evicts(node));
        if evict && ready(node).is_some() {
            keys.push((key, NO_EXECUTE));
        }
    }
    let pressing = |kind: &str| condition(node, kind).is_some_and(|c| c.status == "True");
    keys.extend(PRESSURES.iter().filter(|(kind, _)| pressing(kind)).map(|(_, key)| (*key, NO_SCHEDULE)));
    if spec.unschedulable == Some(true) {
        keys.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let old = spec.taints.unwrap_or_default();
    let is_own = |t: &Taint| {
        let by_condition = PRESSURES.iter().any(|(_, key)| *key == t.key) || t.key == UNSCHEDULABLE;
        (by_condition && t.effect == NO_SCHEDULE) || ((t.key == NOT_READY || t.key == UNREACHABLE) && [NO_SCHEDULE, NO_EXECUTE].contains(&t.effect.as_str()))
    };
    let mut new: Vec<Taint> = old.iter().filter(|t| !is_own(t) || keys.contains(&(t.key.as_str(), t.effect.as_str()))).cloned().collect();
    for (key, effect) in keys {
        if !new.iter().any(|t| t.key == key && t.effect == effect) {
            new.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: Some(now.clone()) });
        }
    }
    (new != old).then_some(new)
}

/// How long a pod may stay on a node with these taints: for ever is none.
pub(super) fn stay(taints: &[Taint], tolerations: &Tolerations) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints.iter().filter(|t| t.effect == NO_EXECUTE) {
        let taint = asked(taint);
        if !tolerations.bear(taint) {
            return Some(Duration::ZERO);
        }
        for wait in tolerations.bearing(taint).filter_map(|t| t.seconds).map(secs) {
            shortest = Some(shortest.map_or(wait, |s| s.min(wait)));
        }
    }
    shortest
}

/// A taint as tolerations are asked about it.
pub(crate) fn asked(taint: &Taint) -> placement::Taint<'_> {
    placement::Taint { key: &taint.key, value: taint.value.as_deref().unwrap_or_default(), effect: &taint.effect }
}
