//! `discovery.k8s.io`: slices of endpoints.
//!
//! A slice may hold a thousand endpoints and is written often, so a path is spelled out only for what is wrong.

use super::checks;
use crate::{Context, Strategy, addresses, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const ENDPOINTS_MAX: usize = 1000;
const HINTS_MAX: usize = 8;
const TOPOLOGY_MAX: usize = 16;

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Controllers whose addresses need no look.
const OWN_WRITERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

/// The strategy of endpoint slices.
pub(super) struct EndpointSlices;

impl Strategy for EndpointSlices {
    fn default(&self, obj: &mut Value) {
        let Some(fields) = obj.as_object_mut() else { return };
        for port in tree::each(fields, "ports") {
            tree::fill(port, "name", "");
            tree::fill(port, "protocol", "TCP");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        drop_topology(obj, &Value::Null);
        tree::set_meta(obj, "generation", 1.into());
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        // A list that is empty is none. The type of addresses cannot change; whose endpoints they are is said in labels.
        let is_relabelled = tree::entries(&obj["metadata"], "labels").ne(tree::entries(&old["metadata"], "labels"));
        if is_relabelled || ["endpoints", "ports"].iter().any(|key| tree::list(obj, key) != tree::list(old, key)) {
            tree::bump_generation(obj, old);
        }
        if obj["endpoints"] != old["endpoints"] {
            drop_topology(obj, old);
        }
    }

    /// Of a new one upstream looks at the type of addresses by what is declared of that, behind all else. That one is missing comes first
    /// here: it is told late, and before what is late of the endpoints.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let is_typed = rules::required(obj, &Path::empty(), "addressType", &mut errors);
        check_ports(obj, &mut errors);
        check_endpoints(obj, &mut errors);
        if is_typed {
            check_type(obj, &mut errors);
        }
        errors
    }

    /// What is declared of a type that may not change is no more than that, and whether there is one.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if rules::required(obj, &Path::empty(), "addressType", &mut errors) {
            check_type(obj, &mut errors);
        }
        checks::fixed(&obj["addressType"], &old["addressType"], &Path::root("addressType"), &mut errors);
        check_ports(obj, &mut errors);
        // Endpoints that an older version let in may stay as they are.
        if obj["endpoints"] != old["endpoints"] {
            check_endpoints(obj, &mut errors);
        }
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if obj["addressType"] == "FQDN" && old.is_none() {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        if !OWN_WRITERS.contains(&tree::text(&obj["metadata"]["labels"], MANAGED_BY)) {
            warn_of_addresses(obj, &mut out);
        }
        out
    }
}

/// What is said of addresses that are written otherwise than they should be.
fn warn_of_addresses(obj: &Value, out: &mut Vec<String>) {
    for (at, endpoint) in tree::list(obj, "endpoints").iter().enumerate() {
        let plain = |address: &Value| address.as_str().is_some_and(|text| text.parse::<Ipv4Addr>().is_ok());
        if !tree::list(endpoint, "addresses").iter().all(plain) {
            addresses::of_ips(endpoint, "addresses", &Path::root("endpoints").index(at), out);
        }
    }
}

/// The node's name was once a label of `deprecatedTopology`; writes of that field are dropped.
fn drop_topology(obj: &mut Value, old: &Value) {
    const HOSTNAME: &str = "kubernetes.io/hostname";
    let Some(fields) = obj.as_object_mut() else { return };
    for endpoint in tree::each(fields, "endpoints") {
        let Some(topology) = endpoint.remove("deprecatedTopology") else { continue };
        let node = topology[HOSTNAME].as_str().unwrap_or_default();
        let known = tree::list(old, "endpoints").iter().any(|e| e["deprecatedTopology"][HOSTNAME] == node);
        if !node.is_empty() && known && endpoint.get("nodeName").is_none_or(Value::is_null) {
            endpoint.insert("nodeName".into(), node.into());
        }
    }
}

fn check_type(obj: &Value, errors: &mut ErrorList) {
    rules::supported(&obj["addressType"], &Path::root("addressType"), &["FQDN", "IPv4", "IPv6"], errors);
}

