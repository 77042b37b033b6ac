//! The proxy's table: what stands in the kernel, and the smallest batch that leads to what should.
//!
//! Services change one by one: a batch holds only what differs between a Service's old plan and its new one. The table's frame (base
//! chains, shared maps) is written once, together with everything, when the proxy starts or a batch was refused.
//! Invariant: `plans`, `owners` and `selves` describe what the kernel has after the last batch was committed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use client::ObjectKey;

use super::NodePortAddresses;
use super::plan::{MARK, MARK_CHAIN, Plan, REJECT_CHAIN, Shared};
use crate::cidr::Cidr;
use crate::nft::{At, Batch, Cmp, DataKind, Element, Expr, Fib, Hook, Rule, Set, Verdict, key, reg, step};

const SELVES: &str = "selves";
const NODE_PORT_IPS: &str = "node-port-ips";
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;
/// `NF_CT_STATE_INVALID_BIT`.
const INVALID: u32 = 1;
/// `NFT_CT_STATE`.
const CT_STATE: u32 = 0;
/// `NFT_CT_STATUS`.
const CT_STATUS: u32 = 2;
/// `NFT_META_MARK`.
const META_MARK: u32 = 3;

impl Shared {
    const ALL: [Self; 6] = [Self::Ips, Self::NodePorts, Self::NoEndpoints, Self::NoNodePortEndpoints, Self::Sources, Self::ClusterIps];

    fn name(self) -> &'static str {
        match self {
            Self::Ips => "service-ips",
            Self::NodePorts => "service-nodeports",
            Self::NoEndpoints => "no-endpoint-services",
            Self::NoNodePortEndpoints => "no-endpoint-nodeports",
            Self::Sources => "source-ranges",
            Self::ClusterIps => "cluster-ips",
        }
    }

    fn set(self) -> Set<'static> {
        let (key, data) = match self {
            Self::Ips | Self::NoEndpoints | Self::Sources => (key::IP_PROTO_PORT, DataKind::Verdict),
            Self::NodePorts | Self::NoNodePortEndpoints => (key::PROTO_PORT, DataKind::Verdict),
            Self::ClusterIps => (key::IP, DataKind::None),
        };
        Set { name: self.name(), key, data, timeout_s: None }
    }
}

/// What of the table does not depend on Services.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) table: String,
    pub(super) node_ip: Ipv4Addr,
    pub(super) cluster_cidr: Option<Cidr>,
    pub(super) service_cidr: Option<Cidr>,
    pub(super) node_ports: NodePortAddresses,
}

/// The table as the kernel has it.
pub(super) struct Table {
    frame: Frame,
    plans: HashMap<ObjectKey, Plan>,
    /// Whose an element of a shared map is: two Services may claim one external address and port, and the first has it.
    owners: HashMap<(Shared, Vec<u8>), ObjectKey>,
    selves: HashMap<Ipv4Addr, usize>,
    /// Services with an element that is another's.
    waiting: BTreeSet<ObjectKey>,
}

/// Elements to add or to remove, by set.
type Elements = BTreeMap<&'static str, Vec<Element>>;

fn pair(ip: Ipv4Addr) -> Element {
    (key::join(&[&ip.octets(), &ip.octets()]), None)
}

impl Table {
    pub(super) fn new(frame: Frame) -> Self {
        Self { frame, plans: HashMap::new(), owners: HashMap::new(), selves: HashMap::new(), waiting: BTreeSet::new() }
    }

    pub(super) fn plan(&self, service: &ObjectKey) -> Option<&Plan> {
        self.plans.get(service)
    }

