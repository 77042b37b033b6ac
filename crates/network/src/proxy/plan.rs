//! What one Service needs in the kernel: a pure function of the Service, its EndpointSlices and the node.
//!
//! Names of chains say whose they are: `svc/NAMESPACE/NAME/PROTOCOL/PORT` sends a connection to any endpoint, `local/…` to
//! one on this node, `ext/…` is entered from outside the cluster (node ports, external and load balancer addresses), `from/…` (and
//! `from-none/…`, where nobody answers) lets a load balancer's source ranges through to it, `ep/…/ADDRESS/PORT` remembers a client and
//! translates to one endpoint. The maps by which an endpoint is chosen have a digest of what is in them in their name: other endpoints are
//! another map (see `table.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::endpoints::{self, Backend, Backends, Node};
use crate::cidr::Net;
use crate::nft::{Cmp, Data, DataKind, Element, Expr, Family, Fib, Rule, Verdict, endpoint_data, key, octets, reg, step};
use crate::pod::protocol;

/// A shared map or set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shared {
    /// Address, protocol, port → chain.
    Ips,
    /// Protocol, port → chain, at the node's addresses.
    NodePorts,
    /// Address, protocol, port → refuse or drop, since no endpoint is to be had.
    NoEndpoints,
    /// The same for node ports.
    NoNodePortEndpoints,
    /// Protocol and port of each node port, whether it has endpoints or not.
    HeldPorts,
    /// Cluster addresses that a Service has.
    ClusterIps,
}

/// The chain that adds the mark by which a packet gets the node's address as its source.
pub(super) const MARK_CHAIN: &str = "mark-for-masquerade";
/// The chain that refuses, by upstream's name (`reject` alone is a word of `nft`'s, which could not name the chain then).
pub(super) const REJECT_CHAIN: &str = "reject-chain";
/// The mark's bit: upstream's, so that several proxies on one host mean the same by it.
pub(super) const MARK: u32 = 0x4000;
/// As upstream's default.
const AFFINITY_S: u32 = 10_800;

/// Whom a UDP flow may talk to, by how the client calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UdpFront {
    /// Addresses with a port of the Service.
    pub(super) addresses: BTreeSet<(IpAddr, u16)>,
    /// The node port.
    pub(super) node_port: Option<u16>,
    /// Who may answer.
    pub(super) backends: BTreeSet<Backend>,
}

/// What one Service needs in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Chains with their rules.
    pub(super) chains: BTreeMap<String, Vec<Rule>>,
    /// Elements of the shared maps.
    pub(super) elements: BTreeMap<(Shared, Vec<u8>), Option<Data>>,
    /// Sets that remember an endpoint's clients: name → seconds.
    pub(super) affinity: BTreeMap<String, u32>,
    /// Maps that choose an endpoint, by name.
    pub(super) maps: BTreeMap<String, Fixed>,
    /// Pods of this node that may call themselves.
    pub(super) selves: BTreeSet<IpAddr>,
    /// UDP ports, by chain.
    pub(super) udp: BTreeMap<String, UdpFront>,
    /// Who may answer at its TCP ports.
    pub(super) tcp: BTreeSet<Backend>,
    /// Addresses and ports from outside that are not the Service's to have.
    pub(super) withheld: BTreeSet<(IpAddr, u16)>,
    /// Port of the health check and how many endpoints are on this node.
    pub(super) health: Option<(u16, usize)>,
}

/// A map that is never changed: other elements are another map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// What its keys are.
    pub(super) key: key::Type,
    /// What it maps to.
    pub(super) data: DataKind,
    /// What is in it.
    pub(super) elements: Vec<Element>,
}

impl Plan {
    /// The names of its sets and maps.
    pub(super) fn sets(&self) -> impl Iterator<Item = &String> {
        self.affinity.keys().chain(self.maps.keys())
    }

    /// Whether it has this set or map.
    pub(super) fn has_set(&self, name: &str) -> bool {
        self.affinity.contains_key(name) || self.maps.contains_key(name)
    }

    /// Takes in a map for this port; its name.
    fn map(&mut self, id: &str, key: key::Type, data: DataKind, elements: Vec<Element>) -> String {
        let mut digest = DefaultHasher::new();
        (key.id, &elements).hash(&mut digest);
        let name = format!("to-{:016x}/{id}", digest.finish());
        self.maps.insert(name.clone(), Fixed { key, data, elements });
        name
    }
}

/// Those that are addresses of a family.
fn addresses<'t>(texts: impl IntoIterator<Item = &'t String>, family: Family) -> impl Iterator<Item = IpAddr> {
    texts.into_iter().filter_map(|t| t.parse().ok()).filter(move |ip| Family::of(*ip) == family)
}

