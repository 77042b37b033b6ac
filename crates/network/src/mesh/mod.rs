//! Pods of other machines: how this node reaches them, kept by the Node objects.
//!
//! - [`Kind::Vxlan`]: a device of the kernel's carries what is for other nodes' pods in UDP datagrams between the machines. It learns
//!   nothing and asks nobody: where a hardware address is, and which address has it, is written for each node before the first packet.
//!   A device's hardware address follows from its machine's address, so a node need tell nothing but its address.
//! - [`Kind::Routes`]: where all machines share a link, a route to each by its own address.
//! - [`Kind::None`]: somebody else joins the nodes.
//!
//! Each pass looks at what is there and writes the difference, so it can come after a crash and at any point: at the start, when the nodes
//! have changed, when the kernel tells of a change that concerns it, and once a minute. Nothing is removed before the nodes are known:
//! without an API server what is there stays. Routes bear a protocol number of ours and the mark's number as their metric, the device the
//! mark in its alias; so [`purge`] finds all of it.

mod plan;
mod wire;

pub use plan::{Entries, LeftOut, Own};
pub(crate) use plan::{machines, ranges, vni};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use client::Informers;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cidr::Net;
use crate::ethtool;
use crate::link::{self, IFLA_IFNAME, Ipv4Conf, RTM_DELLINK, RTM_DELROUTE, RTM_NEWLINK, Settings};
use crate::mark::{LINKS, Mark, OVERLAY};
use crate::netlink::{self, Messages, News, Socket};
use crate::{Error, Result, sysctl};
use wire::{Do, Route, Vxlan};

/// Where VXLAN's datagrams go: flannel's and Linux's own, not IANA's 4789, so that firewalls' rules for clusters fit.
pub const VXLAN_PORT: u16 = 8472;
/// What VXLAN adds to a packet: Ethernet, VXLAN, UDP, and the machines' IP.
const OVERHEAD_IPV4: u32 = 50;
const OVERHEAD_IPV6: u32 = 70;
/// The least that IPv6 lets a link have.
const MTU_MIN: u32 = 1280;
/// Changes come in numbers; one pass is for all that come within this.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two passes for which there is no news.
const LOOK: Duration = Duration::from_secs(60);
/// After a pass that failed: the first and the longest pause.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`.
const GROUP_LINK: u32 = 1;
const GROUP_NEIGHBOUR: u32 = 3;
const GROUP_ROUTE4: u32 = 7;
const GROUP_ROUTE6: u32 = 11;
/// `rp_filter`: a source must be reached, but by any link. A machine's own address comes by the device, too.
const LOOSE: u32 = 2;

/// How the nodes' pods are joined (`--pod-network`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// In UDP datagrams, over any network between the machines.
    #[default]
    Vxlan,
    /// By routes on the link that all machines share.
    Routes,
    /// Not by us.
    None,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::Routes => "routes",
            Self::None => "none",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Vxlan, Self::Routes, Self::None]
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| Error::Config(format!("{text:?} is none of vxlan, routes, none")))
    }
}

/// How a node is joined to others.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's mark.
    pub mark: Mark,
    /// This node.
    pub own: Own,
    /// The sources of the host's own packets to pods: the node's addresses in its ranges.
    pub gateways: Vec<IpAddr>,
}

/// The link that has an address of this host.
pub(crate) fn link_of(socket: &mut Socket, address: IpAddr) -> Result<link::Link> {
    let all = nix::ifaddrs::getifaddrs().map_err(|e| Error::io("list this host's addresses", e.into()))?;
    let of = |a: &nix::sys::socket::SockaddrStorage| a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())).or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())));
    let name = all.into_iter().find(|i| i.address.as_ref().and_then(of) == Some(address)).map(|i| i.interface_name);
    // An address's label may have its own part behind the link's name.
    let name = name.map(|label| label.split(':').next().unwrap_or_default().to_owned());
    let found = name.map(|name| link::find(socket, &name)).transpose()?.flatten();
    found.ok_or_else(|| Error::Config(format!("no link of this machine has the address {address}")))
}

