//! What is deprecated or does not do what it seems to, though it is accepted (`pkg/api/pod/warnings.go`).

use super::{annotations, overlaps};
use crate::{addresses, amounts, claim, rules, tree};
use machinery::{Value, field::Path, names, quote::Quoted};
use std::collections::{HashMap, HashSet};

const HIDDEN_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const DEAD_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// What is said of a node's label that has a successor.
pub(crate) fn old_node_label(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
        "failure-domain.beta.kubernetes.io/zone" => "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
        "beta.kubernetes.io/instance-type" => "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => "deprecated since v1.22; use Taints and Tolerations instead",
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// The warnings of a pod's status.
pub(super) fn of_status(status: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for list in ["podIPs", "hostIPs"] {
        for (at, own) in tree::list(status, list).iter().enumerate() {
            addresses::of_ip(tree::text(own, "ip"), &Path::root("status").child(list).index(at).child("ip"), &mut out);
        }
    }
    out
}

/// The warnings of a pod or a template, at a path.
pub(super) fn of(owner: &Value, at: &Path) -> Vec<String> {
    let (spec, path) = (&owner["spec"], at.child("spec"));
    let mut out = Vec::new();
    placement(spec, &path, &mut out);
    for (key, message) in DEAD_ANNOTATIONS {
        if !owner["metadata"]["annotations"][key].is_null() {
            out.push(format!("{}: {message}", at.child("metadata").child("annotations").key(key)));
        }
    }
    for (at, volume) in tree::list(spec, "volumes").iter().enumerate() {
        let place = path.child("volumes").index(at);
        for (key, message) in HIDDEN_VOLUMES.iter().filter(|(key, _)| !volume[*key].is_null()) {
            out.push(format!("{}: {message}", place.child(if *key == "storageos" { "storageOS" } else { key })));
        }
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        if template.is_object() {
            claim::spec_warnings(&template["spec"], &place.child("ephemeral").child("volumeClaimTemplate").child("spec"), &mut out);
        }
    }
    overlaps::of(spec, &mut out);
    repeated(spec, &path, "hostAliases", "ip", &mut out);
    repeated(spec, &path, "imagePullSecrets", "name", &mut out);
    for (at, _) in tree::list(spec, "imagePullSecrets").iter().enumerate().filter(|(_, s)| tree::text(s, "name").is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", path.child("imagePullSecrets").index(at).child("name")));
    }
    fractions(&spec["overhead"], &path.child("overhead"), &mut out);
    annotations::warnings(owner, at, &mut out);
    containers(spec, &path, &mut out);
    ports(spec, &path, &mut out);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let place = path.child("terminationGracePeriodSeconds");
        out.push(format!("{place}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        affinity_terms(&spec["affinity"][kind], &path.child("affinity").child(kind), &mut out);
    }
    addresses::of_ips(&spec["dnsConfig"], "nameservers", &path.child("dnsConfig"), &mut out);
    for (at, alias) in tree::list(spec, "hostAliases").iter().enumerate() {
        addresses::of_ip(tree::text(alias, "ip"), &path.child("hostAliases").index(at).child("ip"), &mut out);
    }
    out
}

fn placement(spec: &Value, path: &Path, out: &mut Vec<String>) {
    for (key, _) in tree::entries(spec, "nodeSelector") {
        if let Some(message) = old_node_label(key) {
            out.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    let (node, place) = (&spec["affinity"]["nodeAffinity"], path.child("affinity").child("nodeAffinity"));
    let (required, preferred) = ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    for (at, own) in tree::list(&node[required], "nodeSelectorTerms").iter().enumerate() {
        node_term(own, &place.child(required).child("nodeSelectorTerms").index(at), false, out);
    }
    for (at, own) in tree::list(node, preferred).iter().enumerate() {
        node_term(&own["preference"], &place.child(preferred).index(at).child("preference"), true, out);
    }
    for (at, constraint) in tree::list(spec, "topologySpreadConstraints").iter().enumerate() {
        let (path, key) = (path.child("topologySpreadConstraints").index(at), tree::text(constraint, "topologyKey"));
        if let Some(message) = old_node_label(key) {
            out.push(format!("{}: {key} is {message}", path.child("topologyKey")));
        }
        if constraint["labelSelector"].is_null() {
            out.push(format!("{}: a null labelSelector results in matching no pod", path.child("labelSelector")));
        }
    }
}

/// What is said of a term that chooses nodes, one that is only preferred or not.
pub(crate) fn node_term(term: &Value, path: &Path, preferred: bool, out: &mut Vec<String>) {
    for (at, expression) in tree::list(term, "matchExpressions").iter().enumerate() {
        let key = tree::text(expression, "key");
        if let Some(message) = old_node_label(key) {
            out.push(format!("{}: {key} is {message}", path.child("matchExpressions").index(at).child("key")));
        }
        for (nth, value) in tree::list(expression, "values").iter().map(|v| v.as_str().unwrap_or_default()).enumerate().filter(|_| preferred) {
            if out.len() >= overlaps::TOLD_MAX {
                return;
            }
            let place = path.child("matchExpressions").index(at).child("values").index(nth);
            out.extend(names::label_value(value).into_iter().map(|why| format!("{place}: {value} is invalid, {why}")));
        }
    }
}

fn affinity_terms(affinity: &Value, path: &Path, out: &mut Vec<String>) {
    let (required, preferred) = ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    let mut check = |term: &Value, path: Path| {
        if term["labelSelector"].is_null() {
            out.push(format!("{}: a null labelSelector results in matching no pod", path.child("labelSelector")));
        }
    };
    for (at, term) in tree::list(affinity, required).iter().enumerate() {
        check(term, path.child(required).index(at));
    }
    for (at, term) in tree::list(affinity, preferred).iter().enumerate() {
        check(&term["podAffinityTerm"], path.child(preferred).index(at).child("podAffinityTerm"));
    }
}

fn repeated(spec: &Value, path: &Path, list: &str, key: &str, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (at, item) in tree::list(spec, list).iter().enumerate() {
        let text = tree::text(item, key);
        if !seen.insert(text) {
            out.push(format!("{}: duplicate {key} {}", path.child(list).index(at).child(key), Quoted(text)));
        }
    }
}

fn fractions(list: &Value, path: &Path, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        if let Some(quantity) = list.get(name).filter(|amount| amounts::is_fraction(amount)).and_then(rules::quantity) {
            out.push(format!("{}: fractional byte value \"{quantity}\" is invalid, must be an integer", path.key(name)));
        }
    }
}

/// The containers in the order in which upstream visits them.
fn each(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    let of = |list: &'static str| tree::list(spec, list).iter().enumerate().map(move |(at, c)| (list, at, c));
    of("initContainers").chain(of("containers")).chain(of("ephemeralContainers"))
}

fn containers(spec: &Value, path: &Path, out: &mut Vec<String>) {
    for (list, at, container) in each(spec) {
        let place = || path.child(list).index(at);
        for field in ["limits", "requests"] {
            let amounts = &container["resources"][field];
            if amounts.is_object() {
                fractions(amounts, &place().child("resources").child(field), out);
            }
        }
        let mut seen = HashSet::new();
        for (nth, env) in tree::list(container, "env").iter().enumerate() {
            let (name, value) = (tree::text(env, "name"), tree::text(env, "value"));
            if !seen.insert(name) {
                let reference = format!("$({name})");
                if !env["valueFrom"].is_null() || value == reference || !value.contains(&reference) {
                    let place = place().child("env").index(nth);
                    out.push(format!("{place}: hides previous definition of {name:?}, which may be dropped when using apply"));
                }
            }
        }
    }
}

fn ports(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let mut known: HashMap<(i64, &str), Vec<(Path, &Value)>> = HashMap::new();
    let mut named: HashMap<&str, Path> = HashMap::new();
    let mut by_name = Vec::new();
    for (list, at, container) in each(spec) {
        for (nth, port) in tree::list(container, "ports").iter().enumerate() {
            let place = path.child(list).index(at).child("ports").index(nth);
            let host = |p: &Value| (tree::text(p, "hostIP").to_owned(), p["hostPort"].as_i64().unwrap_or(0));
            let (own_ip, own_port) = host(port);
            if !own_ip.is_empty() && own_port == 0 {
                let (name, number, protocol) = (tree::text(port, "name"), port["containerPort"].as_i64().unwrap_or(0), tree::text(port, "protocol"));
                let shown = format!("{{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{own_ip}}}");
                out.push(format!("{place}: hostIP set without hostPort: {shown}"));
            }
            let others = known.entry((port["containerPort"].as_i64().unwrap_or(0), tree::text(port, "protocol"))).or_default();
            for (other_place, other) in others.iter().take(overlaps::TOLD_MAX.saturating_sub(out.len())) {
                let (ip, number) = host(other);
                let what = if ip == own_ip && number == own_port {
                    "duplicate"
                } else if number == 0 || own_port == 0 {
                    "overlapping"
                } else if number == own_port && ip.is_empty() != own_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{place}: {what} port definition with {other_place}"));
            }
            others.push((place.clone(), port));
            let name = tree::text(port, "name");
            if let Some(first) = named.get(name).filter(|_| !name.is_empty()) {
                by_name.push(format!("{place}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}"));
            } else {
                named.insert(name, place);
            }
        }
    }
    out.append(&mut by_name);
}
