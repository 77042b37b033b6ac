//! What a pod's status may say (`ValidatePodStatusUpdate`).

use super::observed;
use crate::{
    internal, rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// The conditions that Kubernetes itself sets.
const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];

/// The single address and the list of addresses say the same.
pub(super) fn default(status: &mut Fields) {
    // Host addresses are left as they are written.
    let single = status.get("podIP").and_then(Value::as_str).filter(|ip| !ip.is_empty()).map(str::to_owned);
    let first = status.get("podIPs").and_then(|l| l[0]["ip"].as_str()).map(str::to_owned);
    match (single, first) {
        (Some(ip), first) if first.as_deref() != Some(ip.as_str()) => {
            status.insert("podIPs".into(), json!([{ "ip": ip }]));
        }
        (None, Some(ip)) => {
            status.insert("podIP".into(), ip.into());
        }
        _ => {}
    }
}

/// What a writer leaves out of a status and may not clear by that.
pub(super) fn preserve(status: &mut Fields, old: &Value) {
    for key in ["qosClass", "resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses"] {
        if status.get(key).is_none_or(tree::empty) && !tree::empty(&old[key]) {
            status.insert(key.into(), old[key].clone());
        }
    }
    let unset = |v: Option<&Value>| v.and_then(Value::as_i64).unwrap_or(0) == 0;
    if unset(status.get("observedGeneration")) && !unset(old.get("observedGeneration")) {
        status.insert("observedGeneration".into(), old["observedGeneration"].clone());
    }
    let had = tree::by_text(tree::list(old, "conditions"), "type");
    for condition in tree::each(status, "conditions").filter(|c| unset(c.get("observedGeneration"))) {
        let before = condition.get("type").and_then(Value::as_str).and_then(|kind| had.get(kind));
        if let Some(generation) = before.map(|b| &b["observedGeneration"]).filter(|g| !unset(Some(g))) {
            condition.insert("observedGeneration".into(), generation.clone());
        }
    }
}