    /// Takes in new plans; the batch makes the difference. An empty plan is no plan.
    pub(super) fn change(&mut self, new: Vec<(ObjectKey, Plan)>) -> Batch {
        let (mut gone, mut come) = (Elements::new(), Elements::new());
        let mut old = HashMap::new();
        for (service, plan) in &new {
            if let Some(before) = self.plans.remove(service) {
                self.disown(service, &before, plan, &mut gone);
                old.insert(service.clone(), before);
            }
        }
        self.count_selves(&old, &new, &mut gone, &mut come);
        let mut batch = Batch::new(&self.frame.table);
        let empty = Plan::default();
        for (service, plan) in &new {
            let before = old.get(service).unwrap_or(&empty);
            chains(&mut batch, before, plan);
        }
        let changed: Vec<ObjectKey> = new.iter().map(|(s, _)| s.clone()).collect();
        for (service, plan) in new {
            self.waiting.remove(&service);
            if plan != empty {
                self.plans.insert(service, plan);
            }
        }
        let waiting: Vec<ObjectKey> = if gone.is_empty() { Vec::new() } else { self.waiting.iter().cloned().collect() };
        for service in changed.iter().chain(&waiting) {
            self.own(service, &mut come);
        }
        for (set, elements) in &gone {
            batch.delete_elements(set, elements);
        }
        for (set, elements) in &come {
            batch.add_elements(set, elements);
        }
        for service in &changed {
            let (before, after) = (old.get(service).unwrap_or(&empty), self.plans.get(service).unwrap_or(&empty));
            remains(&mut batch, before, after);
        }
        batch
    }

    /// Gives up the elements that the new plan does not have in the same way.
    fn disown(&mut self, service: &ObjectKey, before: &Plan, after: &Plan, gone: &mut Elements) {
        for (at, data) in &before.elements {
            if after.elements.get(at) == Some(data) || self.owners.get(at) != Some(service) {
                continue;
            }
            self.owners.remove(at);
            gone.entry(at.0.name()).or_default().push((at.1.clone(), None));
        }
    }

    /// Takes the elements of a plan that nobody has.
    fn own(&mut self, service: &ObjectKey, come: &mut Elements) {
        let Some(plan) = self.plans.get(service) else { return };
        let mut refused = false;
        for (at, data) in &plan.elements {
            match self.owners.get(at) {
                None => {
                    self.owners.insert(at.clone(), service.clone());
                    come.entry(at.0.name()).or_default().push((at.1.clone(), data.clone()));
                }
                Some(owner) if owner == service => {}
                Some(owner) => {
                    refused = true;
                    tracing::debug!(%service, %owner, set = at.0.name(), "an address and port of a Service is another's");
                }
            }
        }
        if refused {
            self.waiting.insert(service.clone());
        } else {
            self.waiting.remove(service);
        }
    }

    fn count_selves(&mut self, old: &HashMap<ObjectKey, Plan>, new: &[(ObjectKey, Plan)], gone: &mut Elements, come: &mut Elements) {
        let mut difference: BTreeMap<Ipv4Addr, isize> = BTreeMap::new();
        for ip in old.values().flat_map(|p| &p.selves) {
            *difference.entry(*ip).or_default() -= 1;
        }
        for ip in new.iter().flat_map(|(_, p)| &p.selves) {
            *difference.entry(*ip).or_default() += 1;
        }
        for (ip, by) in difference {
            let before = self.selves.get(&ip).copied().unwrap_or(0);
            let after = before.saturating_add_signed(by);
            match (before, after) {
                (0, 1..) => come.entry(SELVES).or_default().push(pair(ip)),
                (1.., 0) => gone.entry(SELVES).or_default().push(pair(ip)),
                _ => {}
            }
            if after == 0 {
                self.selves.remove(&ip);
            } else {
                self.selves.insert(ip, after);
            }
        }
    }

    /// The whole table anew, in one batch: connections that exist do not notice, and no packet meets a half-made one.
    pub(super) fn whole(&self) -> Batch {
        let mut batch = Batch::new(&self.frame.table);
        batch.fresh_table();
        self.frame.write(&mut batch);
        let empty = Plan::default();
        for plan in self.plans.values() {
            chains(&mut batch, &empty, plan);
        }
        let mut come = Elements::new();
        for (at, owner) in &self.owners {
            if let Some(data) = self.plans.get(owner).and_then(|p| p.elements.get(at)) {
                come.entry(at.0.name()).or_default().push((at.1.clone(), data.clone()));
            }
        }
        come.insert(SELVES, self.selves.keys().map(|ip| pair(*ip)).collect());
        for (set, elements) in &come {
            batch.add_elements(set, elements);
        }
        batch
    }
}

