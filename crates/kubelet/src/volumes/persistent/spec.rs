//! From a pod's volume to what is behind it: the claim, its volume, and whose driver that is.
//!
//! The checks and their words are those of upstream's `desired_state_of_world_populator`. The claim is read from the server and
//! not from memory: what it says decides whose data a pod sees. A claim and a volume belong together by UID, so a claim that was
//! made again under its name never gets its predecessor's volume.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use client::Meta;
use client::storage::{BIND_COMPLETED, claim_phase, volume_name};
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, HostPathVolumeSource, LocalVolumeSource, NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod,
    SecretReference, Volume,
};
use sha2::{Digest, Sha256};

use crate::api::SharedApi;
use crate::util;

/// While it is on a claim, the claim is there until no pod uses it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// When a claim whose phase is to come is looked at again before it is called unbound (upstream's populator looks ten times a second).
const PHASE_WAITS: [Duration; 4] = [Duration::from_millis(20), Duration::from_millis(40), Duration::from_millis(80), Duration::from_millis(160)];
/// The group that files of a volume belong to, as who made the volume says.
const GROUP: &str = "pv.beta.kubernetes.io/gid";

/// What is behind a pod's volume.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The volume's name in the pod.
    pub(super) outer: String,
    /// The persistent volume's name; of an inline volume its name in the pod.
    pub(super) name: String,
    /// Whose it is.
    pub(super) kind: Kind,
    /// This pod may not write.
    pub(super) readonly: bool,
    /// It is given as a device.
    pub(super) block: bool,
    /// Who may use it at once, as the API names it.
    pub(super) modes: Vec<String>,
    /// Mount options.
    pub(super) options: Vec<String>,
    /// The claim, of a persistent volume.
    pub(super) claim: Option<Box<PersistentVolumeClaim>>,
    /// The persistent volume.
    pub(super) volume: Option<Box<PersistentVolume>>,
}

/// Whose a volume is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A driver's.
    Csi(Csi),
    /// A directory or device of this node.
    Local(LocalVolumeSource),
    /// A path of whichever node.
    Host(HostPathVolumeSource),
    /// A file server's.
    Nfs(NFSVolumeSource),
    /// A disk of another machine's, which this node does not reach.
    Iscsi,
}

/// A volume as its driver is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Csi {
    pub(super) driver: String,
    pub(super) handle: String,
    pub(super) fs_type: String,
    pub(super) attributes: BTreeMap<String, String>,
    /// It lives and dies with its pod (`csi:` in the pod itself).
    pub(super) ephemeral: bool,
    /// Namespaces and names of the secrets for its calls.
    pub(super) stage_secret: Option<(String, String)>,
    pub(super) publish_secret: Option<(String, String)>,
    pub(super) expand_secret: Option<(String, String)>,
}

/// A driver's volumes as metrics name them.
#[must_use]
pub fn plugin_of_driver(driver: &str) -> String {
    format!("kubernetes.io/csi:{driver}")
}

/// The volumes of a pod that its containers mount, and those that they have as devices (upstream's `GetPodVolumeNames`).
pub(super) fn used(pod: &Pod) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut mounts, mut devices) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (mounts, devices) };
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        mounts.extend(c.volume_mounts.iter().flatten().map(|m| m.name.as_str()));
        devices.extend(c.volume_devices.iter().flatten().map(|d| d.name.as_str()));
    }
    for c in spec.ephemeral_containers.iter().flatten() {
        mounts.extend(c.volume_mounts.iter().flatten().map(|m| m.name.as_str()));
        devices.extend(c.volume_devices.iter().flatten().map(|d| d.name.as_str()));
    }
    (mounts, devices)
}

/// The claim that a volume of a pod is, and whether the pod owns it.
pub(super) fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(v), _) => Some((v.claim_name.clone(), false)),
        (None, Some(_)) => Some((client::own_claim(pod, &volume.name), true)),
        (None, None) => None,
    }
}

/// What is behind a volume of a pod, or why it is not to be had yet.
pub(super) async fn find(api: &SharedApi, pod: &Pod, volume: &Volume) -> Result<Spec, String> {
    if let Some(v) = &volume.csi {
        return inline(pod, volume, v);
    }
    if let Some(v) = &volume.nfs {
        return Ok(of_pod(volume, Kind::Nfs(v.clone()), v.read_only.unwrap_or(false)));
    }
    if let Some(v) = &volume.iscsi {
        return Ok(of_pod(volume, Kind::Iscsi, v.read_only.unwrap_or(false)));
    }
    let (name, own) = claim_of(pod, volume).ok_or("no volume plugin matched")?;
    let namespace = util::namespace(pod);
    let of_claim = |e: String| format!("error processing PVC {namespace}/{name}: {e}");
    let claim = read_claim(api, namespace, &name).await.map_err(of_claim)?;
    let bound = bound_to(&claim).map_err(of_claim)?.to_owned();
    if own && !client_owned(pod, &claim) {
        return Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)", util::name(pod)));
    }
    let pv = api.get_volume(&bound).await.map_err(|e| of_claim(format!("failed to fetch PV {bound} from API server: {e}")))?;
    belongs(&pv, &claim).map_err(of_claim)?;
    let readonly = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only).unwrap_or(false);
    let made = persistent(volume, claim, pv, readonly)?;
    let (mounts, devices) = used(pod);
    let wrong = |mode: &str, how: &str| Err(format!("volume {} has volumeMode {mode}, but is specified in {how}", volume.name));
    match made.block {
        true if mounts.contains(volume.name.as_str()) => wrong("Block", "volumeMounts"),
        false if devices.contains(volume.name.as_str()) => wrong("Filesystem", "volumeDevices"),
        _ => Ok(made),
    }
}

