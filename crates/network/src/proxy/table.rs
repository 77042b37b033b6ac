//! The proxy's table: what stands in the kernel, and the smallest batches that lead to what should.
//!
//! Services change one by one: batches hold only what differs between a Service's old plan and its new one. The table's frame (base
//! chains, shared maps) is written once, together with everything, when the proxy starts, a batch was refused or somebody else
//! changed the table; clients that are remembered are kept then.
//!
//! **A batch is not one moment for a packet.** The kernel takes the rules of the generation in which the packet entered the hook, but
//! looks into each set as it is *now*. A map that goes in the batch that changes its rule (as every anonymous one does) is empty for
//! a packet that was under way: it leaves the chain untranslated and is refused. A chain that comes in the batch that leads to it
//! is empty for a packet of the generation before. So
//! 1. what is new (chains with their rules, maps with their elements) is made by a batch of its own, when nothing leads there;
//! 2. the next batch changes the rules of chains that were there, and the elements of the shared maps;
//! 3. what nothing leads to any more stays as it is for [`STALE`], then is emptied, and then goes.
//!
//! No map that a rule chooses by is ever changed: other endpoints are a map of another name. With that, whoever enters a hook at any
//! moment of a change finds an endpoint of before or of after. Not so for the whole table, which is one batch: its chains and maps
//! have their names already, but those that are new in it may be missed by a packet that was under way.
//!
//! What goes does so one step after the other, maps before the chains that they lead to: kernels before 6.2 see only after a
//! transaction that a chain is no longer used, and refuse (upstream keeps its stale chains likewise).
//! Invariant: `plans`, `owners`, `selves` and `stale` describe what the kernel has after the last batch was committed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use client::ObjectKey;
use tokio::time::Instant;

use super::plan::{MARK, MARK_CHAIN, Plan, REJECT_CHAIN, Shared};
use super::{NodePortAddresses, STALE};
use crate::cidr::Net;
use crate::mark::{Mark, hash};
use crate::nft::{At, BaseChain, Batch, Cmp, DataKind, Element, Expr, Family, Fib, Hook, Rule, Set, Verdict, key, octets, reg, step};

const SELVES: &str = "selves";
const NODE_PORT_IPS: &str = "node-port-ips";
/// Addresses at which others' node ports come first.
const SHARED_IPS: &str = "shared-node-port-ips";
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;
/// `NF_CT_STATE_INVALID_BIT`.
const INVALID: u32 = 1;
/// `NF_CT_STATE_BIT` of `IP_CT_ESTABLISHED` and of `IP_CT_RELATED`, and what is not tracked.
const KNOWN: u32 = 1 << 1 | 1 << 2 | UNTRACKED;
/// `NF_CT_STATE_UNTRACKED_BIT`: of no connection by somebody's rule, so nothing has translated it, and nothing will.
const UNTRACKED: u32 = 1 << 6;
/// `NFT_CT_STATE`.
const CT_STATE: u32 = 0;
/// `NFT_CT_STATUS`.
const CT_STATUS: u32 = 2;
/// `NFT_META_MARK`.
const META_MARK: u32 = 3;

impl Shared {
    const ALL: [Self; 6] = [Self::Ips, Self::NodePorts, Self::NoEndpoints, Self::NoNodePortEndpoints, Self::HeldPorts, Self::ClusterIps];

    fn name(self) -> &'static str {
        match self {
            Self::Ips => "service-ips",
            Self::NodePorts => "service-nodeports",
            Self::NoEndpoints => "no-endpoint-services",
            Self::NoNodePortEndpoints => "no-endpoint-nodeports",
            Self::HeldPorts => "held-nodeports",
            Self::ClusterIps => "cluster-ips",
        }
    }

    fn set(self, family: Family) -> Set<'static> {
        let (key, data) = match self {
            Self::Ips | Self::NoEndpoints => (key::ip_proto_port(family), DataKind::Verdict),
            Self::NodePorts | Self::NoNodePortEndpoints => (key::PROTO_PORT, DataKind::Verdict),
            Self::HeldPorts => (key::PROTO_PORT, DataKind::None),
            Self::ClusterIps => (key::ip(family), DataKind::None),
        };
        Set { name: self.name(), key, data, timeout_s: None, size: None }
    }
}