/// Checks an update of the status.
pub(super) fn check(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::root("status");
    let (new, had, spec) = (&obj["status"], &old["status"], &old["spec"]);
    conditions(new, &path.child("conditions"), errors);
    let nominated = tree::text(new, "nominatedNodeName");
    if !nominated.is_empty() && nominated != tree::text(had, "nominatedNodeName") {
        let path = path.child("nominatedNodeName");
        rules::name(nominated, &path, names::dns1123_subdomain(nominated), errors);
        if !tree::empty(&spec["nodeName"]) {
            errors.push(Error::forbidden(&path, "may not be set on pods that are already bound to a node"));
        }
    }
    if let Some(generation) = new["observedGeneration"].as_i64().filter(|g| *g < 0) {
        errors.push(Error::invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer"));
    }
    if tree::text(new, "qosClass") != tree::text(had, "qosClass") {
        errors.push(Error::invalid(&path.child("qosClass"), new["qosClass"].clone(), rules::IMMUTABLE));
    }
    states(new, had, spec, &path, errors);
    claims(new, spec, &path, errors);
    addresses(new, had, "podIP", "podIPs", &path, errors);
    addresses(new, had, "hostIP", "hostIPs", &path, errors);
    observed::check(new, &obj["spec"], &path, errors);
}

fn conditions(status: &Value, list: &Path, errors: &mut ErrorList) {
    for (at, condition) in tree::list(status, "conditions").iter().enumerate() {
        let path = list.index(at);
        if let Some(generation) = condition["observedGeneration"].as_i64().filter(|g| *g < 0) {
            errors.push(Error::invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer"));
        }
        let kind = tree::text(condition, "type");
        if !SYSTEM_CONDITIONS.contains(&kind) {
            rules::name(kind, &path.child("Type"), names::qualified_name(kind), errors);
        }
    }
}

/// What a pod's claims are called, and which claim stands for its extended resources.
fn claims(status: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (list, known) = (path.child("resourceClaimStatuses"), tree::by_text(tree::list(spec, "resourceClaims"), "name"));
    let mut seen = HashSet::new();
    for (at, claim) in tree::list(status, "resourceClaimStatuses").iter().enumerate() {
        let (place, name) = (list.index(at).child("name"), tree::text(claim, "name"));
        if !known.contains_key(name) {
            errors.push(Error::invalid(&place, name, "must match the name of an entry in `spec.resourceClaims`"));
        }
        if !seen.insert(name) {
            errors.push(Error::duplicate(&place, name));
        }
        if let Some(made) = claim["resourceClaimName"].as_str() {
            rules::name(made, &list.index(at).child("resourceClaimName"), names::dns1123_subdomain(made), errors);
        }
    }
    let (extended, place) = (&status["extendedResourceClaimStatus"], path.child("extendedResourceClaimStatus"));
    if !extended.is_object() {
        return;
    }
    let (mappings, list) = (tree::list(extended, "requestMappings"), place.child("requestMappings"));
    if mappings.is_empty() {
        errors.push(Error::required(&list, "at least one request mapping is required"));
    }
    let named = ["initContainers", "containers"].into_iter().flat_map(|list| tree::list(spec, list));
    let containers: HashMap<&str, &Value> = named.map(|container| (tree::text(container, "name"), container)).collect();
    let mut seen = HashSet::new();
    for (at, mapping) in mappings.iter().enumerate() {
        let item = list.index(at);
        let (container, resource) = (tree::text(mapping, "containerName"), tree::text(mapping, "resourceName"));
        let request = tree::text(mapping, "requestName");
        match containers.get(container) {
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.push(Error::invalid(&item.child("containerName"), container, detail));
            }
            Some(known) if known["resources"]["requests"][resource].is_null() => {
                let detail =
                    "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.push(Error::invalid(&item.child("resourceName"), resource, detail));
            }
            Some(_) => {}
        }
        rules::name(request, &place.child("requestName"), names::dns1123_label(request), errors);
        if !seen.insert((container, resource, request)) {
            for (field, value) in [("containerName", container), ("resourceName", resource), ("requestName", request)] {
                errors.push(Error::duplicate(&item.child(field), value));
            }
        }
    }
    if rules::required(extended, &place, "resourceClaimName", errors) {
        let claim = tree::text(extended, "resourceClaimName");
        rules::name(claim, &place.child("resourceClaimName"), names::dns1123_subdomain(claim), errors);
    }
}

/// A container that has ended for good does not run again.
fn states(new: &Value, old: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let restarts_all = ["initContainers", "containers"].iter().any(|list| {
        let rules = |c: &Value| tree::list(c, "restartPolicyRules").iter().any(|r| r["action"] == "RestartAllContainers");
        tree::list(spec, list).iter().any(rules)
    });
    for (list, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers"), ("ephemeralContainerStatuses", "")] {
        if restarts_all && !containers.is_empty() {
            continue;
        }
        let (statuses, specs) = (tree::by_text(tree::list(new, list), "name"), tree::by_text(tree::list(spec, containers), "name"));
        for (at, before) in tree::list(old, list).iter().enumerate().filter(|(_, b)| b["state"]["terminated"].is_object()) {
            let name = tree::text(before, "name");
            if statuses.get(name).is_none_or(|c| c["state"]["terminated"].is_object()) {
                continue;
            }
            let exit_code = before["state"]["terminated"]["exitCode"].as_i64().unwrap_or(0);
            if !specs.get(name).is_some_and(|c| restarts(c, spec, exit_code)) {
                errors.push(Error::forbidden(&path.child(list).index(at).child("state"), "may not be transitioned to non-terminated state"));
            }
        }
    }
}

/// Whether a container runs again after this exit code: its own rules, its own policy, its pod's policy.
fn restarts(container: &Value, spec: &Value, exit_code: i64) -> bool {
    let by = |policy: &str| match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    };
    let Some(own) = container["restartPolicy"].as_str() else { return by(tree::text(spec, "restartPolicy")) };
    let matches = |rule: &&Value| {
        let has = tree::list(&rule["exitCodes"], "values").iter().any(|v| v.as_i64() == Some(exit_code));
        match tree::text(&rule["exitCodes"], "operator") {
            "In" => has,
            "NotIn" => !has,
            _ => false,
        }
    };
    tree::list(container, "restartPolicyRules").iter().any(|r| matches(&r)) || by(own)
}

fn addresses(new: &Value, old: &Value, one: &str, many: &str, path: &Path, errors: &mut ErrorList) {
    let (list, single, path) = (tree::list(new, many), tree::text(new, one), path.child(many));
    let form = if one == "podIP" { "[]core.PodIP" } else { "[]core.HostIP" };
    let bad = |detail: &str| Error::invalid(&path, new[many].clone(), detail).shown_as(internal::text(form, &new[many]));
    let first = list.first().map(|i| tree::text(i, "ip"));
    let differs = first.filter(|first| *first != single && (one == "hostIP" || !single.is_empty()));
    let told = |first: &str| Error::invalid(&path.index(0).child("ip"), first, format!("must be equal to `{one}`"));
    if one == "hostIP" {
        errors.extend(differs.map(told));
    }
    let known = tree::by_text(tree::list(old, many), "ip");
    for (at, ip) in list.iter().map(|i| tree::text(i, "ip")).enumerate().filter(|(_, ip)| !known.contains_key(ip)) {
        rules::ip(ip, &path.index(at), errors);
    }
    let sixes = list.iter().filter(|i| tree::text(i, "ip").contains(':')).count();
    let unread = list.iter().position(|i| rules::lenient_ip(tree::text(i, "ip")).is_none()).filter(|_| list.len() > 1);
    if let Some(at) = unread {
        let why = format!("failed to check for dual stack with error:invalid IP[{at}]: {}", tree::text(&list[at], "ip"));
        errors.push(Error::internal(&path, why));
    }
    if unread.is_some() || list.len() > 2 || (list.len() == 2 && sixes != 1) {
        errors.push(bad("may specify no more than one IP for each IP family"));
    }
    if one == "hostIP" {
        return;
    }
    if differs.is_some() {
        errors.extend(differs.map(told));
    } else if first.is_some() == single.is_empty() {
        errors.push(bad("podIP and podIPs must either both be set or both be unset"));
    }
}
