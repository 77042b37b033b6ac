//! Which backend a proxy request means: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT` of a pod, a service or a node.

use super::{
    NODES, PODS,
    dial::{self, Address, Backend, Host},
    items, kubelet, text,
};
use crate::{path::RequestInfo, storage, world::World};
use machinery::{Value, quote::Quoted, status::Status};
use std::net::IpAddr;

/// Finds the backend of a proxy request.
pub(super) fn find(world: &World, info: &RequestInfo) -> Result<Backend, Status> {
    let kind = match info.resource.as_str() {
        "pods" => "pod",
        "services" => "service",
        _ => "node",
    };
    let Some((scheme, name, port)) = split(&info.name) else {
        return Err(Status::bad_request(format!("invalid {kind} request {}", Quoted(&info.name))));
    };
    match kind {
        "pod" => of_pod(world, &info.namespace, scheme, name, port),
        "service" => of_service(world, info, scheme, name, port),
        _ => of_node(world, scheme, name, port),
    }
}

/// The name of the object that a request for a stream of it means; empty if that cannot be told.
pub(crate) fn object_of(info: &RequestInfo) -> &str {
    match info.subresource.as_str() {
        "proxy" => split(&info.name).map_or("", |(_, name, _)| name),
        _ => &info.name,
    }
}

/// Scheme (may be empty), name and port (may be empty).
pub(super) fn split(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

fn backend(host: Host, scheme: &str, port: &str) -> Result<Backend, Status> {
    let default = if scheme == "https" { 443 } else { 80 };
    let port = match port {
        "" => default,
        text => {
            text.parse::<u16>().map_err(|_| Status::service_unavailable(format!("error trying to reach service: dial tcp: address {text}: invalid port")))?
        }
    };
    let tls = if scheme == "https" { Some(dial::unverified().map_err(Status::internal)?) } else { None };
    Ok(Backend { address: Address { host, port }, tls })
}

/// Only what is a pod's or a node's may be reached: never this host's loopback or link-local addresses.
/// An IPv4 address in the dress of an IPv6 one is looked at as what it leads to.
pub(super) fn proxyable(ip: IpAddr) -> Result<IpAddr, Status> {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() { Err(Status::bad_request("address not allowed")) } else { Ok(ip) }
}

fn of_pod(world: &World, namespace: &str, scheme: &str, name: &str, port: &str) -> Result<Backend, Status> {
    let pod = world.read(PODS, namespace, name)?;
    let ip = text(&pod["status"], "podIP").parse().map_err(|_| Status::bad_request("address not allowed"))?;
    let mut ports = items(&pod["spec"]["containers"]).iter().filter_map(|c| items(&c["ports"]).first());
    let first = ports.next().and_then(|p| p["containerPort"].as_u64()).map(|p| p.to_string()).unwrap_or_default();
    backend(Host::Ip(proxyable(ip)?), scheme, if port.is_empty() { &first } else { port })
}

fn of_node(world: &World, scheme: &str, name: &str, port: &str) -> Result<Backend, Status> {
    let node = world.read(NODES, "", name)?;
    let host = match kubelet::host(&node)? {
        Host::Ip(ip) => Host::Ip(proxyable(ip)?),
        // Looked at once its address is known.
        name => name,
    };
    // The kubelet's port is none that this host has for itself, either: whoever writes a node's status must not lead there.
    if port.is_empty() || port.parse() == Ok(kubelet::port(&node)) {
        return kubelet::of_node(world, name);
    }
    backend(host, scheme, port)
}

fn of_service(world: &World, info: &RequestInfo, scheme: &str, name: &str, port: &str) -> Result<Backend, Status> {
    let mut wanted = port.to_owned();
    // The Service itself says no more than how a port is named: whoever names it, or none, is told of its endpoints.
    if let Ok(number) = port.parse::<i64>() {
        let service = world.read(("", "v1", "services"), &info.namespace, name)?;
        let found = items(&service["spec"]["ports"]).iter().find(|p| p["port"].as_i64() == Some(number));
        let found = found.ok_or_else(|| Status::service_unavailable(format!("no service port {number} found for service {}", Quoted(name))))?;
        text(found, "name").clone_into(&mut wanted);
    }
    let mut ready = endpoints(world, &info.namespace, name, &wanted);
    if ready.is_empty() {
        return Err(Status::service_unavailable(format!("no endpoints available for service {}", Quoted(name))));
    }
    let at = usize::from(u16::from_ne_bytes(random())) % ready.len();
    let (ip, port) = ready.swap_remove(at);
    backend(Host::Ip(ip), scheme, &port.to_string())
}

fn random() -> [u8; 2] {
    let mut bytes = [0; 2];
    // Any endpoint will do; the first one as well.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// The ready endpoints of a service that are pods, at the port of that name.
fn endpoints(world: &World, namespace: &str, service: &str, port: &str) -> Vec<(IpAddr, u16)> {
    let Some(row) = world.row("discovery.k8s.io", "v1", "endpointslices") else { return Vec::new() };
    let prefix = format!("{}{namespace}/", row.root_key);
    let Some(snapshot) = storage::snapshot(world.store(), &row, None) else { return Vec::new() };
    let slices: Vec<_> = snapshot.range(&prefix, "").map(|entry| storage::value(&row, entry)).collect();
    let mut out = Vec::new();
    for slice in slices.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == service) {
        let named = items(&slice["ports"]).iter().find(|p| text(p, "name") == port).and_then(|p| p["port"].as_u64());
        let Some(number) = named.and_then(|p| u16::try_from(p).ok()) else { continue };
        let ready = items(&slice["endpoints"]).iter().filter(|e| e["conditions"]["ready"] != false);
        out.extend(ready.filter_map(|e| Some((pod_address(world, namespace, e)?, number))));
    }
    out
}

/// The address of an endpoint if it is truly that of the pod that it names: nobody reaches another host by writing
/// endpoints.
fn pod_address(world: &World, namespace: &str, endpoint: &Value) -> Option<IpAddr> {
    let target = &endpoint["targetRef"];
    let ip = endpoint["addresses"][0].as_str()?;
    let elsewhere = !text(target, "namespace").is_empty() && text(target, "namespace") != namespace;
    if text(target, "kind") != "Pod" || elsewhere {
        return None;
    }
    let pod = world.read(PODS, namespace, text(target, "name")).ok()?;
    let own = text(&pod["status"], "podIP") == ip || items(&pod["status"]["podIPs"]).iter().any(|p| text(p, "ip") == ip);
    let ip = ip.parse().ok()?;
    (own && proxyable(ip).is_ok()).then_some(ip)
}
