//! `networking.k8s.io` and `discovery.k8s.io`.

use super::{Cells, few, load_balancer, text};
use crate::{print, tree};
use machinery::Value;
use std::time::SystemTime;

/// How many hosts, ports and addresses are shown.
const SHOWN_MAX: usize = 3;

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "Ingress" => ingress,
        "IngressClass" => ingress_class,
        "NetworkPolicy" => network_policy,
        "IPAddress" => ip_address,
        "ServiceCIDR" => service_cidr,
        "EndpointSlice" => endpoint_slice,
        _ => return None,
    })
}

fn ingress(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    let ports = if tree::list(spec, "tls").is_empty() { "80" } else { "80, 443" };
    vec![
        print::name(obj),
        spec["ingressClassName"].as_str().unwrap_or(print::NONE).into(),
        hosts(tree::list(spec, "rules")).into(),
        load_balancer(&obj["status"]).join(",").into(),
        ports.into(),
        print::age(obj, now),
    ]
}

/// The hosts of the rules; how many more there are counts rules, not hosts, as upstream does.
fn hosts(rules: &[Value]) -> String {
    let (mut shown, mut more) = (Vec::new(), false);
    for rule in rules {
        more = more || shown.len() == SHOWN_MAX;
        let host = tree::text(rule, "host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, false) => shown.join(","),
        (false, true) => format!("{} + {} more...", shown.join(","), rules.len().saturating_sub(SHOWN_MAX)),
    }
}

fn ingress_class(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, parameters) = (&obj["spec"], &obj["spec"]["parameters"]);
    let group = parameters["apiGroup"].as_str().map(|g| format!(".{g}")).unwrap_or_default();
    let parameters = match parameters.is_object() {
        true => format!("{}{group}/{}", tree::text(parameters, "kind"), tree::text(parameters, "name")),
        false => print::NONE.to_owned(),
    };
    vec![print::name(obj), text(spec, "controller"), parameters.into(), print::age(obj, now)]
}

fn network_policy(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), print::selector(&obj["spec"]["podSelector"]).into(), print::age(obj, now)]
}

/// One cell more than there are columns, as upstream's.
fn ip_address(obj: &Value, now: SystemTime) -> Vec<Value> {
    let parent = &obj["spec"]["parentRef"];
    let cell = if parent.is_object() {
        let (group, resource) = (tree::text(parent, "group"), tree::text(parent, "resource"));
        let mut cell = if group.is_empty() { resource.to_lowercase() } else { format!("{resource}.{group}").to_lowercase() };
        for part in ["namespace", "name"].map(|key| tree::text(parent, key)).iter().filter(|p| !p.is_empty()) {
            cell.push('/');
            cell.push_str(part);
        }
        cell
    } else {
        print::NONE.to_owned()
    };
    vec![print::name(obj), cell.into(), print::age(obj, now)]
}

fn service_cidr(obj: &Value, now: SystemTime) -> Vec<Value> {
    let ranges: Vec<&str> = tree::list(&obj["spec"], "cidrs").iter().filter_map(Value::as_str).collect();
    vec![print::name(obj), ranges.join(",").into(), print::age(obj, now)]
}

fn endpoint_slice(obj: &Value, now: SystemTime) -> Vec<Value> {
    let ports: Vec<String> = tree::list(obj, "ports")
        .iter()
        .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        tree::list(obj, "endpoints").iter().flat_map(|e| tree::list(e, "addresses")).filter_map(Value::as_str).map(str::to_owned).collect();
    vec![print::name(obj), text(obj, "addressType"), few(&ports, SHOWN_MAX).into(), few(&addresses, SHOWN_MAX).into(), print::age(obj, now)]
}
