//! What a Deployment and its ReplicaSets say about each other: revisions, annotations, fence posts (upstream
//! `deployment_util.go`).

use std::cmp::Ordering;
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::{Map, annotations, annotations_mut, created};

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Characters of the revision history at most (upstream `maxRevHistoryLengthInChars`).
const HISTORY_MAX: usize = 2000;
/// What a ReplicaSet does not inherit from its Deployment.
pub(super) const NOT_COPIED: [&str; 6] = ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX, ROLLBACK];
/// The revision that a Deployment is to go back to.
pub(super) const ROLLBACK: &str = "deprecated.deployment.rollback.to";

pub(super) type Set = Arc<ReplicaSet>;

pub(super) fn wished(d: &Deployment) -> i32 {
    d.spec.replicas.unwrap_or(1)
}

pub(super) fn is_paused(d: &Deployment) -> bool {
    d.spec.paused.unwrap_or(false)
}

pub(super) fn min_ready_s(d: &Deployment) -> i32 {
    d.spec.min_ready_seconds.unwrap_or(0)
}

/// Seconds that a roll-out may stand still; `i32::MAX` means that nobody minds.
pub(super) fn deadline_s(d: &Deployment) -> Option<i32> {
    d.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)
}

pub(super) fn is_rolling(d: &Deployment) -> bool {
    d.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// Replicas that the set is to have.
pub(super) fn size(rs: &ReplicaSet) -> i32 {
    rs.spec.replicas.unwrap_or(1)
}

/// Replicas that the set has.
pub(super) fn actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

pub(super) fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(super) fn sum(sets: &[Set], of: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.iter().map(|s| of(s)).sum()
}

/// Sets that are to have pods.
pub(super) fn active(sets: &[Set]) -> Vec<Set> {
    sets.iter().filter(|s| size(s) > 0).cloned().collect()
}

/// `maxSurge` and `maxUnavailable` in pods (upstream `ResolveFenceposts`): a percentage of surge is rounded up, one of
/// unavailability down, and not both are zero.
pub(super) fn fence_posts(d: &Deployment) -> (i32, i32) {
    let rolling = d.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter), wished(d), true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter), wished(d), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A number, or a percentage of a total.
pub(crate) fn scaled(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(i64::from(total));
            let rounded = if up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

pub(super) fn max_surge(d: &Deployment) -> i32 {
    if is_rolling(d) { fence_posts(d).0 } else { 0 }
}

pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if !is_rolling(d) || wished(d) == 0 {
        return 0;
    }
    fence_posts(d).1.min(wished(d))
}

/// The set whose template is the Deployment's; of several the oldest.
pub(super) fn find_new(d: &Deployment, sets: &[Set]) -> Option<Set> {
    let mut sorted = sets.to_vec();
    crate::meta::sort_by_creation(&mut sorted);
    let wanted = comparable(Some(&d.spec.template));
    sorted.into_iter().find(|rs| comparable(rs.spec.template.as_ref()) == wanted)
}

/// A template without its hash; an empty map is none.
fn comparable(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    meta.creation_timestamp = None;
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    let some = |map: Option<Map>| map.filter(|m| !m.is_empty());
    meta.labels = some(meta.labels.take());
    meta.annotations = some(meta.annotations.take());
    if let Some(spec) = &mut template.spec {
        spec.node_selector = some(spec.node_selector.take());
    }
    template
}

/// The hash of a template in the form that names and labels carry.
pub(super) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = serde_json::to_vec(&comparable(Some(template))).unwrap_or_default();
    let collisions = collisions.map(i32::to_le_bytes);
    let bytes = text.iter().chain(collisions.iter().flatten());
    crate::hash::safe_encode(&crate::hash::fnv32a(bytes).to_string())
}

pub(super) fn revision(object: &impl Meta) -> i64 {
    annotations(object).get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// Gives a set its Deployment's annotations and its revision; whether anything changed.
pub(super) fn annotate(d: &Deployment, rs: &mut ReplicaSet, new_revision: i64, exists: bool) -> bool {
    let mut changed = false;
    for (key, value) in annotations(d).iter().filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())) {
        if annotations(rs).get(key) != Some(value) {
            annotations_mut(rs).insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = revision(rs);
    if old < new_revision {
        let former = annotations(rs).get(REVISION).cloned().unwrap_or_default();
        let all = annotations_mut(rs);
        all.insert(REVISION.to_owned(), new_revision.to_string());
        changed = true;
        if !former.is_empty() {
            let history = all.entry(HISTORY.to_owned()).or_default();
            if history.is_empty() {
                *history = former;
            } else {
                while history.len() + former.len() + 1 > HISTORY_MAX {
                    let Some(at) = history.find(',') else { break };
                    history.drain(..=at);
                }
                history.push(',');
                history.push_str(&former);
            }
        }
    }
    if !exists && set_sizes(rs, wished(d), wished(d) + max_surge(d)) {
        changed = true;
    }
    changed
}

/// Notes at a set for which size of the Deployment it was scaled; whether anything changed.
pub(super) fn set_sizes(rs: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    if !sizes_differ(rs, desired, max) {
        return false;
    }
    let all = annotations_mut(rs);
    all.insert(DESIRED.to_owned(), desired.to_string());
    all.insert(MAX.to_owned(), max.to_string());
    true
}

pub(super) fn sizes_differ(rs: &ReplicaSet, desired: i32, max: i32) -> bool {
    desired_size(rs) != Some(desired) || max_size(rs) != Some(max)
}

pub(super) fn desired_size(rs: &ReplicaSet) -> Option<i32> {
    annotations(rs).get(DESIRED)?.parse().ok()
}

pub(super) fn max_size(rs: &ReplicaSet) -> Option<i32> {
    annotations(rs).get(MAX)?.parse().ok()
}

/// The one set that is to have pods, or the newest if none has; none if several have.
pub(super) fn active_or_latest(new: Option<&Set>, old: &[Set]) -> Option<Set> {
    let mut all = active(old);
    all.extend(new.filter(|s| size(s) > 0).cloned());
    match all.len() {
        0 => new.cloned().or_else(|| old.iter().max_by(|a, b| older_first(a, b)).cloned()),
        1 => all.pop(),
        _ => None,
    }
}

/// Whether the new set holds all pods and all of them are available.
pub(super) fn is_saturated(d: &Deployment, rs: Option<&Set>) -> bool {
    rs.is_some_and(|rs| size(rs) == wished(d) && desired_size(rs) == Some(wished(d)) && available(rs) == wished(d))
}

pub(super) fn older_first(a: &Set, b: &Set) -> Ordering {
    created(&**a).cmp(&created(&**b)).then_with(|| a.name().cmp(b.name()))
}
