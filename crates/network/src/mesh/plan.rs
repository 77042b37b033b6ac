//! What the kernel is to have so that pods of other nodes are reached: pure, from the Node objects alone.
//!
//! A node is believed what it says of itself only as far as it takes nothing from others: its ranges lie in the cluster's, are nobody
//! else's (of two that say so the older Node has it), and its address is not this node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use client::{Informer, Meta};
use k8s_openapi::api::core::v1::Node;

use super::Kind;
use crate::cidr::Net;
use crate::mark::hash;
use crate::nft::Family;

/// Addresses of the machine that a node is on, with commas between them: its own are then behind it. The control plane writes it on
/// the nodes of its own machine.
const MACHINE: &str = "knarr.local/machine-address";

/// A hardware address.
pub type Mac = [u8; 6];

/// This node, and what holds for all.
#[derive(Clone, Debug)]
pub struct Own {
    /// The Node object's name.
    pub node: String,
    /// How nodes are joined.
    pub kind: Kind,
    /// Its addresses among the machines, of each family at most one; the first is the one by which VXLAN goes.
    pub addresses: Vec<IpAddr>,
    /// The cluster's ranges of pods.
    pub cluster: Vec<Net>,
}

/// What is in the kernel, or is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Of the VXLAN device: at which node a hardware address is.
    pub forwarding: BTreeMap<Mac, IpAddr>,
    /// Of the VXLAN device: which hardware address the router to a node's pods has.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Ranges of pods, and by whom they are reached.
    pub routes: BTreeMap<Net, IpAddr>,
}

/// A node that is not joined, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Its name.
    pub node: String,
    /// Why.
    pub why: String,
}

/// The hardware address of a node's VXLAN device, by its address among the machines: nobody has to be told.
pub fn mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0x0a, 0x5a, a, b, c, d]
        }
        IpAddr::V6(ip) => {
            let [_, _, _, b, c, d, e, f] = hash(&[&ip.to_string()]).to_be_bytes();
            // Local, for one, and never the form of IPv4's.
            [0x0e, b, c, d, e, f]
        }
    }
}

/// The address of IPv6 by which a node's device is called on the VXLAN alone. Where another route leads to an address (a VPN's `fd00::/8`, or the
/// node's range by the machines' own link, of a cluster that was joined by routes), the kernel refuses it as a router on this link.
fn link_local([a, b, c, d, e, f]: Mac) -> IpAddr {
    IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f])
}

/// The number of a cluster's VXLAN: the network bits of its pods' first range, so that clusters beside each other differ.
pub fn vni(cluster: &[Net]) -> u32 {
    match cluster.first().map(|net| net.base()) {
        Some(IpAddr::V4(ip)) => ip.to_bits() >> 8,
        Some(IpAddr::V6(ip)) => (hash(&[&ip.to_string()]) & 0x00ff_ffff) as u32,
        None => 1,
    }
}

/// The ranges of a node's pods; what is no range is none.
pub(crate) fn ranges(node: &Node) -> Vec<Net> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.clone()).filter(|all| !all.is_empty());
    let all = all.or_else(|| Some(vec![spec?.pod_cidr.clone()?])).unwrap_or_default();
    all.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The addresses of a node among the machines: those of its machine, where the control plane tells them, else its own that are not of
/// its pods' range, as the address of a node of the control plane's machine is.
fn addresses(node: &Node, ranges: &[Net]) -> Vec<IpAddr> {
    if let Some(told) = node.annotation(MACHINE) {
        return told.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    }
    let all = node.status.iter().flat_map(|s| s.addresses.iter().flatten()).filter(|a| a.type_ == "InternalIP");
    all.filter_map(|a| a.address.parse().ok()).filter(|ip| !ranges.iter().any(|range| range.contains(*ip))).collect()
}

/// The addresses of all nodes' machines, as they say themselves, of each one of a family: who lies says no more than one who does not, and
/// takes no other address from anybody by it.
pub(crate) fn machines(nodes: &Informer<Node>) -> BTreeSet<IpAddr> {
    let of = |node: &Node| {
        let all = addresses(node, &ranges(node));
        Family::ALL.map(|family| all.iter().copied().find(|ip| Family::of(*ip) == family && may_be_a_machines(*ip)))
    };
    nodes.list().iter().flat_map(|node| of(node)).flatten().collect()
}