/// What of the table does not depend on Services.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) table: String,
    pub(super) node_ip: IpAddr,
    pub(super) cluster_cidr: Option<Net>,
    /// The Services' ranges of its family: what in them is nobody's is dropped.
    pub(super) service_ranges: BTreeSet<Net>,
    pub(super) node_ports: NodePortAddresses,
}

/// The table as the kernel has it.
pub(super) struct Table {
    frame: Frame,
    plans: HashMap<ObjectKey, Plan>,
    /// Whose an element of a shared map is: two Services may claim one external address and port, and the first has it.
    owners: HashMap<(Shared, Vec<u8>), ObjectKey>,
    selves: HashMap<IpAddr, usize>,
    /// Services with an element that is another's.
    waiting: BTreeSet<ObjectKey>,
    /// Chains and maps of clients that nothing leads to any more.
    stale: Stale,
}

/// What is to be removed by later batches.
#[derive(Debug, Default)]
struct Stale {
    chains: BTreeMap<String, Left>,
    sets: BTreeMap<String, Left>,
}

/// Something that nothing leads to any more.
#[derive(Debug)]
struct Left {
    /// How many of the steps on its way out are done.
    steps: u8,
    /// When the last of them was.
    since: Instant,
    /// The rules that are still in it.
    rules: usize,
}

/// The step at which a chain loses its rules; with them go the uses of maps.
const EMPTIED: u8 = 1;
/// The step at which a map goes, and with it the ways to chains that it held.
const MAP_GONE: u8 = 2;
/// The step at which a chain goes.
const CHAIN_GONE: u8 = 3;

impl Left {
    /// Whether the next step is due, which is taken then.
    fn step(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.since) >= STALE;
        if due {
            (self.steps, self.since) = (self.steps + 1, now);
        }
        due
    }
}

impl Stale {
    /// Takes everything that is due one step further.
    fn clear(&mut self, batch: &mut Batch, now: Instant) {
        self.sets.retain(|name, left| {
            let goes = left.step(now) && left.steps >= MAP_GONE;
            if goes {
                batch.delete_set(name);
            }
            !goes
        });
        self.chains.retain(|name, left| {
            if !left.step(now) {
                return true;
            }
            match left.steps {
                EMPTIED => {
                    left.rules = 0;
                    batch.flush_chain(name);
                }
                CHAIN_GONE.. => {
                    batch.delete_chain(name);
                }
                _ => {}
            }
            left.steps < CHAIN_GONE
        });
    }
}

/// The two batches of a change, to be committed in this order.
#[derive(Debug)]
pub(super) struct Change {
    /// Makes what is new.
    pub(super) make: Batch,
    /// Leads to it, and away from what goes.
    pub(super) lead: Batch,
}

/// What is in the kernel's table before it is written anew.
#[derive(Debug, Default)]
pub(super) struct There {
    /// Chains.
    pub(super) chains: Vec<String>,
    /// Sets and maps.
    pub(super) sets: Vec<String>,
}

/// Elements to add or to remove, by set.
type Elements = BTreeMap<&'static str, Vec<Element>>;

fn pair(ip: IpAddr) -> Element {
    (key::join(&[&octets(ip), &octets(ip)]), None)
}

impl Table {
    pub(super) fn new(frame: Frame) -> Self {
        Self { frame, plans: HashMap::new(), owners: HashMap::new(), selves: HashMap::new(), waiting: BTreeSet::new(), stale: Stale::default() }
    }

    /// The table's name in the kernel.
    pub(super) fn name(&self) -> &str {
        &self.frame.table
    }

    /// At which of the host's addresses node ports are served.
    pub(super) fn node_ports(&self) -> &NodePortAddresses {
        &self.frame.node_ports
    }

    pub(super) fn plan(&self, service: &ObjectKey) -> Option<&Plan> {
        self.plans.get(service)
    }

