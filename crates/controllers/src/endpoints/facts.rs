//! What a pod is to a Service.

use std::net::IpAddr;

use client::Meta;
use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::labels;
use crate::pods;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// All of a pod that endpoints are made of, apart from its labels and container ports (which do not change).
#[derive(Debug, PartialEq)]
pub(super) struct Facts<'p> {
    deleting: bool,
    terminal: bool,
    ready: bool,
    ips: Vec<&'p str>,
    node: &'p str,
    host: (&'p str, &'p str),
}

impl<'p> Facts<'p> {
    pub(super) fn of(pod: &'p Pod) -> Self {
        Self {
            deleting: pod.is_deleting(),
            terminal: pods::is_terminal(pod),
            ready: pods::is_ready(pod),
            ips: ips(pod),
            node: pods::node_name(pod),
            host: host(pod),
        }
    }
}

/// A pod's addresses, the first first.
pub(super) fn ips(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|p| p.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() { status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect() } else { all }
}

fn host(pod: &Pod) -> (&str, &str) {
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|s| s.hostname.as_deref());
    (hostname.unwrap_or_default(), spec.and_then(|s| s.subdomain.as_deref()).unwrap_or_default())
}

/// The pod's name under a Service, if it asks for one.
pub(super) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let (host, subdomain) = host(pod);
    (!host.is_empty() && subdomain == service.name()).then(|| host.to_owned())
}

pub(super) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

pub(super) fn is_headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    ip.is_empty() || ip == "None"
}

/// The address types of a Service's slices.
pub(super) fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let mut all: Vec<&'static str> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|f| match f.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if all.is_empty() {
        let v6 = spec.and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| ip.contains(':'));
        all.push(if v6 { "IPv6" } else { "IPv4" });
    }
    all
}

pub(super) fn is_family(ip: &str, family: &str) -> bool {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    }
}

/// The reference from an endpoint to its pod.
pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.meta().namespace.clone(),
        name: pod.meta().name.clone(),
        uid: pod.meta().uid.clone(),
        ..ObjectReference::default()
    }
}

/// The endpoint of a pod in one address family; none if it cannot serve at all (it has ended, or has no address).
pub(super) fn endpoint(pod: &Pod, node: Option<&Node>, service: &Service, family: &str) -> Option<Endpoint> {
    if pods::is_terminal(pod) {
        return None;
    }
    let addresses: Vec<String> = ips(pod).into_iter().filter(|ip| is_family(ip, family)).map(str::to_owned).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pod.is_deleting());
    let ready = publishes_unready(service) || (serving && !terminating);
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty());
    let zone = node.and_then(|n| labels(n).get(ZONE)).filter(|z| !z.is_empty()).cloned();
    Some(Endpoint {
        hints: if ready { hints(service, zone.as_ref(), node_name.as_ref()) } else { None },
        addresses,
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
        hostname: hostname(pod, service),
        node_name,
        zone,
        target_ref: Some(target(pod)),
        deprecated_topology: None,
    })
}

/// For whom an endpoint is meant, by the Service's `trafficDistribution`.
fn hints(service: &Service, zone: Option<&String>, node: Option<&String>) -> Option<EndpointHints> {
    let zones = || zone.map(|z| vec![ForZone { name: z.clone() }]);
    match service.spec.as_ref()?.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => zones().map(|z| EndpointHints { for_zones: Some(z), for_nodes: None }),
        "PreferSameNode" => {
            let nodes = node.map(|n| vec![ForNode { name: n.clone() }]);
            Some(EndpointHints { for_zones: zones(), for_nodes: nodes }).filter(|h| h.for_zones.is_some() || h.for_nodes.is_some())
        }
        _ => None,
    }
}

/// The ports of a Service at this pod; those that the pod does not have are left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let all = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    let port = |p: &ServicePort| {
        Some(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, p)?),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: p.app_protocol.clone(),
        })
    };
    all.filter_map(port).collect()
}

/// The number behind a Service's port at this pod; named ports are looked up in its containers and sidecars.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = |c: &Container| {
        let mut ports = c.ports.iter().flatten();
        ports.find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol).map(|p| p.container_port)
    };
    spec.containers.iter().chain(sidecars).find_map(ports)
}
