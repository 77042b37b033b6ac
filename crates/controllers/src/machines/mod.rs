//! What the control plane does for nodes of other machines, and the original leaves to whoever sets a cluster up: it tells where its
//! own machine's nodes are reached, approves the certificates of kubelets as servers, and makes the cluster's DNS on each node known.
//! So no node needs the right to do that for itself.
//!
//! They run when [`Machines`] is given, and are in no list of names: no controller of the original is among them.

pub(crate) mod address;
pub(crate) mod dns;
pub(crate) mod serving;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Informer, Meta};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::meta::created;
use crate::range::{Range, cidrs};
use crate::service_cidr::blocks;

/// Who writes where nodes are reached, and the slices of their DNS.
const ACCOUNT: &str = "knarr-machines";

/// The control plane's machine, as nodes of other machines have to do with it.
#[derive(Clone)]
pub struct Machines {
    /// Its addresses among the machines.
    pub addresses: Vec<IpAddr>,
    /// Names and addresses of the API server, which no node's certificate may have.
    pub server: Vec<String>,
    /// The cluster's DNS domain.
    pub domain: String,
    /// The server's own ranges of Services.
    services: Vec<Range>,
    /// The cluster's ranges of pods.
    pods: Vec<Range>,
    held: Arc<Hold>,
}

type Hold = dyn Fn() -> Result<Held, String> + Send + Sync;

/// The nodes of the control plane's machine; none is added as long as this is held.
pub struct Held {
    /// Their names, and the ranges of pods that are theirs.
    pub nodes: BTreeMap<String, Vec<String>>,
    /// What keeps them so.
    pub lock: Box<dyn Send>,
}

impl Machines {
    /// `held` may wait for a lock and read files; it is called where that does no harm.
    pub fn new(
        addresses: Vec<IpAddr>,
        server: Vec<String>,
        domain: String,
        (pod_cidr, service_cidr): (&str, &str),
        held: impl Fn() -> Result<Held, String> + Send + Sync + 'static,
    ) -> Machines {
        let ranges = |text: &str| text.split(',').filter_map(Range::parse).collect::<Vec<_>>();
        Machines { addresses, server, domain, services: ranges(service_cidr), pods: ranges(pod_cidr), held: Arc::new(held) }
    }

    /// All ranges of Services: the server's own, and those that somebody has made.
    fn services(&self, made: &Informer<ServiceCIDR>) -> Vec<Range> {
        let made = made.list();
        self.services.iter().copied().chain(made.iter().flat_map(|range| blocks(range))).collect()
    }

    /// Whether an address may be a node's, being neither nobody's, nor the API server's, nor a Service's; else why not.
    fn allows(&self, ip: IpAddr, services: &[Range]) -> Result<(), String> {
        if !may_be_a_nodes(ip) {
            return Err(format!("{ip} is no node's address"));
        }
        if self.server.iter().any(|text| text.parse() == Ok(ip)) {
            return Err(format!("{ip} is an address of the API server"));
        }
        if services.iter().any(|range| range.contains(ip)) {
            return Err(format!("{ip} is a Service's"));
        }
        Ok(())
    }

    /// The nodes of the control plane's machine.
    pub(crate) async fn held(&self) -> client::Result<Held> {
        let held = Arc::clone(&self.held);
        let held = tokio::task::spawn_blocking(move || held()).await.map_err(|error| error.to_string());
        held.and_then(|held| held).map_err(|why| client::Error::Config(format!("the nodes of this machine are not known: {why}")))
    }
}

impl fmt::Debug for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machines").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What a node tells of itself, as others are to be kept from telling the same.
struct Told<'n> {
    /// What stands in its status, of any type.
    names: Vec<&'n str>,
    /// The addresses among it.
    addresses: Vec<IpAddr>,
    /// Where it is reached, of a node of the control plane's machine.
    machine: Vec<IpAddr>,
    ranges: Vec<Range>,
}

impl<'n> Told<'n> {
    /// Ranges are believed within the cluster's alone, and addresses in their plain form.
    fn of(node: &'n Node, machines: &Machines) -> Told<'n> {
        let plain = |text: &str| text.parse().ok().filter(|ip: &IpAddr| ip.to_canonical() == *ip);
        let is_pods = |range: &Range| machines.pods.iter().any(|pods| pods.holds(*range));
        let names: Vec<&str> = node.status.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.address.as_str()).collect();
        let addresses = names.iter().filter_map(|text| plain(text)).collect();
        let machine = node.annotation(address::ANNOTATION).into_iter().flat_map(|all| all.split(',')).filter_map(plain).collect();
        Told { names, addresses, machine, ranges: cidrs(node).iter().filter_map(|text| Range::parse(text)).filter(is_pods).collect() }
    }

    /// Whether it has an address, or one of its pods may have it.
    fn has(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip) || self.machine.contains(&ip) || self.ranges.iter().any(|range| range.contains(ip))
    }

    /// Whether it has a name.
    fn is_called(&self, name: &str) -> bool {
        self.names.iter().any(|text| same_name(text, name))
    }
}

/// Whether two names are one to whoever looks them up.
fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

/// Which of two nodes that tell the same is believed: who was there first.
fn precedes(one: &Node, other: &Node) -> bool {
    (created(one), one.name()) < (created(other), other.name())
}

/// Whether an address may be a node's at all.
fn may_be_a_nodes(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !link_local
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A node with its addresses, its range and whether it is Ready; those that are made later come later.
    pub(crate) fn node(name: &str, made: &str, addresses: &[(&str, &str)], range: &str, ready: bool) -> Node {
        let addresses: Vec<_> = addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let ready = if ready { "True" } else { "Unknown" };
        client::typed(&json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": made},
            "spec": {"podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .expect("a node")
    }

    /// The machine with the address 192.0.2.1, whose nodes are these.
    pub(crate) fn machines(nodes: &'static [(&'static str, &'static str)]) -> Machines {
        let server = ["kubernetes", "192.0.2.1", "10.96.0.1"].map(str::to_owned).to_vec();
        Machines::new(vec![[192, 0, 2, 1].into()], server, "cluster.local".to_owned(), ("10.244.0.0/16", "10.96.0.0/16"), || {
            Ok(Held { nodes: nodes.iter().map(|(name, range)| ((*name).to_owned(), vec![(*range).to_owned()])).collect(), lock: Box::new(()) })
        })
    }
}