/// Whether an address may be a machine's.
fn may_be_a_machines(ip: IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// What is to be in the kernel for these nodes, and which of them it leaves out. Nodes that have no range or no address yet are left
/// out without a word.
pub fn entries<'n>(own: &Own, nodes: impl Iterator<Item = &'n Node>) -> (Entries, BTreeSet<LeftOut>) {
    let (mut entries, mut left_out) = (Entries::default(), BTreeSet::new());
    if own.kind == Kind::None {
        return (entries, left_out);
    }
    let mut nodes: Vec<&Node> = nodes.collect();
    // Who was there first keeps what he has; this node's own ranges nobody gets.
    nodes.sort_by_cached_key(|n| (n.name() != own.node, n.meta().creation_timestamp.as_ref().map(|t| t.0), n.name().to_owned()));
    let mut taken: BTreeMap<Net, &str> = BTreeMap::new();
    for node in nodes {
        let all = ranges(node);
        let addresses = addresses(node, &all);
        for range in all {
            let mut leave_out = |why: String| {
                left_out.insert(LeftOut { node: node.name().to_owned(), why });
            };
            if node.name() != own.node && !own.cluster.iter().any(|cluster| cluster.holds(range)) {
                leave_out(format!("its range of pods {range} is none of the cluster's"));
                continue;
            }
            // They do not overlap each other, so one that overlaps this one is beside it.
            let near = [taken.range(..=range).next_back(), taken.range(range..).next()];
            if let Some((other, who)) = near.into_iter().flatten().find(|(other, _)| other.overlaps(range)) {
                leave_out(format!("its range of pods {range} has addresses of {other}, which is of the node {who}"));
                continue;
            }
            taken.insert(range, node.name());
            let is_here = node.annotation(MACHINE).is_some() && addresses.iter().any(|ip| own.addresses.contains(ip));
            // Of another node of this machine the host has the routes.
            if node.name() == own.node || is_here || addresses.is_empty() {
                continue;
            }
            match way(own, &addresses, range) {
                // Who chooses its address must not get another's packets by it.
                Ok(to) if own.kind == Kind::Vxlan && entries.forwarding.get(&mac(to)).is_some_and(|at| *at != to) => {
                    leave_out(format!("its address {to} has the hardware address of another node's"));
                }
                Ok(to) => entries.add(own.kind, range, to),
                Err(why) => leave_out(why),
            }
        }
    }
    (entries, left_out)
}

/// By which of a node's addresses a range of its pods is reached.
fn way(own: &Own, addresses: &[IpAddr], range: Net) -> Result<IpAddr, String> {
    let family = match own.kind {
        // What is carried is of any family, what carries it of the first.
        Kind::Vxlan => own.addresses.first().is_some_and(IpAddr::is_ipv4),
        _ => range.is_ipv4(),
    };
    let name = if family { "IPv4" } else { "IPv6" };
    if !own.addresses.iter().any(|ip| ip.is_ipv4() == family) {
        return Err(format!("this node has no {name} address by which {range} could be reached"));
    }
    let to =
        addresses.iter().copied().find(|ip| ip.is_ipv4() == family).ok_or_else(|| format!("it has no {name} address by which {range} could be reached"))?;
    if own.addresses.contains(&to) {
        return Err(format!("its address {to} is this node's"));
    }
    if may_be_a_machines(to) { Ok(to) } else { Err(format!("its address {to} is no machine's")) }
}

impl Entries {
    fn add(&mut self, kind: Kind, range: Net, to: IpAddr) {
        if kind == Kind::Routes {
            self.routes.insert(range, to);
            return;
        }
        // Nobody asks who has it.
        let router = if range.is_ipv4() { range.first() } else { link_local(mac(to)) };
        self.forwarding.insert(mac(to), to);
        self.neighbours.insert(router, mac(to));
        self.routes.insert(range, router);
    }

    /// What of these is not in the others, or differs there: what is to be written to make the others these, or, the other way
    /// round, what is to go (see [`Entries::gone`]).
    pub fn beside(&self, others: &Entries) -> Entries {
        Entries {
            forwarding: beside(&self.forwarding, &others.forwarding),
            neighbours: beside(&self.neighbours, &others.neighbours),
            routes: beside(&self.routes, &others.routes),
        }
    }

