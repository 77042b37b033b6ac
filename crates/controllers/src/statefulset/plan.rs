//! What a StatefulSet is to do next with its pods (upstream `stateful_set_control.go`): no input, no output.
//!
//! With `OrderedReady` it is one thing at a time: the first pod in order that is not as it should be holds up all after it.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::jiff::Timestamp;

use crate::claim::owner_reference;
use crate::deployment::scaled;
use crate::history::HASH_LABEL;
use crate::meta::{generation, map, selector};
use crate::pods::{self, is_ready, phase};

/// A step.
#[derive(Debug)]
pub(super) enum Action {
    Create(Box<Pod>),
    Delete(Arc<Pod>),
}

/// A template and the name of its revision.
pub(super) struct Version {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
}

fn min_ready_s(set: &StatefulSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

fn is_ordered(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() != Some("Parallel")
}

fn rolls(set: &StatefulSet) -> bool {
    set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

fn partition(set: &StatefulSet) -> Option<i32> {
    set.spec.update_strategy.as_ref()?.rolling_update.as_ref().map(|r| r.partition.unwrap_or(0))
}

fn max_unavailable(set: &StatefulSet) -> i32 {
    let rolling = set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(1, |m| scaled(m, replicas(set), false).max(1))
}

/// The number in a pod's name, if the name is one of the set's.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = digits.len() == 1 || !digits.starts_with('0');
    (plain && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn revision(pod: &Pod) -> &str {
    pod.label(HASH_LABEL).unwrap_or_default()
}

fn runs(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

fn is_healthy(pod: &Pod) -> bool {
    runs(pod) && !pod.is_deleting()
}

/// The status that these pods make.
pub(super) fn status(set: &StatefulSet, pods: &[Arc<Pod>], current: &str, update: &str, collisions: i32, now: Timestamp) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let count = |is: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|p| is(p)).count()).unwrap_or(i32::MAX);
    let of = |p: &Pod, name: &str| !phase(p).is_empty() && !p.is_deleting() && revision(p) == name;
    let mut status = StatefulSetStatus {
        observed_generation: Some(generation(set)),
        replicas: count(&|p| !phase(p).is_empty()),
        ready_replicas: Some(count(&runs)),
        available_replicas: Some(count(&|p| runs(p) && pods::is_available(p, min_ready_s(set), now))),
        current_replicas: Some(count(&|p| of(p, current))),
        updated_replicas: Some(count(&|p| of(p, update))),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: Some(collisions),
        conditions: old.conditions,
    };
    let all = Some(status.replicas);
    if rolls(set) && status.updated_replicas == all && status.ready_replicas == all && status.replicas == replicas(set) {
        status.current_replicas = status.updated_replicas;
        status.current_revision = Some(update.to_owned());
    }
    status
}

/// The next steps.
pub(super) fn plan(set: &StatefulSet, pods: &[Arc<Pod>], current: &Version, update: &Version, now: Timestamp) -> Vec<Action> {
    let (first, end) = (start(set), start(set) + replicas(set));
    let of = |n: i32| pods.iter().find(|p| ordinal(set.name(), p.name()) == Some(n));
    let available = |p: &Pod| is_healthy(p) && pods::is_available(p, min_ready_s(set), now);
    let mut actions = Vec::new();
    for n in first..end {
        let step = match of(n) {
            None => Some(Action::Create(Box::new(pod(set, n, current, update)))),
            Some(pod) if pods::is_terminal(pod) && !pod.is_deleting() => Some(Action::Delete(pod.clone())),
            Some(pod) => {
                if is_ordered(set) && !available(pod) {
                    return actions;
                }
                None
            }
        };
        if let Some(step) = step {
            actions.push(step);
            if is_ordered(set) {
                return actions;
            }
        }
    }
    let mut condemned: Vec<(i32, &Arc<Pod>)> =
        pods.iter().filter_map(|p| Some((ordinal(set.name(), p.name())?, p))).filter(|(n, _)| !(first..end).contains(n)).collect();
    condemned.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    // The lowest one that is ill may go although others are not well: it will not get better by waiting.
    let ill = pods.iter().filter(|p| !is_healthy(p)).min_by_key(|p| ordinal(set.name(), p.name()).unwrap_or(i32::MAX));
    for (_, pod) in condemned {
        let waits = pod.is_deleting() || (!available(pod) && ill.is_none_or(|i| i.name() != pod.name()));
        if !is_ordered(set) {
            if !pod.is_deleting() {
                actions.push(Action::Delete(pod.clone()));
            }
            continue;
        }
        if !waits {
            actions.push(Action::Delete(pod.clone()));
        }
        return actions;
    }
    if rolls(set) && actions.is_empty() {
        roll(set, (first + partition(set).unwrap_or(0), end), of, update, &mut actions);
    }
    actions
}

/// From the last to the first, at most so many at once that are not there.
fn roll<'p>(set: &StatefulSet, (from, end): (i32, i32), of: impl Fn(i32) -> Option<&'p Arc<Pod>>, update: &Version, actions: &mut Vec<Action>) {
    let mut missing = 0;
    for n in (from..end).rev() {
        let Some(pod) = of(n) else { continue };
        if revision(pod) != update.name && !pod.is_deleting() {
            actions.push(Action::Delete(pod.clone()));
            missing += 1;
        } else if !is_healthy(pod) {
            missing += 1;
        }
        if missing >= max_unavailable(set) {
            return;
        }
    }
}

