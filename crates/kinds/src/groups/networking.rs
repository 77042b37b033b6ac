//! `networking.k8s.io`: ingresses and their classes, network policies, addresses and ranges of services.

use super::checks;
use crate::{Context, NameRule, Strategy, addresses, meta, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// The old way to name an ingress's class.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_MAX_BYTES: usize = 250;
const NO_ADDRESS: &str = "must be a DNS name, not an IP address";

/// The strategy of ingresses.
pub(super) struct Ingresses;

impl Strategy for Ingresses {
    fn told_blanks(&self) -> &'static [&'static str] {
        &["spec.rules"]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let (rules, backend) = (tree::list(spec, "rules"), &spec["defaultBackend"]);
        if rules.is_empty() && backend.is_null() {
            errors.push(Error::invalid(&path, spec["rules"].clone(), "either `defaultBackend` or `rules` must be specified"));
        }
        if !backend.is_null() {
            check_backend(backend, &path.child("defaultBackend"), errors);
        }
        for (at, rule) in rules.iter().enumerate() {
            check_rule(rule, &path.child("rules").index(at), errors);
        }
        for (at, tls) in tree::list(spec, "tls").iter().enumerate() {
            check_tls(tls, &path.child("tls").index(at), errors);
        }
        if let Some(class) = spec["ingressClassName"].as_str() {
            rules::name(class, &path.child("ingressClassName"), names::dns1123_subdomain(class), errors);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        // A new object names its class in one way, or in both ways alike.
        let (noted, class) = (&obj["metadata"]["annotations"][CLASS_ANNOTATION], &obj["spec"]["ingressClassName"]);
        if noted.is_string() && class.is_string() && noted != class {
            let path = Path::root("annotations").child(CLASS_ANNOTATION);
            errors.push(Error::invalid(&path, noted.clone(), "must match `ingressClassName` when both are specified"));
        }
        errors
    }

    fn validate_update(&self, obj: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::root("status").child("loadBalancer").child("ingress");
        let had = tree::by_text(tree::list(&old["status"]["loadBalancer"], "ingress"), "ip");
        for (at, point) in tree::list(&obj["status"]["loadBalancer"], "ingress").iter().enumerate() {
            let place = path.index(at);
            let (ip, host) = (tree::text(point, "ip"), tree::text(point, "hostname"));
            if !ip.is_empty() && !had.contains_key(ip) {
                checks::ip(ip, &place.child("ip"), &mut errors);
            }
            if !host.is_empty() {
                rules::name(host, &place.child("hostname"), names::dns1123_subdomain(host), &mut errors);
                if rules::lenient_ip(host).is_some() {
                    errors.push(Error::invalid(&place.child("hostname"), host, NO_ADDRESS));
                }
            }
        }
        errors
    }

    fn status_warnings(&self, obj: &Value) -> Vec<String> {
        addresses::of_balancer(obj)
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() || obj["metadata"]["annotations"][CLASS_ANNOTATION].is_null() || !obj["spec"]["ingressClassName"].is_null() {
            return Vec::new();
        }
        vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }
}

fn check_tls(tls: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, host) in checks::texts(tls, "hosts") {
        check_host(host, &path.child("hosts").index(at), errors);
    }
    let secret = tree::text(tls, "secretName");
    if !secret.is_empty() {
        rules::name(secret, &path.child("secretName"), names::dns1123_subdomain(secret), errors);
    }
}

fn check_host(host: &str, path: &Path, errors: &mut ErrorList) {
    let problems = if host.contains('*') { names::wildcard_dns1123_subdomain(host) } else { names::dns1123_subdomain(host) };
    rules::name(host, path, problems, errors);
}

fn check_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let host = tree::text(rule, "host");
    if !host.is_empty() {
        if rules::lenient_ip(host).is_some() {
            errors.push(Error::invalid(&path.child("host"), host, NO_ADDRESS));
        }
        check_host(host, &path.child("host"), errors);
    }
    if rule["http"].is_null() {
        return;
    }
    let (paths, place) = (tree::list(&rule["http"], "paths"), path.child("http").child("paths"));
    if paths.is_empty() {
        errors.push(Error::required(&place, ""));
    }
    for (at, value) in paths.iter().enumerate() {
        check_path(value, &place.index(at), errors);
    }
}

