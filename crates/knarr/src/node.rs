//! What a node of the cluster is, whether it is the first, beside the API server, or a further one in a process of its own: its
//! name, directories and addresses, and the settings of its parts.

use crate::cluster::{Cluster, Plan};
use client::{Client, Informers};
use k8s_openapi::api::core::v1;
use kubelet::{Settings, Tls};
use network::{
    Mark, Part, dns,
    pod::{OwnPort, PodNetwork},
    proxy::{self, NodePortAddresses},
};
use runtime::Runtime;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// A node that runs on this machine.
pub struct Node<'a> {
    /// The cluster's addresses.
    pub plan: &'a Plan,
    /// Whose the host's links and rules are.
    pub mark: Mark,
    /// Its directories; the name is the path of its cgroup.
    pub home: &'a Cluster,
    /// The Node object's name.
    pub name: &'a str,
    /// Labels besides those of every node.
    pub labels: BTreeMap<String, String>,
    /// Taints that its object is made with.
    pub taints: Vec<String>,
    /// What it has of each family, the first family's first.
    pub parts: Vec<Part>,
    /// What its pods' links may carry, where they lead to other machines.
    pub mtu: Option<u32>,
    /// This machine's address, where they lead there by VXLAN.
    pub tunnel: Option<IpAddr>,
    /// The same, where they lead there by routes, of IPv4.
    pub lan: Option<Ipv4Addr>,
    /// The control plane gives it its ranges (node-ipam): its kubelet but asks for the same again.
    pub assigned: bool,
    /// Its own address among its pods, the first range's first: its DNS is there.
    pub ip: IpAddr,
    /// Where others reach it (`InternalIP`), and its kubelet listens.
    pub address: IpAddr,
    /// Where they reach it by the other family.
    pub second: Option<IpAddr>,
    /// Ports at which its own processes listen, and the API server where it is beside it.
    pub own_ports: Vec<OwnPort>,
    /// Where its images lie.
    pub images: PathBuf,
    /// Whom its pods ask for names.
    pub cluster_dns: Vec<IpAddr>,
    /// The domain that they look in.
    pub domain: String,
    /// What the node's flags say.
    pub settings: Settings,
}

impl Node<'_> {
    /// Its addresses, the first family's first.
    pub fn ips(&self) -> Vec<IpAddr> {
        [self.address].into_iter().chain(self.second).collect()
    }

    /// Settings of its pod network. `behind`: its namespace is one behind the first node's.
    pub fn network(&self, behind: bool) -> network::pod::Config {
        network::pod::Config {
            mark: self.mark.clone(),
            run_dir: self.home.run.join("network"),
            bridge: None,
            parts: self.parts.clone(),
            mtu: self.mtu,
            own_ports: self.own_ports.clone(),
            behind,
            tunnel: self.tunnel,
            lan: self.lan,
        }
    }

    /// Settings of its kubelet.
    pub fn kubelet(&self, tls: Tls) -> kubelet::Config {
        let mut config = kubelet::Config::new(self.name, self.address, self.home.data.join("kubelet"));
        config.labels = self.labels.clone();
        config.taints = self.taints.clone();
        config.cgroup_root = self.home.name.clone();
        config.cluster_dns = self.cluster_dns.clone();
        config.cluster_domain = self.domain.clone();
        config.pod_cidr_is_asked_for = self.assigned;
        config.node_ips = self.ips();
        config.pod_cidrs = self.parts.iter().map(|part| part.pod_cidr.to_string()).collect();
        config.tls = Some(tls);
        config.api_service = Some((self.plan.api_ip(), 443).into());
        config.own_ports = self.own_ports.clone();
        config.image_dir = self.images.clone();
        config.settings = self.settings.clone();
        config
    }

    /// Settings of its service proxy.
    pub fn proxy(&self, node_ports: NodePortAddresses) -> proxy::Config {
        proxy::Config {
            health: health_addresses(&self.ips(), &node_ports),
            mark: self.mark.clone(),
            node_name: self.name.to_owned(),
            sides: self.parts.iter().copied().map(Into::into).collect(),
            node_ports,
            own_ports: self.own_ports.clone(),
        }
    }

    /// Settings of its DNS. `publisher` keeps the Service and the node's addresses there, if this node does.
    pub fn dns(&self, upstream: dns::Upstream, publisher: impl Into<Option<Client>>) -> dns::Config {
        dns::Config {
            node_name: self.name.to_owned(),
            listen: self.ip,
            cluster_ip: self.cluster_dns.iter().copied().find(|ip| ip.is_ipv4() == self.ip.is_ipv4()).unwrap_or(self.plan.dns_ip()),
            domain: self.domain.clone(),
            own_ranges: [self.plan.pod_cidrs(), self.plan.service_cidrs()].concat(),
            upstream,
            publish: publisher.into().map(|client| client.user_agent("knarr-dns")),
        }
    }
}

