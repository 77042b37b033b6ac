//! The words of rtnetlink for what leads to other machines, of both families: VXLAN devices, forwarding and neighbour entries, routes.

use std::net::IpAddr;

use super::plan::{Entries, Mac};
use crate::Result;
use crate::cidr::Net;
use crate::link::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, Link, NUD_PERMANENT, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTA_OIF,
    RTA_PREFSRC, RTM_DELROUTE, RTM_GETLINK, RTM_GETROUTE, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTNH_F_ONLINK, address, family, ifinfo, parse,
};
use crate::netlink::{ACK, CREATE, DUMP, EXCL, Messages, REPLACE, Socket, attribute, text};
use crate::nft::octets;

pub(super) const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// An entry of the device itself, not of a bridge that it may be a port of.
const NTF_SELF: u8 = 2;
const NUD_NOARP: u16 = 0x40;

const RTA_PRIORITY: u16 = 6;
const RTN_UNICAST: u8 = 1;
/// Who made a route: a number that no daemon of `rt_protos` has, a `k`.
const PROTOCOL: u8 = b'k';

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// What makes a VXLAN device this and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vxlan {
    pub(super) mac: Mac,
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) local: IpAddr,
    /// It would believe whoever sends.
    pub(super) learns: bool,
}

/// Makes a device; refused if the name is taken, or the number of the VXLAN at this port.
pub(super) fn add_vxlan(m: &mut Messages, name: &str, vxlan: &Vxlan, mtu: u32) {
    m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0)).text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &vxlan.mac).u32(IFLA_MTU, mtu);
    let info = m.nest(IFLA_LINKINFO);
    m.text(IFLA_INFO_KIND, "vxlan");
    let data = m.nest(IFLA_INFO_DATA);
    m.u32(VXLAN_ID, vxlan.vni).attr(if vxlan.local.is_ipv4() { VXLAN_LOCAL } else { VXLAN_LOCAL6 }, &octets(vxlan.local));
    m.attr(VXLAN_LEARNING, &[u8::from(vxlan.learns)]).attr(VXLAN_PORT, &vxlan.port.to_be_bytes());
    m.end(data).end(info);
}

fn parse_vxlan(kind: u16, body: &[u8]) -> Option<(Link, Option<Vxlan>)> {
    let link = parse(kind, body)?;
    let attributes = body.get(16..)?;
    let vxlan = || {
        let info = attribute(attributes, IFLA_LINKINFO)?;
        let data = attribute(info, IFLA_INFO_KIND).filter(|kind| text(kind) == "vxlan").and_then(|_| attribute(info, IFLA_INFO_DATA))?;
        Some(Vxlan {
            mac: attribute(attributes, IFLA_ADDRESS)?.try_into().ok()?,
            vni: attribute(data, VXLAN_ID).and_then(number)?,
            port: attribute(data, VXLAN_PORT)?.try_into().ok().map(u16::from_be_bytes)?,
            local: attribute(data, VXLAN_LOCAL).or_else(|| attribute(data, VXLAN_LOCAL6)).and_then(address)?,
            learns: attribute(data, VXLAN_LEARNING) != Some(&[0]),
        })
    };
    Some((link, vxlan()))
}

/// The link with this name, and what it is if it is a VXLAN device.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<(Link, Option<Vxlan>)>> {
    let mut m = Messages::new();
    m.begin(RTM_GETLINK, ACK, &ifinfo(0, 0)).text(IFLA_IFNAME, name);
    match socket.call("look for a link", &m) {
        Ok(answers) => Ok(answers.iter().find_map(|(kind, body)| parse_vxlan(*kind, body))),
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

fn ndmsg(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut fixed = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed
}

/// Whether an entry is written or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Do {
    Put,
    Remove,
}

impl Do {
    fn flags(self) -> u16 {
        if self == Do::Put { ACK | CREATE | REPLACE } else { ACK }
    }
}

/// At which machine a hardware address is.
pub(super) fn forwarding(m: &mut Messages, what: Do, index: u32, mac: Mac, at: IpAddr) {
    let kind = if what == Do::Put { RTM_NEWNEIGH } else { RTM_DELNEIGH };
    m.begin(kind, what.flags(), &ndmsg(libc::AF_BRIDGE as u8, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF)).attr(NDA_LLADDR, &mac).attr(NDA_DST, &octets(at));
}

