//! What binder, scheduler, provisioner and kubelet read from claims and volumes: the words that they meet at, and what stands in which of
//! two places. All must read it alike, else one waits for what another believes to be done.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::Quantity;

use crate::object::Meta;

/// On a claim that has, or has had, a volume.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On the side of a binding that no user wrote.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim, by the scheduler: where its pod will be.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// A class named before there was a field for it.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class that a claim asks for; empty for none.
#[must_use]
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let field = || claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    claim.annotation(BETA_CLASS).or_else(field).unwrap_or_default()
}

/// The class of a volume; empty for none.
#[must_use]
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let field = || volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    volume.annotation(BETA_CLASS).or_else(field).unwrap_or_default()
}

/// The name of the volume that a claim has or asks for; empty for none.
#[must_use]
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// Where a claim stands; empty before it is told.
#[must_use]
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Where a volume stands; empty before it is told.
#[must_use]
pub fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// What becomes of a volume that its claim has left.
#[must_use]
pub fn reclaim_policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or_default()
}

/// Whether a volume is bound to a claim, or set aside for one of its name (upstream `IsVolumeBoundToClaim`).
#[must_use]
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let owner = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    owner.is_some_and(|owner| {
        let uid = owner.uid.as_deref().unwrap_or_default();
        let (namespace, name) = (owner.namespace.as_deref().unwrap_or_default(), owner.name.as_deref().unwrap_or_default());
        (namespace, name) == (claim.namespace(), claim.name()) && (uid.is_empty() || uid == claim.uid())
    })
}

/// An amount; one that is none, or none that can be read, is nothing.
#[must_use]
pub fn amount(text: Option<&Text>) -> Quantity {
    text.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// What a claim asks for.
#[must_use]
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    amount(claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage")))
}

/// What a claim has.
#[must_use]
pub fn held(claim: &PersistentVolumeClaim) -> Quantity {
    amount(claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")))
}

/// What a volume holds.
#[must_use]
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    amount(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed;
    use serde_json::{Value, json};

    #[test]
    fn a_volume_is_a_claims_by_name_and_by_uid_where_it_has_one() {
        let claim: PersistentVolumeClaim = typed(&json!({"metadata": {"namespace": "n", "name": "c", "uid": "u"}})).expect("a claim");
        let of = |owner: Value| typed::<PersistentVolume>(&json!({"metadata": {"name": "v"}, "spec": {"claimRef": owner}})).expect("a volume");
        for owner in [json!({"namespace": "n", "name": "c"}), json!({"namespace": "n", "name": "c", "uid": "u"})] {
            assert!(is_bound_to(&of(owner.clone()), &claim), "{owner}");
        }
        for owner in [json!(null), json!({"namespace": "m", "name": "c"}), json!({"namespace": "n", "name": "c", "uid": "former"})] {
            assert!(!is_bound_to(&of(owner.clone()), &claim), "{owner}");
        }
    }

    #[test]
    fn the_class_of_old_goes_before_the_field() {
        let metadata = json!({"name": "c", "annotations": {BETA_CLASS: "old"}});
        let claim = |metadata: Value| typed::<PersistentVolumeClaim>(&json!({"metadata": metadata, "spec": {"storageClassName": "new"}})).expect("a claim");
        assert_eq!((claim_class(&claim(metadata.clone())), claim_class(&claim(json!({"name": "c"})))), ("old", "new"));
        let volume: PersistentVolume = typed(&json!({"metadata": metadata, "spec": {"storageClassName": "new"}})).expect("a volume");
        assert_eq!(volume_class(&volume), "old");
    }
}
