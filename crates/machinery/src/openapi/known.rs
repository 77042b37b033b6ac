//! What the original's documents tell of types and no field of the schema says.

use crate::Value;
use serde_json::json;

/// Groups, their versions that know the general kinds (options of deletions, events of watches), and whether the documents of
/// custom kinds name them too.
const GROUPS: [(&str, &[&str], bool); 27] = [
    ("", &["v1"], true),
    ("admission.k8s.io", &["v1", "v1beta1"], false),
    ("admissionregistration.k8s.io", &["v1", "v1alpha1", "v1beta1"], true),
    ("apiextensions.k8s.io", &["v1", "v1beta1"], false),
    ("apiregistration.k8s.io", &["v1", "v1beta1"], false),
    ("apps", &["v1", "v1beta1", "v1beta2"], true),
    ("authentication.k8s.io", &["v1", "v1alpha1", "v1beta1"], true),
    ("authorization.k8s.io", &["v1", "v1beta1"], true),
    ("autoscaling", &["v1", "v2"], true),
    ("batch", &["v1", "v1beta1"], true),
    ("certificates.k8s.io", &["v1", "v1alpha1", "v1beta1"], true),
    ("coordination.k8s.io", &["v1", "v1alpha2", "v1beta1"], true),
    ("discovery.k8s.io", &["v1", "v1beta1"], true),
    ("events.k8s.io", &["v1", "v1beta1"], true),
    ("extensions", &["v1beta1"], true),
    ("flowcontrol.apiserver.k8s.io", &["v1", "v1beta1", "v1beta2", "v1beta3"], true),
    ("imagepolicy.k8s.io", &["v1alpha1"], false),
    ("internal.apiserver.k8s.io", &["v1alpha1"], true),
    ("lifecycle.k8s.io", &["v1alpha1"], true),
    ("networking.k8s.io", &["v1", "v1beta1"], true),
    ("node.k8s.io", &["v1", "v1alpha1", "v1beta1"], true),
    ("policy", &["v1", "v1beta1"], true),
    ("rbac.authorization.k8s.io", &["v1", "v1alpha1", "v1beta1"], true),
    ("resource.k8s.io", &["v1", "v1alpha3", "v1beta1", "v1beta2"], true),
    ("scheduling.k8s.io", &["v1", "v1alpha3", "v1beta1"], true),
    ("storage.k8s.io", &["v1", "v1alpha1", "v1beta1"], true),
    ("storagemigration.k8s.io", &["v1", "v1beta1"], true),
];

/// Whose document it is, which is in which groups general kinds are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// Of one built-in group and version.
    Version(&'a str, &'a str),
    /// Of custom kinds.
    Custom,
    /// Of everything.
    All,
}

impl Scope<'_> {
    /// The groups and versions in which a general kind is.
    pub(super) fn kinds(self, kind: &str) -> Value {
        let told = |group: &str, version: &str| json!({"group": group, "version": version, "kind": kind});
        let custom = match self {
            Scope::Version("", version) => return json!([told("", version)]),
            Scope::Version(group, version) => return json!([told("", "v1"), told(group, version)]),
            Scope::Custom => true,
            Scope::All => false,
        };
        let groups = GROUPS.iter().filter(|(_, _, told)| *told || !custom);
        groups.flat_map(|(group, versions, _)| versions.iter().map(move |version| told(group, version))).collect()
    }
}

/// Fields of a union and the values that name them.
type Members = &'static [(&'static str, &'static str)];

/// Fields of which one alone may be set: the type, the field that says which (if any), and field and value of each.
const UNIONS: [(&str, &str, Members); 8] = [
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type", &[("exempt", "Exempt"), ("limited", "Limited")]),
    ("io.k8s.api.flowcontrol.v1.Subject", "kind", &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")]),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupDisruptionMode", "", &[("all", "All"), ("single", "Single")]),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
];