    /// Takes in new plans; the batches make the difference. An empty plan is no plan.
    pub(super) fn change(&mut self, new: Vec<(ObjectKey, Plan)>, now: Instant) -> Change {
        let (mut gone, mut come) = (Elements::new(), Elements::new());
        let mut old = HashMap::new();
        for (service, plan) in &new {
            if let Some(before) = self.plans.remove(service) {
                self.disown(service, &before, plan, &mut gone);
                old.insert(service.clone(), before);
            }
        }
        self.count_selves(&old, &new, &mut gone, &mut come);
        let family = self.frame.family();
        let (mut make, mut lead) = (Batch::new(family, &self.frame.table), Batch::new(family, &self.frame.table));
        let empty = Plan::default();
        for (service, plan) in &new {
            let before = old.get(service).unwrap_or(&empty);
            self.recall(&mut make, before, plan);
            make_new(&mut make, family, before, plan);
            change_rules(&mut lead, before, plan);
            self.leave(before, plan, now);
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
            lead.delete_elements(set, elements);
        }
        for (set, elements) in &come {
            lead.add_elements(set, elements);
        }
        self.stale.clear(&mut lead, now);
        Change { make, lead }
    }

    /// Takes in other ranges of Services: the batch has what in them is nobody's dropped.
    pub(super) fn set_ranges(&mut self, ranges: BTreeSet<Net>) -> Batch {
        let mut batch = Batch::new(self.frame.family(), &self.frame.table);
        if self.frame.service_ranges != ranges {
            self.frame.service_ranges = ranges;
            batch.flush_chain(CLUSTER_IPS_CHECK);
            self.frame.unassigned(&mut batch);
        }
        batch
    }

    /// Whether something is left for a batch that nothing else asks for.
    pub(super) fn has_stale(&self) -> bool {
        !self.stale.chains.is_empty() || !self.stale.sets.is_empty()
    }

    /// Keeps in mind what a new plan leaves behind.
    fn leave(&mut self, before: &Plan, after: &Plan, now: Instant) {
        for (name, rules) in before.chains.iter().filter(|(name, _)| !after.chains.contains_key(*name)) {
            self.stale.chains.insert(name.clone(), Left { steps: 0, since: now, rules: rules.len() });
        }
        for name in before.sets().filter(|name| !after.has_set(name)) {
            self.stale.sets.insert(name.clone(), Left { steps: 0, since: now, rules: 0 });
        }
    }

    /// What is left and wanted again stays. A chain may have other rules by now; a map has what its name says, and the clients of an endpoint
    /// that was away have gone to others.
    fn recall(&mut self, make: &mut Batch, before: &Plan, after: &Plan) {
        for name in after.chains.keys().filter(|name| !before.chains.contains_key(*name)) {
            if self.stale.chains.remove(name).is_some_and(|left| left.rules > 0) {
                make.flush_chain(name);
            }
        }
        for name in after.sets() {
            if self.stale.sets.remove(name).is_some() && after.affinity.contains_key(name) {
                make.flush_set(name);
            }
        }
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
        let mut difference: BTreeMap<IpAddr, isize> = BTreeMap::new();
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

    /// The whole table anew, in one batch: connections that exist do not notice, no packet meets a half-made one, and clients
    /// that are remembered stay so. None: the table as it is there is not believed, and goes with all that is in it.
    pub(super) fn whole(&mut self, there: Option<&There>, now: Instant) -> Batch {
        let mut batch = Batch::new(self.frame.family(), &self.frame.table);
        if there.is_some() {
            batch.add_table().flush_table();
        } else {
            batch.fresh_table();
        }
        self.frame.write(&mut batch);
        let shared: Vec<&str> = Shared::ALL.iter().map(|s| s.name()).chain([SELVES, NODE_PORT_IPS, SHARED_IPS]).collect();
        if there.is_some() {
            for set in &shared {
                batch.flush_set(set);
            }
            self.frame.node_port_ips(&mut batch);
        }
        let empty = Plan::default();
        for plan in self.plans.values() {
            make_new(&mut batch, self.frame.family(), &empty, plan);
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
        self.stale = Stale::default();
        if let Some(there) = there {
            let entered = self.frame.entered().into_iter().map(|(name, _)| name);
            let chains: HashSet<&str> = self.plans.values().flat_map(|p| p.chains.keys()).map(String::as_str).chain(FRAME_CHAINS).chain(entered).collect();
            let sets: HashSet<&str> = self.plans.values().flat_map(Plan::sets).map(String::as_str).chain(shared).collect();
            // This batch empties the chains.
            let left = |name: &String| (name.clone(), Left { steps: EMPTIED, since: now, rules: 0 });
            self.stale.chains = there.chains.iter().filter(|c| !chains.contains(c.as_str())).map(left).collect();
            self.stale.sets = there.sets.iter().filter(|s| !sets.contains(s.as_str())).map(left).collect();
        }
        batch
    }

    /// How many rules the kernel's table has if nobody else has changed it.
    pub(super) fn rules(&self) -> usize {
        let planned = self.plans.values().flat_map(|p| p.chains.values()).map(Vec::len);
        self.frame.rules() + planned.chain(self.stale.chains.values().map(|left| left.rules)).sum::<usize>()
    }
}

/// The clusters, beside the one that has the table `own`, that serve node ports of a family at all of the host's addresses.
pub(super) fn rivals<'c>(chains: &'c [BaseChain], family: Family, own: &str) -> Vec<&'c str> {
    let takes_all = |chain: &&BaseChain| chain.family == family.number() && chain.name == "nat-prerouting" && chain.priority == EARLY && chain.table != own;
    chains.iter().filter(takes_all).filter_map(|chain| Mark::of_proxy_table(&chain.table)).collect()
}

