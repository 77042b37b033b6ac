//! Where the kubelet of a node listens.

use super::{
    NODES,
    dial::{self, Backend},
    forward, items, text,
};
use crate::world::World;
use http::{Request, header};
use machinery::{Value, status::Status};
use std::net::{IpAddr, SocketAddr};

/// The port of a kubelet that names none.
pub(super) const PORT: u16 = 10_250;
/// The addresses that are dialled, best first. Names would need a resolver that knows the node; addresses need none.
const TYPES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// The kubelet of a node.
pub(super) fn of_node(world: &World, name: &str) -> Result<Backend, Status> {
    let node = world.read(NODES, "", name)?;
    let tls = world.identity().authenticator.trust().kubelet_client.clone();
    let tls = tls.ok_or_else(|| Status::internal("this API server has no client certificate for kubelets"))?;
    Ok(Backend { address: SocketAddr::new(address(&node)?, port(&node)), tls: Some(tls) })
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

/// The address of a node.
pub(super) fn address(node: &Value) -> Result<IpAddr, Status> {
    let all = items(&node["status"]["addresses"]);
    let of = |kind: &str| all.iter().filter(move |a| text(a, "type") == kind).find_map(|a| text(a, "address").parse().ok());
    TYPES.iter().find_map(|kind| of(kind)).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|a| text(a, "type")).collect();
        super::plain_error(format!("no preferred addresses found; known addresses: [{}]", known.join(" ")))
    })
}

/// The port of a node's kubelet.
pub(super) fn port(node: &Value) -> u16 {
    let told = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    told.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(PORT)
}
