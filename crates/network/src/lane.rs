//! A lane beside the host for the further nodes of this machine: what the pods of two of them send each other goes from one network
//! namespace into the other at once. By the host it would take one pair of links more, and pass the host's routes, rules and connection
//! tracking, which have no part in it.
//!
//! The host has a pair of links that leads nowhere. On one end of it each further node has a device (macvlan), and the kernel hands a frame
//! for another's hardware address over to that one; who sends to an address that nobody has sends to nobody. Hardware addresses follow from
//! the nodes' numbers, and routes and neighbours are written on both sides, so nobody is asked for anything.
//!
//! It only makes a way shorter: where the kernel has no such device, or a node is not on the lane yet, packets go by the host as before
//! ([`crate::worker`]). So links of nodes must not insist on where a packet comes from: its answer may go the other way.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use crate::cidr::Net;
use crate::link::{self, End, Ipv4Conf, Link, Settings, Way};
use crate::mark::{Mark, NODE};
use crate::netlink::{self, Messages, Socket};
use crate::{Error, Result, host, netns, sysctl};

/// A node's device. The rules for pods' links hold for it by the beginning of its name.
const DEVICE: &str = "knarr1";
/// In the alias of all of it, behind [`NODE`].
const LANE: &str = "lane";

/// A further node, as the others reach it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which of the cluster's nodes on this machine it is.
    pub number: u32,
    /// The file on which its network namespace is mounted.
    pub space: PathBuf,
    /// Its ranges of pods; the first address of each is its own.
    pub ranges: Vec<Net>,
}

impl Member {
    fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.number.to_be_bytes();
        [0x0a, 0x5b, a, b, c, d]
    }

    /// Its own address in the family of another.
    fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.ranges.iter().map(|range| range.first()).find(|own| own.is_ipv4() == other.is_ipv4())
    }

    fn socket(&self) -> Result<Socket> {
        netns::within(&self.space, || Socket::open(netlink::ROUTE))
    }

    /// Its device, if it is on the lane, and who may change what leads out of it.
    fn on_lane(&self) -> Result<Option<(Socket, Link)>> {
        // Its namespace may be still to come, or gone.
        let Ok(mut socket) = self.socket() else { return Ok(None) };
        let device = link::find(&mut socket, DEVICE)?.filter(|device| device.up);
        Ok(device.map(|device| (socket, device)))
    }
}

/// Puts a node on the lane, with the ways between it and those that are on it; what is there stays. Who joins meanwhile does the same the other
/// way round. Blocks for some milliseconds.
///
/// # Errors
/// The kernel has no macvlan, or refuses something of it: packets go by the host.
pub fn join(mark: &Mark, own: &Member, others: &[Member]) -> Result<()> {
    let mut inside = own.socket()?;
    let device = match link::find(&mut inside, DEVICE)? {
        Some(device) if device.up => device,
        _ => make(mark, own, &mut inside)?,
    };
    // A cluster may get a family later.
    let has = |v4: bool| own.ranges.iter().any(|range| range.is_ipv4() == v4);
    netns::within(&own.space, || {
        if link::has_ipv6() {
            sysctl::quiet(DEVICE, has(false))?;
        }
        // As of a node's link to the host: what is called from the node's loopback may leave by it.
        sysctl::set(&format!("ipv4/conf/{DEVICE}/route_localnet"), if has(true) { "1" } else { "0" })
    })?;
    for other in others {
        match other.on_lane()? {
            Some((mut theirs, their)) => {
                lead(&mut inside, &device, own, other)?;
                lead(&mut theirs, &their, other, own)?;
            }
            None => leave(&mut inside, device.index, other)?,
        }
    }
    Ok(())
}

/// Takes the others' ways to a node that goes.
///
/// # Errors
/// The kernel refused it.
pub fn forget(own: &Member, others: &[Member]) -> Result<()> {
    for other in others {
        if let Some((mut theirs, device)) = other.on_lane()? {
            leave(&mut theirs, device.index, own)?;
        }
    }
    Ok(())
}

