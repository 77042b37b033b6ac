//! What is to be done about a volume (upstream `syncVolume`, `reclaimVolume`). No input, no output.

use client::Meta;
use client::storage::{PROVISIONED_BY, reclaim_policy, volume_name};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{Note, has_same_mode};
use crate::meta::annotations;
use crate::volume::migrated::{self, IN_TREE, MIGRATED_TO};

/// Keeps a volume until the plugin of old that made it has removed it.
const IN_TREE_FINALIZER: &str = "kubernetes.io/pv-controller";
/// Keeps a volume until its external provisioner has removed it.
pub(super) const EXTERNAL_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// What is to be done about a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// This is its phase.
    Phase(&'static str),
    /// The claim is to finish what was begun.
    Claim,
    /// They name each other, but one is a device and the other a file system: told at both.
    Mismatch { volume: String, claim: String },
    /// Its claim is gone.
    Release,
    /// Its claim has another volume: it is free again, or keeps the claim's name without its UID.
    Unbind,
}

/// What is to be done about a volume; `claim` is the one that it names, if that one has the same UID.
pub(super) fn due(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Due {
    let owner = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if owner.is_none_or(|o| o.uid.as_ref().is_none_or(String::is_empty)) {
        return Due::Phase("Available");
    }
    let Some(claim) = claim else { return Due::Release };
    match volume_name(claim) {
        "" if !has_same_mode(volume, claim) => {
            let (volume, claim) = (volume.name(), claim.name());
            Due::Mismatch {
                volume: format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim:?} due to incompatible volumeMode."),
                claim: format!("Cannot bind PersistentVolume {volume:?} to requested PersistentVolumeClaim due to incompatible volumeMode."),
            }
        }
        "" => Due::Claim,
        name if name == volume.name() => Due::Phase("Bound"),
        // It was made for the claim, which took another.
        _ if volume.annotation(PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete" => Due::Release,
        _ => Due::Unbind,
    }
}

/// What becomes of a volume that was released.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// It stays, or others remove it.
    Nothing,
    /// Its files are removed by a pod, and it is free again.
    Recycle,
    /// Nobody can remove it.
    Fail(Note),
}

/// What becomes of a volume that was released.
pub(super) fn reclaim(volume: &PersistentVolume) -> Reclaim {
    if volume.annotation(MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Reclaim::Nothing;
    }
    match reclaim_policy(volume) {
        "Retain" => Reclaim::Nothing,
        "Delete" => undeletable(volume).map_or(Reclaim::Nothing, |why| Reclaim::Fail(Note::warning("VolumeFailedDelete", why))),
        "Recycle" if is_recyclable(volume) => Reclaim::Recycle,
        "Recycle" => Reclaim::Fail(Note::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        _ => Reclaim::Fail(Note::warning("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")),
    }
}

/// Why nobody removes a volume; none if an external provisioner does (upstream `findDeletablePlugin`).
fn undeletable(volume: &PersistentVolume) -> Option<String> {
    let spec = volume.spec.as_ref()?;
    let by_path = || spec.host_path.as_ref().map(|source| no_host_path(&source.path));
    match volume.annotation(PROVISIONED_BY).filter(|name| !name.is_empty()) {
        Some("kubernetes.io/host-path") => {
            return by_path().or_else(|| Some(format!("failed to create deleter for volume {:?}: spec.PersistentVolumeSource.HostPath is nil", volume.name())));
        }
        Some("kubernetes.io/nfs") => return Some("no deletable volume plugin matched".to_owned()),
        Some(plugin) if plugin.starts_with(IN_TREE) => return Some(format!("no volume plugin matched name: {plugin}")),
        Some(_) => return None,
        None => {}
    }
    if volume.annotation(MIGRATED_TO).is_some() || spec.csi.is_some() {
        return None;
    }
    by_path().or_else(|| {
        let why = if spec.nfs.is_some() { "no deletable volume plugin matched" } else { "no volume plugin matched" };
        Some(format!("error getting deleter volume plugin for volume {:?}: {why}", volume.name()))
    })
}

/// The original removes what lies below `/tmp` of the host that its controllers run on. Ours have no host, and nothing of a host is
/// removed that knarr did not make.
fn no_host_path(path: &str) -> String {
    match path.split_once("/tmp/") {
        Some((_, below)) if !below.is_empty() => format!("host_path deleter removes nothing of the host: {path}"),
        _ => format!("host_path deleter only supports /tmp/.+ but received provided {path}"),
    }
}

fn is_recyclable(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|s| s.host_path.is_some() || s.nfs.is_some())
}

/// The volume with the annotations and finalizers of the one who is to remove it; none if it has them (upstream
/// `updateVolumeMigrationAnnotationsAndFinalizers`).
pub(super) fn annealed(volume: &PersistentVolume) -> Option<PersistentVolume> {
    let plugin = annotations(volume).get(PROVISIONED_BY)?;
    let mut next = volume.clone();
    let mut changed = next.metadata.annotations.as_mut().is_some_and(|all| migrated::note(all, &[PROVISIONED_BY]));
    let (keeps, leaves): (&[&str], &[&str]) = match (migrated::driver(plugin), reclaim_policy(volume)) {
        (Some(_), _) => (&[], &[IN_TREE_FINALIZER]),
        (None, _) if !plugin.starts_with(IN_TREE) => (&[], &[]),
        (None, "Delete") => (&[IN_TREE_FINALIZER], &[EXTERNAL_FINALIZER]),
        (None, _) => (&[], &[IN_TREE_FINALIZER, EXTERNAL_FINALIZER]),
    };
    if leaves.iter().any(|f| volume.has_finalizer(f)) || keeps.iter().any(|f| !volume.has_finalizer(f)) {
        let finalizers = next.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|f| !leaves.contains(&f.as_str()));
        let missing = keeps.iter().filter(|f| !volume.has_finalizer(f));
        finalizers.extend(missing.map(|f| (*f).to_owned()));
        changed = true;
    }
    changed.then_some(next)
}
