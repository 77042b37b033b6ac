//! What a decision reads besides nodes and their pods: namespaces, claims and volumes, disruption budgets, and the
//! owners from which a pod's like are known.
//!
//! What was decided about claims and volumes and is not yet written is *assumed*: the next decision reads it as if it were. An
//! assumption holds for the revision that it was made of; once the API has a newer one, that counts (upstream's
//! `passiveAssumeCache`). Devices that were chosen for a claim are *pending* until the claim is seen to have them.

use std::collections::HashMap;
use std::sync::Arc;

use client::storage::{claim_class, volume_class};
use client::{Informer, Informers, Meta, ObjectKey};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use machinery::labels::Selector;

use crate::devices::Slices;
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
    pub drivers: Informer<CSIDriver>,
    pub capacities: Informer<CSIStorageCapacity>,
    pub attachments: Informer<VolumeAttachment>,
    pub budgets: Informer<PodDisruptionBudget>,
    pub services: Informer<Service>,
    pub controllers: Informer<ReplicationController>,
    pub replica_sets: Informer<ReplicaSet>,
    pub stateful_sets: Informer<StatefulSet>,
    pub resource_claims: Informer<ResourceClaim>,
    pub device_classes: Informer<DeviceClass>,
    pub slices: Informer<ResourceSlice>,
    pub taint_rules: Informer<DeviceTaintRule>,
    pub assumed: Assumed,
}

/// What was decided and is not yet written.
#[derive(Clone, Debug, Default)]
pub struct Assumed {
    claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    volumes: HashMap<String, Arc<PersistentVolume>>,
    /// By the claim's UID.
    devices: HashMap<String, Pending>,
}

/// Devices that were chosen for a claim.
#[derive(Clone, Debug)]
struct Pending {
    allocation: AllocationResult,
    /// The revision at which the claim got them, once that is known.
    written: Option<u64>,
    /// The claim was made by us, and may not be in memory yet.
    is_new: bool,
}

/// Indexes: volumes that name no claim by class, the others by that claim; attachments by node; slices by node (or none) and by
/// pool; classes of devices by the resource that they name.
const BY_CLASS: &str = "scheduler/class";
const BY_CLAIM: &str = "scheduler/claim";
const BY_NODE: &str = "scheduler/node";
const BY_POOL: &str = "scheduler/pool";
const BY_RESOURCE: &str = "scheduler/resource";

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
            drivers: informers.informer(),
            capacities: informers.informer(),
            attachments: informers.informer(),
            budgets: informers.informer(),
            services: informers.informer(),
            controllers: informers.informer(),
            replica_sets: informers.informer(),
            stateful_sets: informers.informer(),
            resource_claims: informers.informer(),
            device_classes: informers.informer(),
            slices: informers.informer(),
            taint_rules: informers.informer(),
            assumed: Assumed::default(),
        }
        .indexed()
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
            drivers: Informer::fixed([]),
            capacities: Informer::fixed([]),
            attachments: Informer::fixed([]),
            budgets: Informer::fixed([]),
            services: Informer::fixed([]),
            controllers: Informer::fixed([]),
            replica_sets: Informer::fixed([]),
            stateful_sets: Informer::fixed([]),
            resource_claims: Informer::fixed([]),
            device_classes: Informer::fixed([]),
            slices: Informer::fixed([]),
            taint_rules: Informer::fixed([]),
            assumed: Assumed::default(),
        }
    }

    /// With the indexes that are asked.
    #[must_use]
    pub fn indexed(self) -> Self {
        self.volumes.add_index(BY_CLASS, |volume| if claim_of(volume).is_some() { Vec::new() } else { vec![volume_class(volume).to_owned()] });
        self.volumes.add_index(BY_CLAIM, |volume| claim_of(volume).iter().map(ToString::to_string).collect());
        self.attachments.add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        self.device_classes.add_index(BY_RESOURCE, |class| class.spec.iter().flat_map(|spec| spec.extended_resource_name.clone()).collect());
        self.slices.add_index(BY_NODE, |slice| vec![slice.spec.node_name.clone().unwrap_or_default()]);
        self.slices.add_index(BY_POOL, |slice| vec![format!("{}/{}", slice.spec.driver, slice.spec.pool.name)]);
        self
    }

    /// Waits until all of it is in memory.
    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
        self.drivers.synced().await;
        self.capacities.synced().await;
        self.attachments.synced().await;
        self.budgets.synced().await;
        self.services.synced().await;
        self.controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.resource_claims.synced().await;
        self.device_classes.synced().await;
        self.slices.synced().await;
        self.taint_rules.synced().await;
    }

    /// A namespace's labels.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<Labels> {
        self.namespaces.get("", name)?.metadata.labels.clone()
    }

    /// A claim, as it is or is assumed to be.
    #[must_use]
    pub fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let known = self.claims.get(namespace, name)?;
        let assumed = self.assumed.claims.get(&known.key()).filter(|a| a.resource_version() == known.resource_version());
        Some(assumed.cloned().unwrap_or(known))
    }

    /// A volume, as it is or is assumed to be.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name).map(|known| self.as_assumed(known))
    }

    /// The volumes of a class that name this claim, whatever their phase, or none, as they are or are assumed to be. Those of other
    /// claims, which may be thousands, are not looked at.
    #[must_use]
    pub fn volumes_for(&self, class: &str, claim: &ObjectKey) -> Vec<Arc<PersistentVolume>> {
        let named = self.volumes.by_index(BY_CLAIM, &claim.to_string()).into_iter().filter(|volume| volume_class(volume) == class);
        named.chain(self.volumes.by_index(BY_CLASS, class)).map(|known| self.as_assumed(known)).collect()
    }

    fn as_assumed(&self, known: Arc<PersistentVolume>) -> Arc<PersistentVolume> {
        let assumed = self.assumed.volumes.get(known.name()).filter(|a| a.resource_version() == known.resource_version());
        assumed.cloned().unwrap_or(known)
    }

    /// The attachments of volumes to a node.
    #[must_use]
    pub fn attached_to(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        self.attachments.by_index(BY_NODE, node)
    }

    /// The classes of devices that name a resource.
    #[must_use]
    pub fn classes_of_resource(&self, name: &str) -> Vec<Arc<DeviceClass>> {
        self.device_classes.by_index(BY_RESOURCE, name)
    }

    /// The slices that may be about a node.
    #[must_use]
    pub fn slices_for(&self, node: &str) -> Slices {
        let mut near = self.slices.by_index(BY_NODE, node);
        near.extend(self.slices.by_index(BY_NODE, ""));
        Slices::new(near, |driver, pool| self.slices.by_index(BY_POOL, &format!("{driver}/{pool}")))
    }

    /// A claim's class: the annotation of old, else the field.
    #[must_use]
    pub fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get("", claim_class(claim))
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

