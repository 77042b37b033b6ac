//! What of the API a pod refers to: a static pod, and the mirror that shows it, may refer to nothing (upstream's
//! `HasAPIObjectReference`), since it starts without an API server, and since a node may read what its pods name.

use machinery::{Value, pod_names};

use crate::tree::{empty, list, text};

/// Kinds of volumes that need nothing of the API.
const OWN: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
    "projected",
];
/// Kinds of volumes that need something of it, in the order in which they are looked for, and what that is.
const OTHERS: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
/// The same of the sources of a projected volume.
const PROJECTED: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// Whether a pod names a Secret anywhere (upstream's `VisitPodSecretNames`).
pub fn names_secrets(pod: &Value) -> bool {
    pod_names::secrets(pod).any(|name| !name.is_empty())
}

fn names_config_maps(pod: &Value) -> bool {
    let volumes = pod_names::sources(pod).map(|s| text(&s["configMap"], "name"));
    pod_names::env(pod, "configMapRef", "configMapKeyRef").chain(volumes).any(|name| !name.is_empty())
}

/// The first resource of the API that a pod refers to, in upstream's words.
///
/// # Errors
/// A volume of which nobody knows what it is.
pub fn api_references(pod: &Value) -> Result<Option<&'static str>, String> {
    let spec = &pod["spec"];
    let found = [
        ("serviceaccounts", !text(spec, "serviceAccountName").is_empty()),
        ("secrets", names_secrets(pod)),
        ("configmaps", names_config_maps(pod)),
        ("resourceclaims", !empty(&spec["resourceClaims"])),
    ];
    if let Some((what, _)) = found.iter().find(|(_, is)| *is) {
        return Ok(Some(what));
    }
    for volume in list(spec, "volumes") {
        let has = |kind: &str| !volume[kind].is_null();
        if let Some((_, what)) = OTHERS.iter().find(|(kind, _)| has(kind)) {
            return Ok(Some(what));
        }
        for source in list(&volume["projected"], "sources") {
            match PROJECTED.iter().find(|(kind, _)| !source[*kind].is_null()) {
                Some((_, what)) => return Ok(Some(what)),
                None if source["downwardAPI"].is_null() => return Err(format!("unknown source for projected volume {:?}", text(volume, "name"))),
                None => {}
            }
        }
        if !OWN.iter().any(|kind| has(kind)) {
            return Err(format!("unknown volume type for volume  {:?}", text(volume, "name")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_needs_the_api_is_named() {
        let of = |spec: Value| api_references(&json!({"spec": spec}));
        let volume = |v: Value| of(json!({"containers": [{"name": "c"}], "volumes": [v]}));
        assert_eq!(of(json!({"containers": [{"name": "c"}], "volumes": [{"name": "a", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/"}}]})), Ok(None));
        assert_eq!(of(json!({"serviceAccountName": "x"})), Ok(Some("serviceaccounts")));
        assert_eq!(of(json!({"imagePullSecrets": [{"name": "x"}]})), Ok(Some("secrets")));
        assert_eq!(of(json!({"initContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "m"}}}]}]})), Ok(Some("configmaps")));
        assert_eq!(of(json!({"resourceClaims": [{"name": "r"}]})), Ok(Some("resourceclaims")));
        assert_eq!(volume(json!({"name": "v", "iscsi": {"secretRef": {"name": "s"}}})), Ok(Some("secrets")));
        assert_eq!(volume(json!({"name": "v", "iscsi": {}})), Ok(None));
        assert_eq!(volume(json!({"name": "v", "csi": {"driver": "d"}})), Ok(Some("csidrivers (via CSI volumes)")));
        assert_eq!(volume(json!({"name": "v", "ephemeral": {}})), Ok(Some("persistentvolumeclaims (via ephemeral volumes)")));
        assert_eq!(volume(json!({"name": "v", "secret": {}})), Ok(Some("secrets (via secret volumes)")));
        assert_eq!(volume(json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}})), Ok(None));
        assert_eq!(volume(json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}})), Ok(Some("serviceaccounts (via projected volumes)")));
        assert_eq!(volume(json!({"name": "v", "projected": {"sources": [{}]}})), Err("unknown source for projected volume \"v\"".into()));
        assert_eq!(volume(json!({"name": "v"})), Err("unknown volume type for volume  \"v\"".into()));
    }
}