/// The claim, as it is now or, where it is being bound, in a moment.
async fn read_claim(api: &SharedApi, namespace: &str, name: &str) -> Result<PersistentVolumeClaim, String> {
    let read = async || api.get_claim(namespace, name).await.map_err(|e| format!("failed to fetch PVC from API server: {e}"));
    let mut claim = read().await?;
    for wait in PHASE_WAITS {
        if !is_half_bound(&claim) {
            break;
        }
        tokio::time::sleep(wait).await;
        claim = read().await?;
    }
    Ok(claim)
}

/// Whether a claim is bound and only its phase does not say so yet: the scheduler binds the pod when the binding is decided, and the phase
/// is the binder's second write, which may come after the pod.
fn is_half_bound(claim: &PersistentVolumeClaim) -> bool {
    let decided = !volume_name(claim).is_empty() && claim.annotation(BIND_COMPLETED).is_some();
    decided && matches!(claim_phase(claim), "" | "Pending") && !claim.is_deleting()
}

/// The volume that a claim is bound to.
fn bound_to(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err("PVC is being deleted".into());
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".into());
    }
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty());
    name.ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".into())
}

fn client_owned(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == util::uid(pod))
}

/// Whether the volume names this very claim.
fn belongs(pv: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let back = pv.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let back = back.ok_or_else(|| format!("found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"))?;
    let (has, wanted) = (back.uid.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref().unwrap_or_default());
    if has != wanted {
        return Err(format!("found PV object {name} but its pv.Spec.ClaimRef.UID {has} does not point to claim.UID {wanted}"));
    }
    Ok(())
}

fn persistent(volume: &Volume, claim: PersistentVolumeClaim, pv: PersistentVolume, readonly: bool) -> Result<Spec, String> {
    let name = pv.metadata.name.clone().unwrap_or_default();
    let spec = pv.spec.clone().unwrap_or_default();
    let unknown = || format!("failed to get Plugin from volumeSpec for volume {name:?} err=no volume plugin matched");
    let kind = match (spec.csi, spec.local, spec.host_path, spec.nfs) {
        (Some(v), ..) => Kind::Csi(of_volume(v)?),
        (None, Some(v), ..) => Kind::Local(v),
        (None, None, Some(v), _) => Kind::Host(v),
        (None, None, None, Some(v)) => Kind::Nfs(v),
        (None, None, None, None) if spec.iscsi.is_some() => Kind::Iscsi,
        (None, None, None, None) => return Err(unknown()),
    };
    Ok(Spec {
        outer: volume.name.clone(),
        kind,
        readonly,
        block: spec.volume_mode.as_deref() == Some("Block"),
        modes: spec.access_modes.unwrap_or_default(),
        options: spec.mount_options.unwrap_or_default(),
        claim: Some(Box::new(claim)),
        volume: Some(Box::new(pv)),
        name,
    })
}

fn of_volume(v: CSIPersistentVolumeSource) -> Result<Csi, String> {
    let secret = |r: Option<SecretReference>| r.map(|r| (r.namespace.unwrap_or_default(), r.name.unwrap_or_default()));
    let csi = Csi {
        driver: v.driver,
        handle: v.volume_handle,
        fs_type: v.fs_type.unwrap_or_default(),
        attributes: v.volume_attributes.unwrap_or_default(),
        ephemeral: false,
        stage_secret: secret(v.node_stage_secret_ref),
        publish_secret: secret(v.node_publish_secret_ref),
        expand_secret: secret(v.node_expand_secret_ref),
    };
    csi.named()
}

fn inline(pod: &Pod, volume: &Volume, v: &CSIVolumeSource) -> Result<Spec, String> {
    let csi = Csi {
        driver: v.driver.clone(),
        handle: hashed(&[util::uid(pod), &volume.name]),
        fs_type: v.fs_type.clone().unwrap_or_default(),
        attributes: v.volume_attributes.clone().unwrap_or_default(),
        ephemeral: true,
        publish_secret: v.node_publish_secret_ref.as_ref().map(|r| (util::namespace(pod).to_owned(), r.name.clone())),
        ..Csi::default()
    };
    Ok(of_pod(volume, Kind::Csi(csi.named()?), v.read_only.unwrap_or(false)))
}

