//! The states that a binding writes, each from the state before; none where nothing would change. No input, no output.

use client::storage::{BIND_COMPLETED, BOUND_BY_CONTROLLER, capacity, claim_phase, held, is_bound_to, volume_name, volume_phase};
use client::{Meta, object_reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::Quantity;

use super::{PROVISIONERS, SIZE_BEFORE};
use crate::meta::annotations_mut;
use crate::volume::migrated;

const YES: &str = "yes";

/// The volume as it names the claim.
pub(super) fn volume_to_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut next = volume.clone();
    let owner = &mut next.spec.get_or_insert_default().claim_ref;
    let same = owner.as_ref().is_some_and(|o| {
        let namespace = o.namespace.as_deref().unwrap_or_default();
        (namespace, o.name.as_deref(), o.uid.as_deref()) == (claim.namespace(), Some(claim.name()), Some(claim.uid()))
    });
    if !same {
        *owner = Some(object_reference(claim));
    }
    // What a user or a provisioner set aside stays theirs.
    let by_controller = !is_bound_to(volume, claim) && volume.annotation(BOUND_BY_CONTROLLER).is_none();
    if by_controller {
        annotations_mut(&mut next).insert(BOUND_BY_CONTROLLER.to_owned(), YES.to_owned());
    }
    (!same || by_controller).then_some(next)
}

/// The claim as it names the volume, for good.
pub(super) fn claim_to_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let (unnamed, incomplete) = (volume_name(claim) != volume.name(), claim.annotation(BIND_COMPLETED).is_none());
    let mut next = claim.clone();
    let annotations = annotations_mut(&mut next);
    if unnamed {
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| YES.to_owned());
    }
    if incomplete {
        annotations.insert(BIND_COMPLETED.to_owned(), YES.to_owned());
    }
    if unnamed {
        next.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
    }
    (unnamed || incomplete).then_some(next)
}

/// The volume in a phase.
pub(super) fn with_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<PersistentVolume> {
    if volume_phase(volume) == phase {
        return None;
    }
    let mut next = volume.clone();
    let status = next.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = Some(message.to_owned()).filter(|m| !m.is_empty());
    Some(next)
}

/// The claim in a phase, with what follows from its volume. Modes follow always; size and class of attributes when the claim becomes
/// bound: afterwards whoever resizes or changes it says them.
///
/// # Errors
/// The volume says no size.
pub(super) fn with_status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Result<Option<PersistentVolumeClaim>, String> {
    let mut next = claim.clone();
    let (was, becomes) = (claim_phase(claim), claim_phase(claim) != phase);
    let status = next.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    match volume {
        None => (status.access_modes, status.capacity, status.current_volume_attributes_class_name) = (None, None, None),
        Some(volume) => {
            let Some(spec) = volume.spec.as_ref() else { return Ok(None) };
            status.access_modes.clone_from(&spec.access_modes);
            if becomes {
                let Some(size) = spec.capacity.as_ref().and_then(|c| c.get("storage")) else {
                    return Err(format!("PersistentVolume {:?} is without a storage capacity", volume.name()));
                };
                match volume.annotation(SIZE_BEFORE) {
                    Some(before) => {
                        let before = before.parse::<Quantity>().map_or_else(|_| size.clone(), |_| Text(before.to_owned()));
                        status.capacity.get_or_insert_default().insert("storage".to_owned(), before);
                    }
                    None if claim.status.as_ref().is_some_and(|s| s.capacity.is_some()) && held(claim) == capacity(volume) => {}
                    None => status.capacity.clone_from(&spec.capacity),
                }
            }
            if was == "Pending" && phase == "Bound" {
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    Ok((next.status != claim.status).then_some(next))
}

/// The claim with the name of who is to make its volume.
pub(super) fn with_provisioner(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<PersistentVolumeClaim> {
    if claim.annotation(PROVISIONERS[0]) == Some(provisioner) {
        return None;
    }
    let mut next = claim.clone();
    let annotations = annotations_mut(&mut next);
    PROVISIONERS.iter().for_each(|key| drop(annotations.insert((*key).to_owned(), provisioner.to_owned())));
    migrated::note(annotations, &PROVISIONERS);
    Some(next)
}

/// The claim with the driver that took its provisioner's place.
pub(super) fn annealed_claim(claim: &PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    let mut next = claim.clone();
    next.metadata.annotations.as_mut().is_some_and(|all| migrated::note(all, &PROVISIONERS)).then_some(next)
}

/// The volume as nobody's, or, where a user set it aside for a name, as that name's without a UID.
pub(super) fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut next = volume.clone();
    let by_controller = volume.annotation(BOUND_BY_CONTROLLER).is_some();
    let spec = next.spec.get_or_insert_default();
    match &mut spec.claim_ref {
        Some(owner) if !by_controller => owner.uid = None,
        owner => *owner = None,
    }
    if let Some(annotations) = &mut next.metadata.annotations {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    next
}
