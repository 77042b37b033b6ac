//! What is counted of claims (upstream `resourceclaim/metrics`): those that there are, and those that were made.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Meta;
use client::devices::{EXTENDED, POD_CLAIM, allocation};
use instruments::{Counter, Declared, Families, Family, Kind, Labelled, Registry};
use k8s_openapi::api::resource::v1::ResourceClaim;

const CLAIMS: Family = Family::new(
    "dynamic_resource_allocation_resource_claims",
    Kind::Gauge,
    "[ALPHA] Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user).",
);
const CREATED: Family = Family::new(
    "dynamic_resource_allocation_resourceclaim_creates_total",
    Kind::Counter,
    "[ALPHA] Number of ResourceClaims creation requests, categorized by creation status, admin access, and owning API group and kind (either Pod or scheduling.k8s.io/PodGroup)",
);

/// The family of those that there are.
pub(super) const TOLD: &[Declared] = &[(&CLAIMS, &["admin_access", "allocated", "source"])];

fn word(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

fn has_admin_access(claim: &ResourceClaim) -> bool {
    let requests = claim.spec.iter().flat_map(|spec| spec.devices.iter()).flat_map(|devices| devices.requests.iter().flatten());
    { requests }.any(|request| request.exactly.as_ref().is_some_and(|exactly| exactly.admin_access == Some(true)))
}

/// Tells how many of these claims there are of which kind.
pub(super) fn tell(claims: &[Arc<ResourceClaim>], out: &mut Families) {
    let mut counts: BTreeMap<[&str; 3], usize> = BTreeMap::new();
    for claim in claims {
        let source = match (claim.annotation(EXTENDED), claim.annotation(POD_CLAIM).unwrap_or_default()) {
            (Some("true"), _) => "extended_resource",
            (_, "") => "",
            _ => "resource_claim_template",
        };
        *counts.entry([word(has_admin_access(claim)), word(allocation(claim).is_some()), source]).or_default() += 1;
    }
    for ([admin, allocated, source], count) in counts {
        out.add(&CLAIMS, &[("admin_access", admin), ("allocated", allocated), ("source", source)], count as f64, None);
    }
}

/// Claims that were made of templates.
pub(super) struct Created(Arc<Labelled<4, Counter>>);

impl Created {
    pub(super) fn new(registry: &Registry) -> Self {
        Self(registry.counters(&CREATED, ["admin_access", "owner_api_group", "owner_api_kind", "status"]))
    }

    /// A claim was made for a pod, or could not be.
    pub(super) fn count(&self, claim: &ResourceClaim, done: bool) {
        self.0.with([word(has_admin_access(claim)), "", "Pod", if done { "success" } else { "failure" }]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn claims_are_told_by_whether_they_have_devices_and_whence_they_come() {
        let claim = |annotations: Value, admin: bool, allocation: Value| -> Arc<ResourceClaim> {
            let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": admin}});
            let spec = json!({"devices": {"requests": [request]}});
            Arc::new(client::typed(&json!({"metadata": {"annotations": annotations}, "spec": spec, "status": {"allocation": allocation}})).unwrap())
        };
        let claims = [claim(json!({POD_CLAIM: "x"}), false, json!({})), claim(json!({POD_CLAIM: "y"}), false, json!({})), claim(json!({}), true, Value::Null)];
        let mut out = Families::default();
        tell(&claims, &mut out);
        let text = out.finish();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                r#"dynamic_resource_allocation_resource_claims{admin_access="false",allocated="true",source="resource_claim_template"} 2"#,
                r#"dynamic_resource_allocation_resource_claims{admin_access="true",allocated="false",source=""} 1"#,
            ]
        );
    }
}
