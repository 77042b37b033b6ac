//! What extends and guards the API itself: admission, custom resource definitions, API services, flow control, migrations.

use super::{Cells, condition, count, holds, text};
use crate::{print, tree};
use machinery::Value;
use std::{fmt::Write as _, time::SystemTime};

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => webhooks,
        "ValidatingAdmissionPolicy" => validating_policy,
        "MutatingAdmissionPolicy" => mutating_policy,
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => policy_binding,
        "CustomResourceDefinition" => definition,
        "APIService" => api_service,
        "FlowSchema" => flow_schema,
        "PriorityLevelConfiguration" => priority_level,
        "StorageVersionMigration" => migration,
        _ => return None,
    })
}

fn webhooks(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), count(obj, "webhooks"), print::age(obj, now)]
}

fn validating_policy(obj: &Value, now: SystemTime) -> Vec<Value> {
    policy(obj, "validations", now)
}

fn mutating_policy(obj: &Value, now: SystemTime) -> Vec<Value> {
    policy(obj, "mutations", now)
}

fn policy(obj: &Value, what: &str, now: SystemTime) -> Vec<Value> {
    let kind = &obj["spec"]["paramKind"];
    let kind = match kind.is_object() {
        true => format!("{}/{}", tree::text(kind, "apiVersion"), tree::text(kind, "kind")),
        false => print::UNSET.to_owned(),
    };
    vec![print::name(obj), count(&obj["spec"], what), kind.into(), print::age(obj, now)]
}

fn policy_binding(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, parameter) = (&obj["spec"], &obj["spec"]["paramRef"]);
    let cell = match (tree::text(parameter, "namespace"), tree::text(parameter, "name")) {
        (_, "") if parameter["selector"].is_object() => go_selector(&parameter["selector"]),
        (_, "") => print::UNSET.to_owned(),
        // Whether the parameter lives in a namespace is not known here.
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![print::name(obj), text(spec, "policyName"), cell.into(), print::age(obj, now)]
}

/// A selector as Go prints the struct, which is what upstream shows here.
fn go_selector(selector: &Value) -> String {
    let mut out = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (key, value) in tree::entries(selector, "matchLabels") {
        let _ = write!(out, "{key}: {},", value.as_str().unwrap_or_default());
    }
    out.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for term in tree::list(selector, "matchExpressions") {
        let values: Vec<&str> = tree::list(term, "values").iter().filter_map(Value::as_str).collect();
        let (key, operator) = (tree::text(term, "key"), tree::text(term, "operator"));
        let _ = write!(out, "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "));
    }
    out.push_str("},}");
    out
}

fn definition(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let (spec, names) = (&obj["spec"], &obj["spec"]["names"]);
    let mut versions: Vec<String> = tree::list(spec, "versions")
        .iter()
        .filter(|v| v["served"] == true)
        .map(|v| format!("{}{}", tree::text(v, "name"), if v["storage"] == true { "(storage)" } else { "" }))
        .collect();
    versions.sort_unstable();
    let short: Vec<&str> = tree::list(names, "shortNames").iter().filter_map(Value::as_str).collect();
    vec![
        print::name(obj),
        text(spec, "scope"),
        versions.join(",").into(),
        print::created(obj),
        text(spec, "group"),
        text(names, "kind"),
        short.join(",").into(),
        holds(&obj["status"], "Established").into(),
    ]
}

fn api_service(obj: &Value, now: SystemTime) -> Vec<Value> {
    let service = &obj["spec"]["service"];
    let service = match service.is_object() {
        true => format!("{}/{}", tree::text(service, "namespace"), tree::text(service, "name")),
        false => "Local".to_owned(),
    };
    let available = match condition(&obj["status"], "Available") {
        None => "Unknown".to_owned(),
        Some(c) => match (tree::text(c, "status"), tree::text(c, "reason")) {
            ("True", _) => "True".to_owned(),
            (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    };
    vec![print::name(obj), service.into(), available.into(), print::age(obj, now)]
}

fn flow_schema(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    let dangling = condition(&obj["status"], "Dangling").map_or("?", |c| tree::text(c, "status"));
    vec![
        print::name(obj),
        text(&spec["priorityLevelConfiguration"], "name"),
        print::number(&spec["matchingPrecedence"]),
        spec["distinguisherMethod"]["type"].as_str().unwrap_or(print::NONE).into(),
        print::age(obj, now),
        dangling.into(),
    ]
}

fn priority_level(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, limited) = (&obj["spec"], &obj["spec"]["limited"]);
    let queuing = &limited["limitResponse"]["queuing"];
    let of = |owner: &Value, key: &str| if owner.is_object() { print::number(&owner[key]) } else { print::NONE.into() };
    vec![
        print::name(obj),
        text(spec, "type"),
        of(limited, "nominalConcurrencyShares"),
        of(queuing, "queues"),
        of(queuing, "handSize"),
        of(queuing, "queueLengthLimit"),
        print::age(obj, now),
    ]
}

fn migration(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let (resource, group) = (tree::text(&obj["spec"]["resource"], "resource"), tree::text(&obj["spec"]["resource"], "group"));
    let states = tree::list(&obj["status"], "conditions").iter().filter(|c| c["status"] == "True").map(|c| tree::text(c, "type"));
    let state = states.rev().find(|kind| matches!(*kind, "Running" | "Failed" | "Succeeded")).unwrap_or("Unknown");
    let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    vec![print::name(obj), resource.into(), state.into()]
}
