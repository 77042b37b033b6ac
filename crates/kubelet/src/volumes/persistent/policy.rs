//! What the CSIDriver object says of a driver: what it is told when a volume is mounted, and what it does not do itself.
//!
//! The object is read from an informer's memory. Where there is none, upstream's defaults hold: volumes are attached, and only
//! persistent ones are to be had.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::json;

use super::spec::{Csi, Spec};
use crate::api::SharedApi;
use crate::util;

/// Beneath which the driver finds the pod's tokens.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A driver's object, or that there is none.
pub(super) struct Policy {
    driver: String,
    object: Option<std::sync::Arc<CSIDriver>>,
}

impl Policy {
    pub(super) async fn of(api: &SharedApi, driver: &str) -> Result<Self, String> {
        let object = api.csi_driver(driver).await.map_err(|e| e.to_string())?;
        Ok(Self { driver: driver.to_owned(), object })
    }

    /// Whether volumes must be attached to the node before they can be used.
    pub(super) fn attaches(&self) -> bool {
        self.object.as_ref().is_none_or(|o| o.spec.attach_required.unwrap_or(true))
    }

    /// Whether the driver says again and again how many volumes this node can have: then one too many is an end, and not a wait (KEP-4876).
    pub(super) fn counts_again(&self) -> bool {
        self.object.as_ref().and_then(|o| o.spec.node_allocatable_update_period_seconds).is_some_and(|s| s > 0)
    }

    /// Whether what is published is to be published again, for what changes in it (tokens).
    pub(super) fn republishes(&self) -> bool {
        self.object.as_ref().is_some_and(|o| o.spec.requires_republish.unwrap_or(false))
    }

    /// Whether the driver has volumes of this life.
    pub(super) fn supports(&self, csi: &Csi) -> Result<(), String> {
        let mode = if csi.ephemeral { "Ephemeral" } else { "Persistent" };
        let Some(object) = &self.object else {
            let none = || format!("volume mode {mode:?} not supported by driver {} (no CSIDriver object)", self.driver);
            return if csi.ephemeral { Err(none()) } else { Ok(()) };
        };
        let persistent = || vec!["Persistent".to_owned()];
        let modes = object.spec.volume_lifecycle_modes.clone().filter(|m| !m.is_empty()).unwrap_or_else(persistent);
        if modes.iter().any(|m| m == mode) {
            return Ok(());
        }
        let listed: Vec<String> = modes.iter().map(|m| format!("{m:?}")).collect();
        Err(format!("volume mode {mode:?} not supported by driver {} (only supports [{}])", self.driver, listed.join(" ")))
    }