/// Makes what is new in a plan's chains. All chains exist before the first rule, which may lead to any of them.
fn chains(batch: &mut Batch, before: &Plan, after: &Plan) {
    for (name, timeout_s) in &after.affinity {
        if !before.affinity.contains_key(name) {
            batch.add_set(&Set { name, key: key::IP, data: DataKind::Value(key::IP_PORT), timeout_s: Some(*timeout_s) });
        }
    }
    for name in after.chains.keys().filter(|c| !before.chains.contains_key(*c)) {
        batch.add_chain(name, None);
    }
    for (name, rules) in &after.chains {
        match before.chains.get(name) {
            Some(old) if old == rules => continue,
            Some(_) => {
                batch.flush_chain(name);
            }
            None => {}
        }
        for rule in rules {
            batch.add_rule(name, rule);
        }
    }
    for name in before.chains.keys().filter(|c| !after.chains.contains_key(*c)) {
        batch.flush_chain(name);
    }
}

/// Removes what is left of the old plan, now that nothing leads there.
fn remains(batch: &mut Batch, before: &Plan, after: &Plan) {
    for name in before.chains.keys().filter(|c| !after.chains.contains_key(*c)) {
        batch.delete_chain(name);
    }
    for name in before.affinity.keys().filter(|c| !after.affinity.contains_key(*c)) {
        batch.delete_set(name);
    }
}

impl Frame {
    fn write(&self, batch: &mut Batch) {
        for shared in Shared::ALL {
            batch.add_set(&shared.set());
        }
        batch.add_set(&Set { name: SELVES, key: key::IP_IP, data: DataKind::None, timeout_s: None });
        batch.add_set(&Set { name: NODE_PORT_IPS, key: key::IP, data: DataKind::None, timeout_s: None });
        if let NodePortAddresses::Only(ips) = &self.node_ports {
            let ips: BTreeSet<&Ipv4Addr> = ips.iter().collect();
            let elements: Vec<Element> = ips.iter().map(|ip| (ip.octets().to_vec(), None)).collect();
            batch.add_elements(NODE_PORT_IPS, &elements);
        }
        for name in ["services", "endpoints-check", "cluster-ips-check", MARK_CHAIN, REJECT_CHAIN] {
            batch.add_chain(name, None);
        }
        let hook = |kind, at, priority| Some(Hook { kind, at, priority });
        // A cluster that keeps to its own addresses comes before one that takes all of the host's.
        let early = if self.node_ports == NodePortAddresses::All { -100 } else { -101 };
        batch.add_chain("nat-prerouting", hook("nat", At::Prerouting, early));
        batch.add_chain("nat-output", hook("nat", At::Output, early));
        batch.add_chain("nat-postrouting", hook("nat", At::Postrouting, 100));
        // Before translation: sources. After it: what nothing translated, for want of an endpoint or of a port.
        batch.add_chain("filter-prerouting", hook("filter", At::Prerouting, -110));
        batch.add_chain("filter-input", hook("filter", At::Input, -110));
        batch.add_chain("filter-forward", hook("filter", At::Forward, -110));
        batch.add_chain("filter-output", hook("filter", At::Output, -110));
        batch.add_chain("filter-output-post-nat", hook("filter", At::Output, -90));

        self.translation(batch);
        self.refusal(batch);
        self.masquerade(batch);
    }

    /// Goes on only for the addresses at which node ports are served.
    fn at_node_ports(&self) -> Rule {
        match &self.node_ports {
            NodePortAddresses::All => step::is_local(Fib::Destination).to_vec(),
            NodePortAddresses::Only(_) => vec![step::destination(0), Expr::In { set: NODE_PORT_IPS.into(), from: reg(0), not: false }],
        }
    }

    fn translation(&self, batch: &mut Batch) {
        batch.add_rule("nat-prerouting", &vec![step::jump("services")]);
        batch.add_rule("nat-output", &vec![step::jump("services")]);
        batch.add_rule("services", &by_address(Shared::Ips));
        let mut rule = self.at_node_ports();
        rule.extend(by_port(Shared::NodePorts));
        batch.add_rule("services", &rule);
    }

