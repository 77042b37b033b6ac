//! The rows of the resources, with their columns, storage version and storage key; and the bootstrap objects.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Storage versions that upstream holds back from the newest served one, so that the release before can still read what
/// is stored (`pkg/kubeapiserver/default_storage_factory_builder.go`).
const STORAGE_VERSIONS: &[(&str, &str, &str)] = &[
    ("coordination.k8s.io", "leasecandidates", "v1beta1"),
    ("certificates.k8s.io", "clustertrustbundles", "v1beta1"),
    ("certificates.k8s.io", "podcertificaterequests", "v1beta1"),
    ("storagemigration.k8s.io", "storageversionmigrations", "v1beta1"),
    ("resource.k8s.io", "devicetaintrules", "v1beta2"),
    ("resource.k8s.io", "resourcepoolstatusrequests", "v1alpha3"),
    ("scheduling.k8s.io", "workloads", "v1beta1"),
    ("scheduling.k8s.io", "podgroups", "v1beta1"),
    ("scheduling.k8s.io", "compositepodgroups", "v1alpha3"),
];

/// Where the key under `/registry/` is not the resource's name (same source, and the CRD and aggregation servers, which
/// put their group in front).
fn prefix(group: &str, resource: &str) -> String {
    match (group, resource) {
        ("", "replicationcontrollers") => "controllers".into(),
        ("", "endpoints") => "services/endpoints".into(),
        ("", "nodes") => "minions".into(),
        ("", "services") => "services/specs".into(),
        ("networking.k8s.io", "ingresses") => "ingress".into(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => format!("{group}/{resource}"),
        _ => resource.to_owned(),
    }
}

/// One row a line: the published row, its columns, `storage` (group/version) and `prefix`.
pub(crate) fn rows(resources: &Value, columns: &Value) -> Result<String> {
    let rows = resources.as_array().context("resources.json is a list")?;
    let mut out = Vec::new();
    for row in rows {
        let get = |key: &str| row[key].as_str().unwrap_or_default();
        let (group, version, resource) = (get("group"), get("version"), get("resource"));
        let path = if group.is_empty() { format!("api/{version}/{resource}") } else { format!("apis/{group}/{version}/{resource}") };
        let mut row = row.as_object().context("a row")?.clone();
        let held_back = STORAGE_VERSIONS.iter().find(|(g, r, _)| *g == group && *r == resource).map(|s| s.2);
        // The first row of a resource is its preferred version; core events hold those of events.k8s.io as well.
        let newest = rows.iter().find(|r| r["group"] == group && r["resource"] == resource).and_then(|r| r["version"].as_str()).unwrap_or(version);
        let (storage_group, storage_version) = match group {
            "events.k8s.io" => ("", "v1"),
            _ => (group, held_back.unwrap_or(newest)),
        };
        row.insert("storage".into(), json!([storage_group, storage_version]));
        row.insert("prefix".into(), json!(prefix(group, resource)));
        if let Some(columns) = columns.get(&path) {
            row.insert("columns".into(), columns.clone());
        }
        out.push(serde_json::to_string(&Value::Object(row))?);
    }
    Ok(format!("[\n{}\n]\n", out.join(",\n")))
}

/// The objects that the original makes by itself, without what only the cluster of the measurement had: its two
/// benchmark namespaces.
pub(crate) fn bootstrap(objects: &Value) -> Result<String> {
    let mut out = Vec::new();
    for object in objects.as_array().context("bootstrap.json is a list")? {
        let metadata: &Map<String, Value> = object["metadata"].as_object().context("metadata")?;
        if matches!(metadata.get("name").and_then(Value::as_str), Some("b1" | "b2")) {
            continue;
        }
        out.push(serde_json::to_string(object)?);
    }
    Ok(format!("[\n{}\n]\n", out.join(",\n")))
}