    /// What of these has a key that the others do not have: what differs there is written over.
    pub fn gone(&self, others: &Entries) -> Entries {
        Entries {
            forwarding: gone(&self.forwarding, &others.forwarding),
            neighbours: gone(&self.neighbours, &others.neighbours),
            routes: gone(&self.routes, &others.routes),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.forwarding.is_empty() && self.neighbours.is_empty() && self.routes.is_empty()
    }
}

fn beside<K: Ord + Copy, V: PartialEq + Copy>(these: &BTreeMap<K, V>, others: &BTreeMap<K, V>) -> BTreeMap<K, V> {
    these.iter().filter(|(key, value)| others.get(key) != Some(value)).map(|(k, v)| (*k, *v)).collect()
}

fn gone<K: Ord + Copy, V: Copy>(these: &BTreeMap<K, V>, others: &BTreeMap<K, V>) -> BTreeMap<K, V> {
    these.iter().filter(|(key, _)| !others.contains_key(key)).map(|(k, v)| (*k, *v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, made: &str, ranges: &[&str], addresses: &[&str]) -> Node {
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let meta = json!({"name": name, "creationTimestamp": made});
        serde_json::from_value(json!({"metadata": meta, "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}, "status": {"addresses": addresses}})).unwrap()
    }

    fn own(kind: Kind, addresses: &[&str]) -> Own {
        let cluster = ["10.244.0.0/16", "fd00:10:244::/56"].map(|r| r.parse().unwrap()).to_vec();
        Own { node: "a".into(), kind, addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(), cluster }
    }

    fn texts(entries: &Entries) -> Vec<String> {
        let mac = |mac: &Mac| mac.map(|b| format!("{b:02x}")).join(":");
        let forwarding = entries.forwarding.iter().map(|(m, to)| format!("{} at {to}", mac(m)));
        let neighbours = entries.neighbours.iter().map(|(ip, m)| format!("{ip} is {}", mac(m)));
        let routes = entries.routes.iter().map(|(range, by)| format!("{range} by {by}"));
        forwarding.chain(neighbours).chain(routes).collect()
    }

    const BEFORE: &str = "2025-01-01T00:00:00Z";
    const DAY: &str = "2026-01-01T00:00:00Z";
    const LATER: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn a_vxlan_knows_each_node_before_it_is_asked() {
        let nodes = [
            node("a", LATER, &["10.244.0.0/24"], &["192.0.2.1"]),
            node("b", DAY, &["10.244.1.0/24", "fd00:10:244:1::/64"], &["192.0.2.2", "2001:db8::2"]),
            node("behind", DAY, &["10.244.2.0/24"], &["10.244.2.1"]),
            node("new", DAY, &[], &["192.0.2.4"]),
        ];
        let (entries, left_out) = entries(&own(Kind::Vxlan, &["192.0.2.1"]), nodes.iter());
        let expected = [
            "0a:5a:c0:00:02:02 at 192.0.2.2",
            "10.244.1.1 is 0a:5a:c0:00:02:02",
            "fe80::a5a:c0ff:fe00:202 is 0a:5a:c0:00:02:02",
            "10.244.1.0/24 by 10.244.1.1",
            "fd00:10:244:1::/64 by fe80::a5a:c0ff:fe00:202",
        ];
        assert_eq!((texts(&entries), left_out), (expected.map(str::to_owned).to_vec(), BTreeSet::new()));
    }

    #[test]
    fn nodes_of_one_machine_are_behind_its_address() {
        let on = |machine: &str, mut node: Node| {
            node.metadata.annotations = Some([(MACHINE.to_owned(), machine.to_owned())].into());
            node
        };
        let nodes = [
            on("192.0.2.2", node("first", DAY, &["10.244.0.0/24"], &["10.244.0.1"])),
            on("192.0.2.2,2001:db8::2", node("first-2", DAY, &["10.244.1.0/24"], &["10.244.1.1"])),
            on("127.0.0.1", node("odd", DAY, &["10.244.2.0/24"], &["192.0.2.3"])),
            node("a", LATER, &["10.244.255.0/24"], &["192.0.2.1"]),
        ];
        let (seen, left_out) = entries(&own(Kind::Vxlan, &["192.0.2.1"]), nodes.iter());
        let expected = [
            "0a:5a:c0:00:02:02 at 192.0.2.2",
            "10.244.0.1 is 0a:5a:c0:00:02:02",
            "10.244.1.1 is 0a:5a:c0:00:02:02",
            "10.244.0.0/24 by 10.244.0.1",
            "10.244.1.0/24 by 10.244.1.1",
        ];
        assert_eq!(texts(&seen), expected);
        assert_eq!(left_out.iter().map(|l| l.node.as_str()).collect::<Vec<_>>(), ["odd"]);
        // Seen from that machine, its other nodes need no way, and nobody is told of them.
        let first = Own { node: "first".into(), ..own(Kind::Routes, &["192.0.2.2"]) };
        let (seen, left_out) = entries(&first, [&nodes[0], &nodes[1], &nodes[3]].into_iter());
        assert_eq!((texts(&seen), left_out), (vec!["10.244.255.0/24 by 192.0.2.1".to_owned()], BTreeSet::new()));
    }

    #[test]
    fn routes_go_by_the_address_of_their_family() {
        let nodes =
            [node("b", DAY, &["10.244.1.0/24", "fd00:10:244:1::/64"], &["192.0.2.2", "2001:db8::2"]), node("c", DAY, &["fd00:10:244:2::/64"], &["192.0.2.3"])];
        let (both, left_out) = entries(&own(Kind::Routes, &["192.0.2.1", "2001:db8::1"]), nodes.iter());
        assert_eq!(texts(&both), ["10.244.1.0/24 by 192.0.2.2", "fd00:10:244:1::/64 by 2001:db8::2"]);
        let why = left_out.iter().map(|l| format!("{}: {}", l.node, l.why)).collect::<Vec<_>>();
        assert_eq!(why, ["c: it has no IPv6 address by which fd00:10:244:2::/64 could be reached"]);
        assert_eq!(entries(&own(Kind::None, &["192.0.2.1"]), nodes.iter()), Default::default());
    }

    #[test]
    fn nobody_takes_what_is_anothers() {
        let nodes = [
            node("a", LATER, &["10.244.0.0/24"], &["192.0.2.1"]),
            node("mine", DAY, &["10.244.0.0/16"], &["192.0.2.9"]),
            node("old", DAY, &["10.244.1.0/24"], &["192.0.2.2"]),
            node("young", LATER, &["10.244.1.128/25", "10.244.3.0/24"], &["192.0.2.3"]),
            // It was there first, and would leave nothing to anybody.
            node("wide", BEFORE, &["0.0.0.0/0"], &["192.0.2.4"]),
            node("elsewhere", LATER, &["172.16.0.0/24"], &["192.0.2.5"]),
            node("loop", LATER, &["10.244.4.0/24"], &["127.0.0.1"]),
            node("me", LATER, &["10.244.5.0/24"], &["192.0.2.1"]),
        ];
        let (entries, left_out) = entries(&own(Kind::Routes, &["192.0.2.1"]), nodes.iter());
        assert_eq!(texts(&entries), ["10.244.1.0/24 by 192.0.2.2", "10.244.3.0/24 by 192.0.2.3"]);
        assert_eq!(left_out.iter().map(|l| l.node.as_str()).collect::<Vec<_>>(), ["elsewhere", "loop", "me", "mine", "wide", "young"]);
    }

    #[test]
    fn changes_are_the_difference_alone() {
        let at = |to: &str| {
            let (entries, _) = entries(&own(Kind::Vxlan, &["192.0.2.1"]), [node("b", DAY, &["10.244.1.0/24"], &[to])].iter());
            entries
        };
        let (before, after) = (at("192.0.2.2"), at("192.0.2.3"));
        assert!(before.beside(&before).is_empty() && before.gone(&before).is_empty());
        assert_eq!(texts(&after.beside(&before)), ["0a:5a:c0:00:02:03 at 192.0.2.3", "10.244.1.1 is 0a:5a:c0:00:02:03"]);
        assert_eq!(texts(&before.gone(&after)), ["0a:5a:c0:00:02:02 at 192.0.2.2"]);
        assert_eq!(texts(&before.gone(&Entries::default())), texts(&before));
    }

    #[test]
    fn a_node_has_one_machine() {
        let mut liar = node("liar", DAY, &["10.244.1.0/24"], &["192.0.2.3"]);
        liar.metadata.annotations = Some([(MACHINE.to_owned(), "127.0.0.1,192.0.2.7,192.0.2.8,2001:db8::7,2001:db8::8".to_owned())].into());
        let nodes = Informer::fixed([liar, node("b", DAY, &["10.244.2.0/24"], &["10.244.2.1", "192.0.2.2"])]);
        assert_eq!(machines(&nodes), ["192.0.2.2", "192.0.2.7", "2001:db8::7"].map(|ip| ip.parse().unwrap()).into());
    }

    #[test]
    fn clusters_beside_each_other_have_numbers_of_their_own() {
        let of = |range: &str| vni(&[range.parse().unwrap()]);
        assert_eq!((of("10.244.0.0/16"), of("10.129.0.0/16"), vni(&[])), (0x000a_f400, 0x000a_8100, 1));
        assert!(of("fd00:10:244::/56") < 1 << 24 && of("fd00:10:244::/56") != of("fd00:10:245::/56"));
        assert_ne!(mac("2001:db8::1".parse().unwrap()), mac("2001:db8::2".parse().unwrap()));
        assert!(mac("2001:db8::1".parse().unwrap())[0] & 3 == 2 && mac("192.0.2.1".parse().unwrap())[0] & 3 == 2, "local, and for one");
    }
}