/// The MTU of pods' links on a machine with this address.
///
/// # Errors
/// The machine has no such address, or its link takes packets too small for pods.
pub fn mtu(kind: Kind, address: IpAddr) -> Result<u32> {
    let link = link_of(&mut Socket::open(netlink::ROUTE)?, address)?;
    let overhead = match kind {
        Kind::Vxlan if address.is_ipv4() => OVERHEAD_IPV4,
        Kind::Vxlan => OVERHEAD_IPV6,
        Kind::Routes | Kind::None => 0,
    };
    let mtu = link.mtu.saturating_sub(overhead);
    if mtu < MTU_MIN {
        return Err(Error::Config(format!(
            "the link {} takes packets of {} bytes: too few for pods over {kind}, which need {}",
            link.name,
            link.mtu,
            MTU_MIN + overhead
        )));
    }
    // Loopback's of 65,536 is no Ethernet frame.
    Ok(mtu.min(65_535 - OVERHEAD_IPV6))
}

/// The joints of one node.
pub struct Mesh {
    config: Config,
    socket: Mutex<Socket>,
}

impl Mesh {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has no netlink.
    pub fn open(config: Config) -> Result<Self> {
        Ok(Self { config, socket: Mutex::new(Socket::open(netlink::ROUTE)?) })
    }

    /// Makes the kernel have what these nodes need, and nothing else of ours; who is left out, and why. Blocks for milliseconds.
    ///
    /// # Errors
    /// The kernel refused some of it; all else is done.
    pub fn put<'n>(&self, nodes: impl Iterator<Item = &'n Node>) -> Result<BTreeSet<LeftOut>> {
        let (entries, left_out) = plan::entries(&self.config.own, nodes);
        let socket = &mut *self.socket.lock();
        let device = self.device(socket)?;
        // Routes before what they lead by, when they go; after it, when they come.
        let have = match device {
            Some(index) => wire::entries_of(socket, index)?,
            None => Entries::default(),
        };
        if let Some(index) = device {
            pass_on_at_once(index);
        }
        let links = self.links(socket, device)?;
        let routed = self.routed(socket, &links)?;
        self.remove(socket, device, &have.gone(&entries), &routed.keys().copied().filter(|to| !entries.routes.contains_key(to)).collect::<Vec<_>>())?;
        let have = Entries { routes: routed.into_iter().filter_map(|(to, by)| Some((to, by?))).collect(), ..have };
        self.write(socket, device, &entries.beside(&have), &links)?;
        Ok(left_out)
    }

    /// By which link each family's routes go.
    fn links(&self, socket: &mut Socket, device: Option<u32>) -> Result<[Option<u32>; 2]> {
        let own = &self.config.own;
        let mut of = |v4: bool| match device {
            Some(index) => Ok(Some(index)),
            None => own.addresses.iter().find(|ip| ip.is_ipv4() == v4).map(|ip| link_of(socket, *ip).map(|l| l.index)).transpose(),
        };
        if own.kind == Kind::None { Ok([None, None]) } else { Ok([of(true)?, of(false)?]) }
    }

    /// Our routes, with their router if they go by the right link.
    fn routed(&self, socket: &mut Socket, links: &[Option<u32>; 2]) -> Result<BTreeMap<Net, Option<IpAddr>>> {
        let all = wire::routes(socket, self.config.mark.number())?;
        Ok(all.into_iter().map(|(to, by, link)| (to, by.filter(|_| link == links[usize::from(!to.is_ipv4())]))).collect())
    }

    fn remove(&self, socket: &mut Socket, device: Option<u32>, gone: &Entries, routes: &[Net]) -> Result<()> {
        for to in routes {
            remove_route(socket, *to, self.config.mark.number())?;
        }
        let Some(index) = device else { return Ok(()) };
        let mut m = Messages::new();
        gone.neighbours.iter().for_each(|(ip, mac)| wire::neighbour(&mut m, Do::Remove, index, *ip, *mac));
        gone.forwarding.iter().for_each(|(mac, at)| wire::forwarding(&mut m, Do::Remove, index, *mac, *at));
        match socket.call("remove what leads to nodes that are gone", &m) {
            Err(e) if e.errno() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    fn write(&self, socket: &mut Socket, device: Option<u32>, new: &Entries, links: &[Option<u32>; 2]) -> Result<()> {
        let mut m = Messages::new();
        if let Some(index) = device {
            new.forwarding.iter().for_each(|(mac, at)| wire::forwarding(&mut m, Do::Put, index, *mac, *at));
            new.neighbours.iter().for_each(|(ip, mac)| wire::neighbour(&mut m, Do::Put, index, *ip, *mac));
        }
        // One that is refused does not keep the others from being written.
        let mut outcome = socket.call("write who the other nodes are", &m).map(drop);
        for (to, by) in &new.routes {
            let Some(index) = links[usize::from(!to.is_ipv4())] else { continue };
            let source = self.config.gateways.iter().copied().find(|ip| ip.is_ipv4() == to.is_ipv4());
            let mut m = Messages::new();
            // Of IPv6 it is so by its address.
            let onlink = device.is_some() && by.is_ipv4();
            wire::route(&mut m, Do::Put, &Route { to: *to, by: *by, index, onlink, source, mark: self.config.mark.number() });
            let written = socket.call(&format!("write the route to {to} by {by}"), &m).map(drop);
            let written = written.map_err(|e| match e.errno() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
                    Error::Config(format!("{to} is not reached: {by} is on no link of this machine; --pod-network vxlan needs none"))
                }
                _ => e,
            });
            outcome = outcome.and(written);
        }
        outcome
    }

    /// The VXLAN device as it is to be; what is otherwise is made anew, and one that is not to be goes.
    fn device(&self, socket: &mut Socket) -> Result<Option<u32>> {
        let Config { mark, own, .. } = &self.config;
        let name = mark.overlay();
        let found = wire::find(socket, &name)?;
        if let Some((link, _)) = found.as_ref().filter(|(link, _)| !link.alias.is_empty() && !link.alias.starts_with(&mark.alias())) {
            return Err(Error::Config(format!("link {name} belongs to {:?}", link.alias)));
        }
        let local = own.addresses.first().copied().filter(|_| own.kind == Kind::Vxlan);
        let Some(local) = local else {
            if found.is_some() {
                link::remove(socket, &name)?;
            }
            return Ok(None);
        };
        let wanted = Vxlan { mac: plan::mac(local), vni: plan::vni(&own.cluster), port: VXLAN_PORT, local, learns: false };
        let mtu = mtu(own.kind, local)?;
        let alias = format!("{}{OVERLAY}{local}", mark.alias());
        let stands = match found {
            Some((link, Some(there))) if there == wanted => Some(link).filter(|link| link.up && link.mtu == mtu && link.alias == alias),
            other => {
                if other.is_some() {
                    link::remove(socket, &name)?;
                }
                make(socket, &name, &wanted, mtu)?;
                None
            }
        };
        let ipv6 = own.cluster.iter().any(|net| !net.is_ipv4());
        // Also of one that stands: the cluster may have got the family since.
        if link::has_ipv6() {
            sysctl::quiet(&name, ipv6)?;
        }
        // What the host calls from its loopback (a node port) may leave by it, to whichever node. What comes by it from outside to the loopback is
        // dropped by the node's rules, which are of the families that the node has.
        let has_ipv4 = self.config.gateways.iter().any(IpAddr::is_ipv4);
        sysctl::set(&format!("ipv4/conf/{name}/route_localnet"), if has_ipv4 { "1" } else { "0" })?;
        if let Some(link) = stands {
            return Ok(Some(link.index));
        }
        let ipv4 = [(Ipv4Conf::Forwarding, 1), (Ipv4Conf::AcceptRedirects, 0), (Ipv4Conf::SendRedirects, 0), (Ipv4Conf::RpFilter, LOOSE)];
        let mut m = Messages::new();
        link::set(&mut m, &name, &Settings { up: true, alias: Some(&alias), mtu: Some(mtu), ipv4: &ipv4, no_ipv6: link::has_ipv6() });
        link::get(&mut m, &name);
        link::index_of(&socket.call("set up the way to other nodes", &m)?, &name).map(Some)
    }
}

