//! RBAC and certificates.

use super::{Cells, condition, text};
use crate::{print, tree};
use machinery::Value;
use std::time::SystemTime;

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "RoleBinding" | "ClusterRoleBinding" => binding,
        "CertificateSigningRequest" => signing_request,
        "ClusterTrustBundle" => trust_bundle,
        "PodCertificateRequest" => pod_certificate,
        _ => return None,
    })
}

fn binding(obj: &Value, now: SystemTime) -> Vec<Value> {
    let role = &obj["roleRef"];
    let subjects = |kind: &str| -> Value {
        let of_kind = tree::list(obj, "subjects").iter().filter(|s| s["kind"] == kind);
        let names = of_kind.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", tree::text(s, "namespace"), tree::text(s, "name")),
            _ => tree::text(s, "name").to_owned(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![
        print::name(obj),
        format!("{}/{}", tree::text(role, "kind"), tree::text(role, "name")).into(),
        print::age(obj, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn signing_request(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&obj["spec"], &obj["status"]);
    let is = |kind: &str| condition(status, kind).is_some();
    let mut state = if is("Denied") {
        "Denied"
    } else if is("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if is("Failed") {
        state.push_str(",Failed");
    }
    if !tree::empty(&status["certificate"]) {
        state.push_str(",Issued");
    }
    vec![
        print::name(obj),
        print::age(obj, now),
        print::or(&spec["signerName"], print::NONE),
        text(spec, "username"),
        spec["expirationSeconds"].as_i64().map_or(print::NONE.to_owned(), print::human_duration).into(),
        state.into(),
    ]
}

fn trust_bundle(obj: &Value, _now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), print::or(&obj["spec"]["signerName"], print::NONE)]
}

fn pod_certificate(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    let last = tree::list(&obj["status"], "conditions").iter().map(|c| tree::text(c, "type")).rfind(|t| matches!(*t, "Issued" | "Denied" | "Failed"));
    vec![
        print::name(obj),
        text(spec, "podName"),
        text(spec, "serviceAccountName"),
        text(spec, "nodeName"),
        text(spec, "signerName"),
        last.unwrap_or("Pending").into(),
        print::label_set(&spec["unverifiedUserAnnotations"]).into(),
    ]
}