    /// Whether the kubelet gives the volume's files to the pod's group (upstream's `supportsFSGroup`).
    pub(super) fn gives_group(&self, spec: &Spec, csi: &Csi) -> bool {
        let policy = self.object.as_ref().and_then(|o| o.spec.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType");
        match policy {
            _ if spec.readonly => false,
            "None" => false,
            "File" => true,
            _ if csi.fs_type.is_empty() => false,
            _ => csi.ephemeral || spec.modes.iter().any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod"),
        }
    }

    /// What the driver is told of the pod, if it is to be.
    pub(super) fn pod_info(&self, pod: &Pod, csi: &Csi) -> BTreeMap<String, String> {
        if !self.object.as_ref().is_some_and(|o| o.spec.pod_info_on_mount.unwrap_or(false)) {
            return BTreeMap::new();
        }
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
        let told = [
            ("pod.name", util::name(pod).to_owned()),
            ("pod.namespace", util::namespace(pod).to_owned()),
            ("pod.uid", util::uid(pod).to_owned()),
            ("serviceAccount.name", account),
            ("ephemeral", csi.ephemeral.to_string()),
        ];
        told.into_iter().map(|(k, v)| (format!("csi.storage.k8s.io/{k}"), v)).collect()
    }

    /// The pod's tokens for the audiences that the driver asks for, and whether they are secrets (KEP-5538).
    pub(super) async fn tokens(&self, api: &SharedApi, pod: &Pod) -> Result<(BTreeMap<String, String>, bool), String> {
        let Some(object) = &self.object else { return Ok((BTreeMap::new(), false)) };
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
        let mut all = serde_json::Map::new();
        for wanted in object.spec.token_requests.iter().flatten() {
            let audiences = Some(wanted.audience.clone()).filter(|a| !a.is_empty()).map(|a| vec![a]);
            let spec = TokenRequestSpec {
                audiences,
                attestations: None,
                expiration_seconds: wanted.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            };
            let made = api
                .create_token(util::namespace(pod), &account, TokenRequest { spec: Some(spec), ..TokenRequest::default() })
                .await
                .map_err(|e| e.to_string())?;
            let status = made.status.ok_or("token request has no status")?;
            all.insert(wanted.audience.clone(), json!(status));
        }
        if all.is_empty() {
            return Ok((BTreeMap::new(), false));
        }
        let secret = object.spec.service_account_token_in_secrets.unwrap_or(false);
        Ok((BTreeMap::from([(TOKENS.to_owned(), serde_json::Value::Object(all).to_string())]), secret))
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Kind;
    use super::*;
    use std::sync::Arc;

    fn policy(spec: serde_json::Value) -> Policy {
        let object = (!spec.is_null()).then(|| Arc::new(serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).unwrap()));
        Policy { driver: "d".into(), object }
    }

    fn csi(ephemeral: bool, fs_type: &str) -> Csi {
        Csi { driver: "d".into(), handle: "h".into(), fs_type: fs_type.into(), ephemeral, ..Csi::default() }
    }

    fn spec(modes: &[&str], readonly: bool) -> Spec {
        Spec {
            outer: "v".into(),
            name: "pv".into(),
            kind: Kind::Csi(csi(false, "")),
            readonly,
            block: false,
            modes: modes.iter().map(|m| (*m).to_owned()).collect(),
            options: Vec::new(),
            claim: None,
            volume: None,
        }
    }

    #[test]
    fn without_an_object_upstreams_defaults_hold() {
        let none = policy(json!(null));
        assert!(none.attaches() && !none.republishes());
        assert_eq!(none.supports(&csi(false, "")), Ok(()));
        assert_eq!(none.supports(&csi(true, "")).unwrap_err(), "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)");
        let persistent = policy(json!({"attachRequired": false, "volumeLifecycleModes": ["Persistent"]}));
        assert!(!persistent.attaches());
        assert_eq!(persistent.supports(&csi(true, "")).unwrap_err(), "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])");
    }

    #[test]
    fn whose_files_become_the_groups_is_the_drivers_policy() {
        let of = |p: &str, modes: &[&str], fs: &str, readonly: bool| policy(json!({"fsGroupPolicy": p})).gives_group(&spec(modes, readonly), &csi(false, fs));
        assert!(of("File", &["ReadWriteMany"], "", false));
        assert!(!of("File", &["ReadWriteMany"], "", true), "what is only read stays");
        assert!(!of("None", &["ReadWriteOnce"], "ext4", false));
        assert!(of("ReadWriteOnceWithFSType", &["ReadWriteOncePod"], "ext4", false));
        assert!(!of("ReadWriteOnceWithFSType", &["ReadWriteOnce"], "", false));
        assert!(!of("ReadWriteOnceWithFSType", &["ReadWriteMany"], "ext4", false));
        assert!(policy(json!(null)).gives_group(&spec(&[], false), &csi(true, "ext4")), "an inline volume is one pod's");
    }

    #[test]
    fn a_driver_is_told_of_the_pod_where_it_asks() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"serviceAccountName": "a", "containers": []}}))
                .unwrap();
        assert!(policy(json!({})).pod_info(&pod, &csi(true, "")).is_empty());
        let told = policy(json!({"podInfoOnMount": true})).pod_info(&pod, &csi(true, ""));
        let expected = [("ephemeral", "true"), ("pod.name", "p"), ("pod.namespace", "n"), ("pod.uid", "u"), ("serviceAccount.name", "a")];
        assert_eq!(told, expected.map(|(k, v)| (format!("csi.storage.k8s.io/{k}"), v.to_owned())).into());
    }
}
