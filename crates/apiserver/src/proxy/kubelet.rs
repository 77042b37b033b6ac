//! Where the kubelet of a node listens. Who answers there is that node's kubelet or nobody ([`identity::pki::Kubelets`]).

use super::{
    NODES,
    dial::{self, Address, Backend, Host},
    forward, items, text,
};
use crate::world::World;
use http::{Request, header};
use machinery::{Value, status::Status};

/// The port of a kubelet that names none.
pub(super) const PORT: u16 = 10_250;
/// The addresses that are dialled, best first: as upstream's default (`--kubelet-preferred-address-types`), but that an address, which
/// needs no resolver that knows the node, goes before its name.
const TYPES: [&str; 5] = ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"];

/// The kubelet of a node.
pub(super) fn of_node(world: &World, name: &str) -> Result<Backend, Status> {
    let node = world.read(NODES, "", name)?;
    let kubelets = world.identity().authenticator.trust().kubelets.as_ref();
    let kubelets = kubelets.ok_or_else(|| Status::internal("this API server has no client certificate for kubelets"))?;
    let tls = kubelets.of(name).map_err(Status::internal)?;
    Ok(Backend { address: Address { host: host(&node)?, port: port(&node) }, tls: Some(tls) })
}

/// The kubelet that runs a pod. Upstream looks for the node while it answers for a pod, and its registry tells what is not there by
/// the resource of the request: a node that has gone is a pod that is not found.
pub(super) fn of_pod(world: &World, node: &str) -> Result<Backend, Status> {
    of_node(world, node).map_err(|status| if status.code == 404 { Status::not_found("", "pods", node) } else { status })
}

/// What a node's kubelet answers to a GET of the server's own.
///
/// # Errors
/// It does not answer, refuses, or says too much.
pub(crate) async fn of_kubelet(world: &World, node: &str, path: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let backend = of_node(world, node).map_err(|status| status.message)?;
    let told = |error: String| format!("Get \"https://{}{path}\": {error}", backend.address);
    let mut sender = dial::connect(&backend).await.map_err(told)?;
    let request = Request::get(path).header(header::HOST, backend.address.to_string()).body(crate::empty()).map_err(|e| told(e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|e| told(e.to_string()))?;
    if !answer.status().is_success() {
        return Err(format!("request failed, status: {:?}", answer.status().to_string()));
    }
    forward::read(answer.into_body(), bytes_max).await.map_err(told)
}

/// The host that a node is: the first of its best kind of addresses, as upstream.
pub(super) fn host(node: &Value) -> Result<Host, Status> {
    let all = items(&node["status"]["addresses"]);
    let of = |kind: &str| all.iter().find(move |a| text(a, "type") == kind && !text(a, "address").is_empty()).map(|a| text(a, "address"));
    let found = TYPES.iter().find_map(|kind| of(kind)).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|a| text(a, "type")).collect();
        super::plain_error(format!("no preferred addresses found; known addresses: [{}]", known.join(" ")))
    })?;
    Ok(found.parse().map_or_else(|_| Host::Name(found.to_owned()), Host::Ip))
}

/// The port of a node's kubelet.
pub(super) fn port(node: &Value) -> u16 {
    let told = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    told.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_found_by_its_best_address() {
        let node = |addresses: &[(&str, &str)]| {
            let all: Vec<_> = addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
            host(&json!({"status": {"addresses": all}})).map_err(|status| status.message)
        };
        let ip = |text: &str| Host::Ip(text.parse().expect("an address"));
        assert_eq!(node(&[("ExternalIP", "203.0.113.1"), ("Hostname", "a"), ("InternalIP", "192.0.2.1"), ("InternalIP", "192.0.2.2")]), Ok(ip("192.0.2.1")));
        assert_eq!(node(&[("ExternalIP", "203.0.113.1"), ("InternalDNS", "a.internal"), ("Hostname", "a")]), Ok(Host::Name("a".into())));
        assert_eq!(node(&[("ExternalIP", "203.0.113.1"), ("Hostname", "")]), Ok(ip("203.0.113.1")));
        assert_eq!(node(&[("Else", "x")]), Err("no preferred addresses found; known addresses: [Else]".into()));
        let shown = |host: Host| Address { host, port: 10_250 }.to_string();
        assert_eq!([shown(ip("2001:db8::1")), shown(Host::Name("a".into()))], ["[2001:db8::1]:10250", "a:10250"]);
    }
}
