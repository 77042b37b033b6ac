//! Which endpoints a Service's port has, and which of them take traffic (upstream: `pkg/proxy/topology.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cidr::Net;
use crate::nft::Family;
use crate::pod::OwnPort;

/// The node, as far as rules depend on it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Its address (`InternalIP`).
    pub(super) ip: IpAddr,
    /// Its zone (`topology.kubernetes.io/zone`), or empty.
    pub(super) zone: String,
    /// Of which family the rules are.
    pub(super) family: Family,
    pub(super) cluster_cidr: Option<Net>,
    /// The range of its own pods, as far as its Node tells it.
    pub(super) pod_cidr: Option<Net>,
    /// The Services' ranges of that family.
    pub(super) service_ranges: BTreeSet<Net>,
    /// Where its own processes listen.
    pub(super) own_ports: Vec<OwnPort>,
    /// These processes end: what they answer others are to be asked, where there are some.
    pub(super) is_leaving: bool,
}

impl Node {
    /// Whether a port at an address from outside is somebody's already, whatever a Service says: the node's own processes', or that of a
    /// Service whose cluster address it is. Who may make Services may write any address into them (CVE-2020-8554); upstream leaves that to
    /// the admission plug-in `DenyServiceExternalIPs`, and lets the API, the kubelet and DNS be taken where it is off.
    pub(super) fn has(&self, ip: IpAddr, port: u16, protocol: &str) -> bool {
        self.service_ranges.iter().any(|range| range.contains(ip)) || self.own_ports.iter().any(|own| own.meets(Some(ip), port, protocol))
    }

    /// The same of a port at all of the node's addresses.
    pub(super) fn has_port(&self, port: u16, protocol: &str) -> bool {
        self.own_ports.iter().any(|own| own.meets(None, port, protocol))
    }

    /// Whether an endpoint is one of the node's own processes (its DNS).
    pub(super) fn answers(&self, (ip, port): Backend) -> bool {
        self.own_ports.iter().any(|own| own.ip == Some(ip) && own.port == port)
    }
}

/// Labels of Services, and of their slices, that are another proxy's or nobody's (upstream's proxy does not even list them).
const LEFT_ALONE: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// Whether something with these labels is none of this proxy's.
pub(super) fn is_left_alone(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.is_some_and(|labels| LEFT_ALONE.iter().any(|key| labels.contains_key(*key)))
}

/// Where a connection may go.
pub(super) type Backend = (IpAddr, u16);

struct Endpoint {
    backend: Backend,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    elsewhere: bool,
    /// Nodes, and zones, that are to prefer it.
    nodes: Vec<String>,
    zones: Vec<String>,
}

/// The endpoints of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backends {
    /// Those that take traffic, from all nodes.
    pub(super) cluster: BTreeSet<Backend>,
    /// Those that take traffic, from this node.
    pub(super) local: BTreeSet<Backend>,
    /// Those that still answer, whatever new traffic they take: flows without an end may go on to them.
    pub(super) serving: BTreeSet<Backend>,
    /// Addresses of ready endpoints on this node: what a load balancer's health check counts.
    pub(super) ready_here: BTreeSet<IpAddr>,
    /// Addresses that may be of this node.
    pub(super) here: BTreeSet<IpAddr>,
}

/// The endpoints of a port in a Service's slices, as `node` sees them.
pub(super) fn of_port(port: &ServicePort, slices: &[Arc<EndpointSlice>], node: &Node) -> Backends {
    let mut all: Vec<Endpoint> = slices.iter().flat_map(|s| of_slice(port, s, node)).collect();
    let others = all.iter().any(|e| e.ready && !node.answers(e.backend));
    // Where there are none: who asks for a name and hears nothing asks again, and gives up when he hears that nobody is there.
    if node.is_leaving && (others || port.protocol.as_deref() == Some("UDP")) {
        all.retain(|e| !node.answers(e.backend));
    }
    // Endpoints that finish their work take new connections only if there is no other.
    let choose = |local_only: bool| -> BTreeSet<Backend> {
        let candidates = || all.iter().filter(move |e| e.local || !local_only);
        let ready: Vec<&Endpoint> = candidates().filter(|e| e.ready).collect();
        if !ready.is_empty() {
            // Hints choose among all nodes' endpoints; those of this node are not narrowed further.
            let chosen = if local_only { ready } else { preferred(ready, node) };
            return chosen.into_iter().map(|e| e.backend).collect();
        }
        candidates().filter(|e| e.serving && e.terminating).map(|e| e.backend).collect()
    };
    let (cluster, local) = (choose(false), choose(true));
    // An endpoint that names no node may be of this one.
    let here = all.iter().filter(|e| !e.elsewhere).map(|e| e.backend).filter(|b| cluster.contains(b) || local.contains(b)).map(|b| b.0).collect();
    let serving = all.iter().filter(|e| e.ready || e.serving).map(|e| e.backend).collect();
    let ready_here = all.iter().filter(|e| e.ready && e.local).map(|e| e.backend.0).collect();
    Backends { cluster, local, serving, ready_here, here }
}

/// Those that this node is to prefer, if the hints are whole and name any: by the node (`trafficDistribution: PreferSameNode`),
/// else by its zone (`PreferSameZone`, `PreferClose`). One endpoint without a hint, or none for here, and all are taken.
fn preferred<'a>(ready: Vec<&'a Endpoint>, node: &Node) -> Vec<&'a Endpoint> {
    let by = |hints: fn(&Endpoint) -> &Vec<String>, own: &str| {
        let ours: Vec<&Endpoint> = ready.iter().filter(|e| hints(e).iter().any(|hint| hint == own)).copied().collect();
        (ready.iter().all(|e| !hints(e).is_empty()) && !ours.is_empty()).then_some(ours)
    };
    by(|e| &e.nodes, &node.name).or_else(|| by(|e| &e.zones, &node.zone)).unwrap_or(ready)
}

fn of_slice(port: &ServicePort, slice: &EndpointSlice, node: &Node) -> Vec<Endpoint> {
    let (family, node) = (node.family, node.name.as_str());
    if slice.address_type != family.name() || is_left_alone(slice.metadata.labels.as_ref()) {
        return Vec::new();
    }
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let name = port.name.as_deref().unwrap_or_default();
    let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        p.name.as_deref().unwrap_or_default() == name && p.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    let numbers = slice.ports.iter().flatten().filter(same).filter_map(|p| u16::try_from(p.port?).ok());
    let mut out = Vec::new();
    for number in numbers {
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            // The first address is the endpoint's; more have no meaning.
            let address = endpoint.addresses.first().and_then(|a| a.parse().ok());
            let Some(address) = address.filter(|ip| Family::of(*ip) == family) else { continue };
            out.push(Endpoint {
                backend: (address, number),
                ready: conditions.ready.unwrap_or(true),
                // Who writes slices by hand may leave it out, and then it serves, ready or not.
                serving: conditions.serving.unwrap_or(true),
                terminating: conditions.terminating.unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(node),
                nodes: endpoint.hints.iter().flat_map(|h| h.for_nodes.iter().flatten()).map(|n| n.name.clone()).collect(),
                zones: endpoint.hints.iter().flat_map(|h| h.for_zones.iter().flatten()).map(|z| z.name.clone()).collect(),
                elsewhere: endpoint.node_name.as_deref().is_some_and(|n| n != node),
            });
        }
    }
    out
}