/// Chains of the frame that the kernel does not enter by itself.
const FRAME_CHAINS: [&str; 6] = ["services", SHARED_PORTS, "endpoints-check", CLUSTER_IPS_CHECK, MARK_CHAIN, REJECT_CHAIN];
/// The one for node ports at addresses where others' come first.
const SHARED_PORTS: &str = "shared-node-ports";
/// The first of the priorities that clusters have there, after all that take a host's addresses as theirs, and how many there are: so many that
/// no two clusters of a machine have the same.
const LATE: i32 = -99;
const LATE_PLACES: u64 = 1 << 30;
/// The priority of a cluster that takes all of a host's addresses as its own.
const EARLY: i32 = -100;
/// The one that keeps what a Service does not translate from its addresses.
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";

/// Makes what is new in a plan. All chains exist before the first rule or element, which may lead to any of them, and all maps before
/// the first rule.
fn make_new(batch: &mut Batch, family: Family, before: &Plan, after: &Plan) {
    let new_chains = || after.chains.iter().filter(|(name, _)| !before.chains.contains_key(*name));
    for (name, _) in new_chains() {
        batch.add_chain(name, None);
    }
    for (name, timeout_s) in after.affinity.iter().filter(|(name, _)| !before.affinity.contains_key(*name)) {
        batch.add_set(&Set { name, key: key::ip(family), data: DataKind::None, timeout_s: Some(*timeout_s), size: None });
    }
    for (name, map) in after.maps.iter().filter(|(name, _)| !before.maps.contains_key(*name)) {
        let size = u32::try_from(map.elements.len()).ok();
        batch.add_set(&Set { name, key: map.key, data: map.data, timeout_s: None, size });
        batch.add_elements(name, &map.elements);
    }
    for (name, rules) in new_chains() {
        for rule in rules {
            batch.add_rule(name, rule);
        }
    }
}

/// Changes the rules of chains that both plans have.
fn change_rules(batch: &mut Batch, before: &Plan, after: &Plan) {
    for (name, rules) in &after.chains {
        if before.chains.get(name).is_some_and(|old| old != rules) {
            batch.flush_chain(name);
            for rule in rules {
                batch.add_rule(name, rule);
            }
        }
    }
}

impl Frame {
    /// The family of its packets.
    fn family(&self) -> Family {
        Family::of(self.node_ip)
    }

    fn write(&self, batch: &mut Batch) {
        let family = self.family();
        for shared in Shared::ALL {
            batch.add_set(&shared.set(family));
        }
        batch.add_set(&Set { name: SELVES, key: key::ip_ip(family), data: DataKind::None, timeout_s: None, size: None });
        for name in [NODE_PORT_IPS, SHARED_IPS] {
            batch.add_set(&Set { name, key: key::ip(family), data: DataKind::None, timeout_s: None, size: None });
        }
        self.node_port_ips(batch);
        for name in FRAME_CHAINS {
            batch.add_chain(name, None);
        }
        for (name, hook) in self.entered() {
            batch.add_chain(name, Some(hook));
        }
        self.translation(batch);
        self.refusal(batch);
        self.masquerade(batch);
    }

