//! Links, addresses, routes and neighbours: the part of rtnetlink that a pod network needs.
//!
//! Each function appends one message to a buffer, so that a caller sends all its steps in one system call.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::RawFd;

use crate::cidr::Net;
use crate::netlink::{ACK, CREATE, DUMP, EXCL, Messages, REPLACE, Socket, attribute, text};
use crate::nft::octets;
use crate::{Error, Result};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_OPERSTATE: u16 = 16;
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_BRIDGE: u32 = 4;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFF_UP: u32 = 1;
/// `IF_OPER_UP`.
const OPER_UP: u8 = 6;

pub(crate) const NUD_PERMANENT: u16 = 0x80;
const RTPROT_STATIC: u8 = 4;
const RTN_LOCAL: u8 = 2;
pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
pub(crate) const RTA_PREFSRC: u16 = 7;
/// Nobody is asked whether he has an address.
const IFA_F_NODAD: u8 = 2;
pub(crate) const RT_TABLE_MAIN: u8 = 254;
pub(crate) const RTNH_F_ONLINK: u32 = 4;
/// The whole of IPv4.
const SCOPE_UNIVERSE: u8 = 0;
/// On this link.
const SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_NOWHERE`: when a route is removed, of whatever scope.
const SCOPE_ANY: u8 = 255;

/// A link's parameters below `net.ipv4.conf`, by the kernel's numbers (`IPV4_DEVCONF_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ipv4Conf {
    /// `forwarding`.
    Forwarding = 1,
    /// `accept_redirects`.
    AcceptRedirects = 4,
    /// `send_redirects`.
    SendRedirects = 6,
    /// `rp_filter`.
    RpFilter = 8,
    /// `route_localnet`.
    RouteLocalnet = 26,
}

/// A link as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, or empty.
    pub alias: String,
    /// Its MTU.
    pub mtu: u32,
    /// It is switched on.
    pub up: bool,
    /// It passes packets: both ends are up, and the kernel has acted on it.
    pub active: bool,
}

pub(crate) fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&flags.to_ne_bytes());
    out
}

/// Makes a bridge; refused if the name is taken.
pub fn add_bridge(m: &mut Messages, name: &str) {
    m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0)).text(IFLA_IFNAME, name);
    let info = m.nest(IFLA_LINKINFO);
    m.text(IFLA_INFO_KIND, "bridge");
    m.end(info);
}

/// One end of a pair of links.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Makes a pair of links, the far end at once in the namespace of `netns`; refused if a name is taken.
pub fn add_veth(m: &mut Messages, near: End, far: End, netns: RawFd, mtu: u32) {
    m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0));
    ends(m, near, mtu);
    let info = m.nest(IFLA_LINKINFO);
    m.text(IFLA_INFO_KIND, "veth");
    let data = m.nest(IFLA_INFO_DATA);
    let peer = m.nest(VETH_INFO_PEER);
    m.raw(&ifinfo(0, 0));
    ends(m, far, mtu);
    m.u32(IFLA_NET_NS_FD, netns as u32);
    m.end(peer).end(data).end(info);
}

/// Makes a device on another link of this namespace, at once in the namespace of `netns`: frames for others on that link go to those at once
/// (macvlan, as a bridge). Refused if the name is taken there.
pub fn add_macvlan(m: &mut Messages, end: End, netns: RawFd, on: u32, mtu: u32) {
    m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0));
    m.text(IFLA_IFNAME, end.name).attr(IFLA_ADDRESS, &end.mac).u32(IFLA_MTU, mtu).u32(IFLA_LINK, on).u32(IFLA_NET_NS_FD, netns as u32);
    let info = m.nest(IFLA_LINKINFO);
    m.text(IFLA_INFO_KIND, "macvlan");
    let data = m.nest(IFLA_INFO_DATA);
    m.u32(IFLA_MACVLAN_MODE, MACVLAN_BRIDGE);
    m.end(data).end(info);
}

