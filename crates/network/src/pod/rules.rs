//! The pod network's own table: ports of the host that lead into pods, egress, a guard for the host's loopback, and one for the way
//! between machines (`tunnel`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::HostPort;
use super::tunnel::{Tunnel, UNTRACKED};
use crate::cidr::Net;
use crate::mark::{LINKS, Mark};
use crate::nft::{At, Batch, Cmp, Data, DataKind, Element, Expr, Family, Fib, Hook, Set, Verdict, endpoint_data, key, octets, reg, step};

/// Ports of every address of the host.
const PORTS: &str = "host-ports";
/// Ports of one address of the host.
const ADDRESS_PORTS: &str = "host-address-ports";
/// Pods that have ports of the host, paired with themselves.
const SELVES: &str = "selves";
/// What has just come in.
const GUARD: &str = "guard";
/// What is called at the host's loopback from outside of it.
const TO_LOOPBACK: &str = "to-loopback";
/// What the links of a further node's namespace begin with that lead out of it.
const BEFORE: &str = "knarr";
const MULTICAST: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);
const MULTICAST6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
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
pub(super) struct Of<'a> {
    /// Else the host passes on nothing but what comes from a pod or goes to one.
    pub(super) router: bool,
    /// Another translates what leaves the cluster.
    pub(super) behind: bool,
    /// By which packets of pods travel between machines.
    pub(super) tunnel: Option<Tunnel<'a>>,
    /// The number of the machine's own link, where they travel as they are.
    pub(super) lan: Option<u32>,
}

