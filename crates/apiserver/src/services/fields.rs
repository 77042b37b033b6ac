//! What a Service's fields mean to allocation.

use machinery::Value;
use std::collections::{HashMap, HashSet};

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn kind(service: &Value) -> &str {
    match text(service, "type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

/// Whether the type has cluster addresses at all: `ExternalName` has none. One that there is not has, until validation refuses it.
pub(super) fn needs_cluster_ip(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

/// Whether the Service has said that it wants no address.
pub(super) fn is_headless(service: &Value) -> bool {
    cluster_ips(service).first().is_some_and(|ip| ip == "None")
}

/// Whether the type has node ports.
pub(super) fn needs_node_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether absent node ports are to be filled in.
pub(super) fn allocates_node_ports(service: &Value) -> bool {
    kind(service) == "NodePort" || service["spec"]["allocateLoadBalancerNodePorts"] != false
}

/// Whether the Service needs a port at which load balancers ask for local endpoints.
pub(super) fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

/// Whether no port is said: what is none of them is not none.
fn is_none(port: &Value) -> bool {
    port.as_i64().unwrap_or(0) == 0
}

/// The chosen health check port.
pub(super) fn health_check_port(service: &Value) -> Option<u16> {
    service["spec"]["healthCheckNodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
}

/// The cluster addresses: `clusterIPs`, or `clusterIP` alone; `None` for headless ones.
pub(super) fn cluster_ips(service: &Value) -> Vec<String> {
    let list: Vec<String> =
        service["spec"]["clusterIPs"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if !list.is_empty() {
        return list;
    }
    match text(service, "clusterIP") {
        "" => Vec::new(),
        ip => vec![ip.to_owned()],
    }
}

/// The chosen node port of a port.
pub(super) fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
}

/// What is said for a port and is none of the numbers that there are.
pub(super) fn no_port(said: &Value) -> Option<i64> {
    said.as_i64().filter(|number| *number != 0 && u16::try_from(*number).is_err())
}

/// The protocol of a port; TCP by default.
pub(super) fn protocol(port: &Value) -> String {
    port["protocol"].as_str().filter(|p| !p.is_empty()).unwrap_or("TCP").to_owned()
}

fn name(port: &Value) -> &str {
    port["name"].as_str().unwrap_or_default()
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}

/// The node ports of its ports.
pub(super) fn port_numbers(service: &Value) -> HashSet<u16> {
    ports(service).iter().filter_map(node_port).collect()
}

/// Every node port with its protocol, the health check port included.
pub(super) fn node_ports(service: &Value) -> Vec<(u16, String)> {
    let mut all: Vec<(u16, String)> = ports(service).iter().filter_map(|p| Some((node_port(p)?, protocol(p)))).collect();
    all.extend(health_check_port(service).map(|p| (p, "TCP".to_owned())));
    all
}

/// Fills in what an update leaves out though the Service has it already (upstream's `patchAllocatedValues`).
pub(super) fn carry_over(service: &mut Value, old: &Value) {
    if text(service, "type") != "ExternalName" && text(service, "ipFamilyPolicy").is_empty() && !text(old, "ipFamilyPolicy").is_empty() {
        service["spec"]["ipFamilyPolicy"] = old["spec"]["ipFamilyPolicy"].clone();
    }
    kinds::keep_cluster_ips(service, old);
    let gives = |one: &Value| needs_node_ports(one) && allocates_node_ports(one);
    if gives(old) && gives(service) {
        // By name: whoever gives a port another number or protocol means the same port. Of those without a name, or of one, the last counts.
        let had: HashMap<&str, u16> = ports(old).iter().map(|p| (name(p), node_port(p).unwrap_or(0))).collect();
        let chosen = port_numbers(service);
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten().filter(|p| is_none(&p["nodePort"])) {
            if let Some(number) = had.get(name(port)).copied().filter(|number| *number > 0 && !chosen.contains(number)) {
                port["nodePort"] = number.into();
            }
        }
    }
    if needs_health_check_port(old) && needs_health_check_port(service) && is_none(&service["spec"]["healthCheckNodePort"]) {
        service["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}
