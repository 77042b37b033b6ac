//! Which families of addresses a Service has: upstream's `initIPFamilyFields`.
//!
//! What the user says (`ipFamilyPolicy`, `ipFamilies`, `clusterIPs`) is completed by what the cluster is configured for, and refused
//! where it asks for more. A Service that only prefers two families is not changed because the cluster has become one of two: that takes
//! a change of policy, families or addresses by its user.

use super::fields;
use machinery::{
    Value,
    field::{self, Path},
};
use serde_json::json;
use std::net::IpAddr;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.text() == text)
    }

    /// As the API calls it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

fn policy(service: &Value) -> &str {
    service["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default()
}

fn texts<'s>(service: &'s Value, field: &str) -> Vec<&'s str> {
    service["spec"][field].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str).collect()
}

/// The families that a Service has.
pub(super) fn of(service: &Value) -> Vec<Family> {
    texts(service, "ipFamilies").into_iter().filter_map(Family::parse).collect()
}

fn set(service: &mut Value, families: &[Family]) {
    service["spec"]["ipFamilies"] = families.iter().map(|family| family.text()).collect::<Vec<_>>().into();
}

/// Whether what the user says can be worked with; validation tells of what cannot.
pub(super) fn are_sound(service: &Value) -> bool {
    let (families, ips) = (texts(service, "ipFamilies"), fields::cluster_ips(service));
    let known: Vec<Family> = families.iter().filter_map(|text| Family::parse(text)).collect();
    let distinct = |all: &[Family]| all.len() < 2 || all.len() == 2 && all[0] != all[1];
    let policy = matches!(policy(service), "" | "SingleStack" | "PreferDualStack" | "RequireDualStack");
    if !policy || known.len() != families.len() || !distinct(&known) {
        return false;
    }
    if ips.first().is_some_and(|ip| ip == "None") {
        return ips.len() == 1;
    }
    let of_ips: Vec<Option<Family>> = ips.iter().map(|ip| ip.parse().ok().map(Family::of)).collect();
    let Some(of_ips) = of_ips.into_iter().collect::<Option<Vec<Family>>>() else { return false };
    distinct(&of_ips) && of_ips.iter().zip(&known).all(|(ip, family)| ip == family)
}