fn check_path(value: &Value, path: &Path, errors: &mut ErrorList) {
    if value["pathType"].is_null() {
        errors.push(Error::required(&path.child("pathType"), "pathType must be specified"));
        return;
    }
    let (kind, text, place) = (tree::text(value, "pathType"), tree::text(value, "path"), path.child("path"));
    let mut bad = |detail: String| errors.push(Error::invalid(&place, text, detail));
    match kind {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                bad("must be an absolute path".into());
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|s| text.contains(s)) {
                bad(format!("must not contain '{sequence}'"));
            }
            for suffix in ["/..", "/."].into_iter().filter(|s| text.ends_with(s)) {
                bad(format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                bad("must be an absolute path".into());
            }
        }
        other => errors.push(rules::not_supported(&path.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"])),
    }
    check_backend(&value["backend"], &path.child("backend"), errors);
}

fn check_backend(backend: &Value, path: &Path, errors: &mut ErrorList) {
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_null(), service.is_null()) {
        (false, false) => errors.push(Error::invalid(path, "", "cannot set both resource and service backends")),
        (false, true) => check_reference(resource, &path.child("resource"), errors),
        (true, true) => errors.push(Error::invalid(path, "", "resource or service backend is required")),
        (true, false) => {
            let (name, place) = (tree::text(service, "name"), path.child("service"));
            if name.is_empty() {
                errors.push(Error::required(&place.child("name"), ""));
            } else {
                rules::name(name, &place.child("name"), names::dns1123_label(name), errors);
            }
            let (named, number) = (tree::text(&service["port"], "name"), service["port"]["number"].as_i64().unwrap_or(0));
            match (named, number) {
                ("", 0) => errors.push(Error::required(path, "port name or number is required")),
                ("", number) => {
                    let problems = names::port_number(number);
                    errors.extend(problems.into_iter().map(|m| Error::invalid(&place.child("port").child("number"), number, m)));
                }
                (named, 0) => rules::name(named, &place.child("port").child("name"), names::port_name(named), errors),
                _ => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
            }
        }
    }
}

/// A reference to an object by group, kind and name.
fn check_reference(reference: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(group) = reference["apiGroup"].as_str() {
        rules::name(group, &path.child("apiGroup"), names::dns1123_subdomain(group), errors);
    }
    for field in ["kind", "name"] {
        if rules::required(reference, path, field, errors) {
            let value = tree::text(reference, field);
            rules::name(value, &path.child(field), names::path_segment(value), errors);
        }
    }
}

/// The strategy of ingress classes.
pub(super) struct IngressClasses;

