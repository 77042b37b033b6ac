//! What a set of equal pods counts, and which of its pods go first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Error, Meta};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use machinery::labels::Selector;

use super::{Condition, Counts, Replicated};
use crate::meta::{between, created, generation, labels, map, seconds};
use crate::pods;

const FAILURE: &str = "ReplicaFailure";

/// How much older the pods that go are than the youngest that is ready, in whole times (upstream `reportSortingDeletionAgeRatioMetric`).
pub(super) fn age_ratios(active: &[Arc<Pod>], chosen: &[Arc<Pod>], now: Timestamp) -> Vec<f64> {
    let age_ms = |pod: &Pod| now.duration_since(created(pod)).as_millis();
    let youngest_ms = active.iter().filter(|p| pods::is_ready(p)).map(|p| age_ms(p)).min().unwrap_or(0);
    // Of one that came in this moment nothing can be said.
    let ratio = |pod: &Arc<Pod>| age_ms(pod).checked_div(youngest_ms).map(|ratio| ratio as f64);
    chosen.iter().filter(|p| pods::is_ready(p)).filter_map(ratio).collect()
}

/// Whether a pod is claimed or let go: one that goes is only counted, while it is the set's (upstream `FilterClaimedPods`).
pub(super) fn is_claimable(pod: &Pod, owner_uid: &str, selector: &Selector) -> bool {
    pods::is_active(pod) || (pods::is_terminating(pod) && pod.is_controlled_by(owner_uid) && selector.matches_map(labels(pod)))
}

/// The pods to delete: `count` of the active ones.
pub(super) fn to_delete(active: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= active.len() {
        return active.to_vec();
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| pods::is_active(p)) {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let rank = |pod: &Pod| on_node.get(pods::node_name(pod)).copied().unwrap_or(0);
    let mut sorted = active.to_vec();
    sorted.sort_by(|a, b| pods::deletion_order((a, rank(a)), (b, rank(b)), now));
    sorted.truncate(count);
    sorted
}

/// The status that these pods make.
pub(super) fn counts<K: Replicated>(set: &K, active: &[Arc<Pod>], terminating: usize, failure: Option<&Error>, now: Timestamp) -> Counts {
    let old = set.counts();
    let template = set.template().and_then(|t| t.metadata.as_ref());
    let template = map(template.and_then(|m| m.labels.as_ref()));
    let count = |is: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|p| is(p)).count());
    let mut conditions = old.conditions;
    match failure {
        None => conditions.retain(|c| c.kind != FAILURE),
        Some(_) if conditions.iter().any(|c| c.kind == FAILURE) => {}
        Some(error) => {
            let creates = number(active.len()) < set.replicas();
            conditions.push(Condition {
                kind: FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: Some(if creates { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(if creates { error.to_string() } else { format!("unable to delete pods: {error}") }),
                since: Some(seconds(now)),
            });
        }
    }
    Counts {
        replicas: number(active.len()),
        fully_labeled: count(&|p| template.iter().all(|(k, v)| labels(p).get(k) == Some(v))),
        ready: count(&pods::is_ready),
        available: count(&|p| pods::is_available(p, set.min_ready_s(), now)),
        terminating: K::TERMINATING.then(|| number(terminating)),
        observed_generation: generation(set),
        conditions,
    }
}

/// How long until the next pod that is ready becomes available.
pub(super) fn next_available<K: Replicated>(set: &K, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    if set.min_ready_s() == 0 {
        return None;
    }
    let soonest = active.iter().filter_map(|p| pods::available_at(p, set.min_ready_s())).filter(|at| *at > now).min()?;
    Some(between(now, soonest))
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