/// Removes what [`lead`] made.
fn leave(socket: &mut Socket, index: u32, to: &Member) -> Result<()> {
    for range in &to.ranges {
        link::delete_route_by(socket, *range, index)?;
        if !range.is_ipv4() {
            link::delete_route_by(socket, Net::one(range.first()), index)?;
        }
    }
    Ok(())
}

/// Leads from a node to another.
fn lead(socket: &mut Socket, device: &Link, from: &Member, to: &Member) -> Result<()> {
    let mut m = Messages::new();
    for range in &to.ranges {
        let router = range.first();
        let Some(source) = from.address_like(router) else { continue };
        link::add_neighbour(&mut m, device.index, router, to.mac());
        // Of IPv6 a router must be known to be on a link before it is one.
        if !router.is_ipv4() {
            link::add_route(&mut m, Net::one(router), Way::Link { index: device.index, source: Some(source) });
        }
        link::add_route(&mut m, *range, Way::Gateway { index: device.index, router, source: Some(source) });
    }
    socket.call("lead to another node of this machine", &m).map(drop)
}

/// Makes a node's device.
fn make(mark: &Mark, own: &Member, inside: &mut Socket) -> Result<Link> {
    let mut route = Socket::open(netlink::ROUTE)?;
    let base = base(&mut route, mark)?;
    let file = File::open(&own.space).map_err(|e| Error::io(format!("open network namespace {}", own.space.display()), e))?;
    let mut m = Messages::new();
    link::add_macvlan(&mut m, End { name: DEVICE, mac: own.mac() }, file.as_raw_fd(), base.index, base.mtu);
    match route.call("make a node's device on the lane", &m) {
        Err(e) if e.errno() != Some(libc::EEXIST) => return Err(e),
        _ => {}
    }
    let alias = alias(mark);
    let ipv4 = [(Ipv4Conf::Forwarding, 1), (Ipv4Conf::AcceptRedirects, 0), (Ipv4Conf::SendRedirects, 0), (Ipv4Conf::RpFilter, 0)];
    let mut m = Messages::new();
    link::set(&mut m, DEVICE, &Settings { up: true, alias: Some(&alias), mtu: None, ipv4: &ipv4, no_ipv6: link::has_ipv6() });
    inside.call("set up a node's device on the lane", &m)?;
    link::find(inside, DEVICE)?.ok_or_else(|| Error::Config(format!("link {DEVICE} is gone")))
}

fn alias(mark: &Mark) -> String {
    format!("{}{NODE}{LANE}", mark.alias())
}

