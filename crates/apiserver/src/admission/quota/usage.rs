//! What an object counts for, and which quotas count it (upstream's `pkg/quota/v1/evaluator/core`).

use super::{
    super::{
        amounts::{self, Amounts},
        is, items, text,
    },
    Write,
};
use machinery::{Value, quantity::Quantity};
use std::collections::{BTreeMap, BTreeSet};

/// Resources that every container must name once a quota bounds them.
const SAID: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
/// Resources whose requests and limits are both counted.
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn one() -> Quantity {
    Quantity::from_value(1, machinery::quantity::Format::Decimal)
}

fn count(number: usize) -> Quantity {
    Quantity::from_value(i64::try_from(number).unwrap_or(i64::MAX), machinery::quantity::Format::Decimal)
}

/// What an object uses.
pub(super) fn of(group: &str, resource: &str, object: &Value) -> Amounts {
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let mut out = Amounts::from([(format!("count/{qualified}"), one())]);
    match (group, resource) {
        ("", "pods") => pod(object, &mut out),
        ("", "services") => service(object, &mut out),
        ("", "persistentvolumeclaims") => claim(object, &mut out),
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            out.insert(resource.to_owned(), one());
        }
        _ => {}
    }
    out
}

fn pod(pod: &Value, out: &mut Amounts) {
    // What is over uses nothing any more but its place among the objects.
    if matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded") {
        return;
    }
    out.insert("pods".into(), one());
    compute(&amounts::of_pod(pod, "requests"), &amounts::of_pod(pod, "limits"), out);
}

/// The names under which requests and limits are counted.
fn compute(requests: &Amounts, limits: &Amounts, out: &mut Amounts) {
    for (name, amount) in requests {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            out.insert(name.clone(), *amount);
        }
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") || is_extended(name) {
            out.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(n, _)| COMPUTE.contains(&n.as_str())) {
        out.insert(format!("limits.{name}"), *amount);
    }
}

fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn service(service: &Value, out: &mut Amounts) {
    let spec = &service["spec"];
    out.insert("services".into(), one());
    let ports = items(&spec["ports"]).len();
    match text(spec, "type") {
        "NodePort" => {
            out.insert("services.nodeports".into(), count(ports));
        }
        "LoadBalancer" => {
            let used = if spec["allocateLoadBalancerNodePorts"] == false {
                items(&spec["ports"]).iter().filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0).count()
            } else {
                ports
            };
            out.insert("services.nodeports".into(), count(used));
            out.insert("services.loadbalancers".into(), one());
        }
        _ => {}
    }
}

fn claim(claim: &Value, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".into(), one());
    let asked = amounts::parse(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default();
    let class = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = class.unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    out.insert("requests.storage".into(), asked);
    if !class.is_empty() {
        out.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
        out.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), asked);
    }
}

/// Whether every container names what a quota bounds; what is missing otherwise.
pub(super) fn said(pod: &Value, hard: &Amounts) -> Result<(), String> {
    let required: Vec<&str> = SAID.into_iter().filter(|name| hard.contains_key(*name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| items(&pod["spec"][*list])) {
        let resources = &container["resources"];
        let mut named = Amounts::new();
        compute(&amounts::of(&resources["requests"]), &amounts::of(&resources["limits"]), &mut named);
        // What is limited is requested as much, by defaulting.
        for name in required.iter().filter(|name| !named.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
    let texts: Vec<String> = missing.into_iter().map(|(resource, containers)| format!("{resource} for: {}", list(containers))).collect();
    Err(format!("must specify {}", texts.join("; ")))
}

/// Whether a quota's scopes select an object.
pub(super) fn selects(quota: &Value, write: &Write<'_>, object: &Value) -> bool {
    let spec = &quota["spec"];
    let scopes = items(&spec["scopes"]).iter().filter_map(Value::as_str);
    let plain = scopes.map(|scope| (scope, "Exists", &Value::Null));
    let chosen = items(&spec["scopeSelector"]["matchExpressions"]).iter().map(|e| (text(e, "scopeName"), text(e, "operator"), &e["values"]));
    plain.chain(chosen).all(|(scope, operator, values)| in_scope(scope, operator, items(values), write, object))
}

fn in_scope(scope: &str, operator: &str, values: &[Value], write: &Write<'_>, object: &Value) -> bool {
    let spec = &object["spec"];
    let listed = |text: &str| values.iter().any(|v| v == text);
    if is(write, "", "persistentvolumeclaims") {
        let class = text(spec, "volumeAttributesClassName");
        return scope == "VolumeAttributesClass" && matches(operator, !class.is_empty(), listed(class));
    }
    if !is(write, "", "pods") {
        return false;
    }
    match scope {
        "Terminating" => spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0),
        "NotTerminating" => spec["activeDeadlineSeconds"].as_i64().is_none_or(|s| s < 0),
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        "PriorityClass" => {
            let class = text(spec, "priorityClassName");
            matches(operator, !class.is_empty(), listed(class))
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn matches(operator: &str, there: bool, listed: bool) -> bool {
    match operator {
        "Exists" => there,
        "DoesNotExist" => !there,
        "In" => there && listed,
        "NotIn" => !listed,
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    ["requests", "limits"].iter().all(|which| amounts::of_pod(pod, which).iter().all(|(n, a)| !matches!(n.as_str(), "cpu" | "memory") || a.is_zero()))
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| !items(&term["namespaces"]).is_empty() || term["namespaceSelector"].is_object();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]).iter().any(|t| crosses(&t["podAffinityTerm"]))
    })
}
