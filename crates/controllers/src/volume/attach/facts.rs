//! What is known of volumes: who wants them where, and where they are. Read from the informers' memory alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{Informer, Informers, Meta, ObjectKey};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};

use super::names::{self, Volume};
use super::plan::Found;
use crate::node::is_ready;
use crate::pods;
use crate::volume::{index_claims, is_through, pods_of};

/// Indexes: volumes by what nodes call them, attachments by node and by PersistentVolume, nodes by what they report.
const BY_NAME: &str = "attach/name";
const BY_NODE: &str = "attach/node";
const BY_VOLUME: &str = "attach/volume";
const BY_ATTACHED: &str = "attach/attached";
/// On nodes whose volumes this controller attaches (upstream `ControllerManagedAttachAnnotation`).
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The informers that are read.
pub(super) struct Facts {
    pub(super) pods: Informer<Pod>,
    pub(super) nodes: Informer<Node>,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    pub(super) drivers: Informer<CSIDriver>,
    pub(super) attachments: Informer<VolumeAttachment>,
}

/// Who wants a volume.
#[derive(Default)]
pub(super) struct Wanted {
    /// Pods by node.
    pub(super) pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// The PersistentVolume through which it is wanted.
    pub(super) through: Option<Arc<PersistentVolume>>,
}

impl Facts {
    pub(super) fn new(informers: &Informers) -> Self {
        let facts = Self {
            pods: informers.informer(),
            nodes: informers.informer(),
            claims: informers.informer(),
            volumes: informers.informer(),
            drivers: informers.informer(),
            attachments: informers.informer(),
        };
        facts.index();
        facts
    }

    pub(super) fn index(&self) {
        pods::index_node(&self.pods);
        index_claims(&self.pods);
        self.volumes.add_index(BY_NAME, |volume| Volume::of(volume).map(|v| v.name()).into_iter().collect());
        self.attachments.add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        self.attachments.add_index(BY_VOLUME, |attachment| attachment.spec.source.persistent_volume_name.clone().into_iter().collect());
        self.nodes.add_index(BY_ATTACHED, |node| attached_names(node).map(str::to_owned).collect());
    }