    fn refusal(&self, batch: &mut Batch) {
        batch.add_rule(REJECT_CHAIN, &vec![Expr::Reject]);
        batch.add_rule("endpoints-check", &by_address(Shared::NoEndpoints));
        let mut rule = vec![step::destination(0), Expr::In { set: Shared::ClusterIps.name().into(), from: reg(0), not: false }];
        rule.push(step::goto(REJECT_CHAIN));
        batch.add_rule("cluster-ips-check", &rule);
        if let Some(range) = self.service_cidr {
            let mut rule = step::destination_in(range, Cmp::Eq);
            rule.push(Expr::Verdict(Verdict::Drop));
            batch.add_rule("cluster-ips-check", &rule);
        }
        // A pod's packet that belongs to no connection would pass untranslated and end the connection at its far end.
        if let Some(range) = self.cluster_cidr {
            let mut rule = step::source_in(range, Cmp::Eq);
            rule.extend(step::any_bit(Expr::Ct { to: reg(0), key: CT_STATE }, INVALID));
            rule.push(Expr::Verdict(Verdict::Drop));
            batch.add_rule("filter-forward", &rule);
        }
        let new = |then: Rule| -> Rule { step::new_connection().into_iter().chain(then).collect() };
        for chain in ["filter-prerouting", "filter-output"] {
            batch.add_rule(chain, &new(by_address(Shared::Sources)));
        }
        // What the host itself sends is looked at after translation: its own calls may use endpoints that the policy keeps
        // from the outside. Calls to its own addresses come in again by loopback.
        for chain in ["filter-input", "filter-forward", "filter-output-post-nat"] {
            batch.add_rule(chain, &new(vec![step::jump("endpoints-check")]));
        }
        let mut rule = self.at_node_ports();
        rule.extend(by_port(Shared::NoNodePortEndpoints));
        batch.add_rule("filter-input", &new(rule));
        for chain in ["filter-forward", "filter-output-post-nat"] {
            batch.add_rule(chain, &new(vec![step::jump("cluster-ips-check")]));
        }
    }

    fn masquerade(&self, batch: &mut Batch) {
        let bit = |on: u32| Expr::Bits { from: reg(0), to: reg(0), mask: (!MARK).to_ne_bytes().to_vec(), xor: on.to_ne_bytes().to_vec() };
        let mark = |on| [Expr::Meta { to: reg(0), key: META_MARK }, bit(on), Expr::SetMark { from: reg(0) }];
        batch.add_rule(MARK_CHAIN, &mark(MARK).to_vec());
        // A pod that was sent to itself would answer itself, past the translation.
        let mut rule = step::any_bit(Expr::Ct { to: reg(0), key: CT_STATUS }, TRANSLATED).to_vec();
        rule.extend([step::source(0), step::destination(1), Expr::In { set: SELVES.into(), from: reg(0), not: false }]);
        rule.extend(step::snat(self.node_ip));
        batch.add_rule("nat-postrouting", &rule);
        let marked = || step::any_bit(Expr::Meta { to: reg(0), key: META_MARK }, MARK).to_vec();
        if let Some(range) = self.cluster_cidr {
            let mut rule = marked();
            rule.extend(step::destination_in(range, Cmp::Eq));
            rule.extend(mark(0));
            rule.extend(step::snat(self.node_ip));
            batch.add_rule("nat-postrouting", &rule);
        }
        let mut rule = marked();
        rule.extend(mark(0));
        rule.push(Expr::Masquerade);
        batch.add_rule("nat-postrouting", &rule);
    }
}

fn by_address(shared: Shared) -> Rule {
    let mut rule = vec![step::destination(1)];
    rule.extend(step::protocol_port(2));
    rule.push(Expr::Map { set: shared.name().into(), from: reg(1), to: 0 });
    rule
}

fn by_port(shared: Shared) -> Rule {
    let mut rule = step::protocol_port(2).to_vec();
    rule.push(Expr::Map { set: shared.name().into(), from: reg(2), to: 0 });
    rule
}