/// Packets were joined to larger ones where they came in, by the machine's own link, which looks into VXLAN for it. Another try at the
/// device joins none, and costs each of them a turn of the kernel's.
fn pass_on_at_once(index: u32) {
    let done = ethtool::joins(index).and_then(|joins| if joins { ethtool::leave_apart(index) } else { Ok(()) });
    if let Err(error) = done {
        tracing::debug!(%error, "packets of other nodes' pods take a turn more");
    }
}

fn make(socket: &mut Socket, name: &str, vxlan: &Vxlan, mtu: u32) -> Result<()> {
    let mut m = Messages::new();
    wire::add_vxlan(&mut m, name, vxlan, mtu);
    socket.call(&format!("make the VXLAN device {name}"), &m).map(drop).map_err(|e| match e.errno() {
        Some(libc::EOPNOTSUPP) => Error::Config("this kernel has no VXLAN: where all machines share a link, --pod-network routes needs none".into()),
        Some(libc::EEXIST) => Error::Config(format!("another device of this machine has the VXLAN {} at port {}", vxlan.vni, vxlan.port)),
        _ => e,
    })
}

fn remove_route(socket: &mut Socket, to: Net, mark: u32) -> Result<()> {
    let mut m = Messages::new();
    wire::route(&mut m, Do::Remove, &Route { to, by: to.base(), index: 0, onlink: false, source: None, mark });
    match socket.call(&format!("remove the route to {to}"), &m) {
        Err(e) if e.errno() != Some(libc::ESRCH) => Err(e),
        _ => Ok(()),
    }
}

