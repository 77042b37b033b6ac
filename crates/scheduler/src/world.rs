//! What a decision reads besides nodes and their pods: namespaces, claims and volumes, disruption budgets, and the
//! owners from which a pod's like are known.

use std::sync::Arc;

use client::{Informer, Informers, Meta};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use machinery::labels::Selector;

use crate::rules::Labels;

/// The informers that decisions read. Tests give them fixed contents.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct World {
    pub namespaces: Informer<Namespace>,
    pub claims: Informer<PersistentVolumeClaim>,
    pub volumes: Informer<PersistentVolume>,
    pub classes: Informer<StorageClass>,
    pub csi_nodes: Informer<CSINode>,
    pub budgets: Informer<PodDisruptionBudget>,
    pub services: Informer<Service>,
    pub controllers: Informer<ReplicationController>,
    pub replica_sets: Informer<ReplicaSet>,
    pub stateful_sets: Informer<StatefulSet>,
}

impl World {
    /// What the API server has.
    #[must_use]
    pub fn new(informers: &Informers) -> Self {
        Self {
            namespaces: informers.informer(),
            claims: informers.informer(),
            volumes: informers.informer(),
            classes: informers.informer(),
            csi_nodes: informers.informer(),
            budgets: informers.informer(),
            services: informers.informer(),
            controllers: informers.informer(),
            replica_sets: informers.informer(),
            stateful_sets: informers.informer(),
        }
    }

    /// Nothing at all.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            namespaces: Informer::fixed([]),
            claims: Informer::fixed([]),
            volumes: Informer::fixed([]),
            classes: Informer::fixed([]),
            csi_nodes: Informer::fixed([]),
            budgets: Informer::fixed([]),
            services: Informer::fixed([]),
            controllers: Informer::fixed([]),
            replica_sets: Informer::fixed([]),
            stateful_sets: Informer::fixed([]),
        }
    }

    /// Waits until all of it is in memory.
    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
        self.budgets.synced().await;
        self.services.synced().await;
        self.controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
    }

    /// A namespace's labels.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<Labels> {
        self.namespaces.get("", name)?.metadata.labels.clone()
    }

    /// A claim's class: the annotation of old, else the field.
    #[must_use]
    pub fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get("", class_name(claim))
    }

    /// What all of a pod's like have in common: the selectors of its Services and of its owner (upstream `DefaultSelector`).
    /// Empty if there is nothing that would tell.
    #[must_use]
    pub fn like(&self, pod: &Pod) -> Vec<Selector> {
        let mut all = Vec::new();
        for service in self.services.list_namespace(pod.namespace()) {
            let Some(wanted) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()) else {
                continue;
            };
            // Compared as it stands: only what selects the pod is worth a selector.
            let labels = pod.metadata.labels.as_ref();
            if wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)) {
                all.push(of_set(wanted));
            }
        }
        all.extend(self.owner_selector(pod));
        all
    }

    fn owner_selector(&self, pod: &Pod) -> Option<Selector> {
        let owner = pod.controller()?;
        let namespace = pod.namespace();
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("v1", "ReplicationController") => {
                let controller = self.controllers.get(namespace, &owner.name)?;
                controller.spec.as_ref()?.selector.as_ref().map(of_set)
            }
            ("apps/v1", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, &owner.name)?;
                Some(Selector::of(Some(&set.spec.selector)))
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful_sets.get(namespace, &owner.name)?;
                Some(Selector::of(Some(&set.spec.selector)))
            }
            _ => None,
        }
    }
}

fn of_set(labels: &Labels) -> Selector {
    Selector::from_set(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

/// The name of a claim's class; empty if it has none.
#[must_use]
pub fn class_name(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.annotation("volume.beta.kubernetes.io/storage-class");
    annotated.or(claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref())).unwrap_or_default()
}
