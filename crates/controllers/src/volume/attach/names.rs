//! What an attachable volume is called: by the driver, by nodes, and by its VolumeAttachments.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use sha2::{Digest, Sha256};

/// Before the driver's name in what nodes call a volume (upstream's name of the plugin).
const PLUGIN: &str = "kubernetes.io/csi/";
/// Between the driver and its name of the volume (upstream `volNameSep`).
const SEPARATOR: char = '^';

/// A volume as its driver knows it. Several PersistentVolumes may be one volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Volume {
    pub(super) driver: String,
    pub(super) handle: String,
}

impl Volume {
    /// The volume of a PersistentVolume, if a CSI driver has it.
    pub(super) fn of(volume: &PersistentVolume) -> Option<Self> {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some(Self { driver: csi.driver.clone(), handle: csi.volume_handle.clone() })
    }

    /// The volume that a node calls so.
    pub(super) fn called(name: &str) -> Option<Self> {
        let (driver, handle) = name.strip_prefix(PLUGIN)?.split_once(SEPARATOR)?;
        (!handle.contains(SEPARATOR)).then(|| Self { driver: driver.to_owned(), handle: handle.to_owned() })
    }

    /// What nodes call it, in their `volumesAttached` and `volumesInUse`.
    pub(super) fn name(&self) -> String {
        format!("{PLUGIN}{}{SEPARATOR}{}", self.driver, self.handle)
    }

    /// The name of its VolumeAttachment to a node (upstream `getAttachmentName`).
    pub(super) fn attachment(&self, node: &str) -> String {
        let digest = Sha256::new().chain_update(&self.handle).chain_update(&self.driver).chain_update(node).finalize();
        digest.iter().fold("csi-".to_owned(), |mut text, byte| {
            // Writing to a text never fails.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Whether a volume serves one node at a time (the reverse of upstream `IsMultiAttachAllowed`).
pub(super) fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    !modes.is_empty() && !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

/// The claims of a pod, and whether each is made for it.
pub(super) fn claim_names(pod: &Pod) -> impl Iterator<Item = (String, bool)> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), false)),
        (None, Some(_)) => Some((client::own_claim(pod, &volume.name), true)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_the_original_s() {
        let volume = Volume { driver: "hostpath.csi.k8s.io".to_owned(), handle: "vol-1".to_owned() };
        assert_eq!(volume.name(), "kubernetes.io/csi/hostpath.csi.k8s.io^vol-1");
        assert_eq!(Volume::called(&volume.name()), Some(volume.clone()));
        for other in ["kubernetes.io/iscsi/1.2.3.4:iqn:0", "kubernetes.io/csi/driver", "kubernetes.io/csi/a^b^c"] {
            assert_eq!(Volume::called(other), None, "{other}");
        }
        // As `printf vol-1hostpath.csi.k8s.ionode-a | sha256sum` has it.
        assert_eq!(volume.attachment("node-a"), "csi-5a70c5de395ccad5e79daeb27c7c4f2634b675e6e1bb2a397999a016143bc9fb");
    }

    #[test]
    fn only_some_modes_are_for_one_node() {
        let volume = |modes: &[&str]| serde_json::from_value(json!({"spec": {"accessModes": modes}})).unwrap_or_else(|e| panic!("{e}"));
        for (modes, exclusive) in [(&[][..], false), (&["ReadWriteOnce"], true), (&["ReadWriteOncePod"], true), (&["ReadWriteOnce", "ReadOnlyMany"], false)] {
            assert_eq!(is_exclusive(&volume(modes)), exclusive, "{modes:?}");
        }
    }
}
