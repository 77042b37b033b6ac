//! What is to be done about a claim (upstream `syncClaim`). No output; what it reads is in memory.

use client::storage::{BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, capacity, claim_class, is_bound_to, requested, volume_class, volume_name};
use client::{EventType, Informer, Meta};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;

use super::shelf::{Hold, Shelf};
use super::{Note, has_mode};
use crate::meta::{annotations, created};
use crate::pods::node_name;
use crate::volume::migrated::{self, IN_TREE};
use crate::volume::{has_class, is_through, pods_of};

const DEFAULTS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The plugins of old that are left in the original's controller; the first alone would make volumes, and only if it is told to.
const HOST_PATH: &str = "kubernetes.io/host-path";
const NFS: &str = "kubernetes.io/nfs";

/// What is to be done.
pub(super) enum Due<'s> {
    /// Volume and claim are to name each other and be told as bound, as far as they do not and are not.
    Bind(Chosen<'s>),
    /// It asked for no class while there was no default, and there is one now.
    Adopt(String),
    /// It is pending; perhaps with the reason why.
    Wait(Option<Note>),
    /// A provisioner is to make a volume.
    Provision { provisioner: String, note: Note },
    /// No volume can be made.
    Refuse(Note),
    /// It names a volume that was given to another: only a hand can have done that.
    Misbound { note: Note, why: String },
    /// The volume that it had is gone, or another's.
    Lost { reason: &'static str, message: &'static str },
}

/// A volume for a claim.
pub(super) enum Chosen<'s> {
    /// Among those that anybody may have.
    Held(Hold<'s>),
    /// The one that the claim names.
    Named(Arc<PersistentVolume>),
}

impl Chosen<'_> {
    pub(super) fn volume(&self) -> &Arc<PersistentVolume> {
        match self {
            Self::Held(hold) => &hold.volume,
            Self::Named(volume) => volume,
        }
    }
}

/// What decisions read.
pub(super) struct Sight<'s> {
    pub(super) shelf: &'s Shelf,
    pub(super) classes: &'s Informer<StorageClass>,
    pub(super) pods: &'s Informer<Pod>,
}

/// Whether claims without a class get this one.
pub(super) fn is_default(class: &StorageClass) -> bool {
    DEFAULTS.iter().any(|key| annotations(class).get(*key).is_some_and(|v| v == "true"))
}

