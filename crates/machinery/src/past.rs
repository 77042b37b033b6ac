//! Versions of kinds that upstream still reads, wherever an object says that it is of one, and no longer serves.
//!
//! Source: the schemes of `pkg/apis`, `apiextensions-apiserver` and `kube-aggregator`.

use crate::{Map, Value, gvk::Gvk};
use serde_json::json;

/// By kinds: the versions, each with its group.
const PAST: [(&str, &[&str]); 44] = [
    ("CertificateSigningRequest", &["certificates.k8s.io/v1beta1"]),
    ("ClusterTrustBundle", &["certificates.k8s.io/v1alpha1"]),
    ("RuntimeClass", &["node.k8s.io/v1alpha1", "node.k8s.io/v1beta1"]),
    ("Deployment", &["apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"]),
    ("Scale", &["apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"]),
    ("DaemonSet", &["apps/v1beta2", "extensions/v1beta1"]),
    ("Ingress", &["extensions/v1beta1", "networking.k8s.io/v1beta1"]),
    ("ReplicaSet", &["apps/v1beta2", "extensions/v1beta1"]),
    ("NetworkPolicy", &["extensions/v1beta1"]),
    ("PriorityClass", &["scheduling.k8s.io/v1beta1"]),
    ("IngressClass", &["networking.k8s.io/v1beta1"]),
    ("IPAddress", &["networking.k8s.io/v1beta1"]),
    ("ServiceCIDR", &["networking.k8s.io/v1beta1"]),
    ("EndpointSlice", &["discovery.k8s.io/v1beta1"]),
    ("PodDisruptionBudget", &["policy/v1beta1"]),
    ("Event", &["events.k8s.io/v1beta1"]),
    ("StorageClass", &["storage.k8s.io/v1beta1"]),
    ("VolumeAttachment", &["storage.k8s.io/v1alpha1", "storage.k8s.io/v1beta1"]),
    ("CSIDriver", &["storage.k8s.io/v1beta1"]),
    ("CSINode", &["storage.k8s.io/v1beta1"]),
    ("CSIStorageCapacity", &["storage.k8s.io/v1alpha1", "storage.k8s.io/v1beta1"]),
    ("VolumeAttributesClass", &["storage.k8s.io/v1alpha1", "storage.k8s.io/v1beta1"]),
    ("Role", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("RoleBinding", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("ClusterRole", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("ClusterRoleBinding", &["rbac.authorization.k8s.io/v1alpha1", "rbac.authorization.k8s.io/v1beta1"]),
    ("SelfSubjectRulesReview", &["authorization.k8s.io/v1beta1"]),
    ("SelfSubjectAccessReview", &["authorization.k8s.io/v1beta1"]),
    ("SubjectAccessReview", &["authorization.k8s.io/v1beta1"]),
    ("LocalSubjectAccessReview", &["authorization.k8s.io/v1beta1"]),
    ("Lease", &["coordination.k8s.io/v1beta1"]),
    ("FlowSchema", &["flowcontrol.apiserver.k8s.io/v1beta1", "flowcontrol.apiserver.k8s.io/v1beta2", "flowcontrol.apiserver.k8s.io/v1beta3"]),
    ("PriorityLevelConfiguration", &["flowcontrol.apiserver.k8s.io/v1beta1", "flowcontrol.apiserver.k8s.io/v1beta2", "flowcontrol.apiserver.k8s.io/v1beta3"]),
    ("SelfSubjectReview", &["authentication.k8s.io/v1alpha1", "authentication.k8s.io/v1beta1"]),
    ("TokenReview", &["authentication.k8s.io/v1beta1"]),
    ("StatefulSet", &["apps/v1beta1", "apps/v1beta2"]),
    ("ControllerRevision", &["apps/v1beta1", "apps/v1beta2"]),
    ("CronJob", &["batch/v1beta1"]),
    ("ValidatingWebhookConfiguration", &["admissionregistration.k8s.io/v1beta1"]),
    ("MutatingWebhookConfiguration", &["admissionregistration.k8s.io/v1beta1"]),
    ("ValidatingAdmissionPolicy", &["admissionregistration.k8s.io/v1alpha1", "admissionregistration.k8s.io/v1beta1"]),
    ("ValidatingAdmissionPolicyBinding", &["admissionregistration.k8s.io/v1alpha1", "admissionregistration.k8s.io/v1beta1"]),
    ("CustomResourceDefinition", &["apiextensions.k8s.io/v1beta1"]),
    ("APIService", &["apiregistration.k8s.io/v1beta1"]),
];

/// Kinds of which some version here had other fields than those of today have.
const REMADE: [&str; 7] = ["Scale", "Ingress", "EndpointSlice", "RuntimeClass", "FlowSchema", "PriorityLevelConfiguration", "CustomResourceDefinition"];

/// Fields of an endpoint of which its old version knows others, or none.
const OF_TOPOLOGY: [&str; 3] = ["topology", "deprecatedTopology", "zone"];

/// The annotation by which an old priority level has no shares, and not as many as there are by default.
const NO_SHARES: &str = "flowcontrol.k8s.io/v1-preserve-zero-concurrency-shares";

/// Whether a version of a kind is one that is read and not served.
pub fn is_read(kind: &str, api_version: &str) -> bool {
    PAST.iter().any(|(past, versions)| *past == kind && versions.contains(&api_version))
}

/// Whether what is read of an old version of a kind has the fields of today, as far as anybody would tell of this object.
pub fn is_as_today(found: &Gvk, object: &Value) -> bool {
    match (found.kind.as_str(), found.version.as_str()) {
        ("RuntimeClass", "v1beta1") | ("FlowSchema", _) => true,
        ("PriorityLevelConfiguration", "v1beta3") => {
            object["spec"]["limited"]["nominalConcurrencyShares"] != 0 && object["metadata"]["annotations"][NO_SHARES].is_null()
        }
        ("EndpointSlice", _) => {
            let mut endpoints = object["endpoints"].as_array().into_iter().flatten();
            endpoints.all(|endpoint| OF_TOPOLOGY.iter().all(|field| endpoint.get(*field).is_none()))
        }
        // An empty selector took nothing, and takes everything today.
        ("PodDisruptionBudget", _) => !object["spec"]["selector"].as_object().is_some_and(|selector| selector.values().all(is_empty)),
        (kind, _) => !REMADE.contains(&kind),
    }
}

fn is_empty(part: &Value) -> bool {
    part.is_null() || part.as_array().is_some_and(Vec::is_empty) || part.as_object().is_some_and(Map::is_empty)
}

/// Adds the defaults that an old version has and that of today has not: a workload's labels and selector are those of its template.
pub fn default(found: &Gvk, object: &mut Value) {
    let takes_them = matches!(
        (found.api_version().as_str(), found.kind.as_str()),
        ("apps/v1beta1", "Deployment" | "StatefulSet") | ("extensions/v1beta1", "Deployment" | "DaemonSet" | "ReplicaSet")
    );
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if !takes_them || labels.as_object().is_none_or(Map::is_empty) {
        return;
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        && spec.get("selector").is_none_or(Value::is_null)
    {
        spec.insert("selector".into(), json!({"matchLabels": labels}));
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        metadata.insert("labels".into(), labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_version_had_otherwise_is_not_as_today() {
        let slice = |endpoint: Value| json!({"addressType": "IPv4", "endpoints": [endpoint]});
        let level = |shares: u32| json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares}}});
        for (api_version, kind, object, expected) in [
            ("node.k8s.io/v1beta1", "RuntimeClass", json!({"handler": "h"}), true),
            ("node.k8s.io/v1alpha1", "RuntimeClass", json!({"handler": "h"}), false),
            ("flowcontrol.apiserver.k8s.io/v1beta1", "FlowSchema", json!({}), true),
            ("flowcontrol.apiserver.k8s.io/v1beta3", "PriorityLevelConfiguration", level(5), true),
            ("flowcontrol.apiserver.k8s.io/v1beta3", "PriorityLevelConfiguration", level(0), false),
            ("flowcontrol.apiserver.k8s.io/v1beta2", "PriorityLevelConfiguration", level(5), false),
            ("discovery.k8s.io/v1beta1", "EndpointSlice", slice(json!({"addresses": ["10.0.0.1"], "nodeName": "n"})), true),
            ("discovery.k8s.io/v1beta1", "EndpointSlice", slice(json!({"addresses": ["10.0.0.1"], "zone": "z"})), false),
            ("policy/v1beta1", "PodDisruptionBudget", json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), true),
            ("policy/v1beta1", "PodDisruptionBudget", json!({"spec": {}}), true),
            ("policy/v1beta1", "PodDisruptionBudget", json!({"spec": {"selector": {}}}), false),
            ("policy/v1beta1", "PodDisruptionBudget", json!({"spec": {"selector": {"matchLabels": {}}}}), false),
            ("apps/v1beta1", "Deployment", json!({}), true),
            ("networking.k8s.io/v1beta1", "Ingress", json!({}), false),
        ] {
            assert_eq!(is_as_today(&Gvk::parse(api_version, kind), &object), expected, "{api_version} {kind}: {object}");
        }
    }

    #[test]
    fn old_workloads_have_the_labels_of_their_templates() {
        let defaulted = |api_version: &str, labels: Value| {
            let mut object = json!({"metadata": {"name": "d", "labels": labels}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
            default(&Gvk::parse(api_version, "Deployment"), &mut object);
            (object["metadata"]["labels"].clone(), object["spec"]["selector"].clone())
        };
        let selector = json!({"matchLabels": {"a": "b"}});
        assert_eq!(defaulted("apps/v1beta1", json!({})), (json!({"a": "b"}), selector.clone()));
        assert_eq!(defaulted("extensions/v1beta1", json!({"own": "1"})), (json!({"own": "1"}), selector));
        assert_eq!(defaulted("apps/v1beta2", json!({})), (json!({}), Value::Null));
    }
}
