//! A Deployment's status: counts, and how its roll-out goes (upstream `progress.go`).

use std::time::Duration;

use client::Meta;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::jiff::Timestamp;

use super::sets::{self, Set, actual, available, deadline_s, max_unavailable, size, sum, wished};
use crate::meta::{between, generation, plus, seconds, secs, time};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub(super) fn condition<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind))
}

fn reason<'s>(status: &'s DeploymentStatus, kind: &str) -> &'s str {
    condition(status, kind).and_then(|c| c.reason.as_deref()).unwrap_or_default()
}

/// Sets a condition; the same status with the same reason stays as it is, the same status keeps its time.
pub(super) fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let all = status.conditions.get_or_insert_default();
    let mut since = Some(seconds(now));
    if let Some(old) = all.iter().find(|c| c.type_.as_deref() == Some(kind)) {
        let same = old.status.as_deref() == Some(value);
        if same && old.reason.as_deref() == Some(reason) {
            return;
        }
        if same {
            since.clone_from(&old.last_transition_time);
        }
    }
    all.retain(|c| c.type_.as_deref() != Some(kind));
    all.push(DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(value.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since,
        last_update_time: Some(seconds(now)),
    });
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(all) = &mut status.conditions {
        all.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// The counts, and whether enough is available.
pub(super) fn counts(d: &Deployment, all: &[Set], new: Option<&Set>, now: Timestamp) -> DeploymentStatus {
    let old = d.status.clone().unwrap_or_default();
    let of = |rs: &Set| rs.status.clone().unwrap_or_default();
    let available_now = sum(all, available);
    let mut status = DeploymentStatus {
        observed_generation: Some(generation(d)),
        replicas: Some(sum(all, actual)),
        updated_replicas: Some(new.map_or(0, |rs| actual(rs))),
        ready_replicas: Some(all.iter().map(|rs| of(rs).ready_replicas.unwrap_or(0)).sum()),
        available_replicas: Some(available_now),
        unavailable_replicas: Some((sum(all, size) - available_now).max(0)),
        terminating_replicas: all.iter().map(|rs| of(rs).terminating_replicas).sum::<Option<i32>>(),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    if available_now >= wished(d) - max_unavailable(d) {
        set(&mut status, AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned(), now);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set(&mut status, AVAILABLE, "False", "MinimumReplicasUnavailable", message, now);
    }
    status
}

/// The status in the course of a roll-out.
pub(super) fn rolled(d: &Deployment, all: &[Set], new: Option<&Set>, now: Timestamp) -> DeploymentStatus {
    let mut status = counts(d, all, new, now);
    if deadline_s(d).is_none() {
        remove(&mut status, PROGRESSING);
    }
    let current = condition(&status, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas && reason(&status, PROGRESSING) == COMPLETE;
    if deadline_s(d).is_some() && !was_complete {
        let what = new.map_or_else(|| format!("Deployment {:?}", d.name()), |rs| format!("ReplicaSet {:?}", rs.name()));
        if is_complete(d, &status) {
            set(&mut status, PROGRESSING, "True", COMPLETE, format!("{what} has successfully progressed."), now);
        } else if has_progressed(d, &status) {
            // Each step of progress moves the time from which the deadline counts.
            remove(&mut status, PROGRESSING);
            set(&mut status, PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."), now);
            if let Some(former) = current.filter(|c| c.status.as_deref() == Some("True"))
                && let Some(set) = status.conditions.iter_mut().flatten().find(|c| c.type_.as_deref() == Some(PROGRESSING))
            {
                set.last_transition_time = former.last_transition_time;
            }
        } else if has_timed_out(d, &status, now) {
            set(&mut status, PROGRESSING, "False", TIMED_OUT, format!("{what} has timed out progressing."), now);
        }
    }
    match failure(all, new) {
        Some((reason, message, value)) => set(&mut status, REPLICA_FAILURE, &value, &reason, message, now),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

/// The failure of a set to make its pods, of the new set before the others'.
fn failure(all: &[Set], new: Option<&Set>) -> Option<(String, String, String)> {
    let mut candidates = new.into_iter().chain(all.iter());
    let found = candidates.find_map(|rs| rs.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(REPLICA_FAILURE)))?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default(), found.status.clone().unwrap_or_default()))
}

/// Whether all pods are of the new template and available, and nothing else is left.
pub(super) fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let all = Some(wished(d));
    status.updated_replicas.or(Some(0)) == all
        && status.replicas.or(Some(0)) == all
        && status.available_replicas.or(Some(0)) == all
        && status.observed_generation.unwrap_or(0) >= generation(d)
}

fn has_progressed(d: &Deployment, new: &DeploymentStatus) -> bool {
    let old = d.status.clone().unwrap_or_default();
    let of = |n: Option<i32>| n.unwrap_or(0);
    of(new.updated_replicas) > of(old.updated_replicas)
        || of(new.replicas) - of(new.updated_replicas) < of(old.replicas) - of(old.updated_replicas)
        || of(new.ready_replicas) > of(old.ready_replicas)
        || of(new.available_replicas) > of(old.available_replicas)
}

fn has_timed_out(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline_s), Some(current)) = (deadline_s(d), condition(status, PROGRESSING)) else { return false };
    match current.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => plus(time(current.last_update_time.as_ref()), secs(deadline_s)) < now,
    }
}

/// When to look whether the deadline is over, if it counts.
pub(super) fn look_again(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let (deadline_s, current) = (deadline_s(d)?, condition(status, PROGRESSING)?);
    // One that was complete and lost a pod stands still for no deadline.
    if sets::is_paused(d) || is_complete(d, status) || matches!(current.reason.as_deref(), Some(TIMED_OUT | COMPLETE)) {
        return None;
    }
    let end = plus(time(current.last_update_time.as_ref()), secs(deadline_s));
    Some(between(now, end) + secs(1))
}

/// The status in which pausing, or going on, is noted; none if it is already.
pub(super) fn pause(d: &Deployment, now: Timestamp) -> Option<DeploymentStatus> {
    deadline_s(d)?;
    let mut status = d.status.clone().unwrap_or_default();
    let noted = reason(&status, PROGRESSING).to_owned();
    if noted == TIMED_OUT {
        return None;
    }
    match (sets::is_paused(d), noted == PAUSED) {
        (true, false) => set(&mut status, PROGRESSING, "Unknown", PAUSED, "Deployment is paused".to_owned(), now),
        (false, true) => set(&mut status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now),
        _ => return None,
    }
    Some(status)
}
