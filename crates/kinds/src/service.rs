//! Services and the Endpoints of old (`pkg/registry/core/service`, `pkg/apis/core/validation`).
//!
//! Addresses and ports are given by the API server before it judges the service; whoever gives them looks at those that are asked for
//! first ([`Strategy::stops`]).

use crate::{
    Context, NameRule, Selectable, Strategy, addresses,
    groups::checks,
    pod, rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::HashSet;

/// How long a client stays with an endpoint by default, and at most; in seconds.
const AFFINITY_DEFAULT_S: i64 = 10800;
const AFFINITY_MAX_S: i64 = 86400;
const NONE: &str = "None";
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The strategy of services.
#[derive(Debug, Clone, Copy)]
pub struct Services;

impl Strategy for Services {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn takes_addresses(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            default_spec(spec);
        }
        if obj["spec"]["type"] == "LoadBalancer"
            && let Some(balancer) = tree::at(obj, &["status", "loadBalancer"])
        {
            for ingress in tree::each(balancer, "ingress").filter(|i| i.get("ip").is_some_and(|ip| !tree::empty(ip))) {
                tree::fill(ingress, "ipMode", "VIP");
            }
        }
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        hide_policy(obj);
    }

    fn name_addresses(&self, obj: &mut Value) {
        name_address(obj);
    }

    /// What [`hide_policy`] hides is known by its owner, and taken for what it is by default. An external name's list of addresses is shown by
    /// upstream, which has stored the single one alone.
    fn as_it_lies(&self, obj: &Value) -> Option<Value> {
        if has_addresses(obj) {
            return None;
        }
        let is_owned = |entry: &Value| !entry["fieldsV1"]["f:spec"]["f:internalTrafficPolicy"].is_null();
        let hides = obj["spec"]["internalTrafficPolicy"].is_null() && tree::list(&obj["metadata"], "managedFields").iter().any(is_owned);
        let shows = !tree::empty(&obj["spec"]["clusterIPs"]);
        (hides || shows).then(|| {
            let mut obj = obj.clone();
            if let Some(spec) = tree::at(&mut obj, &["spec"]) {
                spec.remove("clusterIPs");
                if hides {
                    spec.insert("internalTrafficPolicy".into(), "Cluster".into());
                }
            }
            obj
        })
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        keep_cluster_ips(obj, old);
        drop_typed(obj, old);
        hide_policy(obj);
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check(obj, None, errors);
    }

    /// Whoever allocates addresses looks at them first.
    fn stops(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if has_addresses(obj) {
            addresses(obj, None, &Path::root("spec"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        kept_addresses(obj, old, &mut errors);
        let (new, had) = (&obj["spec"], &old["spec"]);
        if kind(obj) == "LoadBalancer" && kind(old) == "LoadBalancer" && new["loadBalancerClass"] != had["loadBalancerClass"] {
            errors.push(Error::invalid(&Path::root("spec.loadBalancerClass"), new["loadBalancerClass"].clone(), "may not change once set"));
        }
        balancer_class(obj, &Path::root("spec"), &mut errors);
        if needs_health_check(obj) && needs_health_check(old) && new["healthCheckNodePort"] != had["healthCheckNodePort"] {
            errors.push(Error::forbidden(&Path::root("spec.healthCheckNodePort"), rules::IMMUTABLE));
        }
        check(obj, Some(old), &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (list, path) = (tree::list(&obj["status"]["loadBalancer"], "ingress"), Path::root("status.loadBalancer.ingress"));
        if kind(obj) != "LoadBalancer" && !list.is_empty() {
            errors.push(Error::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
            return errors;
        }
        for (at, ingress) in list.iter().enumerate() {
            ingress_point(ingress, &path.index(at), &mut errors);
        }
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        let text = |key: &str| tree::text(&obj["spec"], key).to_owned();
        vec![("spec.clusterIP".into(), text("clusterIP")), ("spec.type".into(), text("type"))]
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings(obj)
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        addresses::of_balancer(obj)
    }

    /// Since KEP-5311 a service may be named like any DNS label.
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn warnings(obj: &Value) -> Vec<String> {
    let (spec, external) = (&obj["spec"], kind(obj) == "ExternalName");
    let headless = kind(obj) == "ClusterIP" && spec["clusterIP"] == NONE;
    let addressed = !tree::empty(&spec["externalIPs"]);
    let path = Path::root("spec");
    let mut out = Vec::new();
    if !obj["metadata"]["annotations"][TOPOLOGY_HINTS].is_null() {
        out.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    addresses::of_ips(spec, "clusterIPs", &path, &mut out);
    let warn = |out: &mut Vec<String>, holds: bool, words: &str| {
        if holds {
            out.push(words.to_owned());
        }
    };
    warn(&mut out, headless && !tree::empty(&spec["loadBalancerIP"]), "spec.loadBalancerIP is ignored for headless services");
    warn(&mut out, headless && addressed, "spec.externalIPs is ignored for headless services");
    warn(&mut out, headless && spec["sessionAffinity"] != NONE, "spec.SessionAffinity is ignored for headless services");
    addresses::of_ips(spec, "externalIPs", &path, &mut out);
    warn(&mut out, addressed && !headless && !external, "spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    addresses::of_ip(tree::text(spec, "loadBalancerIP"), &path.child("loadBalancerIP"), &mut out);
    for (at, range) in tree::list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        addresses::of_cidr(range.as_str().unwrap_or_default(), &path.child("loadBalancerSourceRanges").index(at), &mut out);
    }
    warn(&mut out, external && addressed, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    warn(&mut out, !external && !tree::empty(&spec["externalName"]), "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    warn(&mut out, spec["trafficDistribution"] == "PreferClose", "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    out
}

fn default_spec(spec: &mut Fields) {
    tree::fill_text(spec, "sessionAffinity", NONE);
    if spec.get("sessionAffinity").is_some_and(|a| a == NONE) {
        spec.remove("sessionAffinityConfig");
    } else if spec.get("sessionAffinity").is_some_and(|a| a == "ClientIP") {
        let known = spec.get("sessionAffinityConfig").is_some_and(|c| !c["clientIP"]["timeoutSeconds"].is_null());
        if !known {
            spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": AFFINITY_DEFAULT_S}}));
        }
    }
    tree::fill_text(spec, "type", "ClusterIP");
    for port in tree::each(spec, "ports") {
        tree::fill_text(port, "protocol", "TCP");
        if port.get("targetPort").is_none_or(|t| t.is_null() || t == 0 || t == "") {
            let own = port.get("port").cloned().unwrap_or_else(|| 0.into());
            port.insert("targetPort".into(), own);
        }
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let external = spec.get("externalIPs").is_some_and(|ips| !tree::empty(ips));
    if matches!(kind.as_str(), "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && external) {
        tree::fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "LoadBalancer" | "NodePort" | "ClusterIP") {
        tree::fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        tree::fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Upstream stores what an external name says of traffic inside the cluster, and shows none of it (`defaultOnReadInternalTrafficPolicy`);
/// whoever said it owns it all the same. One that there is not is refused.
fn hide_policy(obj: &mut Value) {
    let known = matches!(tree::text(&obj["spec"], "internalTrafficPolicy"), "Cluster" | "Local");
    if known
        && kind(obj) == "ExternalName"
        && let Some(spec) = tree::at(obj, &["spec"])
    {
        spec.remove("internalTrafficPolicy");
    }
}

/// Whoever says a new service's address by the field of old means the list as well.
fn name_address(obj: &mut Value) {
    let single = tree::text(&obj["spec"], "clusterIP").to_owned();
    if let Some(spec) = tree::at(obj, &["spec"])
        && !single.is_empty()
        && spec.get("clusterIPs").is_none_or(tree::empty)
    {
        spec.insert("clusterIPs".into(), json!([single]));
    }
}

/// What an update leaves out of its addresses is what the service has, and who changes only the single one means the list as well
/// (`patchAllocatedValues` and `normalizeClusterIPs`). To do it again changes nothing.
pub fn keep_cluster_ips(obj: &mut Value, old: &Value) {
    let addressed = has_addresses(obj) && has_addresses(old);
    let old = &old["spec"];
    let (had, had_all) = (tree::text(old, "clusterIP"), &old["clusterIPs"]);
    let Some(spec) = tree::at(obj, &["spec"]) else { return };
    let empty = |spec: &Fields, key: &str| spec.get(key).is_none_or(tree::empty);
    if addressed && empty(spec, "clusterIP") && !had.is_empty() {
        spec.insert("clusterIP".into(), had.into());
    }
    let single = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    if (addressed || single == had) && empty(spec, "clusterIPs") && !tree::empty(had_all) {
        spec.insert("clusterIPs".into(), had_all.clone());
    }
    let same = if empty(spec, "clusterIPs") { tree::empty(had_all) } else { spec.get("clusterIPs") == Some(had_all) };
    if single == had || !same {
        return;
    }
    if single.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".into(), json!([single]));
    }
}

/// A change of type takes along what the server has filled in for the old type, unless the user has changed it as well.
fn drop_typed(obj: &mut Value, old: &Value) {
    let on_nodes = |o: &Value| matches!(kind(o), "NodePort" | "LoadBalancer");
    let node_ports =
        |o: &Value| tree::list(&o["spec"], "ports").iter().filter_map(|p| p["nodePort"].as_i64()).filter(|port| *port != 0).collect::<HashSet<_>>();
    let same = |key: &str| obj["spec"][key] == old["spec"][key];
    let mut gone: Vec<&str> = Vec::new();
    if has_addresses(old) && !has_addresses(obj) {
        if same("clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|key| same(key)));
    }
    if needs_health_check(old) && !needs_health_check(obj) && same("healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    if kind(old) == "LoadBalancer" && kind(obj) != "LoadBalancer" {
        gone.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|key| same(key)));
    }
    if is_external(old) && !is_external(obj) && same("externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    let ports = on_nodes(old) && !on_nodes(obj) && node_ports(obj).is_subset(&node_ports(old));
    let unbalanced = kind(obj) != "LoadBalancer";
    if let Some(spec) = tree::at(obj, &["spec"]) {
        for key in gone {
            spec.remove(key);
        }
        if ports {
            tree::each(spec, "ports").for_each(|port| {
                port.remove("nodePort");
            });
        }
    }
    if unbalanced
        && !tree::empty(&obj["status"]["loadBalancer"])
        && let Some(status) = tree::at(obj, &["status"])
    {
        status.insert("loadBalancer".into(), json!({}));
    }
}

fn kind(obj: &Value) -> &str {
    tree::text(&obj["spec"], "type")
}

/// Whether it has addresses in the cluster, or is to have them.
fn has_addresses(obj: &Value) -> bool {
    kind(obj) != "ExternalName"
}

fn is_headless(obj: &Value) -> bool {
    let ips = tree::list(&obj["spec"], "clusterIPs");
    ips.len() == 1 && ips[0] == NONE
}

fn is_external(obj: &Value) -> bool {
    match kind(obj) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !tree::empty(&obj["spec"]["externalIPs"]),
        _ => false,
    }
}

fn needs_health_check(obj: &Value) -> bool {
    kind(obj) == "LoadBalancer" && obj["spec"]["externalTrafficPolicy"] == "Local"
}

fn check(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (spec, path) = (&obj["spec"], Path::root("spec"));
    let annotations = &obj["metadata"]["annotations"];
    if let (Some(mode), Some(hints)) = (annotations[TOPOLOGY_MODE].as_str(), annotations[TOPOLOGY_HINTS].as_str())
        && mode != hints
    {
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.push(Error::invalid(&Path::root("metadata.annotations").key(TOPOLOGY_MODE), mode, detail));
    }
    let (ports, list) = (tree::list(spec, "ports"), path.child("ports"));
    if ports.is_empty() && !is_headless(obj) && kind(obj) != "ExternalName" {
        errors.push(Error::required(&list, ""));
    }
    of_type(obj, &path, errors);
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        check_port(port, ports.len() > 1, &mut seen, &list.index(at), errors);
    }
    rules::labels(&spec["selector"], &path.child("selector"), errors);
    affinity(spec, &path, errors);
    if has_addresses(obj) {
        addresses(obj, old, &path, errors);
    }
    let known: HashSet<&str> = old.into_iter().flat_map(|old| tree::list(&old["spec"], "externalIPs")).filter_map(Value::as_str).collect();
    for (at, ip) in tree::list(spec, "externalIPs").iter().enumerate() {
        let (text, place) = (ip.as_str().unwrap_or_default(), path.child("externalIPs").index(at));
        if known.contains(text) || rules::ip(text, &place, errors).is_some() {
            rules::endpoint_ip(text, &place, errors);
        }
    }
    rules::one_of(&spec["type"], &path.child("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    repeated_ports(obj, &list, errors);
    load_balancer(obj, &path, errors);
    traffic(obj, &path, errors);
}

fn of_type(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let (spec, kind) = (&obj["spec"], kind(obj));
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(obj) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(&path.child("clusterIPs").index(0), NONE, detail));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !tree::empty(&spec[field]) {
                    errors.push(Error::forbidden(&path.child(field), "may not be set for ExternalName services"));
                }
            }
            let name = tree::text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.push(Error::required(&path.child("externalName"), ""));
            } else {
                rules::name(name, &path.child("externalName"), names::dns1123_subdomain(name), errors);
            }
        }
        _ => {}
    }
}

fn check_port<'v>(port: &'v Value, named: bool, seen: &mut HashSet<&'v str>, path: &Path, errors: &mut ErrorList) {
    let name = tree::text(port, "name");
    if !name.is_empty() {
        rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
        if !seen.insert(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
    } else if named {
        errors.push(Error::required(&path.child("name"), ""));
    }
    rules::port(port["port"].as_i64().unwrap_or(0), &path.child("port"), errors);
    rules::one_of(&port["protocol"], &path.child("protocol"), &PROTOCOLS, errors);
    pod::port(&port["targetPort"], &path.child("targetPort"), errors);
    if let Some(protocol) = port["appProtocol"].as_str() {
        rules::name(protocol, &path.child("appProtocol"), names::qualified_name(protocol), errors);
    }
}

fn affinity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    rules::one_of(&spec["sessionAffinity"], &path.child("sessionAffinity"), &["ClientIP", NONE], errors);
    let (config, place) = (&spec["sessionAffinityConfig"], path.child("sessionAffinityConfig"));
    if spec["sessionAffinity"] == NONE && !config.is_null() {
        errors.push(Error::forbidden(&place, "must not be set when session affinity is None"));
    }
    if spec["sessionAffinity"] == "ClientIP"
        && let Some(seconds) = config["clientIP"]["timeoutSeconds"].as_i64().filter(|s| !(1..=AFFINITY_MAX_S).contains(s))
    {
        let detail = format!("must be greater than 0 and less than {AFFINITY_MAX_S}");
        errors.push(Error::invalid(&place.child("clientIP").child("timeoutSeconds"), seconds, detail));
    }
}

fn addresses(obj: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    // What it had is right, whatever it is.
    let had = |ip: &str| old.is_some_and(|old| tree::list(&old["spec"], "clusterIPs").iter().any(|had| had == ip));
    let (single, many, list) = (tree::text(spec, "clusterIP"), tree::list(spec, "clusterIPs"), path.child("clusterIPs"));
    let shown = || spec["clusterIPs"].clone();
    match many.first() {
        None if !single.is_empty() => errors.push(Error::required(&list, "")),
        Some(_) if single.is_empty() => errors.push(Error::invalid(&list, shown(), "must be empty when `clusterIP` is not specified")),
        Some(first) if first != single => errors.push(Error::invalid(&list, shown(), "first value must match `clusterIP`")),
        _ => {}
    }
    let mut seen = HashSet::new();
    for (at, family) in tree::list(spec, "ipFamilies").iter().filter_map(Value::as_str).enumerate() {
        let place = path.child("ipFamilies").index(at);
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(rules::not_supported(&place, family, &["IPv4", "IPv6"]));
        }
        if !seen.insert(family) {
            errors.push(rules::typed(Error::duplicate(&place, family)));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    rules::supported(&spec["ipFamilyPolicy"], &path.child("ipFamilyPolicy"), &policies, errors);
    let before = errors.len();
    for (at, ip) in many.iter().map(|ip| ip.as_str().unwrap_or_default()).enumerate() {
        if at > 0 || ip != NONE {
            if !had(ip) {
                rules::ip(ip, &list.index(at), errors);
            }
        } else if many.len() > 1 {
            errors.push(Error::invalid(&list, shown(), "'None' must be the first and only value"));
        }
    }
    let bad = errors.len() > before;
    if many.len() > 2 {
        errors.push(Error::invalid(&list, shown(), "may only hold up to 2 values"));
    }
    if bad {
        return;
    }
    let is_six = |ip: &Value| ip.as_str().is_some_and(|ip| ip.contains(':'));
    if many.len() > 1 && many.iter().filter(|ip| is_six(ip)).count() != 1 {
        errors.push(Error::invalid(&list, shown(), "may specify no more than one IP for each IP family"));
    }
    if is_headless(obj) {
        return;
    }
    for (at, (ip, family)) in many.iter().zip(tree::list(spec, "ipFamilies")).enumerate() {
        let expected = if is_six(ip) { "IPv6" } else { "IPv4" };
        if family != expected && matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            let detail = format!("expected an {} value as indicated by `ipFamilies[{at}]`", family.as_str().unwrap_or_default());
            errors.push(Error::invalid(&list.index(at), ip.clone(), detail));
        }
    }
}

fn repeated_ports(obj: &Value, list: &Path, errors: &mut ErrorList) {
    let ports = tree::list(&obj["spec"], "ports");
    let number = |p: &Value, key: &str| p[key].as_i64().unwrap_or(0);
    if kind(obj) == "ClusterIP" {
        for (at, _) in ports.iter().enumerate().filter(|(_, p)| number(p, "nodePort") != 0) {
            errors.push(Error::forbidden(&list.index(at).child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate().filter(|(_, p)| number(p, "nodePort") != 0) {
        if !seen.insert((tree::text(port, "protocol"), number(port, "nodePort"))) {
            errors.push(Error::duplicate(&list.index(at).child("nodePort"), number(port, "nodePort")));
        }
    }
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let (protocol, own) = (tree::text(port, "protocol"), number(port, "port"));
        if !seen.insert((protocol, own)) {
            let shown = format!(r#"{{"Name":"","Protocol":{},"AppProtocol":null,"Port":{own},"TargetPort":0,"NodePort":0}}"#, json!(protocol));
            errors.push(Error::duplicate(&list.index(at), own).shown_as(shown));
        }
    }
}

fn load_balancer(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let (spec, balanced) = (&obj["spec"], kind(obj) == "LoadBalancer");
    let mut ranges = |place: &Path, values: &mut dyn Iterator<Item = (Path, &str)>| {
        if !balanced {
            errors.push(Error::forbidden(place, ONLY_LOAD_BALANCER));
        }
        for (place, value) in values {
            checks::cidr(value.trim(), &place, errors);
        }
    };
    if let Some(list) = spec["loadBalancerSourceRanges"].as_array().filter(|l| !l.is_empty()) {
        let place = path.child("LoadBalancerSourceRanges");
        ranges(&place, &mut list.iter().enumerate().map(|(at, v)| (place.index(at), v.as_str().unwrap_or_default())));
    } else if let Some(text) = obj["metadata"]["annotations"][SOURCE_RANGES].as_str() {
        let place = Path::root("metadata.annotations").key(SOURCE_RANGES);
        ranges(&place, &mut text.split(',').filter(|_| !text.trim().is_empty()).map(|t| (place.clone(), t)));
    }
    if !spec["allocateLoadBalancerNodePorts"].is_null() && !balanced {
        errors.push(Error::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER));
    }
    balancer_class(obj, path, errors);
}

/// Upstream looks at it twice where a service changes, and what it tells first stands first.
fn balancer_class(obj: &Value, path: &Path, errors: &mut ErrorList) {
    match obj["spec"]["loadBalancerClass"].as_str() {
        Some(class) if kind(obj) == "LoadBalancer" => rules::name(class, &path.child("loadBalancerClass"), names::qualified_name(class), errors),
        Some(_) => errors.push(Error::forbidden(&path.child("loadBalancerClass"), ONLY_LOAD_BALANCER)),
        None => {}
    }
}

fn traffic(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let (spec, place) = (&obj["spec"], path.child("externalTrafficPolicy"));
    if is_external(obj) {
        rules::one_of(&spec["externalTrafficPolicy"], &place, &["Cluster", "Local"], errors);
    } else if !tree::empty(&spec["externalTrafficPolicy"]) {
        errors.push(rules::typed(Error::invalid(&place, spec["externalTrafficPolicy"].clone(), "may only be set for externally-accessible services")));
    }
    let (port, place) = (spec["healthCheckNodePort"].as_i64().unwrap_or(0), path.child("healthCheckNodePort"));
    if needs_health_check(obj) && port != 0 {
        rules::port(port, &place, errors);
    } else if port != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&place, port, detail));
    }
    rules::supported(&spec["internalTrafficPolicy"], &path.child("internalTrafficPolicy"), &["Cluster", "Local"], errors);
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    // A plain text upstream.
    if let Some(wanted) = spec["trafficDistribution"].as_str().filter(|wanted| !distributions.contains(wanted)) {
        errors.push(Error::not_supported(&path.child("trafficDistribution"), wanted, &distributions));
    }
}

/// Once given, the primary address and family stay.
fn kept_addresses(obj: &Value, old: &Value, errors: &mut ErrorList) {
    if !has_addresses(obj) || !has_addresses(old) || (is_headless(obj) && is_headless(old)) {
        return;
    }
    let same_headless = is_headless(obj) == is_headless(old);
    for (field, released) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
        if field == "ipFamilies" && !same_headless {
            continue;
        }
        let (new, had, path) = (tree::list(&obj["spec"], field), tree::list(&old["spec"], field), Path::root("spec").child(field));
        let shown = || obj["spec"][field].clone();
        if new.len() == had.len() {
            for (at, _) in new.iter().zip(had).enumerate().filter(|(_, (n, h))| n != h) {
                let at = if field == "clusterIPs" { at } else { 0 };
                errors.push(Error::invalid(&path.index(at), shown(), "may not change once set"));
            }
            continue;
        }
        match (new.first(), had.first()) {
            (None, Some(_)) => errors.push(Error::invalid(&path.index(0), shown(), format!("primary {released} can not be unset"))),
            (Some(n), Some(h)) if n != h => errors.push(Error::invalid(&path.index(0), shown(), "may not change once set")),
            _ => {}
        }
        if had.len() > new.len() && new.len() == 1 && obj["spec"]["ipFamilyPolicy"] != "SingleStack" {
            let detail = format!("must be set to 'SingleStack' when releasing the secondary {released}");
            errors.push(Error::invalid(&Path::root("spec.ipFamilyPolicy"), obj["spec"]["ipFamilyPolicy"].clone(), detail));
        }
    }
}

fn ingress_point(ingress: &Value, path: &Path, errors: &mut ErrorList) {
    let (ip, host) = (tree::text(ingress, "ip"), tree::text(ingress, "hostname"));
    if !ip.is_empty() {
        rules::ip(ip, &path.child("ip"), errors);
    }
    match ingress["ipMode"].as_str() {
        None if !ip.is_empty() => errors.push(Error::required(&path.child("ipMode"), "must be specified when `ip` is set")),
        Some(_) if ip.is_empty() => errors.push(Error::forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set")),
        _ => rules::supported(&ingress["ipMode"], &path.child("ipMode"), &["Proxy", "VIP"], errors),
    }
    if !host.is_empty() {
        rules::name(host, &path.child("hostname"), names::dns1123_subdomain(host), errors);
        if rules::lenient_ip(host).is_some() {
            errors.push(Error::invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address"));
        }
    }
}

/// The strategy of Endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, obj: &mut Value) {
        if let Some(fields) = obj.as_object_mut() {
            for subset in tree::each(fields, "subsets") {
                tree::each(subset, "ports").for_each(|port| tree::fill_text(port, "protocol", "TCP"));
            }
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        for (at, subset) in tree::list(obj, "subsets").iter().enumerate() {
            check_subset(subset, &Path::root("subsets").index(at), errors);
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        // What an older server accepted stays acceptable while it stays the same.
        if obj["subsets"] == old["subsets"] { ErrorList::new() } else { self.validate(obj) }
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()];
        for (at, subset) in tree::list(obj, "subsets").iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (nth, address) in tree::list(subset, list).iter().enumerate() {
                    let place = Path::root("subsets").index(at).child(list).index(nth).child("ip");
                    addresses::of_ip(tree::text(address, "ip"), &place, &mut out);
                }
            }
        }
        out
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn check_subset(subset: &Value, path: &Path, errors: &mut ErrorList) {
    if tree::empty(&subset["addresses"]) && tree::empty(&subset["notReadyAddresses"]) {
        errors.push(Error::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for list in ["addresses", "notReadyAddresses"] {
        for (at, address) in tree::list(subset, list).iter().enumerate() {
            let path = path.child(list).index(at);
            let (ip, host) = (tree::text(address, "ip"), tree::text(address, "hostname"));
            rules::ip(ip, &path.child("ip"), errors);
            if !host.is_empty() {
                rules::name(host, &path.child("hostname"), names::dns1123_label(host), errors);
            }
            if let Some(node) = address["nodeName"].as_str() {
                rules::name(node, &path.child("nodeName"), names::dns1123_subdomain(node), errors);
            }
            rules::endpoint_ip(ip, &path.child("ip"), errors);
        }
    }
    let ports = tree::list(subset, "ports");
    for (at, port) in ports.iter().enumerate() {
        let (path, name) = (path.child("ports").index(at), tree::text(port, "name"));
        if !name.is_empty() {
            rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
        } else if ports.len() > 1 {
            errors.push(Error::required(&path.child("name"), ""));
        }
        rules::port(port["port"].as_i64().unwrap_or(0), &path.child("port"), errors);
        rules::one_of(&port["protocol"], &path.child("protocol"), &PROTOCOLS, errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            rules::name(protocol, &path.child("appProtocol"), names::qualified_name(protocol), errors);
        }
    }
}
