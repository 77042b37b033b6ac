//! Services and the small kinds of the core group, and events in both of their shapes.

use super::{Cells, condition, load_balancer, text};
use crate::{print, rules, tree};
use machinery::Value;
use std::{fmt::Write as _, time::SystemTime};

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "Service" => service,
        "Endpoints" => endpoints,
        "Event" => event,
        "Namespace" => namespace,
        "ConfigMap" => config_map,
        "Secret" => secret,
        "ServiceAccount" => service_account,
        "ResourceQuota" => resource_quota,
        "ComponentStatus" => component_status,
        _ => return None,
    })
}

fn entries(owner: &Value, key: &str) -> usize {
    owner[key].as_object().map_or(0, machinery::Map::len)
}

fn service(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    let internal = tree::list(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or(print::NONE);
    let ports = tree::list(spec, "ports").iter().map(|port| {
        let (number, protocol) = (port["port"].as_i64().unwrap_or(0), tree::text(port, "protocol"));
        match port["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    vec![
        print::name(obj),
        text(spec, "type"),
        internal.into(),
        external_ip(obj).into(),
        print::joined(ports).into(),
        print::age(obj, now),
        print::label_set(&spec["selector"]).into(),
    ]
}

fn external_ip(obj: &Value) -> String {
    let (spec, own) = (&obj["spec"], tree::list(&obj["spec"], "externalIPs").iter().filter_map(Value::as_str));
    match tree::text(spec, "type") {
        "ClusterIP" | "NodePort" => print::joined(own.map(str::to_owned)),
        "LoadBalancer" => {
            let all: Vec<&str> = load_balancer(&obj["status"]).into_iter().chain(own).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => tree::text(spec, "externalName").to_owned(),
        _ => print::UNKNOWN.to_owned(),
    }
}

fn endpoints(obj: &Value, now: SystemTime) -> Vec<Value> {
    const SHOWN_MAX: usize = 3;
    let (mut shown, mut total) = (Vec::new(), 0);
    for subset in tree::list(obj, "subsets") {
        let (addresses, ports) = (tree::list(subset, "addresses"), tree::list(subset, "ports"));
        let ports: Vec<Option<i64>> = if ports.is_empty() { vec![None] } else { ports.iter().map(|p| Some(p["port"].as_i64().unwrap_or(0))).collect() };
        total += addresses.len() * ports.len();
        for port in ports {
            for address in addresses.iter().take(SHOWN_MAX.saturating_sub(shown.len())) {
                let ip = tree::text(address, "ip");
                shown.push(match port {
                    None => ip.to_owned(),
                    Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
                    Some(port) => format!("{ip}:{port}"),
                });
            }
        }
    }
    let mut cell = shown.join(",");
    if total > SHOWN_MAX {
        let _ = write!(cell, " + {} more...", total - SHOWN_MAX);
    }
    if tree::list(obj, "subsets").is_empty() {
        print::NONE.clone_into(&mut cell);
    }
    vec![print::name(obj), cell.into(), print::age(obj, now)]
}

/// The field of an event under its name in the core group, or else in `events.k8s.io`.
fn either<'v>(obj: &'v Value, core: &str, new: &str) -> &'v Value {
    if obj[core].is_null() { &obj[new] } else { &obj[core] }
}

fn event(obj: &Value, now: SystemTime) -> Vec<Value> {
    let set = |v: &'_ Value| v.is_string();
    let first = either(obj, "firstTimestamp", "deprecatedFirstTimestamp");
    let first = print::since(if set(first) { first } else { &obj["eventTime"] }, now);
    let last = either(obj, "lastTimestamp", "deprecatedLastTimestamp");
    let mut last_seen = if set(last) { print::since(last, now) } else { first.clone() };
    let mut count = either(obj, "count", "deprecatedCount").as_i64().unwrap_or(0);
    let series = &obj["series"];
    if series.is_object() {
        last_seen = print::since(&series["lastObservedTime"], now);
        count = series["count"].as_i64().unwrap_or(0);
    } else if count == 0 {
        // A single event of the newer interface has no count.
        count = 1;
    }
    let about = either(obj, "involvedObject", "regarding");
    let (kind, name) = (tree::text(about, "kind").to_lowercase(), tree::text(about, "name"));
    let source = either(obj, "source", "deprecatedSource");
    let first_of = |a: &'_ str, b: &'_ str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
    let reporter = either(obj, "reportingComponent", "reportingController").as_str().unwrap_or_default();
    let component = first_of(tree::text(source, "component"), reporter);
    let instance = first_of(tree::text(source, "host"), tree::text(obj, "reportingInstance"));
    vec![
        last_seen.into(),
        text(obj, "type"),
        text(obj, "reason"),
        if name.is_empty() { kind } else { format!("{kind}/{name}") }.into(),
        text(about, "fieldPath"),
        if instance.is_empty() { component } else { format!("{component}, {instance}") }.into(),
        either(obj, "message", "note").as_str().unwrap_or_default().trim().into(),
        first.into(),
        count.into(),
        print::name(obj),
    ]
}

fn namespace(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), text(&obj["status"], "phase"), print::age(obj, now)]
}

fn config_map(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), (entries(obj, "data") + entries(obj, "binaryData")).into(), print::age(obj, now)]
}

fn secret(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), text(obj, "type"), entries(obj, "data").into(), print::age(obj, now)]
}

fn service_account(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), print::age(obj, now)]
}

fn resource_quota(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let used = &obj["status"]["used"];
    for (name, hard) in tree::entries(&obj["status"], "hard") {
        let used = rules::quantity(&used[name]).map_or_else(|| "0".to_owned(), |q| q.to_string());
        let line = format!("{name}: {used}/{}", print::int_or_string(hard));
        if name.starts_with("limits.") { limits.push(line) } else { requests.push(line) }
    }
    vec![print::name(obj), requests.join(", ").into(), limits.join(", ").into(), print::age(obj, now)]
}

fn component_status(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let (health, message, error) = match condition(obj, "Healthy") {
        None => ("Unknown", "", ""),
        Some(c) => (if c["status"] == "True" { "Healthy" } else { "Unhealthy" }, tree::text(c, "message"), tree::text(c, "error")),
    };
    vec![print::name(obj), health.into(), message.into(), error.into()]
}
