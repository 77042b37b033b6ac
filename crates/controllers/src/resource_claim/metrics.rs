//! What is told of the claims that there are (upstream `resourceclaim/metrics`); those that were made are counted by
//! [`client::devices::Created`].

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Meta;
use client::devices::{EXTENDED, POD_CLAIM, allocation, has_admin_access, word};
use instruments::{Declared, Families, Family, Kind};
use k8s_openapi::api::resource::v1::ResourceClaim;

const CLAIMS: Family = Family::new(
    "dynamic_resource_allocation_resource_claims",
    Kind::Gauge,
    "[ALPHA] Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user).",
);

/// The family of those that there are.
pub(super) const TOLD: &[Declared] = &[(&CLAIMS, &["admin_access", "allocated", "source"])];

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
