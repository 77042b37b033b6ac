//! The objects that the API server makes by itself at start and that are the same in every cluster: system namespaces, RBAC
//! defaults, priority classes, flow schemas, priority levels, APIServices.
//!
//! Output: sections of lines. A section begins with `# GROUP/VERSION RESOURCE KIND METADATA`, where METADATA is what the
//! section's objects have in common; each further line is one object without apiVersion, kind and that. The rules of
//! aggregated roles are left out: they follow from the others.

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Group and version, resource and kind of what is taken, in the order in which it is made.
const KINDS: [(&str, &str, &str); 9] = [
    ("v1", "namespaces", "Namespace"),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "roles", "Role"),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    ("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass"),
    ("flowcontrol.apiserver.k8s.io/v1", "prioritylevelconfigurations", "PriorityLevelConfiguration"),
    ("flowcontrol.apiserver.k8s.io/v1", "flowschemas", "FlowSchema"),
    ("apiregistration.k8s.io/v1", "apiservices", "APIService"),
];
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The sections.
pub(crate) fn sections(objects: &Value) -> Result<String> {
    let objects = objects.as_array().context("bootstrap.json is a list")?;
    let mut out = String::new();
    for (api_version, resource, kind) in KINDS {
        let own: Vec<&Value> = objects.iter().filter(|o| o["apiVersion"] == api_version && o["kind"] == kind && is_own(o)).collect();
        let common = common(&own);
        out.push_str(&format!("# {api_version} {resource} {kind} {}\n", serde_json::to_string(&common)?));
        for object in own {
            out.push_str(&serde_json::to_string(&stripped(object, &common)?)?);
            out.push('\n');
        }
    }
    Ok(out)
}

/// Whether the API server has made it, and not a controller or the cluster that was measured.
fn is_own(object: &Value) -> bool {
    match object["kind"].as_str() {
        Some("Namespace") => object["metadata"]["name"].as_str().is_some_and(|n| NAMESPACES.contains(&n)),
        Some("ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding") => object["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults",
        _ => true,
    }
}

/// The labels and annotations that all objects share.
fn common(objects: &[&Value]) -> Map<String, Value> {
    let mut out = Map::new();
    for part in ["annotations", "labels"] {
        let Some(first) = objects.first().and_then(|o| o["metadata"][part].as_object()) else { continue };
        let shared: Map<String, Value> =
            first.iter().filter(|(k, v)| objects.iter().all(|o| o["metadata"][part][k.as_str()] == **v)).map(|(k, v)| (k.clone(), v.clone())).collect();
        if !shared.is_empty() {
            out.insert(part.into(), Value::Object(shared));
        }
    }
    out
}

fn stripped(object: &Value, common: &Map<String, Value>) -> Result<Value> {
    let mut object = object.as_object().context("an object")?.clone();
    object.remove("apiVersion");
    object.remove("kind");
    if object.contains_key("aggregationRule") {
        object.remove("rules");
    }
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("metadata")?;
    for (part, shared) in common {
        let Some(own) = metadata.get_mut(part).and_then(Value::as_object_mut) else { continue };
        own.retain(|k, _| shared.get(k).is_none());
        if own.is_empty() {
            metadata.remove(part);
        }
    }
    Ok(Value::Object(object))
}
