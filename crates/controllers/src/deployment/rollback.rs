//! The way back that the API had before `kubectl rollout undo` wrote the template itself: a revision that is asked for in an
//! annotation (upstream `rollback.go`). No input, no output.

use client::Meta;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::sets::{self, NOT_COPIED, ROLLBACK, Set};
use crate::meta::{annotations, annotations_mut};

/// What is told, whether as a warning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The revision that is asked for, 0 for the last one; what is no number is nothing.
pub(super) fn wished(d: &Deployment) -> Option<i64> {
    annotations(d).get(ROLLBACK)?.parse().ok()
}

/// The Deployment with the template of the revision that is asked for, and without the wish, whatever becomes of it.
pub(super) fn back(d: &Deployment, all: &[Set], revision: i64) -> (Deployment, Told) {
    let mut back = d.clone();
    annotations_mut(&mut back).remove(ROLLBACK);
    let warning = |reason, message: String| Told { warning: true, reason, message };
    const NOT_FOUND: &str = "DeploymentRollbackRevisionNotFound";
    let revision = if revision == 0 { last(all) } else { Some(revision) };
    let Some(revision) = revision else { return (back, warning(NOT_FOUND, "Unable to find last revision.".to_owned())) };
    let Some(rs) = all.iter().find(|rs| annotations(&***rs).contains_key(sets::REVISION) && sets::revision(&***rs) == revision) else {
        return (back, warning(NOT_FOUND, "Unable to find the revision to rollback to.".to_owned()));
    };
    if sets::find_new(d, std::slice::from_ref(rs)).is_some() {
        let message = format!("The rollback revision contains the same template as current deployment {:?}", d.name());
        return (back, warning("DeploymentRollbackTemplateUnchanged", message));
    }
    take(&mut back, rs);
    let message = format!("Rolled back deployment {:?} to revision {revision}", d.name());
    (back, Told { warning: false, reason: "DeploymentRollback", message })
}

/// The revision before the newest.
fn last(all: &[Set]) -> Option<i64> {
    let mut revisions: Vec<i64> = all.iter().map(|rs| sets::revision(&**rs)).filter(|r| *r > 0).collect();
    revisions.sort_unstable();
    revisions.pop();
    revisions.pop()
}

/// The template of a set, and the annotations that it had of its Deployment.
fn take(d: &mut Deployment, rs: &ReplicaSet) {
    let mut template = rs.spec.template.clone().unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(sets::HASH_LABEL);
    }
    d.spec.template = template;
    let copied = |key: &str| !NOT_COPIED.contains(&key);
    let own = annotations_mut(d);
    own.retain(|key, _| !copied(key));
    own.extend(annotations(rs).iter().filter(|(key, _)| copied(key)).map(|(k, v)| (k.clone(), v.clone())));
}