/// The cluster addresses that a Service has in a family.
fn cluster_ips(spec: &ServiceSpec, family: Family) -> BTreeSet<IpAddr> {
    addresses(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip), family).collect()
}

/// Whether anything is to be done for this Service in a family. One that has no cluster address there has nothing there (upstream's proxy
/// of a family passes over it, too).
pub(super) fn concerns(service: &Service, family: Family) -> bool {
    let Some(spec) = &service.spec else { return false };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    spec.type_.as_deref() != Some("ExternalName")
        && !ip.is_empty()
        && ip != "None"
        && !cluster_ips(spec, family).is_empty()
        && !endpoints::is_left_alone(service.metadata.labels.as_ref())
}

/// What this Service needs.
pub(super) fn of(service: &Service, slices: &[Arc<EndpointSlice>], node: &Node) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = service.spec.as_ref().filter(|_| concerns(service, node.family)) else { return plan };
    let mut local: BTreeSet<IpAddr> = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        let backends = endpoints::of_port(port, slices, node);
        local.extend(&backends.ready_here);
        if let Some(planner) = Planner::new(service, spec, port, &backends, node) {
            planner.write(&mut plan);
        }
    }
    let health = spec.health_check_node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    plan.health = health.filter(|_| local_policy(&spec.external_traffic_policy)).map(|port| (port, local.len()));
    plan
}

fn local_policy(policy: &Option<String>) -> bool {
    policy.as_deref() == Some("Local")
}

/// Where rules that choose an endpoint keep what.
struct Registers {
    address: u32,
    port: u32,
    client: u32,
    random: u32,
}

/// Loads an endpoint's address, and its port behind it. (One step loads 16 bytes at most.)
fn load(to: u32, (address, port): &Backend) -> Rule {
    let behind = to + Family::of(*address).registers();
    vec![Expr::Load { to, value: octets(*address) }, Expr::Load { to: behind, value: port.to_be_bytes().to_vec() }]
}

/// Writes the plan of one port.
struct Planner<'a> {
    spec: &'a ServiceSpec,
    service: &'a Service,
    backends: &'a Backends,
    node: &'a Node,
    id: String,
    protocol: u8,
    protocol_name: &'a str,
    port: u16,
    node_port: Option<u16>,
}

