//! The strategies of all API groups but the core group, `apps` and `batch`: the table from resource to strategy.

mod admission;
mod admission_limits;
pub(crate) mod autoscaling;
pub(crate) mod certificates;
pub(crate) mod checks;
pub(crate) mod definition;
pub mod definition_paths;
pub mod definition_rules;
mod device_claims;
mod device_policies;
mod device_slices;
mod device_status;
mod devices;
mod discovery;
mod extensions;
mod flowcontrol;
pub(crate) mod key_pair;
mod migrations;
mod misc;
mod networking;
mod rbac;
mod signing_request;
mod storage;
mod x509;

#[cfg(test)]
mod tests;

use crate::Strategy;
use misc::Plain;

/// The strategy of a resource of these groups.
pub(crate) fn strategy(group: &str, resource: &str) -> Option<&'static dyn Strategy> {
    match group {
        "networking.k8s.io" | "discovery.k8s.io" | "storage.k8s.io" => network_and_storage(resource),
        "rbac.authorization.k8s.io" | "certificates.k8s.io" | "authentication.k8s.io" | "authorization.k8s.io" => access(resource),
        "policy" | "autoscaling" | "scheduling.k8s.io" | "coordination.k8s.io" | "node.k8s.io" | "resource.k8s.io" => cluster(resource),
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" => server(resource),
        "storagemigration.k8s.io" | "internal.apiserver.k8s.io" | "lifecycle.k8s.io" => server(resource),
        _ => None,
    }
}

fn network_and_storage(resource: &str) -> Option<&'static dyn Strategy> {
    Some(match resource {
        "ingresses" => &networking::Ingresses,
        "ingressclasses" => &networking::IngressClasses,
        "networkpolicies" => &networking::NetworkPolicies,
        "ipaddresses" => &networking::IpAddresses,
        "servicecidrs" => &networking::ServiceCidrs,
        "endpointslices" => &discovery::EndpointSlices,
        "storageclasses" => &storage::StorageClasses,
        "volumeattributesclasses" => &storage::AttributesClasses,
        "volumeattachments" => &storage::Attachments,
        "csidrivers" => &storage::Drivers,
        "csinodes" => &storage::Nodes,
        "csistoragecapacities" => &storage::Capacities,
        _ => return None,
    })
}

fn access(resource: &str) -> Option<&'static dyn Strategy> {
    Some(match resource {
        "roles" => &rbac::Roles { cluster: false },
        "clusterroles" => &rbac::Roles { cluster: true },
        "rolebindings" => &rbac::Bindings { cluster: false },
        "clusterrolebindings" => &rbac::Bindings { cluster: true },
        "certificatesigningrequests" => &certificates::SigningRequests,
        "clustertrustbundles" => &certificates::TrustBundles,
        "podcertificaterequests" => &certificates::PodRequests,
        "tokenreviews" | "selfsubjectreviews" | "subjectaccessreviews" => &misc::Reviews,
        "localsubjectaccessreviews" | "selfsubjectaccessreviews" | "selfsubjectrulesreviews" => &misc::Reviews,
        _ => return None,
    })
}

fn cluster(resource: &str) -> Option<&'static dyn Strategy> {
    Some(match resource {
        "poddisruptionbudgets" => &autoscaling::Budgets,
        "horizontalpodautoscalers" => &autoscaling::Autoscalers,
        "priorityclasses" => &misc::PriorityClasses,
        "leases" => &misc::Leases,
        "leasecandidates" => &misc::LeaseCandidates,
        "runtimeclasses" => &misc::RuntimeClasses,
        "deviceclasses" => &devices::DeviceClasses,
        "resourceclaims" => &devices::Claims,
        "resourceclaimtemplates" => &devices::ClaimTemplates,
        "resourceslices" => &devices::Slices,
        "devicetaintrules" => &devices::TaintRules,
        "podgroups" | "compositepodgroups" | "workloads" | "resourcepoolstatusrequests" => &Plain { generation: false, unconditional: false },
        _ => return None,
    })
}

fn server(resource: &str) -> Option<&'static dyn Strategy> {
    Some(match resource {
        "mutatingwebhookconfigurations" => &admission::Webhooks { mutating: true },
        "validatingwebhookconfigurations" => &admission::Webhooks { mutating: false },
        "mutatingadmissionpolicies" => &admission::Policies { mutating: true },
        "validatingadmissionpolicies" => &admission::Policies { mutating: false },
        "mutatingadmissionpolicybindings" => &admission::PolicyBindings { mutating: true },
        "validatingadmissionpolicybindings" => &admission::PolicyBindings { mutating: false },
        "customresourcedefinitions" => &extensions::Definitions,
        "apiservices" => &extensions::ApiServices,
        "flowschemas" => &flowcontrol::SCHEMAS,
        "prioritylevelconfigurations" => &flowcontrol::LEVELS,
        "storageversionmigrations" => &misc::Migrations,
        "storageversions" | "evictions" | "evictionrequests" => &Plain { generation: false, unconditional: false },
        _ => return None,
    })
}