/// The host's end on which the devices are; made if it is not there.
fn base(route: &mut Socket, mark: &Mark) -> Result<Link> {
    let [near, far] = ["near", "far"].map(|end| mark.link(&format!("{NODE}{LANE} {end}")));
    let alias = alias(mark);
    match link::find(route, &near)? {
        Some(found) if found.alias == alias && found.up => return Ok(found),
        Some(found) if !found.alias.is_empty() && found.alias != alias => return Err(Error::Config(format!("link {near} belongs to {:?}", found.alias))),
        Some(_) => {}
        None => {
            let here = File::open("/proc/thread-self/ns/net").map_err(|e| Error::io("open the own network namespace", e))?;
            let mut m = Messages::new();
            // Nobody speaks by their own addresses.
            let ends = [(&near, 0), (&far, 1)].map(|(name, last)| End { name, mac: [0x0a, 0x5b, 0xff, 0xff, 0xff, last] });
            link::add_veth(&mut m, ends[0], ends[1], here.as_raw_fd(), host::default_mtu(route));
            match route.call("make the nodes' lane", &m) {
                // By another node that joins.
                Err(e) if e.errno() != Some(libc::EEXIST) => return Err(e),
                _ => {}
            }
        }
    }
    // The host takes nothing from there.
    let ipv4 = [(Ipv4Conf::Forwarding, 0), (Ipv4Conf::AcceptRedirects, 0), (Ipv4Conf::RpFilter, 1)];
    let has_ipv6 = link::has_ipv6();
    let mut m = Messages::new();
    for end in [&far, &near] {
        if has_ipv6 {
            sysctl::quiet(end, false)?;
        }
        link::set(&mut m, end, &Settings { up: true, alias: Some(&alias), mtu: None, ipv4: &ipv4, no_ipv6: has_ipv6 });
    }
    route.call("set up the nodes' lane", &m)?;
    host::wait_active(route, &near)?;
    link::find(route, &near)?.ok_or_else(|| Error::Config(format!("link {near} is gone")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    #[test]
    fn nodes_reach_each_other_beside_the_host() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root");
            return;
        }
        let folder = std::env::temp_dir().join(format!("knarr-lane-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // In a namespace of the test's own, which stands for the host's.
        netns::fresh(|| {
            let mark = Mark::new(format!("lane-{}", std::process::id()));
            let member = |number: u32| {
                let ranges = vec![format!("10.199.{number}.0/24").parse().unwrap(), format!("fd00:199:0:{number}::/64").parse().unwrap()];
                let member = Member { number, space: folder.join(number.to_string()), ranges };
                crate::worker::hold(&member.space).unwrap();
                let mut socket = member.socket().unwrap();
                let mut m = Messages::new();
                link::up(&mut m, 1);
                member.ranges.iter().for_each(|range| link::add_address(&mut m, 1, range.first()));
                socket.call("the node's addresses", &m).unwrap();
                member
            };
            let (two, three, four) = (member(2), member(3), member(4));
            let reach_by = |from: &Member, to: &Member, range: &Net| -> Result<()> {
                let server = netns::within(&to.space, || UdpSocket::bind((range.first(), 0)).map_err(|e| Error::io("bind", e)))?;
                let client = netns::within(&from.space, || UdpSocket::bind((range.family().unspecified(), 0)).map_err(|e| Error::io("bind", e)))?;
                client.send_to(b"?", server.local_addr().unwrap()).map_err(|e| Error::io("send", e))?;
                server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let (_, source) = server.recv_from(&mut [0; 8]).map_err(|e| Error::io("hear", e))?;
                assert_eq!(Some(source.ip()), from.address_like(range.first()), "a node speaks by its own address");
                server.send_to(b"!", source).map_err(|e| Error::io("answer", e))?;
                client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                client.recv_from(&mut [0; 8]).map_err(|e| Error::io("hear the answer", e)).map(drop)
            };
            let reach = |from: &Member, to: &Member| to.ranges.iter().try_for_each(|range| reach_by(from, to, range));
            let out_of_reach = |from: &Member, to: &Member| to.ranges.iter().all(|range| reach_by(from, to, range).is_err());
            join(&mark, &two, &[three.clone(), four.clone()])?;
            join(&mark, &three, &[two.clone(), four.clone()])?;
            let file = format!("/proc/sys/net/ipv4/conf/{DEVICE}/route_localnet");
            let localnet = netns::within(&two.space, || std::fs::read_to_string(&file).map_err(|e| Error::io("look", e)))?;
            assert_eq!(localnet.trim(), "1", "what is called from a node's loopback leaves by it");
            reach(&two, &three)?;
            reach(&three, &two)?;
            assert!(out_of_reach(&two, &four), "who is not on it is not led to");
            join(&mark, &four, &[two.clone(), three.clone()])?;
            join(&mark, &four, &[two.clone(), three.clone()])?;
            reach(&two, &four)?;
            reach(&four, &three)?;
            forget(&four, &[two.clone(), three.clone()])?;
            assert!(out_of_reach(&two, &four), "whoever goes is not led to");
            reach(&two, &three)?;
            // Somebody takes the host's pair, and with it the devices; then all of it comes again.
            let mut route = Socket::open(netlink::ROUTE)?;
            link::remove(&mut route, &mark.link(&format!("{NODE}{LANE} near")))?;
            assert!(out_of_reach(&two, &three));
            join(&mark, &two, std::slice::from_ref(&three))?;
            join(&mark, &three, std::slice::from_ref(&two))?;
            reach(&two, &three)?;
            crate::pod::purge(&mark)?;
            assert!(link::list(&mut route)?.iter().all(|l| !l.alias.starts_with(&mark.alias())));
            [two, three, four].iter().try_for_each(|member| crate::worker::release(&member.space))
        })
        .unwrap();
        std::fs::remove_dir(&folder).unwrap();
    }
}