impl Strategy for IngressClasses {
    fn default(&self, obj: &mut Value) {
        if let Some(parameters) = tree::at(obj, &["spec"]).and_then(|spec| tree::present(spec, "parameters")) {
            tree::fill(parameters, "scope", "Cluster");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let controller = tree::text(spec, "controller");
        if controller.len() > CONTROLLER_MAX_BYTES {
            errors.push(Error::too_long(&path.child("controller"), CONTROLLER_MAX_BYTES));
        }
        check_controller(controller, &path.child("controller"), errors);
        let (parameters, path) = (&spec["parameters"], path.child("parameters"));
        if parameters.is_null() {
            return;
        }
        check_reference(parameters, &path, errors);
        let namespace = &parameters["namespace"];
        match (parameters["scope"].as_str(), namespace.as_str()) {
            (None, _) => errors.push(Error::required(&path.child("scope"), "")),
            (Some("Namespace"), None) => {
                errors.push(Error::required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'"));
            }
            (Some("Namespace"), Some(name)) => rules::name(name, &path.child("namespace"), names::dns1123_label(name), errors),
            (Some("Cluster"), Some(_)) => errors.push(Error::forbidden(&path.child("namespace"), "`parameters.scope` is set to 'Cluster'")),
            (Some("Cluster"), None) => {}
            (Some(other), _) => errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespace"])),
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let (mut errors, path) = (ErrorList::new(), Path::root("spec").child("controller"));
        rules::immutable_part("s", &obj["spec"]["controller"], &old["spec"]["controller"], &path, &mut errors);
        meta::prefix(obj, self, &mut errors);
        self.check(obj, &mut errors);
        errors
    }
}

fn check_controller(controller: &str, path: &Path, errors: &mut ErrorList) {
    let Some((host, rest)) = controller.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        errors.push(match controller {
            "" => Error::required(path, ""),
            other => Error::invalid(path, other, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        });
        return;
    };
    rules::name(host, path, names::dns1123_subdomain(host), errors);
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(Error::invalid(path, rest, names::regex_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[])));
    }
}

/// The strategy of network policies.
pub(super) struct NetworkPolicies;

impl Strategy for NetworkPolicies {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        for direction in ["ingress", "egress"] {
            for rule in tree::each(spec, direction) {
                tree::each(rule, "ports").for_each(|port| tree::fill(port, "protocol", "TCP"));
            }
        }
        if spec.get("policyTypes").is_none_or(tree::empty) {
            let outward = !spec.get("egress").is_none_or(tree::empty);
            let types: &[&str] = if outward { &["Ingress", "Egress"] } else { &["Ingress"] };
            spec.insert("policyTypes".into(), types.iter().copied().map(Value::from).collect());
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Upstream compares what was sent, with its defaults, with what came from the store, where nothing is empty (`reflect.DeepEqual`).
    fn prepare_update(&self, cx: &Context, obj: &mut Value, old: &Value) {
        if tree::body_differs(&cx.blanks.restored(obj), old) {
            tree::bump_generation(obj, old);
        }
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (at, rule) in tree::list(&obj["spec"], direction).iter().enumerate() {
                for (nth, peer) in tree::list(rule, peers).iter().enumerate() {
                    let (block, path) = (&peer["ipBlock"], Path::root("spec").child(direction).index(at).child(peers).index(nth).child("ipBlock"));
                    addresses::of_cidr(tree::text(block, "cidr"), &path.child("cidr"), &mut out);
                    for (at, range) in checks::texts(block, "except") {
                        addresses::of_cidr(range, &path.child("except").index(at), &mut out);
                    }
                }
            }
        }
        out
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_policy(&obj["spec"], &HashSet::new(), errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        // A range that is there already may stay, however it is written.
        let blocks = ["ingress", "egress"].into_iter().flat_map(|direction| {
            let peers = if direction == "ingress" { "from" } else { "to" };
            tree::list(&old["spec"], direction).iter().flat_map(move |rule| tree::list(rule, peers))
        });
        let had: HashSet<&str> =
            blocks.flat_map(|peer| tree::list(&peer["ipBlock"], "except").iter().chain([&peer["ipBlock"]["cidr"]])).filter_map(Value::as_str).collect();
        check_policy(&obj["spec"], &had, &mut errors);
        errors
    }
}

fn check_policy(spec: &Value, had: &HashSet<&str>, errors: &mut ErrorList) {
    let path = Path::root("spec");
    rules::label_selector(&spec["podSelector"], &path.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (at, rule) in tree::list(spec, direction).iter().enumerate() {
            let place = path.child(direction).index(at);
            for (at, port) in tree::list(rule, "ports").iter().enumerate() {
                check_policy_port(port, &place.child("ports").index(at), errors);
            }
            for (at, peer) in tree::list(rule, peers).iter().enumerate() {
                check_peer(peer, had, &place.child(peers).index(at), errors);
            }
        }
    }
    let types = tree::list(spec, "policyTypes");
    if types.len() > 2 {
        errors.push(Error::invalid(&path.child("policyTypes"), types.to_vec(), "may not specify more than two policyTypes"));
        return;
    }
    for (at, kind) in checks::texts(spec, "policyTypes").filter(|(_, kind)| !matches!(*kind, "Ingress" | "Egress")) {
        errors.push(rules::not_supported(&path.child("policyTypes").index(at), kind, &["Ingress", "Egress"]));
    }
}

fn check_policy_port(port: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(protocol) = port["protocol"].as_str().filter(|p| !matches!(*p, "TCP" | "UDP" | "SCTP")) {
        errors.push(rules::not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]));
    }
    let (end, place) = (port["endPort"].as_i64(), path.child("endPort"));
    match &port["port"] {
        Value::Null => errors.extend(end.map(|end| Error::invalid(&place, end, "may not be specified when `port` is not specified"))),
        Value::String(name) => {
            errors.extend(end.map(|end| Error::invalid(&place, end, "may not be specified when `port` is non-numeric")));
            rules::name(name, &path.child("port"), names::port_name(name), errors);
        }
        number => {
            let number = number.as_i64().unwrap_or(0);
            errors.extend(names::port_number(number).into_iter().map(|m| Error::invalid(&path.child("port"), number, m)));
            let Some(end) = end else { return };
            if end < number {
                errors.push(Error::invalid(&place, end, "must be greater than or equal to `port`"));
            }
            rules::port(end, &place, errors);
        }
    }
}

