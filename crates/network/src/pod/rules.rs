//! The pod network's own table: ports of the host that lead into pods, egress, and a guard for the host's loopback.

use std::net::Ipv4Addr;

use super::HostPort;
use crate::cidr::Cidr;
use crate::mark::Mark;
use crate::nft::{At, Batch, Cmp, Data, DataKind, Element, Expr, Fib, Hook, Set, Verdict, endpoint_data, key, reg, step};

/// Ports of every address of the host.
const PORTS: &str = "host-ports";
/// Ports of one address of the host.
const ADDRESS_PORTS: &str = "host-address-ports";
/// Pods that have ports of the host, paired with themselves.
const SELVES: &str = "selves";
const MULTICAST: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);
/// What every pod's link of any cluster begins with.
pub(crate) const LINKS: &str = "kn";
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

/// The number of a protocol by the API's name.
pub(crate) fn protocol(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// What a table is of besides ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of {
    /// Else the host passes on nothing but what comes from a pod or goes to one.
    pub(super) router: bool,
    /// Another translates what leaves the cluster.
    pub(super) behind: bool,
}

/// The whole table with the ports of the pods that exist.
/// `cluster` is where pods are known by their own addresses: all nodes' pods. What leaves it has the host's address, whichever
/// of the nodes of this machine it comes from.
pub(super) fn table(mark: &Mark, cluster: Cidr, gateway: Ipv4Addr, of: Of, pods: &[(Ipv4Addr, Vec<HostPort>)]) -> Batch {
    let mut batch = Batch::new(&mark.table());
    batch.fresh_table();
    let set = |name, key, data| Set { name, key, data, timeout_s: None, size: None };
    batch.add_set(&set(PORTS, key::PROTO_PORT, DataKind::Value(key::IP_PORT)));
    batch.add_set(&set(ADDRESS_PORTS, key::IP_PROTO_PORT, DataKind::Value(key::IP_PORT)));
    batch.add_set(&set(SELVES, key::IP_IP, DataKind::None));
    batch.add_chain("ports", None);
    batch.add_chain("prerouting", Some(Hook { kind: "nat", at: At::Prerouting, priority: -100 }));
    batch.add_chain("output", Some(Hook { kind: "nat", at: At::Output, priority: -100 }));
    batch.add_chain("postrouting", Some(Hook { kind: "nat", at: At::Postrouting, priority: 100 }));
    batch.add_chain("guard", Some(Hook { kind: "filter", at: At::Prerouting, priority: -300 }));

    let loopback = Cidr::new(LOOPBACK.0, LOOPBACK.1);
    let links = mark.link_prefix();
    let mut rule = step::came_by(&links).to_vec();
    rule.extend(step::destination_in(loopback, Cmp::Eq));
    rule.push(Expr::Verdict(Verdict::Drop));
    batch.add_rule("guard", &rule);

    let mut to_ports = step::is_local(Fib::Destination).to_vec();
    to_ports.push(step::jump("ports"));
    batch.add_rule("prerouting", &to_ports).add_rule("output", &to_ports);
    let translate = Expr::Dnat { address: reg(4), port: reg(5) };
    let mut rule = vec![step::destination(0)];
    rule.extend(step::protocol_port(1));
    rule.extend([Expr::Map { set: ADDRESS_PORTS.into(), from: reg(0), to: reg(4) }, translate.clone()]);
    batch.add_rule("ports", &rule);
    let mut rule = step::protocol_port(0).to_vec();
    rule.extend([Expr::Map { set: PORTS.into(), from: reg(0), to: reg(4) }, translate]);
    batch.add_rule("ports", &rule);

    // A pod that calls itself by the host's port, and the host's own loopback: answers must come back this way.
    let mut rule = vec![step::source(0), step::destination(1), Expr::In { set: SELVES.into(), from: reg(0), not: false }];
    rule.extend(step::snat(gateway));
    batch.add_rule("postrouting", &rule);
    let mut rule = step::leaves_by(&links).to_vec();
    rule.extend(step::source_in(loopback, Cmp::Eq));
    rule.extend(step::snat(gateway));
    batch.add_rule("postrouting", &rule);
    if !of.behind {
        let mut rule = step::source_in(cluster, Cmp::Eq);
        rule.extend(step::destination_in(cluster, Cmp::Ne));
        rule.extend(step::destination_in(Cidr::new(MULTICAST.0, MULTICAST.1), Cmp::Ne));
        rule.push(Expr::Masquerade);
        batch.add_rule("postrouting", &rule);
    }

    if !of.router {
        batch.add_chain("forward", Some(Hook { kind: "filter", at: At::Forward, priority: 0 }));
        for concerns in [step::came_by(LINKS), step::leaves_by(LINKS)] {
            batch.add_rule("forward", &[&concerns[..], &[Expr::Verdict(Verdict::Accept)]].concat());
        }
        // A port of this node may lead to a pod of another, by the link that this came by.
        for concerns in [step::source_in(cluster, Cmp::Eq), step::destination_in(cluster, Cmp::Eq)] {
            batch.add_rule("forward", &[&concerns[..], &[Expr::Verdict(Verdict::Accept)]].concat());
        }
        batch.add_rule("forward", &vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    }

    for (address, ports) in pods {
        change(&mut batch, *address, ports, Batch::add_elements);
    }
    batch
}

/// Rules in the table: by their number one sees that somebody took some away. (`table` says which they are.)
pub(super) fn count(of: Of) -> usize {
    let (egress, forward) = (if of.behind { 0 } else { 1 }, if of.router { 0 } else { 5 });
    7 + egress + forward
}

/// Elements of a pod's ports: for every address, and for single ones.
fn elements(address: Ipv4Addr, ports: &[HostPort]) -> (Vec<Element>, Vec<Element>) {
    let (mut all, mut single) = (Vec::new(), Vec::new());
    for port in ports {
        let Some(number) = protocol(&port.protocol) else { continue };
        let data = Some(Data::Value(endpoint_data(address, port.container_port)));
        let (protocol, host) = ([number], port.host_port.to_be_bytes());
        match port.host_ip {
            None => all.push((key::join(&[&protocol, &host]), data)),
            Some(ip) => single.push((key::join(&[&ip.octets(), &protocol, &host]), data)),
        }
    }
    (all, single)
}

/// Adds or removes a pod's ports.
pub(super) fn change(batch: &mut Batch, address: Ipv4Addr, ports: &[HostPort], how: for<'a> fn(&'a mut Batch, &str, &[Element]) -> &'a mut Batch) {
    let (all, single) = elements(address, ports);
    if all.is_empty() && single.is_empty() {
        return;
    }
    how(batch, PORTS, &all);
    how(batch, ADDRESS_PORTS, &single);
    how(batch, SELVES, &[(key::join(&[&address.octets(), &address.octets()]), None)]);
}