/// Where a node's proxy tells of its health: at the node's addresses, and on loopback, where it tells what it counts, too, if no other
/// cluster's proxy may be there.
pub fn health_addresses(ips: &[IpAddr], node_ports: &NodePortAddresses) -> Vec<IpAddr> {
    let loopback = (*node_ports == NodePortAddresses::All).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    ips.iter().copied().chain(loopback).collect()
}

/// Ports at which a node's own processes listen: at its address, and the proxy's at that of its second family as well.
pub fn own_ports(node: IpAddr, second: Option<IpAddr>, has_proxy: bool, has_dns: bool) -> impl Iterator<Item = OwnPort> {
    let own = move |port, protocol| OwnPort { ip: Some(node), port, protocol };
    let health = [Some(node), second].into_iter().filter(move |ip| has_proxy && ip.is_some());
    let health = health.map(|ip| OwnPort { ip, port: network::proxy::HEALTH_PORT, protocol: "TCP" });
    let dns = [own(dns::PORT, "UDP"), own(dns::PORT, "TCP")].into_iter().filter(move |_| has_dns);
    [own(kubelet::PORT, "TCP")].into_iter().chain(health).chain(dns)
}

/// Where node ports are served. A node of a further cluster, to which not all of its machine's addresses are left, keeps to its own unless
/// it is told otherwise, so that all clusters can use the same ports; and to those at which other machines reach it (`shared`), where the
/// ports of the first one come first.
pub fn node_ports(node: &[IpAddr], shared: Option<&[IpAddr]>, asked: &[IpAddr]) -> NodePortAddresses {
    match (asked, shared) {
        ([], None) => NodePortAddresses::All,
        ([], Some(with_others @ [_, ..])) => NodePortAddresses::Shared { own: node.to_vec(), with_others: with_others.to_vec() },
        (all, _) if all.iter().any(IpAddr::is_unspecified) => NodePortAddresses::All,
        (some, _) => NodePortAddresses::Only(node.iter().chain(some).copied().collect::<BTreeSet<_>>().into_iter().collect()),
    }
}

/// Whether a node is Ready.
pub fn is_ready(node: &v1::Node) -> bool {
    node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Waits until a node is Ready.
pub async fn ready(informers: &Informers, name: &str) {
    let nodes = informers.informer::<v1::Node>();
    let mut changes = nodes.subscribe();
    while let Some(change) = changes.recv().await {
        let node = change.object();
        if is_ready(node) && node.metadata.name.as_deref() == Some(name) {
            return;
        }
    }
}

/// Ends all pods of a node, each as if it were deleted; their objects stay. How many there were.
pub async fn end_pods(runtime: &Runtime, network: Option<PodNetwork>, node_ip: IpAddr) -> usize {
    let sandboxes = runtime.sandboxes();
    let own = network.clone();
    // What has no address of its own has the node's, as when it was started.
    let ips = move |sandbox: &str| match own.as_ref().and_then(|network| network.addresses(sandbox)) {
        Some(own) => own.ips,
        None => vec![node_ip],
    };
    kubelet::shutdown::end_pods(runtime.clone(), ips).await;
    for sandbox in &sandboxes {
        if let Some(network) = &network {
            let _ = network.detach(&sandbox.config.id).await;
        }
        if let Err(error) = runtime.stop_sandbox(&sandbox.config.id).await {
            tracing::warn!(sandbox = sandbox.config.id, %error, "a pod's sandbox could not be stopped");
        }
    }
    sandboxes.len()
}

/// Nobody is behind the Services any more; at the next start their rules are written anew.
pub async fn remove_rules(mark: Mark) {
    let removed = tokio::task::spawn_blocking(move || proxy::remove(&mark)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(%error, "the Services' rules stay");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_node_keeps_the_ports_of_the_parts_that_it_has() {
        let ports = |has_proxy, has_dns| own_ports(ADDRESS, None, has_proxy, has_dns).map(|own| (own.port, own.protocol)).collect::<Vec<_>>();
        assert_eq!(ports(true, true), [(10250, "TCP"), (10256, "TCP"), (53, "UDP"), (53, "TCP")]);
        assert_eq!(ports(true, false), [(10250, "TCP"), (10256, "TCP")]);
        assert_eq!(ports(false, false), [(10250, "TCP")]);
    }

    #[test]
    fn a_node_of_both_families_keeps_the_port_of_its_health_at_either_address() {
        let second = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let at_second = |has_proxy| own_ports(ADDRESS, Some(second), has_proxy, true).filter(|own| own.ip == Some(second)).collect::<Vec<_>>();
        assert_eq!(at_second(true), [OwnPort { ip: Some(second), port: 10256, protocol: "TCP" }]);
        assert!(at_second(false).is_empty());
        assert_eq!(own_ports(ADDRESS, Some(second), true, true).filter(|own| own.ip == Some(ADDRESS)).count(), 4);
    }
}