impl Assumed {
    /// A claim will be so.
    pub fn claim(&mut self, claim: Arc<PersistentVolumeClaim>) {
        self.claims.insert(claim.key(), claim);
    }

    /// A volume will be so.
    pub fn volume(&mut self, volume: Arc<PersistentVolume>) {
        self.volumes.insert(volume.name().to_owned(), volume);
    }

    /// A claim will not be so after all: what was assumed of this revision is forgotten.
    pub fn forget_claim(&mut self, claim: &PersistentVolumeClaim) {
        let key = claim.key();
        if self.claims.get(&key).is_some_and(|a| a.resource_version() == claim.resource_version()) {
            self.claims.remove(&key);
        }
    }

    /// A volume will not be so after all.
    pub fn forget_volume(&mut self, volume: &PersistentVolume) {
        if self.volumes.get(volume.name()).is_some_and(|a| a.resource_version() == volume.resource_version()) {
            self.volumes.remove(volume.name());
        }
    }

    /// These devices were chosen for a claim.
    pub fn pend(&mut self, claim: &ResourceClaim, allocation: AllocationResult) {
        self.devices.insert(claim.uid().to_owned(), Pending { allocation, written: None, is_new: false });
    }

    /// A claim for which devices were chosen before it was there is there now, with this UID.
    pub fn made_claim(&mut self, before: &str, uid: &str) {
        if let Some(pending) = self.devices.remove(before) {
            self.devices.insert(uid.to_owned(), Pending { is_new: true, ..pending });
        }
    }

    /// The devices that were chosen for a claim are not for it after all.
    pub fn forget_devices(&mut self, uid: &str) {
        self.devices.remove(uid);
    }

    /// Whether devices were chosen for a claim that it is not seen to have yet.
    #[must_use]
    pub fn is_pending(&self, uid: &str) -> bool {
        self.devices.contains_key(uid)
    }

    /// The devices that were chosen, with the UIDs of their claims.
    pub fn pending(&self) -> impl Iterator<Item = (&str, &AllocationResult)> {
        self.devices.iter().map(|(uid, pending)| (uid.as_str(), &pending.allocation))
    }

    /// A claim got its devices at this revision; `now`: as it is in memory.
    pub fn wrote_devices(&mut self, uid: &str, revision: u64, now: Option<&ResourceClaim>) {
        if let Some(pending) = self.devices.get_mut(uid) {
            pending.written = Some(revision);
            if now.is_none() && pending.is_new {
                return;
            }
        }
        self.heard_devices(uid, now);
    }

    /// The API has the claim with this UID in this state, or not at all: what was chosen for it is seen, or is over.
    pub fn heard_devices(&mut self, uid: &str, now: Option<&ResourceClaim>) {
        let Some(pending) = self.devices.get(uid) else { return };
        let now = now.filter(|claim| claim.uid() == uid);
        let seen = |claim: &ResourceClaim| {
            let revision: u64 = claim.resource_version().parse().unwrap_or_default();
            client::devices::allocation(claim).is_some() || pending.written.is_some_and(|written| revision >= written)
        };
        if now.is_none_or(seen) {
            self.devices.remove(uid);
        }
    }

    /// The API has a claim in this state, or not at all: an assumption about another is over.
    pub fn heard_claim(&mut self, key: &ObjectKey, now: Option<&str>) {
        if self.claims.get(key).is_some_and(|a| Some(a.resource_version()) != now) {
            self.claims.remove(key);
        }
    }

    /// The API has a volume in this state, or not at all.
    pub fn heard_volume(&mut self, name: &str, now: Option<&str>) {
        if self.volumes.get(name).is_some_and(|a| Some(a.resource_version()) != now) {
            self.volumes.remove(name);
        }
    }
}

/// The claim that a volume names.
fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let named = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(named.namespace.as_deref().unwrap_or_default(), named.name.as_deref().unwrap_or_default()))
}