/// Which hardware address an address has.
pub(super) fn neighbour(m: &mut Messages, what: Do, index: u32, ip: IpAddr, mac: Mac) {
    let kind = if what == Do::Put { RTM_NEWNEIGH } else { RTM_DELNEIGH };
    m.begin(kind, what.flags(), &ndmsg(family(ip), index, NUD_PERMANENT, 0)).attr(NDA_DST, &octets(ip));
    if what == Do::Put {
        m.attr(NDA_LLADDR, &mac);
    }
}

/// How a range is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) to: Net,
    pub(super) by: IpAddr,
    /// The link.
    pub(super) index: u32,
    /// The router is on the link whatever the addresses there.
    pub(super) onlink: bool,
    /// The source of the host's own packets.
    pub(super) source: Option<IpAddr>,
    /// Whose it is.
    pub(super) mark: u32,
}

/// A route.
pub(super) fn route(m: &mut Messages, what: Do, route: &Route) {
    let kind = if what == Do::Put { RTM_NEWROUTE } else { RTM_DELROUTE };
    let to = route.to.base();
    let mut fixed = [family(to), route.to.prefix(), 0, 0, RT_TABLE_MAIN, PROTOCOL, 0, RTN_UNICAST, 0, 0, 0, 0];
    if what == Do::Put && route.onlink {
        fixed[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    m.begin(kind, what.flags(), &fixed).attr(RTA_DST, &octets(to)).u32(RTA_PRIORITY, route.mark);
    if what == Do::Put {
        m.u32(RTA_OIF, route.index).attr(RTA_GATEWAY, &octets(route.by));
        if let Some(source) = route.source {
            m.attr(RTA_PREFSRC, &octets(source));
        }
    }
}

/// Whether a message is of a route that some cluster of knarr's made.
pub(super) fn is_ours(body: &[u8]) -> bool {
    body.get(5) == Some(&PROTOCOL)
}

/// Whether a message is of a neighbour that was told to us for good.
pub(super) fn is_lasting(body: &[u8]) -> bool {
    body.get(8..10).and_then(|b| b.try_into().ok()).is_some_and(|state| u16::from_ne_bytes(state) & NUD_PERMANENT != 0)
}

/// A route that is there: range, router, link.
type There = (Net, Option<IpAddr>, Option<u32>);

/// The routes with a mark.
pub(super) fn routes(socket: &mut Socket, mark: u32) -> Result<Vec<There>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut m = Messages::new();
        m.begin(RTM_GETROUTE, DUMP, &[family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut take = |kind: u16, body: &[u8]| {
            let attributes = body.get(12..).filter(|_| kind == RTM_NEWROUTE && is_ours(body) && body.get(4) == Some(&RT_TABLE_MAIN));
            let Some(attributes) = attributes.filter(|a| attribute(a, RTA_PRIORITY).and_then(number) == Some(mark)) else { return };
            let Some(to) = attribute(attributes, RTA_DST).and_then(address).map(|ip| Net::new(ip, body[1])) else { return };
            found.push((to, attribute(attributes, RTA_GATEWAY).and_then(address), attribute(attributes, RTA_OIF).and_then(number)));
        };
        // What changed meanwhile is news, and news is looked after.
        socket.each("list routes", &m, &mut take)?;
    }
    Ok(found)
}

/// The forwarding and neighbour entries of a VXLAN device that last.
pub(super) fn entries_of(socket: &mut Socket, index: u32) -> Result<Entries> {
    let mut found = Entries::default();
    for family in [libc::AF_BRIDGE, libc::AF_INET, libc::AF_INET6] {
        let mut m = Messages::new();
        m.begin(RTM_GETNEIGH, DUMP, &ndmsg(family as u8, 0, 0, 0));
        let mut take = |kind: u16, body: &[u8]| {
            let number = body.get(4..8).and_then(number);
            let state = body.get(8..10).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
            let Some(attributes) = body.get(12..).filter(|_| kind == RTM_NEWNEIGH && number == Some(index) && state & NUD_PERMANENT != 0) else { return };
            let mac = attribute(attributes, NDA_LLADDR).and_then(|b| Mac::try_from(b).ok());
            let Some((mac, ip)) = mac.zip(attribute(attributes, NDA_DST).and_then(address)) else { return };
            if family == libc::AF_BRIDGE {
                found.forwarding.insert(mac, ip);
            } else {
                found.neighbours.insert(ip, mac);
            }
        };
        socket.each("list neighbours", &m, &mut take)?;
    }
    Ok(found)
}
