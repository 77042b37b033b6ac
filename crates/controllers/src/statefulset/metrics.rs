//! How many of a StatefulSet's pods may be missing while it rolls, and how many are (upstream `statefulset/metrics`): counted when
//! somebody asks.

use std::sync::Arc;

use client::Meta;
use instruments::{Declared, Families, Family, Kind, SERIES_MAX};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::plan;

const MAX: Family = Family::new(
    "statefulset_controller_statefulset_max_unavailable",
    Kind::Gauge,
    "[ALPHA] Maximum number of unavailable pods allowed during StatefulSet rolling updates",
);
const UNAVAILABLE: Family =
    Family::new("statefulset_controller_statefulset_unavailable_replicas", Kind::Gauge, "[ALPHA] Current number of unavailable pods in StatefulSet");

const LABELS: &[&str] = &["pod_management_policy", "statefulset_name", "statefulset_namespace"];
pub(super) const DECLARED: &[Declared] = &[(&MAX, LABELS), (&UNAVAILABLE, LABELS)];

/// Tells of these sets with their pods; what is missing of those alone that roll by themselves.
pub(super) fn tell(sets: &[Arc<StatefulSet>], pods: impl Fn(&StatefulSet) -> Vec<Arc<Pod>>, now: Timestamp, out: &mut Families) {
    for set in sets.iter().take(SERIES_MAX) {
        let policy = set.spec.pod_management_policy.as_deref().unwrap_or("OrderedReady");
        let labels = [("pod_management_policy", policy), ("statefulset_name", set.name()), ("statefulset_namespace", set.namespace())];
        out.add(&MAX, &labels, f64::from(plan::max_unavailable(set)), None);
        if plan::rolls(set) {
            out.add(&UNAVAILABLE, &labels, f64::from(plan::unavailable(set, &pods(set), now)), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_told_of_sets_that_roll() {
        let set = |name: &str, strategy: serde_json::Value| -> Arc<StatefulSet> {
            let spec = json!({"replicas": 3, "selector": {}, "template": {}, "updateStrategy": strategy});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})).unwrap_or_else(|e| panic!("{e}")))
        };
        let pod = |name: &str| -> Arc<Pod> {
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap_or_default())
        };
        let sets = [set("a", json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}})), set("b", json!({"type": "OnDelete"}))];
        let mut out = Families::default();
        tell(&sets, |set| vec![pod(&format!("{}-1", set.name())), pod(&format!("{}-7", set.name()))], client::timestamp(), &mut out);
        let text = out.finish();
        let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let of = |name: &str| format!("{{pod_management_policy=\"OrderedReady\",statefulset_name=\"{name}\",statefulset_namespace=\"n\"}}");
        let (max, missing) = (MAX.name, UNAVAILABLE.name);
        assert_eq!(told, [format!("{max}{} 2", of("a")), format!("{max}{} 1", of("b")), format!("{missing}{} 2", of("a"))]);
    }
}
