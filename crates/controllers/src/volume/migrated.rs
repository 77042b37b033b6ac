//! Plugins of old that were part of Kubernetes, and the CSI drivers that took their place (KEP 625 and its children). An object that
//! names such a plugin is the driver's: it is told so by an annotation, and the controllers here stand back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeSpec;

/// On claims and volumes: the driver that acts on them in the plugin's stead.
pub(super) const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

/// What every plugin of old begins with; nothing else may.
pub(super) const IN_TREE: &str = "kubernetes.io/";

const DRIVERS: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// The driver that took a plugin's place.
pub(crate) fn driver(plugin: &str) -> Option<&'static str> {
    DRIVERS.iter().find(|(name, _)| *name == plugin).map(|(_, driver)| *driver)
}

/// The plugin of old that a volume is written for.
pub(crate) fn plugin(volume: &PersistentVolumeSpec) -> Option<&'static str> {
    let sources = [
        (volume.aws_elastic_block_store.is_some(), "kubernetes.io/aws-ebs"),
        (volume.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (volume.azure_file.is_some(), "kubernetes.io/azure-file"),
        (volume.cinder.is_some(), "kubernetes.io/cinder"),
        (volume.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (volume.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
        (volume.vsphere_volume.is_some(), "kubernetes.io/vsphere-volume"),
    ];
    sources.into_iter().find(|(present, _)| *present).map(|(_, name)| name)
}

/// Puts the driver beside the plugin that an object names under one of these keys, or takes away one that does not belong
/// there; whether that changed anything.
pub(super) fn note(annotations: &mut BTreeMap<String, String>, plugin_keys: &[&str]) -> bool {
    let Some(plugin) = plugin_keys.iter().find_map(|key| annotations.get(*key)) else { return false };
    match (driver(plugin), annotations.get(MIGRATED_TO).map_or("", String::as_str)) {
        (Some(driver), present) if present == driver => false,
        (Some(driver), _) => {
            annotations.insert(MIGRATED_TO.to_owned(), driver.to_owned());
            true
        }
        (None, "") => false,
        (None, _) => annotations.remove(MIGRATED_TO).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_told_of_what_was_a_plugins() {
        let mut claim = BTreeMap::from([("p".to_owned(), "kubernetes.io/gce-pd".to_owned())]);
        assert!(note(&mut claim, &["o", "p"]) && !note(&mut claim, &["o", "p"]), "once");
        assert_eq!(claim[MIGRATED_TO], "pd.csi.storage.gke.io");
        claim.insert("p".to_owned(), "disk.knarr.local".to_owned());
        assert!(note(&mut claim, &["p"]) && !claim.contains_key(MIGRATED_TO), "another provisioner acts for itself");
        assert!(!note(&mut claim, &["p"]) && !note(&mut claim, &["absent"]));
        assert_eq!(DRIVERS.iter().filter(|(plugin, _)| plugin.starts_with(IN_TREE)).count(), DRIVERS.len());
    }
}
