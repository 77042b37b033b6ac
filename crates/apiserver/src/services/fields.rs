//! What a Service's fields mean to allocation.

use machinery::Value;

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn kind(service: &Value) -> &str {
    match text(service, "type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

/// Whether the type has cluster addresses at all (`ExternalName` has none).
pub(super) fn needs_cluster_ip(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
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

/// The protocol of a port; TCP by default.
pub(super) fn protocol(port: &Value) -> String {
    port["protocol"].as_str().filter(|p| !p.is_empty()).unwrap_or("TCP").to_owned()
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}

/// Every node port with its protocol, the health check port included.
pub(super) fn node_ports(service: &Value) -> Vec<(u16, String)> {
    let mut all: Vec<(u16, String)> = ports(service).iter().filter_map(|p| Some((node_port(p)?, protocol(p)))).collect();
    all.extend(health_check_port(service).map(|p| (p, "TCP".to_owned())));
    all
}

/// Fills in what an update leaves out though the Service has it already, and drops what the new type has no use for:
/// upstream's `patchAllocatedValues` and `dropTypeDependentFields`.
pub(super) fn carry_over(service: &mut Value, old: &Value) {
    if text(service, "type") != "ExternalName" && text(service, "ipFamilyPolicy").is_empty() && !text(old, "ipFamilyPolicy").is_empty() {
        service["spec"]["ipFamilyPolicy"] = old["spec"]["ipFamilyPolicy"].clone();
    }
    if needs_cluster_ip(old) && needs_cluster_ip(service) {
        if text(service, "clusterIP").is_empty() && cluster_ips(service).is_empty() {
            service["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
            service["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        } else if text(service, "clusterIP") == text(old, "clusterIP") && service["spec"]["clusterIPs"].is_null() {
            service["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
    }
    if needs_cluster_ip(old) && !needs_cluster_ip(service) {
        // Becoming an ExternalName, with the addresses left as they were: they go.
        if cluster_ips(service) == cluster_ips(old) {
            remove(service, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
        }
    }
    if needs_node_ports(old) && needs_node_ports(service) {
        let had: Vec<(Value, String, u16)> = ports(old).iter().filter_map(|p| Some((p["port"].clone(), protocol(p), node_port(p)?))).collect();
        let chosen: Vec<(u16, String)> = node_ports(service);
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten().filter(|p| node_port(p).is_none()) {
            let own = protocol(port);
            if let Some((_, protocol, number)) = had.iter().find(|(n, p, _)| *n == port["port"] && *p == own)
                && !chosen.contains(&(*number, protocol.clone()))
            {
                port["nodePort"] = (*number).into();
            }
        }
    } else if needs_node_ports(old) && !needs_node_ports(service) {
        let had = node_ports(old);
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if node_port(port).is_some_and(|n| had.iter().any(|(h, _)| *h == n))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
    if needs_health_check_port(old) && needs_health_check_port(service) && health_check_port(service).is_none() {
        service["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    } else if needs_health_check_port(old) && !needs_health_check_port(service) && health_check_port(service) == health_check_port(old) {
        remove(service, &["healthCheckNodePort"]);
    }
    if kind(old) == "LoadBalancer" && kind(service) != "LoadBalancer" {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if service["spec"][name] == old["spec"][name] {
                remove(service, &[name]);
            }
        }
    }
}

fn remove(service: &mut Value, names: &[&str]) {
    if let Some(spec) = service["spec"].as_object_mut() {
        for name in names {
            spec.remove(*name);
        }
    }
}
