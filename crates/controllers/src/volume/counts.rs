//! How many volumes and claims there are, bound and not (upstream `persistentvolume/metrics`): counted when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::storage::{claim_class, claim_phase};
use client::{Informer, Meta};
use instruments::{Counter, Declared, Families, Family, Kind, Registry, SERIES_MAX};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

const ALL: Family = Family::new("pv_collector_total_pv_count", Kind::Gauge, "[ALPHA] Gauge measuring total number of persistent volumes");
const BOUND: Family = Family::new("pv_collector_bound_pv_count", Kind::Gauge, "[ALPHA] Gauge measuring number of persistent volume currently bound");
const UNBOUND: Family = Family::new("pv_collector_unbound_pv_count", Kind::Gauge, "[ALPHA] Gauge measuring number of persistent volume currently unbound");
const BOUND_CLAIMS: Family =
    Family::new("pv_collector_bound_pvc_count", Kind::Gauge, "[ALPHA] Gauge measuring number of persistent volume claim currently bound");
const UNBOUND_CLAIMS: Family =
    Family::new("pv_collector_unbound_pvc_count", Kind::Gauge, "[ALPHA] Gauge measuring number of persistent volume claim currently unbound");

const ADOPTED: Family =
    Family::new("retroactive_storageclass_total", Kind::Counter, "[ALPHA] Total number of retroactive StorageClass assignments to persistent volume claim");
const NOT_ADOPTED: Family = Family::new(
    "retroactive_storageclass_errors_total",
    Kind::Counter,
    "[ALPHA] Total number of failed retroactive StorageClass assignments to persistent volume claim",
);

/// Claims that got the default class after they were made.
#[derive(Default)]
pub(super) struct Adoptions {
    done: Arc<Counter>,
    failed: Arc<Counter>,
}

impl Adoptions {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { done: registry.counter(&ADOPTED), failed: registry.counter(&NOT_ADOPTED) }
    }

    /// One was to get it.
    pub(super) fn count(&self, is_done: bool) {
        if is_done { self.done.inc() } else { self.failed.inc() }
    }
}

const OF_CLAIM: &[&str] = &["namespace", "storage_class", "volume_attributes_class"];
const DECLARED: &[Declared] = &[
    (&ALL, &["plugin_name", "volume_mode"]),
    (&BOUND, &["storage_class"]),
    (&UNBOUND, &["storage_class"]),
    (&BOUND_CLAIMS, OF_CLAIM),
    (&UNBOUND_CLAIMS, OF_CLAIM),
];

/// Tells of these from now on.
pub(super) fn register(registry: &Registry, volumes: &Informer<PersistentVolume>, claims: &Informer<PersistentVolumeClaim>) {
    let (volumes, claims) = (volumes.clone(), claims.clone());
    registry.collect(DECLARED, move |out| {
        tell_volumes(&volumes.list(), out);
        tell_claims(&claims.list(), out);
    });
}

/// The original's name of what brings a volume to a node.
fn plugin(volume: &PersistentVolume) -> String {
    let Some(spec) = &volume.spec else { return "N/A".to_owned() };
    if let Some(csi) = &spec.csi {
        return format!("kubernetes.io/csi:{}", csi.driver);
    }
    let plugins = [
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.local.is_some(), "kubernetes.io/local-volume"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.iscsi.is_some(), "kubernetes.io/iscsi"),
        (spec.fc.is_some(), "kubernetes.io/fc"),
    ];
    plugins.into_iter().find(|(is, _)| *is).map_or("N/A", |(_, name)| name).to_owned()
}

fn tell_volumes(volumes: &[Arc<PersistentVolume>], out: &mut Families) {
    let (mut all, mut by_class) = (BTreeMap::<(String, String), usize>::new(), BTreeMap::<(bool, &str), usize>::new());
    for volume in volumes {
        let spec = volume.spec.as_ref();
        let mode = spec.and_then(|s| s.volume_mode.clone()).unwrap_or_else(|| "Filesystem".to_owned());
        *all.entry((plugin(volume), mode)).or_default() += 1;
        let is_bound = volume.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
        *by_class.entry((is_bound, spec.and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default())).or_default() += 1;
    }
    for ((plugin, mode), count) in &all {
        out.add(&ALL, &[("plugin_name", plugin), ("volume_mode", mode)], *count as f64, None);
    }
    for ((is_bound, class), count) in by_class {
        out.add(if is_bound { &BOUND } else { &UNBOUND }, &[("storage_class", class)], count as f64, None);
    }
}

fn tell_claims(claims: &[Arc<PersistentVolumeClaim>], out: &mut Families) {
    let mut counts: BTreeMap<(bool, &str, &str, &str), usize> = BTreeMap::new();
    for claim in claims {
        let attributes = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default();
        let of = (claim_phase(claim) == "Bound", claim.namespace(), claim_class(claim), attributes);
        *counts.entry(of).or_default() += 1;
    }
    for ((is_bound, namespace, class, attributes), count) in counts.into_iter().take(SERIES_MAX) {
        let labels = [("namespace", namespace), ("storage_class", class), ("volume_attributes_class", attributes)];
        out.add(if is_bound { &BOUND_CLAIMS } else { &UNBOUND_CLAIMS }, &labels, count as f64, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_are_told_by_plugin_and_class_and_claims_by_namespace() {
        let volume = |spec: serde_json::Value, phase: &str| client::typed::<PersistentVolume>(&json!({"spec": spec, "status": {"phase": phase}})).unwrap();
        let volumes = Informer::fixed([
            volume(json!({"hostPath": {"path": "/x"}, "storageClassName": "a"}), "Bound"),
            client::typed(&json!({"metadata": {"name": "two"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}, "volumeMode": "Block"}})).unwrap(),
        ]);
        let claims = Informer::fixed([client::typed(
            &json!({"metadata": {"namespace": "n", "name": "c"}, "spec": {"storageClassName": "a"}, "status": {"phase": "Bound"}}),
        )
        .unwrap()]);
        let registry = Registry::default();
        register(&registry, &volumes, &claims);
        let text = registry.text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.trim_start_matches("pv_collector_")).collect();
        assert_eq!(
            samples,
            [
                r#"bound_pv_count{storage_class="a"} 1"#,
                r#"bound_pvc_count{namespace="n",storage_class="a",volume_attributes_class=""} 1"#,
                r#"total_pv_count{plugin_name="kubernetes.io/csi:d",volume_mode="Block"} 1"#,
                r#"total_pv_count{plugin_name="kubernetes.io/host-path",volume_mode="Filesystem"} 1"#,
                r#"unbound_pv_count{storage_class=""} 1"#,
            ]
        );
    }
}