fn check_peer(peer: &Value, had: &HashSet<&str>, path: &Path, errors: &mut ErrorList) {
    let selectors = ["podSelector", "namespaceSelector"].into_iter().filter(|key| !peer[*key].is_null());
    let mut peers = 0;
    for key in selectors {
        peers += 1;
        rules::label_selector(&peer[key], &path.child(key), errors);
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        check_block(block, had, &path.child("ipBlock"), errors);
    }
    match (peers, block.is_null()) {
        (0, true) => errors.push(Error::required(path, "must specify a peer")),
        (1.., false) => errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn check_block(block: &Value, had: &HashSet<&str>, path: &Path, errors: &mut ErrorList) {
    let known = |text: &str| had.contains(text);
    let range = |text: &str, place: &Path, errors: &mut ErrorList| {
        let mut own = ErrorList::new();
        checks::cidr(text, place, &mut own);
        if !known(text) {
            errors.extend(own);
        }
    };
    let whole = tree::text(block, "cidr");
    if whole.is_empty() {
        errors.push(Error::required(&path.child("cidr"), ""));
        return;
    }
    range(whole, &path.child("cidr"), errors);
    let Some(whole) = checks::lenient_cidr(whole) else { return };
    for (at, text) in checks::texts(block, "except") {
        let place = path.child("except").index(at);
        range(text, &place, errors);
        if let Some(part) = checks::lenient_cidr(text)
            && !whole.holds_strictly(part)
        {
            errors.push(Error::invalid(&place, text, "must be a strict subset of `cidr`"));
        }
    }
}

/// The strategy of addresses that services hold; the name is the address.
pub(super) struct IpAddresses;

impl Strategy for IpAddresses {
    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn makes_names(&self) -> bool {
        false
    }

    fn own_name(&self, _obj: &Value, name: &str, _prefix: bool) -> Vec<String> {
        let mut errors = ErrorList::new();
        checks::canonical_ip(name, &Path::empty(), &mut errors);
        errors.into_iter().map(|error| error.detail).collect()
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (parent, path) = (&obj["spec"]["parentRef"], Path::root("spec").child("parentRef"));
        if parent.is_null() {
            errors.push(Error::required(&path, ""));
            return;
        }
        let group = tree::text(parent, "group");
        if !group.is_empty() {
            rules::name(group, &path.child("group"), names::dns1123_subdomain(group), errors);
        }
        for (field, needed) in [("resource", true), ("name", true), ("namespace", false)] {
            let value = tree::text(parent, field);
            if value.is_empty() && needed {
                errors.push(Error::required(&path.child(field), ""));
                continue;
            }
            rules::name(value, &path.child(field), names::path_segment(value), errors);
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let path = Path::root("spec").child("parentRef");
        checks::fixed(&obj["spec"]["parentRef"], &old["spec"]["parentRef"], &path, errors);
    }
}

/// The strategy of the ranges that services' addresses are taken from.
pub(super) struct ServiceCidrs;

impl Strategy for ServiceCidrs {
    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (list, path) = (tree::list(&obj["spec"], "cidrs"), Path::root("spec").child("cidrs"));
        match list.len() {
            0 => errors.push(Error::required(&path, "at least one CIDR required")),
            1 | 2 => {
                for (at, text) in checks::texts(&obj["spec"], "cidrs") {
                    checks::canonical_cidr(text, &path.index(at), errors);
                }
                // However they are written.
                let families: Vec<_> = checks::texts(&obj["spec"], "cidrs").filter_map(|(_, text)| checks::family_of(text)).collect();
                if let [first, second] = families.as_slice()
                    && first == second
                {
                    let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                    errors.push(Error::invalid(&path, list.to_vec(), detail));
                }
            }
            _ => {
                let shown = serde_json::json!({ "CIDRs": list }).to_string();
                errors.push(Error::invalid(&path, list.to_vec(), "may only hold up to 2 values").shown_as(shown));
            }
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::root("spec").child("cidrs");
        let (new, had) = (tree::list(&obj["spec"], "cidrs"), tree::list(&old["spec"], "cidrs"));
        match (new.len(), had.len()) {
            (a, b) if a == b || (a, b) == (2, 1) => {
                for (at, (new, _)) in new.iter().zip(had).enumerate().filter(|(_, (new, had))| new != had) {
                    errors.push(Error::invalid(&path.index(at), new.clone(), rules::IMMUTABLE));
                }
                if a != b {
                    self.check(obj, &mut errors);
                }
            }
            _ => errors.push(Error::invalid(&path, obj["spec"]["cidrs"].clone(), rules::IMMUTABLE)),
        }
        errors
    }
}