fn check_ports(obj: &Value, errors: &mut ErrorList) {
    let (ports, path) = (tree::list(obj, "ports"), Path::root("ports"));
    if ports.len() > PORTS_MAX {
        errors.push(Error::too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let (place, name) = (path.index(at), tree::text(port, "name"));
        if !name.is_empty() {
            rules::name(name, &place.child("name"), names::dns1123_label(name), errors);
        }
        if !seen.insert(name) {
            errors.push(Error::duplicate(&place.child("name"), name));
        }
        rules::supported(&port["protocol"], &place.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            rules::name(protocol, &place.child("appProtocol"), names::qualified_name(protocol), errors);
        }
    }
}

fn check_endpoints(obj: &Value, errors: &mut ErrorList) {
    let (endpoints, kind) = (tree::list(obj, "endpoints"), tree::text(obj, "addressType"));
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(Error::too_many(&Path::root("endpoints"), endpoints.len(), ENDPOINTS_MAX));
        return;
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = || Path::root("endpoints").index(at);
        let addresses = tree::list(endpoint, "addresses");
        match addresses.len() {
            0 => errors.push(Error::required(&path().child("addresses"), "")),
            many if many > ADDRESSES_MAX => errors.push(Error::too_many(&path().child("addresses"), many, ADDRESSES_MAX)),
            _ => {}
        }
        for (nth, address) in addresses.iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            if !is_plain(text, kind) {
                check_address(text, kind, &path().child("addresses"), nth, errors);
            }
        }
        check_rest(endpoint, path, errors);
    }
}

/// Whether an address is one that needs no closer look.
fn is_plain(text: &str, kind: &str) -> bool {
    match (kind, text.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(ip))) => !(ip.is_unspecified() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast()),
        _ => false,
    }
}

fn check_address(text: &str, kind: &str, path: &Path, nth: usize, errors: &mut ErrorList) {
    let place = path.index(nth);
    let address = match kind {
        "IPv4" => checks::ip(text, &place, errors),
        "IPv6" => {
            let before = errors.len();
            checks::canonical_ip(text, &place, errors).filter(|_| errors.len() == before)
        }
        "FQDN" => {
            let name = text.strip_suffix('.').unwrap_or(text);
            checks::domain(name, 2, &place, errors);
            return;
        }
        _ => return,
    };
    let Some(address) = address else { return };
    if address.is_ipv4() != (kind == "IPv4") {
        errors.push(Error::invalid(path, text, format!("must be an {kind} address")));
    }
    endpoint_ip(address, text, &place, errors);
}

/// Addresses that cannot be an endpoint, since they mean another host to everybody.
fn endpoint_ip(address: IpAddr, text: &str, path: &Path, errors: &mut ErrorList) {
    let (local, multicast) = match address {
        IpAddr::V4(ip) => (ip.is_link_local(), matches!(ip.octets(), [224, 0, 0, _])),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    let mut bad = |detail: String| errors.push(Error::invalid(path, text, detail));
    if address.is_unspecified() {
        bad(format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        bad("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    if local {
        bad("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if multicast {
        bad("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
}

fn check_rest(endpoint: &Value, path: impl Fn() -> Path, errors: &mut ErrorList) {
    let mut named = |key: &str, check: fn(&str) -> Vec<String>| {
        if let Some(text) = endpoint[key].as_str() {
            let problems = check(text);
            if !problems.is_empty() {
                rules::name(text, &path().child(key), problems, errors);
            }
        }
    };
    named("nodeName", names::dns1123_subdomain);
    named("hostname", names::dns1123_label);
    let topology = &endpoint["deprecatedTopology"];
    if topology.is_object() {
        let count = tree::entries(endpoint, "deprecatedTopology").count();
        if count > TOPOLOGY_MAX {
            errors.push(Error::too_many(&path().child("deprecatedTopology"), count, TOPOLOGY_MAX));
        }
        rules::labels(topology, &path().child("deprecatedTopology"), errors);
    }
    for (key, check) in [("forZones", names::label_value as fn(&str) -> Vec<String>), ("forNodes", names::dns1123_subdomain)] {
        let hints = tree::list(&endpoint["hints"], key);
        if hints.len() > HINTS_MAX {
            errors.push(Error::too_many(&path().child("hints").child(key), hints.len(), HINTS_MAX));
            return;
        }
        let mut seen = HashSet::new();
        for (at, hint) in hints.iter().enumerate() {
            let (name, problems) = (tree::text(hint, "name"), check(tree::text(hint, "name")));
            let double = !seen.insert(name);
            if double || !problems.is_empty() {
                let place = path().child("hints").child(key).index(at).child("name");
                errors.extend(double.then(|| Error::duplicate(&place, name)));
                rules::name(name, &place, problems, errors);
            }
        }
    }
}
