//! Which claims a pod has, and whose they are (upstream `stateful_set_utils.go`, KEP 1847): by `persistentVolumeClaimRetentionPolicy` a claim
//! goes with the set, with its pod once that is one too many, or with nobody. No input, no output.
//!
//! The policy may change at any time, so this is looked at for every pod at every step: a claim that no longer is to go with
//! its set must lose the reference before the set does. Owners that are not of this set are never touched.

use client::Meta;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::plan::is_replica;
use crate::claim::{group, owner_reference};
use crate::meta::map;

/// Who may own a claim: the set and the pod, by the reference that each of them would have.
struct Owners {
    set: OwnerReference,
    pod: OwnerReference,
}

/// What is to be done with a claim's owners.
#[derive(Debug, PartialEq)]
enum Due {
    Set,
    Pod,
    Nobody,
}

/// Whether claims go with the set, and with a pod that is one too many.
fn retention(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |word: Option<&String>| word.is_some_and(|w| w == "Delete");
    (deletes(policy.and_then(|p| p.when_deleted.as_ref())), deletes(policy.and_then(|p| p.when_scaled.as_ref())))
}

/// The claims that a pod needs.
pub(super) fn of_pod(set: &StatefulSet, pod: &str) -> Vec<PersistentVolumeClaim> {
    let with_name = |t: &PersistentVolumeClaim| {
        let mut claim = t.clone();
        let meta = claim.meta_mut();
        meta.name = Some(format!("{}-{pod}", t.name()));
        meta.namespace = Some(set.namespace().to_owned());
        let labels = meta.labels.get_or_insert_default();
        labels.extend(map(set.spec.selector.match_labels.as_ref()).clone());
        if retention(set).0 {
            // From the beginning: who is told of it afterwards gets in the scheduler's way, which writes to the claim as well.
            claim.meta_mut().owner_references.get_or_insert_default().push(owner_reference(set));
        }
        claim.status = None;
        claim
    };
    set.spec.volume_claim_templates.iter().flatten().map(with_name).collect()
}

/// The owner references that a claim of a pod is to have; none if it has them.
pub(super) fn owners(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
    let owners = Owners { set: owner_reference(set), pod: owner_reference(pod) };
    let present = claim.metadata.owner_references.clone().unwrap_or_default();
    // It is still a former set's or pod's: the garbage collector's affair.
    if present.iter().any(|r| is_stale(r, &owners.set) || is_stale(r, &owners.pod)) {
        return None;
    }
    let is_ours = |r: &OwnerReference| r.uid == owners.set.uid || r.uid == owners.pod.uid;
    let due = due(set, pod);
    let foreign = is_anothers(set, pod, claim);
    let mut wanted: Vec<OwnerReference> = present.iter().filter(|r| !is_ours(r)).cloned().collect();
    let ours: Vec<&OwnerReference> = present.iter().filter(|r| is_ours(r)).collect();
    let owner = match due {
        _ if foreign => None,
        Due::Set => Some(owners.set),
        Due::Pod => Some(owners.pod),
        Due::Nobody => None,
    };
    let same = match (&owner, ours.as_slice()) {
        (None, []) => true,
        (Some(owner), [one]) => one.uid == owner.uid && one.controller == Some(true),
        _ => false,
    };
    wanted.extend(owner);
    (!same).then_some(wanted)
}

/// Whether a claim has a controller of somebody else, beside which nothing of the set may decide (upstream
/// `hasUnexpectedController`); where all is retained it may.
pub(super) fn is_anothers(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let foreign = |r: &OwnerReference| r.uid != set.uid() && r.uid != pod.uid() && r.controller == Some(true);
    retention(set) != (false, false) && claim.metadata.owner_references.iter().flatten().any(foreign)
}

/// Whose a pod's claims are now.
fn due(set: &StatefulSet, pod: &Pod) -> Due {
    match retention(set) {
        (_, true) if !is_replica(set, pod) => Due::Pod,
        (true, _) => Due::Set,
        (false, _) => Due::Nobody,
    }
}