impl<'a> Planner<'a> {
    fn new(service: &'a Service, spec: &'a ServiceSpec, port: &'a ServicePort, backends: &'a Backends, node: &'a Node) -> Option<Self> {
        let number = u16::try_from(port.port).ok()?;
        let proto = port.protocol.as_deref().unwrap_or("TCP");
        let name = port.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| number.to_string());
        let meta = &service.metadata;
        let (namespace, service_name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        Some(Self {
            spec,
            service,
            backends,
            node,
            id: format!("{namespace}/{service_name}/{}/{name}", proto.to_ascii_lowercase()),
            protocol: protocol(proto)?,
            protocol_name: proto,
            port: number,
            node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0 && !node.has_port(*p, proto)),
        })
    }

    fn registers(&self) -> Registers {
        let length = self.node.family.registers();
        Registers { address: reg(4), port: reg(4 + length), client: reg(5 + length), random: reg(5 + 2 * length) }
    }

    fn key(&self, ip: IpAddr) -> Vec<u8> {
        key::join(&[&octets(ip), &[self.protocol], &self.port.to_be_bytes()])
    }

    fn load_balancer_ips(&self) -> impl Iterator<Item = IpAddr> {
        let status = self.service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let ingress = status.and_then(|l| l.ingress.as_ref()).into_iter().flatten();
        addresses(ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref()), self.node.family)
    }

    fn write(&self, plan: &mut Plan) {
        let Backends { cluster, local, serving, here, .. } = self.backends;
        let (svc, only, ext) = (format!("svc/{}", self.id), format!("local/{}", self.id), format!("ext/{}", self.id));
        let cluster_ips = cluster_ips(self.spec, self.node.family);
        let mut balancer: BTreeSet<IpAddr> = self.load_balancer_ips().collect();
        let mut outside: BTreeSet<IpAddr> = addresses(self.spec.external_ips.iter().flatten(), self.node.family).collect();
        outside.extend(&balancer);
        let may_have = |ip: &IpAddr| !self.node.has(*ip, self.port, self.protocol_name);
        plan.withheld.extend(outside.iter().filter(|ip| !may_have(ip)).map(|ip| (*ip, self.port)));
        outside.retain(may_have);
        balancer.retain(may_have);
        let inner_local = local_policy(&self.spec.internal_traffic_policy);
        let outer_local = local_policy(&self.spec.external_traffic_policy);
        let external = !outside.is_empty() || self.node_port.is_some();

        if !cluster.is_empty() {
            plan.selves.extend(here);
            self.balance(plan, &svc, cluster, &cluster_ips);
        }
        if !local.is_empty() && (inner_local || outer_local && external) {
            self.balance(plan, &only, local, &BTreeSet::new());
        }
        for ip in &cluster_ips {
            plan.elements.insert((Shared::ClusterIps, octets(*ip)), None);
            self.front(plan, Shared::Ips, Shared::NoEndpoints, self.key(*ip), inner_local, if inner_local { &only } else { &svc });
        }
        if external && !cluster.is_empty() {
            plan.chains.insert(ext.clone(), self.outer_rules(&svc, &only, outer_local));
        }
        for ip in &outside {
            self.front(plan, Shared::Ips, Shared::NoEndpoints, self.key(*ip), outer_local, &ext);
        }
        if let Some(port) = self.node_port {
            let key = key::join(&[&[self.protocol], &port.to_be_bytes()]);
            plan.elements.insert((Shared::HeldPorts, key.clone()), None);
            self.front(plan, Shared::NodePorts, Shared::NoNodePortEndpoints, key, outer_local, &ext);
        }
        self.sources(plan, &balancer);
        if i32::from(self.protocol) == libc::IPPROTO_UDP {
            let addresses = cluster_ips.iter().chain(&outside).map(|ip| (*ip, self.port)).collect();
            plan.udp.insert(svc, UdpFront { addresses, node_port: self.node_port, backends: serving.clone() });
        } else if i32::from(self.protocol) == libc::IPPROTO_TCP {
            plan.tcp.extend(serving);
        }
    }

    /// Leads one address (or node port) to its chain. Without an endpoint it is refused; if there are some which the policy
    /// does not let it use, it is dropped, so that whoever balances from outside tries another node, and likewise if who answers is about to
    /// start again.
    fn front(&self, plan: &mut Plan, to: Shared, otherwise: Shared, key: Vec<u8>, local_only: bool, chain: &str) {
        let Backends { cluster, local, .. } = self.backends;
        if !cluster.is_empty() && (!local_only || !local.is_empty() || chain.starts_with("ext/")) {
            plan.elements.insert((to, key.clone()), Some(Data::Verdict(Verdict::Goto(chain.to_owned()))));
        }
        let refusal = if cluster.is_empty() && self.node.is_leaving {
            Verdict::Drop
        } else if cluster.is_empty() {
            Verdict::Goto(REJECT_CHAIN.to_owned())
        } else if local_only && local.is_empty() {
            Verdict::Drop
        } else {
            return;
        };
        plan.elements.insert((otherwise, key), Some(Data::Verdict(refusal)));
    }

    /// The chain entered from outside: who comes so gets the node's address as its source, unless the policy keeps it.
    fn outer_rules(&self, svc: &str, only: &str, outer_local: bool) -> Vec<Rule> {
        if !outer_local {
            return vec![vec![step::jump(MARK_CHAIN)], vec![step::goto(svc)]];
        }
        let mut rules = Vec::new();
        // What begins on this node does not pass the outer balancer, and may use every endpoint. A pod of another node comes from outside as
        // everybody else: it sees the endpoints that are here alone, and they see it under its own address.
        let from = |range: Net, verdict: Expr| -> Rule { step::source_in(range, Cmp::Eq).into_iter().chain([verdict]).collect() };
        if let Some(range) = self.node.cluster_cidr {
            rules.push(from(self.node.pod_cidr.unwrap_or(range), step::goto(svc)));
        }
        for verdict in [step::jump(MARK_CHAIN), step::goto(svc)] {
            let mut rule = step::is_local(Fib::Source).to_vec();
            rule.push(verdict);
            rules.push(rule);
        }
        if !self.backends.local.is_empty() {
            rules.push(vec![step::goto(only)]);
        }
        rules
    }

    /// The chain that chooses an endpoint.
    fn balance(&self, plan: &mut Plan, chain: &str, backends: &BTreeSet<Backend>, cluster_ips: &BTreeSet<IpAddr>) {
        let mut rules = Vec::new();
        if let Some(range) = self.node.cluster_cidr {
            for ip in cluster_ips {
                // Who calls a cluster address from outside the cluster must get its answer by this node.
                let mut rule = step::destination_is(*ip).to_vec();
                rule.extend(step::source_in(range, Cmp::Ne));
                rule.push(step::jump(MARK_CHAIN));
                rules.push(rule);
            }
        }
        // The way here has looked at the protocol already; it is said again for those who list the rules.
        let mut pick = step::protocol_is(self.protocol).to_vec();
        if self.spec.session_affinity.as_deref() == Some("ClientIP") {
            self.remembering(plan, &mut rules, &mut pick, backends);
        } else {
            let Registers { address, port, .. } = self.registers();
            pick.extend(self.choose(plan, backends, address));
            pick.push(Expr::Dnat { family: self.node.family, address, port });
        }
        rules.push(pick);
        plan.chains.insert(chain.to_owned(), rules);
    }

    /// The same for clients that stay with their endpoint: each endpoint has a set of its clients, as upstream's has. (One map for all would
    /// be looked into once, whatever the number of endpoints, but who is found there must still be an endpoint; and what a lookup gave, looked
    /// for in another map, is what `nft list` 1.0.6 ends by, and with it firewalls that list all rules.) Remembering is a rule of its own
    /// before the one that translates: when there is no room for another client, only the memory of him is lost.
    fn remembering(&self, plan: &mut Plan, rules: &mut Vec<Rule>, pick: &mut Rule, backends: &BTreeSet<Backend>) {
        let (family, Registers { address, port, client, random }) = (self.node.family, self.registers());
        let source = || step::source(family, client - reg(0));
        let config = self.spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let timeout_s = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).unwrap_or(AFFINITY_S);
        let chain = |(address, port): &Backend| format!("ep/{}/{address}/{port}", self.id);
        // A set's timeout cannot be changed, so it is part of the name. All ways to the port share it.
        let clients = |(address, port): &Backend| format!("aff-{timeout_s}/{}/{address}/{port}", self.id);
        rules.extend(backends.iter().map(|b| vec![source(), Expr::In { set: clients(b), from: client, not: false }, step::goto(&chain(b))]));
        let to_chain = |backend: &Backend| Some(Data::Verdict(Verdict::Goto(chain(backend))));
        let numbered = (0_u32..).zip(backends).map(|(n, b)| (n.to_ne_bytes().to_vec(), to_chain(b))).collect();
        let numbered = plan.map(&self.id, key::NUMBER, DataKind::Verdict, numbered);
        pick.push(Expr::Random { to: random, modulus: u32::try_from(backends.len()).unwrap_or(u32::MAX) });
        pick.push(Expr::Map { set: numbered, from: random, to: 0 });
        for backend in backends {
            let remember = Expr::Remember { set: clients(backend), key: client, timeout_s };
            let mut translate = step::protocol_is(self.protocol).to_vec();
            translate.extend(load(address, backend));
            translate.push(Expr::Dnat { family, address, port });
            plan.chains.insert(chain(backend), vec![vec![source(), remember], translate]);
            plan.affinity.insert(clients(backend), timeout_s);
        }
    }

    /// Sources that may use a load balancer's addresses: these are led on, or refused, and all others dropped. That is said where connections
    /// are translated: a chain of its own would be passed by every packet of the node. Ranges of the other family say nothing of this one:
    /// where there are no others, everybody may, as with upstream's proxy of the family (`newBaseServiceInfo`).
    fn sources(&self, plan: &mut Plan, balancer: &BTreeSet<IpAddr>) {
        let told = self.spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.trim().parse().ok());
        let mut ranges: Vec<Net> = told.filter(|range: &Net| range.family() == self.node.family).collect();
        if ranges.is_empty() || balancer.is_empty() || ranges.iter().any(|r| r.prefix() == 0) {
            return;
        }
        // Where the balancer's address is one of the node's, too, what the node itself calls there comes from that address.
        if ranges.iter().any(|range| range.contains(self.node.ip)) {
            ranges.extend(balancer.iter().map(|ip| Net::one(*ip)));
        }
        for (map, name) in [(Shared::Ips, "from"), (Shared::NoEndpoints, "from-none")] {
            let chain = format!("{name}/{}", self.id);
            for ip in balancer {
                let Some(Some(Data::Verdict(Verdict::Goto(to)))) = plan.elements.get(&(map, self.key(*ip))) else { continue };
                let may = |range: &Net| -> Rule { step::source_in(*range, Cmp::Eq).into_iter().chain([step::goto(to)]).collect() };
                let rules = ranges.iter().map(may).chain([vec![Expr::Verdict(Verdict::Drop)]]).collect();
                plan.chains.insert(chain.clone(), rules);
                plan.elements.insert((map, self.key(*ip)), Some(Data::Verdict(Verdict::Goto(chain.clone()))));
            }
        }
    }

    /// Loads an endpoint's address and port, chosen at random, into two registers.
    fn choose(&self, plan: &mut Plan, backends: &BTreeSet<Backend>, to: u32) -> Rule {
        if let (1, Some(backend)) = (backends.len(), backends.first()) {
            return load(to, backend);
        }
        let numbered = (0_u32..).zip(backends);
        let elements = numbered.map(|(n, (a, p))| (n.to_ne_bytes().to_vec(), Some(Data::Value(endpoint_data(*a, *p))))).collect();
        let set = plan.map(&self.id, key::NUMBER, DataKind::Value(key::ip_port(self.node.family)), elements);
        let from = self.registers().random;
        vec![Expr::Random { to: from, modulus: u32::try_from(backends.len()).unwrap_or(u32::MAX) }, Expr::Map { set, from, to }]
    }
}
