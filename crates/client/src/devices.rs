//! What all who deal with devices (KEPs 4381 and 5055) must agree on: which claims a pod has and whether they are its own, which
//! taints of devices are there and borne, and how claims that were made are counted. Upstream
//! `dynamic-resource-allocation/resourceclaim`, and the tracker of slices.

use std::sync::Arc;

use instruments::{Counter, Family, Kind, Labelled, Registry};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceClaim, DeviceRequest, DeviceRequestAllocationResult, DeviceTaint, DeviceTaintRule, DeviceToleration, ResourceClaim,
};

use crate::object::Meta;

/// On allocated claims, so that they stay until their devices are given back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On a generated claim: the name that the pod has for it.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// On the claim that the scheduler makes for a pod's extended resources.
pub const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";
/// Pods that have the device must go.
pub const NO_EXECUTE: &str = "NoExecute";
/// Nobody gets the device.
pub const NO_SCHEDULE: &str = "NoSchedule";

const CREATED: Family = Family::new(
    "dynamic_resource_allocation_resourceclaim_creates_total",
    Kind::Counter,
    "[ALPHA] Number of ResourceClaims creation requests, categorized by creation status, admin access, and owning API group and kind (either Pod or scheduling.k8s.io/PodGroup)",
);

/// Claims that were made for pods, as all count them who make some.
#[derive(Debug)]
pub struct Created(Arc<Labelled<4, Counter>>);

impl Created {
    /// Told in this registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self(registry.counters(&CREATED, ["admin_access", "owner_api_group", "owner_api_kind", "status"]))
    }

    /// A claim was made for a pod, or could not be.
    pub fn count(&self, claim: &ResourceClaim, done: bool) {
        self.0.with([word(has_admin_access(claim)), "", "Pod", if done { "success" } else { "failure" }]).inc();
    }
}

/// Yes or no, as a label says it.
#[must_use]
pub fn word(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

/// Whether a claim asks for devices with an administrator's access.
#[must_use]
pub fn has_admin_access(claim: &ResourceClaim) -> bool {
    requests(claim).any(|request| request.exactly.as_ref().is_some_and(|exactly| exactly.admin_access == Some(true)))
}

/// A claim of a pod: its name, and whether it must have been made for the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodClaim<'p> {
    /// The name of the object.
    pub name: &'p str,
    /// Whether [`made_for`] must hold.
    pub own: bool,
}

/// The object behind a claim of a pod; none: it was found that there need be none.
///
/// # Errors
/// It is not made yet, or the pod says nothing that is known.
pub fn claim_of<'p>(pod: &'p Pod, claim: &'p PodResourceClaim) -> Result<Option<PodClaim<'p>>, String> {
    let (namespace, pod_name) = (pod.namespace(), pod.name());
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some(PodClaim { name, own: false }));
    }
    if claim.resource_claim_template_name.is_none() {
        return Err(format!("pod \"{namespace}/{pod_name}\", spec.resourceClaim {:?}: none of the supported fields are set", claim.name));
    }
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    match { statuses }.find(|status| status.name == claim.name) {
        Some(status) => Ok(status.resource_claim_name.as_deref().map(|name| PodClaim { name, own: true })),
        None => Err(format!("pod \"{namespace}/{pod_name}\": ResourceClaim not created yet")),
    }
}

/// The claims of a pod as it lists them.
pub fn pod_claims(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten())
}

/// The claims of a pod for which there are objects, that of its extended resources among them.
pub fn claims_there(pod: &Pod) -> impl Iterator<Item = PodClaim<'_>> {
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref()).map(|s| s.resource_claim_name.as_str());
    let extended = extended.filter(|name| !name.is_empty()).map(|name| PodClaim { name, own: true });
    pod_claims(pod).filter_map(|claim| claim_of(pod, claim).ok().flatten()).chain(extended)
}

/// Whether a claim was made for a pod.
///
/// # Errors
/// It was not: why, for users.
pub fn made_for(pod: &Pod, claim: &ResourceClaim) -> Result<(), String> {
    if claim.is_controlled_by(pod.uid()) {
        return Ok(());
    }
    let (namespace, name) = (pod.namespace(), pod.name());
    Err(format!("ResourceClaim {namespace}/{} was not created for Pod {namespace}/{name} (Pod is not owner)", claim.name()))
}

/// Whether a claim was made for a pod's extended resources.
#[must_use]
pub fn is_extended(pod: &Pod, claim: &ResourceClaim) -> bool {
    claim.annotation(EXTENDED) == Some("true") && claim.is_controlled_by(pod.uid())
}

/// What a claim asks for.
#[must_use]
pub fn asked(claim: &ResourceClaim) -> Option<&DeviceClaim> {
    claim.spec.as_ref()?.devices.as_ref()
}