    /// The chains that the kernel enters by itself.
    pub(super) fn entered(&self) -> Vec<(&'static str, Hook)> {
        let nat = |name, at, priority| (name, Hook { kind: "nat", at, priority });
        let filter = |name, at, priority| (name, Hook { kind: "filter", at, priority });
        // A cluster that keeps to its own addresses comes before one that takes all of the host's.
        let early = if self.node_ports == NodePortAddresses::All { EARLY } else { EARLY - 1 };
        // Of several that come late always the same comes first. (Of equals it would be the one that was written last, who takes the others'
        // clients.)
        let place = LATE + (hash(&[&self.table]) % LATE_PLACES) as i32;
        let late = [nat("nat-prerouting-late", At::Prerouting, place), nat("nat-output-late", At::Output, place)];
        let translating = [nat("nat-prerouting", At::Prerouting, early), nat("nat-output", At::Output, early), nat("nat-postrouting", At::Postrouting, 100)];
        // What nothing translated, for want of an endpoint or of a port. Every packet passes these, of whatever connection: there are no more than
        // must be.
        let refusing =
            [filter("filter-input", At::Input, -110), filter("filter-forward", At::Forward, -110), filter("filter-output-post-nat", At::Output, -90)];
        let late = late.into_iter().filter(|_| !self.node_ports.with_others().is_empty());
        translating.into_iter().chain(late).chain(refusing).collect()
    }

    fn node_port_ips(&self, batch: &mut Batch) {
        // What comes from `::1` cannot leave the machine translated.
        let ours = |ip: &&IpAddr| Family::of(**ip) == self.family() && **ip != IpAddr::V6(Ipv6Addr::LOCALHOST);
        for (set, ips) in [(NODE_PORT_IPS, self.node_ports.own().unwrap_or_default()), (SHARED_IPS, self.node_ports.with_others())] {
            let ips: BTreeSet<&IpAddr> = ips.iter().filter(ours).collect();
            let elements: Vec<Element> = ips.iter().map(|ip| (octets(**ip), None)).collect();
            batch.add_elements(set, &elements);
        }
    }

    /// Rules that do not depend on Services.
    fn rules(&self) -> usize {
        let mut batch = Batch::new(self.family(), &self.table);
        self.write(&mut batch);
        batch.rules()
    }

    /// Goes on only for the addresses at which node ports are served.
    fn at_node_ports(&self) -> Rule {
        match self.node_ports.own() {
            // What comes from IPv6's loopback cannot leave it, whatever is translated (upstream serves no loopback with nftables).
            None if self.family() == Family::V6 => [step::not_to_loopback6(), step::is_local(Fib::Destination).to_vec()].concat(),
            None => step::is_local(Fib::Destination).to_vec(),
            Some(_) => self.at_one_of(NODE_PORT_IPS),
        }
    }

    fn at_one_of(&self, addresses: &str) -> Rule {
        vec![step::destination(self.family(), 0), Expr::In { set: addresses.into(), from: reg(0), not: false }]
    }

    /// A node port that is this cluster's stays so while nobody answers there: translated to itself, it comes to no other cluster's rules.
    fn hold(&self, at: Rule) -> Rule {
        let mut rule = at;
        rule.extend(step::protocol_port(4));
        rule.push(Expr::In { set: Shared::HeldPorts.name().into(), from: reg(4), not: false });
        rule.extend([step::destination(self.family(), 0), Expr::Dnat { family: self.family(), address: reg(0), port: 0 }]);
        rule
    }

    fn translation(&self, batch: &mut Batch) {
        batch.add_rule("nat-prerouting", &vec![step::jump("services")]);
        batch.add_rule("nat-output", &vec![step::jump("services")]);
        batch.add_rule("services", &by_address(self.family(), Shared::Ips));
        let mut rule = self.at_node_ports();
        rule.extend(by_port(Shared::NodePorts));
        batch.add_rule("services", &rule);
        for chain in ["nat-prerouting", "nat-output"] {
            batch.add_rule(chain, &self.hold(self.at_node_ports()));
        }
        if self.node_ports.with_others().is_empty() {
            return;
        }
        batch.add_rule(SHARED_PORTS, &[self.at_one_of(SHARED_IPS), by_port(Shared::NodePorts)].concat());
        for chain in ["nat-prerouting-late", "nat-output-late"] {
            batch.add_rule(chain, &vec![step::jump(SHARED_PORTS)]).add_rule(chain, &self.hold(self.at_one_of(SHARED_IPS)));
        }
    }