/// A volume of the pod itself.
fn of_pod(volume: &Volume, kind: Kind, readonly: bool) -> Spec {
    Spec {
        outer: volume.name.clone(),
        name: volume.name.clone(),
        kind,
        readonly,
        block: false,
        modes: Vec::new(),
        options: Vec::new(),
        claim: None,
        volume: None,
    }
}

/// The name that upstream gives to what belongs to these words: an inline volume's handle, a volume's attachment to a node.
pub(super) fn hashed(words: &[&str]) -> String {
    format!("csi-{}", sha256(&words.concat()))
}

/// A hash as directories are named by it.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

impl Csi {
    /// The driver's name becomes a directory's: what is no name of one is refused, whatever the API let through.
    fn named(self) -> Result<Self, String> {
        let plain = !self.driver.is_empty() && !self.driver.starts_with('.') && Path::new(&self.driver).components().count() == 1;
        if plain && !self.driver.contains('/') { Ok(self) } else { Err(format!("driver name {:?} is invalid", self.driver)) }
    }

    /// What the volume is called on this node by everybody (upstream's unique volume name).
    pub(super) fn key(&self, uid: &str, name: &str) -> String {
        if self.ephemeral { format!("kubernetes.io/csi/{uid}-{name}") } else { format!("kubernetes.io/csi/{}^{}", self.driver, self.handle) }
    }
}

impl Spec {
    /// Whose it is, as metrics name it.
    pub(super) fn plugin(&self) -> String {
        match &self.kind {
            Kind::Csi(csi) => plugin_of_driver(&csi.driver),
            Kind::Local(_) => "kubernetes.io/local-volume".to_owned(),
            Kind::Host(_) => "kubernetes.io/host-path".to_owned(),
            Kind::Nfs(_) => "kubernetes.io/nfs".to_owned(),
            Kind::Iscsi => "kubernetes.io/iscsi".to_owned(),
        }
    }

    /// Only one pod may use it.
    pub(super) fn one_pod(&self) -> bool {
        self.modes == ["ReadWriteOncePod"]
    }

    /// The group that who made the volume wants its users to be of.
    pub(super) fn group(&self) -> Option<i64> {
        self.volume.as_ref()?.metadata.annotations.as_ref()?.get(GROUP)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(v: serde_json::Value) -> PersistentVolumeClaim {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn a_claim_is_used_when_it_is_bound_and_stays() {
        let of =
            |meta: serde_json::Value, phase: &str, volume: &str| claim(json!({"metadata": meta, "spec": {"volumeName": volume}, "status": {"phase": phase}}));
        assert_eq!(bound_to(&of(json!({}), "Bound", "pv")), Ok("pv"));
        assert_eq!(bound_to(&of(json!({}), "Pending", "pv")).unwrap_err(), "PVC is not bound");
        assert_eq!(bound_to(&of(json!({}), "Bound", "")).unwrap_err(), "PVC has empty pvc.Spec.VolumeName");
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(bound_to(&of(going, "Bound", "pv")).unwrap_err(), "PVC is being deleted");
        let kept = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [PROTECTION]});
        assert_eq!(bound_to(&of(kept, "Bound", "pv")), Ok("pv"), "pods that run keep it");
    }

    #[test]
    fn a_volume_is_of_one_claim_by_its_uid() {
        let mine = claim(json!({"metadata": {"uid": "new"}}));
        let pv = |back: serde_json::Value| serde_json::from_value::<PersistentVolume>(json!({"metadata": {"name": "pv"}, "spec": {"claimRef": back}})).unwrap();
        assert_eq!(belongs(&pv(json!({"uid": "new"})), &mine), Ok(()));
        assert_eq!(
            belongs(&pv(json!({"uid": "old"})), &mine).unwrap_err(),
            "found PV object pv but its pv.Spec.ClaimRef.UID old does not point to claim.UID new"
        );
        assert_eq!(
            belongs(&pv(json!(null)), &mine).unwrap_err(),
            "found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        );
    }

    #[test]
    fn names_are_upstreams() {
        let csi = Csi { driver: "d".into(), handle: "h".into(), ..Csi::default() };
        assert_eq!(csi.key("u", "pv"), "kubernetes.io/csi/d^h");
        assert_eq!(Csi { ephemeral: true, ..csi }.key("u", "v"), "kubernetes.io/csi/u-v");
        assert_eq!(hashed(&["a", "b"]), format!("csi-{}", sha256("ab")));
        for driver in ["", "..", ".", "a/b", "/a"] {
            assert!(Csi { driver: driver.into(), ..Csi::default() }.named().is_err(), "{driver:?}");
        }
    }
}