/// Completes policy and families. `configured`: the families of the cluster, its own one first.
pub(super) fn settle(service: &mut Value, old: Option<&Value>, configured: &[Family]) -> Result<(), field::ErrorList> {
    if !fields::needs_cluster_ip(service) || old.is_some_and(|old| prefers_as_before(service, old)) {
        return Ok(());
    }
    let headless = fields::is_headless(service);
    let selects = service["spec"]["selector"].as_object().is_some_and(|s| !s.is_empty());
    if policy(service).is_empty() {
        let before = old.map(policy).filter(|before| !before.is_empty());
        let policy = before.unwrap_or(if headless && !selects { "RequireDualStack" } else { "SingleStack" }).to_owned();
        service["spec"]["ipFamilyPolicy"] = policy.into();
    }
    let mut errors = Vec::new();
    if let Some(old) = old {
        release(service, old, &mut errors);
    }
    contradictions(service, &mut errors);
    if !headless {
        infer(service, configured, &mut errors);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let (mut families, both) = (of(service), policy(service) != "SingleStack");
    // The endpoints are the user's own: any family may come, also one that the cluster is not configured for.
    let any = headless && !selects;
    if !any {
        errors = beyond(service, configured);
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    if families.is_empty() {
        families.extend(configured.first());
    }
    if let ([only], true) = (families.as_slice(), both && (any || configured.len() == 2)) {
        let other = only.other();
        families.push(other);
    }
    set(service, &families);
    Ok(())
}

/// Whether it preferred two families before, and does so with the same addresses.
fn prefers_as_before(service: &Value, old: &Value) -> bool {
    const PREFERS: &str = "PreferDualStack";
    let same = |field: &str| texts(service, field) == texts(old, field);
    policy(service) == PREFERS
        && matches!(policy(old), "" | PREFERS)
        && service["spec"]["type"] == old["spec"]["type"]
        && fields::cluster_ips(service) == fields::cluster_ips(old)
        && same("ipFamilies")
}

/// `SingleStack` alone says that the second address and family go; with another policy they may not be left out.
fn release(service: &mut Value, old: &Value, errors: &mut field::ErrorList) {
    let single = policy(service) == "SingleStack";
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (new, had) = (texts(service, field), texts(old, field));
        if single {
            if new.len() > 1 && new == had {
                let first = json!([new[0]]);
                service["spec"][field] = first;
            }
        } else if !new.is_empty() && new.len() < had.len() {
            errors.push(of_policy(service, &format!("must be 'SingleStack' to release the secondary {what}")));
        }
    }
}

fn of_policy(service: &Value, detail: &str) -> field::Error {
    field::Error::invalid(&Path::root("spec").child("ipFamilyPolicy"), service["spec"]["ipFamilyPolicy"].clone(), detail)
}

fn contradictions(service: &Value, errors: &mut field::ErrorList) {
    if policy(service) != "SingleStack" {
        return;
    }
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if texts(service, field).len() == 2 {
            errors.push(of_policy(service, &format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified")));
        }
    }
}

/// The families of addresses that were chosen.
fn infer(service: &mut Value, configured: &[Family], errors: &mut field::ErrorList) {
    let mut families = of(service);
    let ips = fields::cluster_ips(service);
    for (at, family) in ips.iter().enumerate().skip(families.len()).filter_map(|(at, ip)| Some((at, Family::of(ip.parse().ok()?)))).collect::<Vec<_>>() {
        if configured.contains(&family) {
            families.push(family);
        } else {
            let detail = format!("{} is not configured on this cluster", family.text());
            errors.push(field::Error::invalid(&Path::root("spec").child("clusterIPs").index(at), json!(ips), detail));
        }
    }
    if !families.is_empty() {
        set(service, &families);
    }
}

/// What the cluster is not configured for.
fn beyond(service: &Value, configured: &[Family]) -> field::ErrorList {
    let mut errors = Vec::new();
    if policy(service) == "RequireDualStack" && configured.len() < 2 {
        errors.push(of_policy(service, "this cluster is not configured for dual-stack services"));
    }
    for (at, family) in of(service).iter().enumerate().filter(|(_, family)| !configured.contains(family)) {
        let path = Path::root("spec").child("ipFamilies").index(at);
        errors.push(field::Error::invalid(&path, json!(family.text()), "not configured on this cluster"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn service(spec: Value) -> Value {
        json!({"spec": spec})
    }

    /// Policy and families, or what is refused.
    fn settled(spec: &Value, old: Option<Value>, configured: &[Family]) -> String {
        let mut one = service(spec.clone());
        match settle(&mut one, old.map(service).as_ref(), configured) {
            Ok(()) => format!("{} {}", policy(&one), texts(&one, "ipFamilies").join(",")),
            Err(errors) => errors.iter().map(|e| format!("{}: {}", e.path, e.detail)).collect::<Vec<_>>().join("; "),
        }
    }

    #[test]
    fn a_new_service_gets_what_it_asks_for_and_the_cluster_has() {
        let selector = json!({"a": "b"});
        for (spec, on_v4, on_both) in [
            (json!({}), "SingleStack IPv4", "SingleStack IPv4"),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4", "PreferDualStack IPv4,IPv6"),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: this cluster is not configured for dual-stack services",
                "RequireDualStack IPv4,IPv6",
            ),
            (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]: not configured on this cluster", "SingleStack IPv6"),
            (
                json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
                "spec.ipFamilies[0]: not configured on this cluster",
                "PreferDualStack IPv6,IPv4",
            ),
            (
                json!({"ipFamilies": ["IPv6", "IPv4"]}),
                "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
                "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ),
            (json!({"clusterIPs": ["fd00::9"]}), "spec.clusterIPs[0]: IPv6 is not configured on this cluster", "SingleStack IPv6"),
            (
                json!({"clusterIPs": ["fd00::9", "10.0.0.9"]}),
                "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified; spec.clusterIPs[0]: IPv6 is not configured on this cluster",
                "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
            ),
            (
                json!({"clusterIPs": ["fd00::9"], "ipFamilyPolicy": "PreferDualStack"}),
                "spec.clusterIPs[0]: IPv6 is not configured on this cluster",
                "PreferDualStack IPv6,IPv4",
            ),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), "RequireDualStack IPv4,IPv6", "RequireDualStack IPv4,IPv6"),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}),
                "SingleStack IPv6",
                "SingleStack IPv6",
            ),
            (json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector}), "SingleStack IPv4", "SingleStack IPv4"),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector, "ipFamilyPolicy": "PreferDualStack"}),
                "PreferDualStack IPv4",
                "PreferDualStack IPv4,IPv6",
            ),
        ] {
            assert_eq!(settled(&spec, None, &BOTH[..1]), on_v4, "{spec} on a cluster of IPv4");
            assert_eq!(settled(&spec, None, &BOTH), on_both, "{spec} on a cluster of both");
        }
        assert_eq!(settled(&json!({}), None, &[Family::V6, Family::V4]), "SingleStack IPv6");
        assert_eq!(settled(&json!({"ipFamilyPolicy": "PreferDualStack"}), None, &[Family::V6, Family::V4]), "PreferDualStack IPv6,IPv4");
    }

    #[test]
    fn a_service_changes_its_families_at_its_users_word_alone() {
        let one = json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
        let two = json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9", "fd00::9"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"});
        let with = |base: &Value, over: Value| {
            let mut spec = base.clone();
            machinery::patch::merge(&mut spec, &over);
            spec
        };
        let after = |new: Value, old: &Value| settled(&new, Some(old.clone()), &BOTH);
        assert_eq!(after(with(&one, json!({"ipFamilyPolicy": "PreferDualStack"})), &one), "PreferDualStack IPv4,IPv6", "an upgrade");
        assert_eq!(after(with(&two, json!({"ipFamilyPolicy": "SingleStack"})), &two), "SingleStack IPv4", "a downgrade");
        assert_eq!(after(with(&two, json!({"ipFamilyPolicy": null})), &two), "RequireDualStack IPv4,IPv6", "a policy that is left out stays");
        let preferred = with(&one, json!({"ipFamilyPolicy": "PreferDualStack"}));
        assert_eq!(after(preferred.clone(), &preferred), "PreferDualStack IPv4", "the cluster's change alone changes nothing");
        assert_eq!(after(with(&preferred, json!({"ipFamilies": ["IPv4", "IPv6"]})), &preferred), "PreferDualStack IPv4,IPv6");
        let told = "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary cluster IP; spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary IP family";
        assert_eq!(after(with(&two, json!({"clusterIPs": ["10.0.0.9"], "ipFamilies": ["IPv4"]})), &two), told);
    }

    #[test]
    fn what_validation_refuses_is_not_worked_with() {
        for spec in [
            json!({"ipFamilies": ["IPv5"]}),
            json!({"ipFamilies": ["IPv4", "IPv4"]}),
            json!({"ipFamilyPolicy": "Any"}),
            json!({"clusterIPs": ["x"]}),
            json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            json!({"clusterIPs": ["None", "10.0.0.2"]}),
            json!({"clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
        ] {
            assert!(!are_sound(&service(spec.clone())), "{spec}");
        }
        assert!(are_sound(&service(json!({"clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6"]}))));
    }
}
