//! What the control plane does about storage: claims get volumes, and volumes go with their claims (`binder`), pods get claims
//! of their own (`ephemeral`), claims that want more say for whom they wait (`expand`), since when nobody uses them (`unused`),
//! volumes are where their pods are (`attach`), and pods that cannot share one are told of each other (`selinux`).
//!
//! No controller here touches a disk: a provisioner makes volumes and removes them, whether it is built in or a CSI driver's
//! sidecar; both sides meet at annotations, finalizers and phases ([`client::storage`]).

pub(crate) mod attach;
pub(crate) mod binder;
mod counts;
pub(crate) mod ephemeral;
pub(crate) mod expand;
mod migrated;
pub(crate) mod selinux;
pub(crate) mod unused;

use std::sync::Arc;

use client::storage::BETA_CLASS;
use client::{Informer, Meta, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

/// The index of pods by the claims that they use.
const BY_CLAIM: &str = "claim";

/// Whether a claim says anything about its class, were it that it wants none.
fn has_class(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BETA_CLASS).is_some() || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
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
