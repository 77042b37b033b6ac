//! Taints by conditions, and what pods tolerate. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{condition, ready};
use crate::meta::secs;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
pub(super) const NO_EXECUTE: &str = "NoExecute";
/// Conditions that, when true, keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The taints that a node is to have; none if it has them. `evict`: whether a dead node's pods are to go.
pub(super) fn wanted(node: &Node, evict: bool, now: &Time) -> Option<Vec<Taint>> {
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
pub(super) fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints.iter().filter(|t| t.effect == NO_EXECUTE) {
        let mut tolerated = false;
        for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
            tolerated = true;
            if let Some(seconds) = toleration.toleration_seconds {
                let wait = secs(seconds);
                shortest = Some(shortest.map_or(wait, |s| s.min(wait)));
            }
        }
        if !tolerated {
            return Some(Duration::ZERO);
        }
    }
    shortest
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let value = text(&taint.value);
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => text(&toleration.value) == value,
        "Exists" => true,
        operator @ ("Lt" | "Gt") => match (value.parse::<i64>(), text(&toleration.value).parse::<i64>()) {
            (Ok(has), Ok(limit)) => {
                if operator == "Lt" {
                    has < limit
                } else {
                    has > limit
                }
            }
            _ => false,
        },
        _ => false,
    }
}