    /// The PersistentVolumes that are this volume.
    pub(super) fn persistent(&self, volume: &Volume) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_NAME, &volume.name())
    }

    /// Whether the driver's volumes are attached at all; they are unless it says otherwise.
    fn is_attachable(&self, driver: &str) -> bool {
        self.drivers.get("", driver).is_none_or(|d| d.spec.attach_required != Some(false))
    }

    /// The pods that want a volume, by node.
    pub(super) fn wanted(&self, volume: &Volume) -> Wanted {
        let mut wanted = Wanted::default();
        if !self.is_attachable(&volume.driver) {
            return wanted;
        }
        for persistent in self.persistent(volume) {
            let Some(claim) = self.claim_of(&persistent) else { continue };
            for pod in pods_of(&self.pods, &claim.key()).into_iter().filter(|pod| !is_through(pod) && may_use(pod, &claim)) {
                let node = pods::node_name(&pod).to_owned();
                if self.nodes.get("", &node).is_some_and(|n| n.annotation(MANAGED).is_some()) {
                    wanted.pods.entry(node).or_default().push(pod);
                    wanted.through = Some(persistent.clone());
                }
            }
        }
        wanted
    }

    /// The claim that a volume is bound to, if both say so.
    fn claim_of(&self, persistent: &PersistentVolume) -> Option<Arc<PersistentVolumeClaim>> {
        let reference = persistent.spec.as_ref()?.claim_ref.as_ref()?;
        let claim = self.claims.get(reference.namespace.as_deref()?, reference.name.as_deref()?)?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) == Some(persistent.name());
        (bound && named && reference.uid.as_deref() == Some(claim.uid())).then_some(claim)
    }

    /// The nodes where a volume is, or may be.
    pub(super) fn held(&self, volume: &Volume) -> BTreeSet<String> {
        let attachments = self.persistent(volume).into_iter().flat_map(|p| self.attachments.by_index(BY_VOLUME, p.name()));
        let own = attachments.filter(|a| a.name() == volume.attachment(&a.spec.node_name)).map(|a| a.spec.node_name.clone());
        let reporting = self.nodes.by_index(BY_ATTACHED, &volume.name());
        own.chain(reporting.iter().map(|n| n.name().to_owned())).collect()
    }

    /// The nodes to which a PersistentVolume has attachments.
    pub(super) fn attached_to(&self, persistent: &PersistentVolume) -> Vec<String> {
        self.attachments.by_index(BY_VOLUME, persistent.name()).iter().map(|a| a.spec.node_name.clone()).collect()
    }

    /// What the attachment of a volume to a node says.
    pub(super) fn found(&self, volume: &Volume, node: &str) -> Found {
        let Some(attachment) = self.attachments.get("", &volume.attachment(node)) else { return Found::Nothing };
        let status = attachment.status.as_ref();
        if attachment.is_deleting() {
            return Found::Leaving(status.and_then(|s| s.detach_error.as_ref()?.message.clone()));
        }
        match status {
            Some(status) if status.attached => Found::Attached,
            _ => Found::Coming(status.and_then(|s| s.attach_error.as_ref()).map(|e| e.message.clone().unwrap_or_default())),
        }
    }

    /// The volume of an attachment that this controller made, or would have.
    pub(super) fn volume_of(&self, attachment: &VolumeAttachment) -> Option<Volume> {
        let persistent = self.volumes.get("", attachment.spec.source.persistent_volume_name.as_deref()?)?;
        Volume::of(&persistent).filter(|v| attachment.name() == v.attachment(&attachment.spec.node_name))
    }

    /// The volumes that are attached to a node.
    pub(super) fn attached(&self, node: &str) -> BTreeSet<Volume> {
        let attachments = self.attachments.by_index(BY_NODE, node);
        let attached = attachments.iter().filter(|a| !a.is_deleting() && a.status.as_ref().is_some_and(|s| s.attached));
        attached.filter_map(|a| self.volume_of(a)).collect()
    }

    /// The volumes that a node's change may matter to.
    pub(super) fn around(&self, node: &Node) -> BTreeSet<Volume> {
        let attachments = self.attachments.by_index(BY_NODE, node.name());
        let mut all: BTreeSet<Volume> = attachments.iter().filter_map(|a| self.volume_of(a)).collect();
        all.extend(attached_names(node).filter_map(Volume::called));
        all
    }

    /// The volume that a claim is bound to.
    pub(super) fn bound_to(&self, claim: &ObjectKey) -> Option<Volume> {
        let claim = self.claims.get_key(claim)?;
        Volume::of(&*self.volumes.get("", claim.spec.as_ref()?.volume_name.as_deref()?)?)
    }
}

/// What a node reports as attached.
pub(super) fn attached_names(node: &Node) -> impl Iterator<Item = &str> {
    node.status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.as_str())
}

/// What a node has in use, or is about to.
pub(super) fn in_use(node: &Node) -> impl Iterator<Item = &str> {
    node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).map(String::as_str)
}

pub(super) fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Whether something that counts here is the same in both states of a node.
pub(super) fn is_same(old: &Node, new: &Node) -> bool {
    attached_names(old).eq(attached_names(new))
        && in_use(old).eq(in_use(new))
        && is_ready(old) == is_ready(new)
        && is_out_of_service(old) == is_out_of_service(new)
        && is_managed(old) == is_managed(new)
}

pub(super) fn is_managed(node: &Node) -> bool {
    node.annotation(MANAGED).is_some()
}

/// A claim that is made for a pod serves that pod alone.
fn may_use(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    names::claim_names(pod).any(|(name, own)| name == claim.name() && (!own || claim.is_controlled_by(pod.uid())))
}