/// Removes what leads to other machines; how many things there were. (The device goes with all links of the mark.)
pub(crate) fn purge(socket: &mut Socket, mark: &Mark) -> Result<usize> {
    // One that was made and not marked any more.
    if wire::find(socket, &mark.overlay())?.is_some_and(|(link, vxlan)| vxlan.is_some() && link.alias.is_empty()) {
        link::remove(socket, &mark.overlay())?;
    }
    let routes = wire::routes(socket, mark.number())?;
    for (to, ..) in &routes {
        remove_route(socket, *to, mark.number())?;
    }
    Ok(routes.len())
}

/// Listens to the kernel's news of what a mesh has made. What cannot be heard is left to the look each minute.
fn listen(mark: &Mark, heard: &Arc<Notify>) -> JoinSet<()> {
    type Concerns = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;
    // Pods' links come and go all the time; the others do so seldom.
    let device = mark.overlay();
    let of_link = move |body: &[u8]| {
        let name = body.get(16..).and_then(|a| netlink::attribute(a, IFLA_IFNAME)).map(netlink::text).unwrap_or_default();
        name == device || !name.starts_with(LINKS)
    };
    let all: [(u32, u16, Concerns); 5] = [
        (GROUP_LINK, RTM_NEWLINK, Box::new(of_link.clone())),
        (GROUP_LINK, RTM_DELLINK, Box::new(of_link)),
        (GROUP_NEIGHBOUR, wire::RTM_DELNEIGH, Box::new(wire::is_lasting)),
        (GROUP_ROUTE4, RTM_DELROUTE, Box::new(wire::is_ours)),
        (GROUP_ROUTE6, RTM_DELROUTE, Box::new(wire::is_ours)),
    ];
    let mut listeners = JoinSet::new();
    for (group, kind, concerns) in all {
        let heard = heard.clone();
        match News::join(netlink::ROUTE, group, kind) {
            Ok(mut news) => drop(listeners.spawn(async move {
                while news.next(&concerns).await.is_ok() {
                    heard.notify_one();
                }
            })),
            Err(error) => tracing::warn!(%error, "what others change is seen once a minute"),
        }
    }
    listeners
}

/// Keeps this node joined to the others until `shutdown`.
///
/// # Errors
/// The kernel has no netlink.
pub async fn run(config: Config, informers: Informers, shutdown: CancellationToken) -> Result<()> {
    let nodes = informers.informer::<Node>();
    let mesh = Arc::new(Mesh::open(config)?);
    let mut changes = nodes.subscribe();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = nodes.synced() => {}
    }
    let heard = Arc::new(Notify::new());
    let _listeners = listen(&mesh.config.mark, &heard);
    let (mut told, mut pause, mut last) = (BTreeSet::new(), AGAIN_MIN, String::new());
    loop {
        while changes.try_recv().is_ok() {}
        let (mesh, nodes) = (mesh.clone(), nodes.list());
        let put = tokio::task::spawn_blocking(move || mesh.put(nodes.iter().map(|n| &**n)));
        match put.await.unwrap_or(Err(Error::Closed)) {
            Ok(left_out) => {
                for LeftOut { node, why } in left_out.difference(&told) {
                    tracing::warn!(node, why, "pods of a node are not reached");
                }
                (told, pause) = (left_out, AGAIN_MIN);
                last.clear();
            }
            Err(error) => {
                // Nodes change all the time, and each change is a try: the same failure is told once.
                let error = error.to_string();
                if error != last {
                    tracing::warn!(error, "not all pods of other nodes are reached; trying again");
                    last = error;
                }
                pause = (pause * 2).min(LOOK);
            }
        }
        let wait = if pause == AGAIN_MIN { LOOK } else { pause / 2 };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            change = changes.recv() => if change.is_none() { return Ok(()) },
            () = heard.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named() {
        for kind in [Kind::Vxlan, Kind::Routes, Kind::None] {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        assert_eq!("flannel".parse::<Kind>().unwrap_err().to_string(), "\"flannel\" is none of vxlan, routes, none");
        let nobody = mtu(Kind::Vxlan, "192.0.2.77".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(nobody, "no link of this machine has the address 192.0.2.77");
    }
}