/// The requests of a claim.
pub fn requests(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequest> {
    asked(claim).into_iter().flat_map(|asked| asked.requests.iter().flatten())
}

/// The allocation of a claim, if it is allocated.
#[must_use]
pub fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

/// The devices that are allocated to a claim.
pub fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    allocation(claim).into_iter().flat_map(results_of)
}

/// The devices of an allocation.
pub fn results_of(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    allocation.devices.iter().flat_map(|d| d.results.iter().flatten())
}

/// Whether a claim is reserved for who has this UID.
#[must_use]
pub fn is_reserved_for(claim: &ResourceClaim, uid: &str) -> bool {
    claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten()).any(|consumer| consumer.uid == uid)
}

/// Whether a toleration bears a taint.
#[must_use]
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    let about = (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
    about
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            "Exists" => true,
            _ => false,
        }
}

/// Whether a rule is about a device.
#[must_use]
pub fn selects(rule: &DeviceTaintRule, driver: &str, pool: &str, device: &str) -> bool {
    let Some(selector) = &rule.spec.device_selector else { return false };
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    is(&selector.driver, driver) && is(&selector.pool, pool) && is(&selector.device, device)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::typed;

    #[test]
    fn a_claim_for_extended_resources_says_so_and_is_its_pods() {
        let pod: Pod = typed(&json!({"metadata": {"namespace": "n", "name": "p", "uid": "P"}, "spec": {"containers": []}})).expect("a pod");
        let is = |value: &str, owner: &str| {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
            let metadata = json!({"namespace": "n", "name": "p-x", "annotations": {EXTENDED: value}, "ownerReferences": [owner]});
            is_extended(&pod, &typed(&json!({"metadata": metadata, "spec": {}})).expect("a claim"))
        };
        assert_eq!([is("true", "P"), is("false", "P"), is("", "P"), is("true", "Q")], [true, false, false, false], "a copy is its user's");
    }

    #[test]
    fn a_pods_claims_are_named_by_it_or_by_its_status() {
        let pod: Pod = typed(&json!({
            "metadata": {"namespace": "n", "name": "p", "uid": "P"},
            "spec": {"containers": [], "resourceClaims": [
                {"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"},
                {"name": "c", "resourceClaimTemplateName": "t"}, {"name": "d", "resourceClaimTemplateName": "t"}, {"name": "e"},
            ]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-1"}, {"name": "c"}],
                "extendedResourceClaimStatus": {"requestMappings": [], "resourceClaimName": "p-x"}},
        }))
        .expect("a pod");
        let told: Vec<_> = pod_claims(&pod).map(|claim| claim_of(&pod, claim)).collect();
        assert_eq!(told[0], Ok(Some(PodClaim { name: "shared", own: false })));
        assert_eq!(told[1], Ok(Some(PodClaim { name: "p-b-1", own: true })));
        assert_eq!(told[2], Ok(None), "it needs none");
        assert_eq!(told[3], Err("pod \"n/p\": ResourceClaim not created yet".to_owned()));
        assert_eq!(told[4], Err("pod \"n/p\", spec.resourceClaim \"e\": none of the supported fields are set".to_owned()));
        assert_eq!(claims_there(&pod).map(|claim| claim.name).collect::<Vec<_>>(), ["shared", "p-b-1", "p-x"]);
        let claim = |owner: &str| -> ResourceClaim {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
            typed(&json!({"metadata": {"namespace": "n", "name": "p-b-1", "ownerReferences": [owner]}, "spec": {}})).expect("a claim")
        };
        assert_eq!(made_for(&pod, &claim("P")), Ok(()));
        assert_eq!(made_for(&pod, &claim("Q")), Err("ResourceClaim n/p-b-1 was not created for Pod n/p (Pod is not owner)".to_owned()));
    }

    #[test]
    fn taints_are_borne_and_rules_select() {
        let taint: DeviceTaint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoExecute"})).expect("a taint");
        for (toleration, borne) in [
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w", "operator": "Equal"}), false),
            (json!({"key": "l", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Gt"}), false),
        ] {
            let toleration: DeviceToleration = serde_json::from_value(toleration).expect("a toleration");
            assert_eq!(tolerates(&toleration, &taint), borne, "{toleration:?}");
        }
        for (selector, selected) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"driver": "d"}), true),
            (json!({"driver": "d", "pool": "q"}), false),
            (json!({"device": "x"}), true),
        ] {
            let rule = json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": selector, "taint": {"key": "k", "effect": "None"}}});
            let rule: DeviceTaintRule = typed(&rule).expect("a rule");
            assert_eq!(selects(&rule, "d", "p", "x"), selected);
        }
    }
}