/// The whole table with the ports of the pods that exist.
/// `cluster` is where pods are known by their own addresses: all nodes' pods. What leaves it has the host's address, whichever
/// of the nodes of this machine it comes from.
pub(super) fn table(mark: &Mark, cluster: Net, gateway: IpAddr, of: Of<'_>, pods: &[(IpAddr, Vec<HostPort>)]) -> Batch {
    let family = cluster.family();
    let mut batch = Batch::new(family, &mark.table());
    batch.fresh_table();
    let set = |name, key, data| Set { name, key, data, timeout_s: None, size: None };
    batch.add_set(&set(PORTS, key::PROTO_PORT, DataKind::Value(key::ip_port(family))));
    batch.add_set(&set(ADDRESS_PORTS, key::ip_proto_port(family), DataKind::Value(key::ip_port(family))));
    batch.add_set(&set(SELVES, key::ip_ip(family), DataKind::None));
    batch.add_chain("ports", None);
    batch.add_chain("prerouting", Some(Hook { kind: "nat", at: At::Prerouting, priority: -100 }));
    batch.add_chain("output", Some(Hook { kind: "nat", at: At::Output, priority: -100 }));
    batch.add_chain("postrouting", Some(Hook { kind: "nat", at: At::Postrouting, priority: 100 }));
    batch.add_chain(GUARD, Some(Hook { kind: "filter", at: At::Prerouting, priority: UNTRACKED }));

    let (loopback, multicast) = match family {
        Family::V4 => (Some(Net::new(LOOPBACK.0, LOOPBACK.1)), Net::new(MULTICAST.0, MULTICAST.1)),
        Family::V6 => (None, Net::new(MULTICAST6.0, MULTICAST6.1)),
    };
    let links = mark.link_prefix();
    guard(&mut batch, mark, of, loopback);
    if let Some(tunnel) = of.tunnel {
        tunnel.write(&mut batch, (GUARD, "postrouting"), cluster);
    }

    let mut to_ports = step::is_local(Fib::Destination).to_vec();
    to_ports.push(step::jump("ports"));
    let of_host = match family {
        Family::V4 => to_ports.clone(),
        // What comes from IPv6's loopback cannot leave it, whatever is translated; what is sent there from another address can.
        Family::V6 => [step::not_from_loopback6(), to_ports.clone()].concat(),
    };
    batch.add_rule("prerouting", &to_ports).add_rule("output", &of_host);
    let translate = Expr::Dnat { family, address: reg(6), port: reg(6 + family.registers()) };
    let mut rule = vec![step::destination(family, 0)];
    rule.extend(step::protocol_port(family.registers()));
    rule.extend([Expr::Map { set: ADDRESS_PORTS.into(), from: reg(0), to: reg(6) }, translate.clone()]);
    batch.add_rule("ports", &rule);
    let mut rule = step::protocol_port(0).to_vec();
    rule.extend([Expr::Map { set: PORTS.into(), from: reg(0), to: reg(6) }, translate]);
    batch.add_rule("ports", &rule);

    // A pod that calls itself by the host's port, and the host's own loopback: answers must come back this way.
    let mut rule = vec![step::source(family, 0), step::destination(family, family.registers()), Expr::In { set: SELVES.into(), from: reg(0), not: false }];
    rule.extend(step::snat(gateway));
    batch.add_rule("postrouting", &rule);
    if let Some(loopback) = loopback {
        let mut rule = step::leaves_by(&links).to_vec();
        rule.extend(step::source_in(loopback, Cmp::Eq));
        rule.extend(step::snat(gateway));
        batch.add_rule("postrouting", &rule);
    }
    if !of.behind {
        let mut rule = step::source_in(cluster, Cmp::Eq);
        rule.extend(step::destination_in(cluster, Cmp::Ne));
        rule.extend(step::destination_in(multicast, Cmp::Ne));
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

/// What nobody may send is dropped where it comes in.
fn guard(batch: &mut Batch, mark: &Mark, of: Of<'_>, loopback: Option<Net>) {
    let Some(loopback) = loopback else {
        // Who speaks for another's address: of IPv4 the kernel itself looks (`rp_filter`).
        let astray = [&step::came_by(&mark.link_prefix())[..], &step::comes_astray()[..], &[Expr::Verdict(Verdict::Drop)]].concat();
        batch.add_rule(GUARD, &astray);
        return;
    };
    // Every packet passes here, and nearly none is meant. So what is in its head comes first: the kernel compares that at once, and a link's
    // name (as a protocol) by steps of its own.
    batch.add_chain(TO_LOOPBACK, None);
    batch.add_rule(GUARD, &[&step::destination_in(loopback, Cmp::Eq)[..], &[step::jump(TO_LOOPBACK)]].concat());
    // Of pods, of other machines, and of what is before a further node: all links with `route_localnet`.
    let before = of.behind.then(|| BEFORE.to_owned());
    for links in [mark.link_prefix(), mark.overlay()].into_iter().chain(before) {
        batch.add_rule(TO_LOOPBACK, &[&step::came_by(&links)[..], &[Expr::Verdict(Verdict::Drop)]].concat());
    }
    if let Some(index) = of.lan {
        batch.add_rule(TO_LOOPBACK, &[&step::came_by_number(index)[..], &[Expr::Verdict(Verdict::Drop)]].concat());
        // Nor does who is there speak as if he were inside, which the kernel sees by its routes alone if it looks there (`rp_filter`): ours are
        // looked at, this one is the administrator's.
        batch.add_rule(GUARD, &[&step::source_in(loopback, Cmp::Eq)[..], &step::came_by_number(index)[..], &[Expr::Verdict(Verdict::Drop)]].concat());
    }
}

/// Elements of a pod's ports: for every address, and for single ones of its family.
fn elements(address: IpAddr, ports: &[HostPort]) -> (Vec<Element>, Vec<Element>) {
    let (mut all, mut single) = (Vec::new(), Vec::new());
    for port in ports {
        let Some(number) = protocol(&port.protocol) else { continue };
        let data = Some(Data::Value(endpoint_data(address, port.container_port)));
        let (protocol, host) = ([number], port.host_port.to_be_bytes());
        match port.host_ip {
            None => all.push((key::join(&[&protocol, &host]), data)),
            Some(ip) if ip.is_ipv4() == address.is_ipv4() => single.push((key::join(&[&octets(ip), &protocol, &host]), data)),
            Some(_) => {}
        }
    }
    (all, single)
}

/// Adds or removes a pod's ports.
pub(super) fn change(batch: &mut Batch, address: IpAddr, ports: &[HostPort], how: for<'a> fn(&'a mut Batch, &str, &[Element]) -> &'a mut Batch) {
    let (all, single) = elements(address, ports);
    if all.is_empty() && single.is_empty() {
        return;
    }
    how(batch, PORTS, &all);
    how(batch, ADDRESS_PORTS, &single);
    how(batch, SELVES, &[(key::join(&[&octets(address), &octets(address)]), None)]);
}
