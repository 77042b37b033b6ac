//! What the control plane does about storage: claims get volumes, and volumes go with their claims (`binder`), pods get claims
//! of their own (`ephemeral`), claims that want more say for whom they wait (`expand`), since when nobody uses them (`unused`),
//! volumes are where their pods are (`attach`), and pods that cannot share one are told of each other (`selinux`).
//!
//! No controller here touches a disk: a provisioner makes volumes and removes them, whether it is built in or a CSI driver's
//! sidecar; both sides meet at annotations, finalizers and phases. This head holds the words that they meet at.

pub(crate) mod attach;
pub(crate) mod binder;
mod counts;
pub(crate) mod ephemeral;
pub(crate) mod expand;
mod migrated;
pub(crate) mod selinux;
pub(crate) mod unused;

use std::sync::Arc;

use client::{Informer, Meta, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use machinery::quantity::Quantity;

/// A class named before there was a field for it.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The index of pods by the claims that they use.
const BY_CLAIM: &str = "claim";

/// The class that a claim asks for; empty for none.
pub(crate) fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let field = || claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    claim.annotation(BETA_CLASS).or_else(field).unwrap_or_default()
}

/// Whether a claim says anything about its class, were it that it wants none.
fn has_class(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BETA_CLASS).is_some() || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

/// The class of a volume; empty for none.
fn volume_class(volume: &PersistentVolume) -> &str {
    let field = || volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    volume.annotation(BETA_CLASS).or_else(field).unwrap_or_default()
}

/// The name of the volume that a claim has or asks for; empty for none.
fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// What a claim asks for.
fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    requests.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// What a claim has.
fn held(claim: &PersistentVolumeClaim) -> Quantity {
    let capacity = claim.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    capacity.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// What a volume holds.
fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    capacity.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// The names of the claims that a pod uses, those that are made for it included.
pub(crate) fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| client::own_claim(pod, &volume.name)),
    })
}

/// Indexes pods by the claims that they use.
pub(crate) fn index_claims(pods: &Informer<Pod>) {
    pods.add_index(BY_CLAIM, |pod| claim_names(pod).map(|name| ObjectKey::new(pod.namespace(), &name).to_string()).collect());
}

/// The pods that name a claim.
pub(crate) fn pods_of(pods: &Informer<Pod>, claim: &ObjectKey) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CLAIM, &claim.to_string())
}

/// Whether a pod needs its volumes no more (upstream `IsPodTerminated`): it has ended, or it is to go and nothing of it runs.
pub(crate) fn is_through(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let all =
        status.into_iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses].into_iter().flatten().flatten());
    let runs = |one: &k8s_openapi::api::core::v1::ContainerStatus| one.state.as_ref().is_none_or(|s| s.terminated.is_none() && s.waiting.is_none());
    crate::pods::is_terminal(pod) || pod.is_deleting() && !all.into_iter().any(runs)
}