/// The pod of an ordinal: of the revision that it is to have while a roll-out goes on.
fn pod(set: &StatefulSet, n: i32, current: &Version, update: &Version) -> Pod {
    let kept = match partition(set) {
        Some(partition) => partition,
        None => set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
    };
    let version = if rolls(set) && n < start(set) + kept { current } else { update };
    let name = format!("{}-{n}", set.name());
    let mut pod = pods::from_template(&version.template, set.name(), set.namespace(), owner_reference(set));
    let meta = pod.meta_mut();
    meta.generate_name = None;
    meta.name = Some(name.clone());
    let labels = meta.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), version.name.clone());
    labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".to_owned(), n.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
    let claims = claim_names(set, &name);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|v| !claims.iter().any(|(volume, _)| *volume == v.name));
    for (volume, claim_name) in claims {
        volumes.push(Volume {
            name: volume,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None }),
            ..Volume::default()
        });
    }
    if volumes.is_empty() {
        spec.volumes = None;
    }
    pod
}

/// A pod's claims: the volume, and the claim's name.
pub(super) fn claim_names(set: &StatefulSet, pod: &str) -> Vec<(String, String)> {
    set.spec.volume_claim_templates.iter().flatten().map(|t| (t.name().to_owned(), format!("{}-{pod}", t.name()))).collect()
}

/// Whether a claim is, by its name, that of one of the set's pods.
pub(super) fn has_claim(set: &StatefulSet, claim: &str) -> bool {
    let pod = |t: &PersistentVolumeClaim| claim.strip_prefix(t.name())?.strip_prefix('-').and_then(|pod| ordinal(set.name(), pod));
    set.spec.volume_claim_templates.iter().flatten().any(|t| pod(t).is_some())
}

/// Whether a pod is one of those that the set is to have.
pub(super) fn is_replica(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(set.name(), pod.name()).is_some_and(|n| (start(set)..start(set).saturating_add(replicas(set))).contains(&n))
}

/// The claims that a pod needs.
pub(super) fn claims(set: &StatefulSet, pod: &str) -> Vec<PersistentVolumeClaim> {
    let with_name = |t: &PersistentVolumeClaim| {
        let mut claim = t.clone();
        let meta = claim.meta_mut();
        meta.name = Some(format!("{}-{pod}", t.name()));
        meta.namespace = Some(set.namespace().to_owned());
        let labels = meta.labels.get_or_insert_default();
        labels.extend(map(set.spec.selector.match_labels.as_ref()).clone());
        claim.status = None;
        claim
    };
    set.spec.volume_claim_templates.iter().flatten().map(with_name).collect()
}

/// Whether a pod is one of the set's.
pub(super) fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(set.name(), pod.name()).is_some()
}

/// When to look again for a pod that is ready but not yet long enough.
pub(super) fn look_again(set: &StatefulSet, pods: &[Arc<Pod>], now: Timestamp) -> Option<std::time::Duration> {
    let soonest = pods.iter().filter_map(|p| pods::available_at(p, min_ready_s(set))).filter(|at| *at > now).min()?;
    Some(crate::meta::between(now, soonest) + crate::meta::secs(1))
}

pub(super) fn pod_selector(set: &StatefulSet) -> machinery::labels::Selector {
    selector(&set.spec.selector)
}
