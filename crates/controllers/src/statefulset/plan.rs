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
use crate::meta::{generation, selector};
use crate::pods::{self, is_ready, phase};

/// The label by which a Service finds one pod of a set.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// So many pods are made at once; the next are when these are heard of. A set may ask for two thousand million.
const STEPS_MAX: usize = 500;

/// A step.
#[derive(Debug)]
pub(super) enum Action {
    Create(Box<Pod>),
    /// A pod that is there gets what makes it the set's.
    Update(Box<Pod>),
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

pub(super) fn rolls(set: &StatefulSet) -> bool {
    set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

fn partition(set: &StatefulSet) -> Option<i32> {
    set.spec.update_strategy.as_ref()?.rolling_update.as_ref().map(|r| r.partition.unwrap_or(0))
}

pub(super) fn max_unavailable(set: &StatefulSet) -> i32 {
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

/// How many of the set's pods are not there, or not available.
pub(super) fn unavailable(set: &StatefulSet, pods: &[Arc<Pod>], now: Timestamp) -> i32 {
    let serves = |p: &Pod| is_replica(set, p) && is_healthy(p) && pods::is_available(p, min_ready_s(set), now);
    replicas(set) - i32::try_from(pods.iter().filter(|p| serves(p)).count()).unwrap_or(i32::MAX)
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
    // Whatever the strategy: with `OnDelete` too the pods may all be new in the end.
    if status.updated_replicas == all && status.ready_replicas == all && status.replicas == replicas(set) {
        status.current_replicas = status.updated_replicas;
        status.current_revision = Some(update.to_owned());
    }
    status
}

/// The next steps.
pub(super) fn plan(set: &StatefulSet, pods: &[Arc<Pod>], current: &Version, update: &Version, now: Timestamp) -> Vec<Action> {
    let (first, end) = (start(set), start(set).saturating_add(replicas(set)));
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
                let lacking = if pod.is_deleting() { None } else { fitted(set, n, pod) };
                actions.extend(lacking.map(|pod| Action::Update(Box::new(pod))));
                None
            }
        };
        if let Some(step) = step {
            actions.push(step);
            if is_ordered(set) || actions.len() >= STEPS_MAX {
                return actions;
            }
        }
    }
    let mut condemned: Vec<(i32, &Arc<Pod>)> =
        pods.iter().filter_map(|p| Some((ordinal(set.name(), p.name())?, p))).filter(|(n, _)| !(first..end).contains(n)).collect();
    condemned.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    // The lowest one that is ill may go although others are not well: it will not get better by waiting.
    let ill = condemned.iter().rfind(|(_, p)| !available(p)).map(|(_, p)| *p);
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
        let replicas: Vec<&Arc<Pod>> = (first..end).filter_map(of).collect();
        actions = roll(set, &replicas, first.saturating_add(partition(set).unwrap_or(0)), update, available);
    }
    actions
}

/// The pods that go for the new template, from the last to the first of those from `from` on (upstream
/// `updateStatefulSetAfterInvariantEstablished`): as many as may be missing beside those that are, wherever those are. In a parallel
/// set those that do not serve anyway go first, and all of them: their loss is none.
fn roll(set: &StatefulSet, replicas: &[&Arc<Pod>], from: i32, update: &Version, available: impl Fn(&Pod) -> bool) -> Vec<Action> {
    let missing = replicas.iter().filter(|p| !available(p)).count();
    let room = usize::try_from(max_unavailable(set)).unwrap_or(1).saturating_sub(missing);
    let is_old = |p: &&Arc<Pod>| revision(p) != update.name && !p.is_deleting() && ordinal(set.name(), p.name()).is_some_and(|n| n >= from);
    let (serving, others): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = replicas.iter().copied().rev().filter(is_old).partition(|p| available(p));
    // An ordered set comes so far with all that serve.
    let lame = others.into_iter().filter(|_: &&Arc<Pod>| !is_ordered(set));
    lame.chain(serving.into_iter().take(room)).map(|p| Action::Delete(p.clone())).collect()
}

/// The pod of an ordinal: of the revision that it is to have while a roll-out goes on.
fn pod(set: &StatefulSet, n: i32, current: &Version, update: &Version) -> Pod {
    let kept = match partition(set) {
        Some(partition) => partition,
        None => set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
    };
    let version = if rolls(set) && n < start(set).saturating_add(kept) { current } else { update };
    let name = format!("{}-{n}", set.name());
    let mut pod = pods::from_template(&version.template, set.name(), set.namespace(), owner_reference(set));
    let meta = pod.meta_mut();
    meta.name = Some(name.clone());
    meta.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), version.name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
    fit(set, n, &mut pod);
    pod
}

/// Gives a pod of the set what tells its number, and the volumes of its claims in place of what the template has under their names.
fn fit(set: &StatefulSet, n: i32, pod: &mut Pod) {
    let name = pod.name().to_owned();
    let labels = pod.meta_mut().labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".to_owned(), n.to_string());
    let spec = pod.spec.get_or_insert_default();
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
}

/// A pod of the set with what it lacks of [`fit`] (upstream `identityMatches`, `storageMatches`); none if it lacks nothing. Somebody
/// took its label; or it was adopted and has no claims, which the API refuses to change and so tells its user.
fn fitted(set: &StatefulSet, n: i32, pod: &Pod) -> Option<Pod> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mounts = |(volume, claim): (String, String)| {
        let own = volumes.iter().find(|v| v.name == volume).and_then(|v| v.persistent_volume_claim.as_ref());
        own.is_some_and(|source| source.claim_name == claim)
    };
    if pod.label(POD_NAME) == Some(pod.name()) && claim_names(set, pod.name()).into_iter().all(mounts) {
        return None;
    }
    let mut fitted = pod.clone();
    fit(set, n, &mut fitted);
    Some(fitted)
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