    fn refusal(&self, batch: &mut Batch) {
        // A caller that is still inside of `connect` hears no ICMP (Linux drops it while the socket is in use, and by a pair of links the
        // answer comes at that moment): it would wait a second for its second packet. A reset is kept for it.
        let mut reset = step::protocol_is(libc::IPPROTO_TCP as u8).to_vec();
        reset.push(Expr::Reset);
        batch.add_rule(REJECT_CHAIN, &reset);
        batch.add_rule(REJECT_CHAIN, &vec![Expr::Reject { family: self.family() }]);
        batch.add_rule("endpoints-check", &by_address(self.family(), Shared::NoEndpoints));
        self.unassigned(batch);
        // Most packets are of a connection that was let pass: they are looked at no further.
        for chain in ["filter-input", "filter-forward", "filter-output-post-nat"] {
            let mut rule = step::any_bit(Expr::Ct { to: reg(0), key: CT_STATE }, KNOWN).to_vec();
            rule.push(Expr::Verdict(Verdict::Accept));
            batch.add_rule(chain, &rule);
        }
        // A pod's packet that belongs to no connection would pass untranslated and end the connection at its far end.
        if let Some(range) = self.cluster_cidr {
            let mut rule = step::source_in(range, Cmp::Eq);
            rule.extend(step::any_bit(Expr::Ct { to: reg(0), key: CT_STATE }, INVALID));
            rule.push(Expr::Verdict(Verdict::Drop));
            batch.add_rule("filter-forward", &rule);
        }
        let new = |then: Rule| -> Rule { step::new_connection().into_iter().chain(then).collect() };
        // What the host itself sends is looked at after translation: its own calls may use endpoints that the policy keeps
        // from the outside. Calls to its own addresses come in again by loopback.
        for chain in ["filter-input", "filter-forward", "filter-output-post-nat"] {
            batch.add_rule(chain, &new(vec![step::jump("endpoints-check")]));
        }
        let with_others = (!self.node_ports.with_others().is_empty()).then(|| self.at_one_of(SHARED_IPS));
        for at in [self.at_node_ports()].into_iter().chain(with_others) {
            batch.add_rule("filter-input", &new([at, by_port(Shared::NoNodePortEndpoints)].concat()));
        }
        for chain in ["filter-forward", "filter-output-post-nat"] {
            batch.add_rule(chain, &new(vec![step::jump(CLUSTER_IPS_CHECK)]));
        }
    }

    /// What is called at a cluster address and was not translated is refused where a Service has the address, and dropped where none
    /// has: it must not leave for wherever the host's routes lead.
    fn unassigned(&self, batch: &mut Batch) {
        let mut rule = vec![step::destination(self.family(), 0), Expr::In { set: Shared::ClusterIps.name().into(), from: reg(0), not: false }];
        rule.push(step::goto(REJECT_CHAIN));
        batch.add_rule(CLUSTER_IPS_CHECK, &rule);
        for range in &self.service_ranges {
            let mut rule = step::destination_in(*range, Cmp::Eq);
            rule.push(Expr::Verdict(Verdict::Drop));
            batch.add_rule(CLUSTER_IPS_CHECK, &rule);
        }
    }

    fn masquerade(&self, batch: &mut Batch) {
        let bit = |on: u32| Expr::Bits { from: reg(0), to: reg(0), mask: (!MARK).to_ne_bytes().to_vec(), xor: on.to_ne_bytes().to_vec() };
        let mark = |on| [Expr::Meta { to: reg(0), key: META_MARK }, bit(on), Expr::SetMark { from: reg(0) }];
        batch.add_rule(MARK_CHAIN, &mark(MARK).to_vec());
        // A pod that was sent to itself would answer itself, past the translation.
        let mut rule = step::any_bit(Expr::Ct { to: reg(0), key: CT_STATUS }, TRANSLATED).to_vec();
        let family = self.family();
        rule.extend([step::source(family, 0), step::destination(family, family.registers()), Expr::In { set: SELVES.into(), from: reg(0), not: false }]);
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

fn by_address(family: Family, shared: Shared) -> Rule {
    let mut rule = vec![step::destination(family, 1)];
    rule.extend(step::protocol_port(1 + family.registers()));
    rule.push(Expr::Map { set: shared.name().into(), from: reg(1), to: 0 });
    rule
}

fn by_port(shared: Shared) -> Rule {
    let mut rule = step::protocol_port(2).to_vec();
    rule.push(Expr::Map { set: shared.name().into(), from: reg(2), to: 0 });
    rule
}