/// Whether a claim that exists already is still a former pod's of this name, with which it is to go.
pub(super) fn is_left_over(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let reference = owner_reference(pod);
    retention(set).1 && claim.metadata.owner_references.iter().flatten().any(|r| is_stale(r, &reference))
}

/// A reference to another object of the same kind and name.
fn is_stale(reference: &OwnerReference, own: &OwnerReference) -> bool {
    let same = reference.kind == own.kind && reference.name == own.name && group(&reference.api_version) == group(&own.api_version);
    same && reference.uid != own.uid
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        let spec = json!({"replicas": 2, "serviceName": "s", "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}});
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "S"}, "spec": spec})).unwrap_or_else(|e| panic!("{e}"))
    }

    fn pod(ordinal: i32) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": format!("web-{ordinal}"), "namespace": "n", "uid": format!("P{ordinal}")}})).unwrap_or_default()
    }

    /// `S` is the set's controller reference, `P0` a pod's, `s`, `p0` the same without being the controller, `X` another's.
    fn claim(owners: &str) -> PersistentVolumeClaim {
        let reference = |word: &str| -> Value {
            let controller = word.starts_with(|c: char| c.is_ascii_uppercase());
            let upper = word.to_ascii_uppercase();
            let (version, kind, name, uid) = match upper.as_bytes()[0] {
                b'S' => ("apps/v1", "StatefulSet", "web".to_owned(), upper.clone()),
                b'P' => ("v1", "Pod", format!("web-{}", &upper[1..2]), upper.clone()),
                _ => ("v1", "Other", "x".to_owned(), upper.clone()),
            };
            json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller})
        };
        let all: Vec<Value> = owners.split_whitespace().map(reference).collect();
        serde_json::from_value(json!({"metadata": {"name": "data-web-0", "ownerReferences": all}})).unwrap_or_else(|e| panic!("{e}"))
    }

    fn after(set: &StatefulSet, ordinal: i32, before: &str) -> String {
        match owners(set, &pod(ordinal), &claim(before)) {
            None => "as it is".to_owned(),
            Some(all) => all.iter().map(|r| r.uid.as_str()).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn claims_follow_the_policy_whenever_it_changes() {
        for (deleted, scaled, ordinal, before, want) in [
            ("Retain", "Retain", 0, "", "as it is"),
            ("Delete", "Retain", 0, "", "S"),
            ("Delete", "Retain", 0, "S", "as it is"),
            // The policy was taken back: the set's deletion must not take the data with it.
            ("Retain", "Retain", 0, "S", ""),
            ("Retain", "Retain", 5, "P5", ""),
            ("Retain", "Delete", 0, "S", ""),
            ("Retain", "Delete", 0, "", "as it is"),
            ("Retain", "Delete", 5, "", "P5"),
            ("Delete", "Delete", 0, "", "S"),
            ("Delete", "Delete", 5, "S", "P5"),
            // It was scaled up again before the pod went.
            ("Delete", "Delete", 1, "P1", "S"),
            ("Delete", "Retain", 5, "P5", "S"),
            // A reference that is not a controller's, as older versions wrote it.
            ("Delete", "Retain", 0, "s", "S"),
        ] {
            assert_eq!(after(&set(deleted, scaled), ordinal, before), want, "{deleted}/{scaled} web-{ordinal} {before:?}");
        }
    }

    #[test]
    fn what_others_own_stays_theirs() {
        assert_eq!(after(&set("Delete", "Retain"), 0, "x"), "X S", "an owner that does not control is left in place");
        assert_eq!(after(&set("Delete", "Retain"), 0, "X"), "as it is", "beside another controller there is none");
        assert_eq!(after(&set("Delete", "Retain"), 0, "X S"), "X");
        assert_eq!(after(&set("Retain", "Retain"), 0, "X S"), "X");
        assert_eq!(after(&set("Delete", "Delete"), 0, "S9"), "as it is", "a former set's");
        let left_over = |scaled: &str, before: &str| is_left_over(&set("Retain", scaled), &pod(0), &claim(before));
        assert!(left_over("Delete", "P09") && !left_over("Retain", "P09") && !left_over("Delete", "P0") && !left_over("Delete", "S"));
    }
}