impl<'s> Sight<'s> {
    /// What is to be done about a claim that has a volume, or has had one (upstream `syncBoundClaim`), or not yet (`syncUnboundClaim`).
    pub(super) fn due(&self, claim: &PersistentVolumeClaim) -> Due<'s> {
        match (claim.annotation(BIND_COMPLETED).is_some(), volume_name(claim)) {
            (true, "") => Due::Lost { reason: "ClaimLost", message: "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!" },
            (true, name) => self.bound(claim, name),
            (false, "") => self.unbound(claim),
            (false, name) => self.asking(claim, name),
        }
    }

    fn bound(&self, claim: &PersistentVolumeClaim, name: &str) -> Due<'s> {
        let Some(volume) = self.shelf.volume(name) else {
            return Due::Lost { reason: "ClaimLost", message: "Bound claim has lost its PersistentVolume. Data on the volume is lost!" };
        };
        match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
            // It is bound again: it may have been that the volume's side has not been heard of yet.
            None => Due::Bind(Chosen::Named(volume)),
            Some(owner) if owner.uid.as_deref() == Some(claim.uid()) => Due::Bind(Chosen::Named(volume)),
            Some(_) => Due::Lost { reason: "ClaimMisbound", message: "Two claims are bound to the same volume, this one is bound incorrectly" },
        }
    }

    /// The user named the volume.
    fn asking(&self, claim: &PersistentVolumeClaim, name: &str) -> Due<'s> {
        let Some(volume) = self.shelf.volume(name) else { return Due::Wait(None) };
        if volume.spec.as_ref().is_none_or(|s| s.claim_ref.is_none()) {
            return match unsuitable(&volume, claim) {
                None => Due::Bind(Chosen::Named(volume)),
                Some(why) => Due::Wait(Some(Note::warning("VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}")))),
            };
        }
        if is_bound_to(&volume, claim) {
            return Due::Bind(Chosen::Named(volume));
        }
        let note = Note::warning("FailedBinding", format!("volume {name:?} already bound to a different claim."));
        if claim.annotation(BOUND_BY_CONTROLLER).is_none() {
            return Due::Wait(Some(note));
        }
        let owner = super::shelf::given_to(&volume).unwrap_or_default();
        let why = format!("invalid binding of claim {:?} to volume {name:?}: volume already claimed by {:?}", claim.key().to_string(), owner.to_string());
        Due::Misbound { note, why }
    }

    fn unbound(&self, claim: &PersistentVolumeClaim) -> Due<'s> {
        let class = self.classes.get("", claim_class(claim)).filter(|_| !claim_class(claim).is_empty());
        let waits_for_pod = class.as_ref().is_some_and(|c| has_mode(c, "WaitForFirstConsumer"));
        if let Some(hold) = self.shelf.choose(claim, waits_for_pod) {
            return Due::Bind(Chosen::Held(hold));
        }
        if !has_class(claim)
            && let Some(name) = self.default_class()
        {
            return Due::Adopt(name);
        }
        if waits_for_pod && claim.annotation(SELECTED_NODE).is_none() {
            return Due::Wait(Some(self.first_consumer(claim)));
        }
        match class {
            Some(class) => provision(&class, claim),
            None if claim_class(claim).is_empty() => {
                Due::Wait(Some(Note::normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")))
            }
            None => refuse(format!("storageclass.storage.k8s.io {:?} not found", claim_class(claim))),
        }
    }

    /// Of several defaults the newest, then by name.
    fn default_class(&self) -> Option<String> {
        let mut defaults = self.classes.list();
        defaults.retain(|class| is_default(class));
        let best = defaults.into_iter().min_by(|a, b| created(&**b).cmp(&created(&**a)).then_with(|| a.name().cmp(b.name())));
        best.map(|class| class.name().to_owned())
    }

    /// Whom a claim waits for whose volume is chosen with the pod's node.
    fn first_consumer(&self, claim: &PersistentVolumeClaim) -> Note {
        let pods = pods_of(self.pods, &claim.key());
        let unscheduled: Vec<&str> = pods.iter().filter(|p| !is_through(p) && node_name(p).is_empty()).map(|p| p.name()).collect();
        match unscheduled.as_slice() {
            [] => Note::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [one] => Note::normal("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
            several => Note::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", several.join(","))),
        }
    }
}

/// Why a volume that a claim names cannot be bound to it.
fn unsuitable(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let (has, wants) = (volume.spec.as_ref(), claim.spec.as_ref());
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    let attributes = |name: Option<&String>| name.cloned().unwrap_or_default();
    let modes = has.and_then(|s| s.access_modes.clone()).unwrap_or_default();
    Some(if volume.is_deleting() {
        format!("the volume is marked for deletion {:?}", volume.name())
    } else if capacity(volume).value() < requested(claim).value() {
        "requested PV is too small".to_owned()
    } else if volume_class(volume) != claim_class(claim) {
        "storageClassName does not match".to_owned()
    } else if attributes(has.and_then(|s| s.volume_attributes_class_name.as_ref())) != attributes(wants.and_then(|s| s.volume_attributes_class_name.as_ref())) {
        "volumeAttributesClassName does not match".to_owned()
    } else if mode(has.and_then(|s| s.volume_mode.as_ref())) != mode(wants.and_then(|s| s.volume_mode.as_ref())) {
        "incompatible volumeMode".to_owned()
    } else if wants.and_then(|s| s.access_modes.as_ref()).into_iter().flatten().any(|m| !modes.contains(m)) {
        "incompatible accessMode".to_owned()
    } else {
        return None;
    })
}

fn refuse(why: impl Into<String>) -> Due<'static> {
    Due::Refuse(Note::warning("ProvisioningFailed", why))
}

/// Who makes the volume.
fn provision<'s>(class: &StorageClass, claim: &PersistentVolumeClaim) -> Due<'s> {
    let named = class.provisioner.as_str();
    let provisioner = match (migrated::driver(named), named) {
        (Some(driver), _) => driver,
        (None, HOST_PATH) => return Due::Provision { provisioner: named.to_owned(), note: Note::warning("ProvisioningFailed", no_host_path(class, claim)) },
        (None, NFS) => return refuse("no provisionable volume plugin matched"),
        (None, plugin) if plugin.starts_with(IN_TREE) => return refuse(format!("no volume plugin matched name: {plugin}")),
        (None, external) => external,
    };
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. \
         If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    Due::Provision { provisioner: provisioner.to_owned(), note: Note { kind: EventType::Normal, reason: "ExternalProvisioning", message } }
}

/// Why the one plugin of old that could make volumes does not (upstream `--enable-hostpath-provisioner` is off).
fn no_host_path(class: &StorageClass, claim: &PersistentVolumeClaim) -> String {
    let options = class.mount_options.as_deref().unwrap_or_default();
    if claim.spec.as_ref().is_some_and(|s| s.data_source.is_some()) {
        format!("plugin {HOST_PATH:?} is not a CSI plugin. Only CSI plugin can provision a claim with a datasource")
    } else if !options.is_empty() {
        let options = options.join(" ");
        format!("Mount options are not supported by the provisioner but StorageClass {:?} has mount options [{options}]", class.name())
    } else {
        format!("Failed to create provisioner: provisioning in volume plugin {HOST_PATH:?} is disabled")
    }
}