/// What is told of a type's fields of which one alone may be set.
pub(super) fn unions(ty: &str) -> Option<Value> {
    let (_, discriminator, fields) = UNIONS.iter().find(|(name, ..)| *name == ty)?;
    let fields: crate::Map<String, Value> = fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).into())).collect();
    let mut union = json!({"fields-to-discriminateBy": fields});
    if !discriminator.is_empty() {
        union["discriminator"] = (*discriminator).into();
    }
    Some(json!([union]))
}

/// Values that are published for a field and that no decoding asks for: the type, the field and the values.
const ENUMS: [(&str, &str, &[&str]); 18] = [
    ("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "operations", &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]),
    ("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "scope", &["*", "Cluster", "Namespaced"]),
    ("io.k8s.api.admissionregistration.v1.RuleWithOperations", "scope", &["*", "Cluster", "Namespaced"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "imagePullPolicy", &["Always", "IfNotPresent", "Never"]),
    ("io.k8s.api.core.v1.EphemeralContainer", "terminationMessagePolicy", &["FallbackToLogsOnError", "File"]),
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        "allocatedResourceStatuses",
        &["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"],
    ),
    ("io.k8s.api.discovery.v1.EndpointPort", "protocol", &["SCTP", "TCP", "UDP"]),
    ("io.k8s.api.discovery.v1.EndpointSlice", "addressType", &["FQDN", "IPv4", "IPv6"]),
    ("io.k8s.api.networking.v1.HTTPIngressPath", "pathType", &["Exact", "ImplementationSpecific", "Prefix"]),
    ("io.k8s.api.networking.v1.IngressPortStatus", "protocol", &["SCTP", "TCP", "UDP"]),
    ("io.k8s.api.networking.v1.NetworkPolicyPort", "protocol", &["SCTP", "TCP", "UDP"]),
    ("io.k8s.api.resource.v1.DeviceSubRequest", "allocationMode", &["All", "ExactCount"]),
    ("io.k8s.api.resource.v1.ExactDeviceRequest", "allocationMode", &["All", "ExactCount"]),
    ("io.k8s.api.scheduling.v1.PriorityClass", "preemptionPolicy", &["Never", "PreemptLowerPriority"]),
    ("io.k8s.api.storage.v1.StorageClass", "reclaimPolicy", &["Delete", "Recycle", "Retain"]),
    ("io.k8s.api.storage.v1.StorageHealthCondition", "accessMode", &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]),
    ("io.k8s.api.storage.v1.StorageHealthCondition", "volumeMode", &["Block", "Filesystem"]),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule",
        "reason",
        &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"],
    ),
];

/// The values that are published for a field.
pub(super) fn values(ty: &str, field: &str) -> Option<&'static [&'static str]> {
    ENUMS.iter().find(|(of, name, _)| *of == ty && *name == field).map(|(.., values)| *values)
}

/// Fields whose zero is published as their default though it is left out when written.
const ZEROS: [(&str, &str); 13] = [
    ("io.k8s.api.autoscaling.v1.ScaleSpec", "replicas"),
    ("io.k8s.api.core.v1.AzureDiskVolumeSource", "readOnly"),
    ("io.k8s.api.core.v1.ConfigMapEnvSource", "name"),
    ("io.k8s.api.core.v1.ConfigMapKeySelector", "name"),
    ("io.k8s.api.core.v1.ConfigMapProjection", "name"),
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", "name"),
    ("io.k8s.api.core.v1.FileKeySelector", "optional"),
    ("io.k8s.api.core.v1.GRPCAction", "service"),
    ("io.k8s.api.core.v1.LocalObjectReference", "name"),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", "minReadySeconds"),
    ("io.k8s.api.core.v1.SecretEnvSource", "name"),
    ("io.k8s.api.core.v1.SecretKeySelector", "name"),
    ("io.k8s.api.core.v1.SecretProjection", "name"),
];

/// Whether a field's zero is published as its default.
pub(super) fn has_zero(ty: &str, field: &str) -> bool {
    ZEROS.contains(&(ty, field))
}