fn ends(m: &mut Messages, end: End, mtu: u32) {
    // One queue each: by default the kernel makes as many as there are processors, of which a pod's link needs none.
    m.text(IFLA_IFNAME, end.name).attr(IFLA_ADDRESS, &end.mac).u32(IFLA_MTU, mtu);
    m.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
}

/// What to set on a link that exists.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    /// Brings it up.
    pub up: bool,
    /// Its alias.
    pub alias: Option<&'a str>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Parameters below `net.ipv4.conf`.
    pub ipv4: &'a [(Ipv4Conf, u32)],
    /// The kernel makes no IPv6 address for it (and looks for no duplicates of one, which would delay it by seconds).
    pub no_ipv6: bool,
}

/// Changes the link with this name.
pub fn set(m: &mut Messages, name: &str, settings: &Settings) {
    m.begin(RTM_NEWLINK, ACK, &ifinfo(0, if settings.up { IFF_UP } else { 0 })).text(IFLA_IFNAME, name);
    if let Some(alias) = settings.alias {
        m.attr(IFLA_IFALIAS, alias.as_bytes());
    }
    if let Some(mtu) = settings.mtu {
        m.u32(IFLA_MTU, mtu);
    }
    if settings.ipv4.is_empty() && !settings.no_ipv6 {
        return;
    }
    let spec = m.nest(IFLA_AF_SPEC);
    if !settings.ipv4.is_empty() {
        let inet = m.nest(libc::AF_INET as u16);
        let conf = m.nest(IFLA_INET_CONF);
        for (which, value) in settings.ipv4 {
            m.u32(*which as u16, *value);
        }
        m.end(conf).end(inet);
    }
    if settings.no_ipv6 {
        let inet6 = m.nest(libc::AF_INET6 as u16);
        m.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        m.end(inet6);
    }
    m.end(spec);
}

/// Brings up the link with this number.
pub fn up(m: &mut Messages, index: u32) {
    m.begin(RTM_NEWLINK, ACK, &ifinfo(index, IFF_UP));
}

/// Removes the link with this name (and with it the other end of a pair).
pub fn delete(m: &mut Messages, name: &str) {
    m.begin(RTM_DELLINK, ACK, &ifinfo(0, 0)).text(IFLA_IFNAME, name);
}

/// Asks for the link with this name.
pub fn get(m: &mut Messages, name: &str) {
    m.begin(RTM_GETLINK, ACK, &ifinfo(0, 0)).text(IFLA_IFNAME, name);
}

/// Reads a link from an answer.
pub fn parse(kind: u16, body: &[u8]) -> Option<Link> {
    if kind != RTM_NEWLINK {
        return None;
    }
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let flags = u32::from_ne_bytes(body.get(8..12)?.try_into().ok()?);
    let attributes = body.get(16..)?;
    Some(Link {
        index,
        up: flags & IFF_UP != 0,
        name: attribute(attributes, IFLA_IFNAME).map(text)?,
        alias: attribute(attributes, IFLA_IFALIAS).map(text).unwrap_or_default(),
        mtu: attribute(attributes, IFLA_MTU).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes),
        active: attribute(attributes, IFLA_OPERSTATE) == Some(&[OPER_UP]),
    })
}

/// The link with this name, if there is one.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut m = Messages::new();
    get(&mut m, name);
    match socket.call("look for a link", &m) {
        Ok(answers) => Ok(answers.iter().find_map(|(kind, body)| parse(*kind, body))),
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// All links.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut m = Messages::new();
    m.begin(RTM_GETLINK, DUMP, &ifinfo(0, 0));
    let answers = socket.call("list links", &m)?;
    Ok(answers.iter().filter_map(|(kind, body)| parse(*kind, body)).collect())
}

/// Removes a link; one that is gone already is no error.
pub fn remove(socket: &mut Socket, name: &str) -> Result<()> {
    let mut m = Messages::new();
    delete(&mut m, name);
    match socket.call(&format!("remove link {name}"), &m) {
        Err(e) if e.errno() != Some(libc::ENODEV) => Err(e),
        _ => Ok(()),
    }
}

/// The kernel's number of an address's family.
pub(crate) fn family(of: IpAddr) -> u8 {
    let family = if of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    family as u8
}

fn ifaddr(index: u32, address: IpAddr) -> [u8; 8] {
    // At once: nobody else on a link of ours can have it, so nobody is asked.
    let flags = if address.is_ipv4() { 0 } else { IFA_F_NODAD };
    let mut fixed = [family(address), Net::bits(address), flags, SCOPE_UNIVERSE, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed
}

/// Gives a link an address of its own; one that it has already stays.
pub fn add_address(m: &mut Messages, index: u32, address: impl Into<IpAddr>) {
    let address = address.into();
    m.begin(RTM_NEWADDR, ACK | CREATE | REPLACE, &ifaddr(index, address)).attr(2, &octets(address)).attr(1, &octets(address));
}

/// Takes an address from a link; one that it does not have is no error.
pub fn remove_address(socket: &mut Socket, index: u32, address: impl Into<IpAddr>) -> Result<()> {
    let address = address.into();
    let mut m = Messages::new();
    m.begin(RTM_DELADDR, ACK, &ifaddr(index, address)).attr(2, &octets(address)).attr(1, &octets(address));
    match socket.call("take an address from a link", &m) {
        Err(e) if e.errno() != Some(libc::EADDRNOTAVAIL) => Err(e),
        _ => Ok(()),
    }
}

/// Whether packets for an address are this namespace's own: an address of IPv6 has its local route from a worker of the kernel, after the
/// kernel has acknowledged it, and until then they are passed on or dropped.
pub fn is_local(socket: &mut Socket, address: IpAddr) -> Result<bool> {
    let mut m = Messages::new();
    m.begin(RTM_GETROUTE, ACK, &[family(address), Net::bits(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).attr(RTA_DST, &octets(address));
    match socket.call("look where an address is", &m) {
        Ok(answers) => Ok(answers.iter().any(|(kind, body)| *kind == RTM_NEWROUTE && body.get(7) == Some(&RTN_LOCAL))),
        Err(e) if matches!(e.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The ranges that [`add_route`] has led out of a link.
pub fn ranges_by(socket: &mut Socket, index: u32) -> Result<BTreeSet<Net>> {
    let mut found = BTreeSet::new();
    each_range(socket, index, |to, is_by| found.extend(is_by.then_some(to)))?;
    Ok(found)
}

/// Those of some ranges that have another route, of whatever metric: beside one of another metric the kernel would take ours.
pub fn ranges_elsewhere(socket: &mut Socket, index: u32, of: &BTreeSet<Net>) -> Result<BTreeSet<Net>> {
    let mut found = BTreeSet::new();
    each_range(socket, index, |to, is_by| found.extend((!is_by && of.contains(&to)).then_some(to)))?;
    Ok(found)
}

/// The ranges of the main table's routes, and whether [`add_route`] has led them out of this link.
fn each_range(socket: &mut Socket, index: u32, mut see: impl FnMut(Net, bool)) -> Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut m = Messages::new();
        m.begin(RTM_GETROUTE, DUMP, &[family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut take = |kind: u16, body: &[u8]| {
            let Some(attributes) = body.get(12..).filter(|_| kind == RTM_NEWROUTE && body[4] == RT_TABLE_MAIN) else { return };
            let Some(to) = attribute(attributes, RTA_DST).and_then(address) else { return };
            let by = attribute(attributes, RTA_OIF).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
            let is_by = body[5] == RTPROT_STATIC && by == Some(index) && attribute(attributes, RTA_GATEWAY).is_none();
            see(Net::new(to, body[1]), is_by);
        };
        socket.each("list routes", &m, &mut take)?;
    }
    Ok(())
}

/// An address by its bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Where packets for a range go.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Out of a link, where the destination itself is.
    Link {
        /// The link.
        index: u32,
        /// The source of the host's own packets.
        source: Option<IpAddr>,
    },
    /// To a router that is to be found on a link, whatever the addresses there.
    Gateway {
        /// The link.
        index: u32,
        /// The router.
        router: IpAddr,
        /// The source of the host's own packets.
        source: Option<IpAddr>,
    },
    /// Nowhere; the sender is told.
    Unreachable,
}

/// Sets the route of a range, whatever it was.
pub fn add_route(m: &mut Messages, to: impl Into<Net>, way: Way) {
    write_route(m, REPLACE, to.into(), way);
}

/// Sets the route of a range that has none; refused if it has one of the same metric.
pub fn add_new_route(m: &mut Messages, to: impl Into<Net>, way: Way) {
    write_route(m, EXCL, to.into(), way);
}

fn write_route(m: &mut Messages, how: u16, to: Net, way: Way) {
    let (scope, kind, flags) = match way {
        Way::Link { .. } => (SCOPE_LINK, 1, 0),
        Way::Gateway { .. } => (SCOPE_UNIVERSE, 1, RTNH_F_ONLINK),
        Way::Unreachable => (SCOPE_UNIVERSE, 7, 0),
    };
    let mut fixed = [family(to.base()), to.prefix(), 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    m.begin(RTM_NEWROUTE, ACK | CREATE | how, &fixed);
    if to.prefix() > 0 {
        m.attr(RTA_DST, &octets(to.base()));
    }
    let source = match way {
        Way::Link { index, source } => {
            m.u32(RTA_OIF, index);
            source
        }
        Way::Gateway { index, router, source } => {
            m.u32(RTA_OIF, index).attr(RTA_GATEWAY, &octets(router));
            source
        }
        Way::Unreachable => None,
    };
    if let Some(source) = source {
        m.attr(RTA_PREFSRC, &octets(source));
    }
}

/// Removes the route of a range that [`add_route`] set on a link (`on_link`), or the one that leads nowhere. One that is gone
/// already is no error.
pub fn delete_route(socket: &mut Socket, to: impl Into<Net>, on_link: bool) -> Result<()> {
    let to = to.into();
    let (scope, kind) = if on_link { (SCOPE_LINK, 1) } else { (SCOPE_UNIVERSE, 7) };
    let mut m = Messages::new();
    let fixed = [family(to.base()), to.prefix(), 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
    m.begin(RTM_DELROUTE, ACK, &fixed).attr(RTA_DST, &octets(to.base()));
    match socket.call("remove a route", &m) {
        Err(e) if e.errno() != Some(libc::ESRCH) => Err(e),
        _ => Ok(()),
    }
}

/// Removes the route of a range that leads out of a link, by a router or not. One that is gone already is no error.
pub fn delete_route_by(socket: &mut Socket, to: Net, index: u32) -> Result<()> {
    let mut m = Messages::new();
    let fixed = [family(to.base()), to.prefix(), 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, SCOPE_ANY, 0, 0, 0, 0, 0];
    m.begin(RTM_DELROUTE, ACK, &fixed).attr(RTA_DST, &octets(to.base())).u32(RTA_OIF, index);
    match socket.call("remove a route", &m) {
        Err(e) if e.errno() != Some(libc::ESRCH) => Err(e),
        _ => Ok(()),
    }
}

/// Says, for good, which hardware address an address on a link has: nobody needs to ask.
pub fn add_neighbour(m: &mut Messages, index: u32, address: impl Into<IpAddr>, mac: [u8; 6]) {
    let address = address.into();
    let mut fixed = [family(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    m.begin(RTM_NEWNEIGH, ACK | CREATE | REPLACE, &fixed).attr(1, &octets(address)).attr(2, &mac);
}

/// The number of a link that was just made, from the answers to a buffer with [`get`] in it.
pub fn index_of(answers: &[(u16, Vec<u8>)], name: &str) -> Result<u32> {
    let found = answers.iter().filter_map(|(kind, body)| parse(*kind, body)).find(|l| l.name == name);
    found.map(|l| l.index).ok_or_else(|| Error::Config(format!("link {name} is gone")))
}

/// Whether this machine speaks IPv6 at all.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/self/net/if_inet6").exists()
}
