//! A further node of this machine: a network namespace that outlives its processes, joined to the host's by a pair of links.
//!
//! The namespace is held by a mount of it on a file below the node's volatile directory, so that a node whose process is killed
//! keeps its pods, their links and its rules. The pair is point to point, one route each way: the host reaches the node's address
//! and its pods by the link, the node everything else by the host, which passes packets on between its nodes as it does between
//! pods, and translates what leaves the cluster, once and for all nodes ([`crate::pod::Config::behind`]). Hardware addresses
//! follow from the node's address and are told to both sides.
//!
//! What is there is kept and what is half-made is made anew, so [`open`] is also what puts right what others have changed: the
//! supervisor calls it once a minute.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use crate::cidr::Net;
use crate::link::{self, End, Ipv4Conf, Settings, Way};
use crate::mark::{Mark, NODE};
use crate::netlink::{self, Messages, Socket};
use crate::nft::Family;
use crate::{Error, Result, host, netns, pod, sysctl};

/// The node's end of its link. The rules for pods' links hold for it by the beginning of its name.
const UPLINK: &str = "knarr0";
/// The loopback link's number in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A further node, as its network needs to know it.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The cluster's mark.
    pub mark: Mark,
    /// Which of the cluster's nodes on this machine it is.
    pub number: u32,
    /// What it has of each family, the first family's first.
    pub sides: Vec<Side>,
}

/// One family of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Its pods' range; the first address is its own.
    pub pod_cidr: Net,
    /// The host's address in the cluster: the first node's.
    pub host: IpAddr,
}

impl Side {
    fn own(&self) -> IpAddr {
        self.pod_cidr.first()
    }
}

impl Worker {
    /// Its address of the first family.
    fn address(&self) -> Result<IpAddr> {
        self.sides.first().map(Side::own).ok_or_else(|| Error::Config("the node has no range of pods".into()))
    }

    /// The host's end of its link.
    fn link(&self) -> String {
        self.mark.link(&format!("{NODE}{}", self.number))
    }

    fn alias(&self) -> String {
        let ranges = self.sides.iter().map(|side| side.pod_cidr.to_string()).collect::<Vec<_>>().join(" ");
        format!("{}{NODE}{} {ranges}", self.mark.alias(), self.number)
    }
}

/// Makes the namespace on `space`, a file, and joins it to the host; what is there already stays. Blocks for some milliseconds.
pub fn open(worker: &Worker, space: &Path) -> Result<()> {
    if !holds_namespace(space)? {
        hold(space)?;
    }
    let address = worker.address()?;
    let (name, alias) = (worker.link(), worker.alias());
    let mut route = Socket::open(netlink::ROUTE)?;
    let mut inside = netns::within(space, || Socket::open(netlink::ROUTE))?;
    let whole = link::find(&mut inside, UPLINK)?.is_some();
    match link::find(&mut route, &name)? {
        // One whose other end is elsewhere is of a namespace that is no more, or half-made.
        Some(found) if !whole && (found.alias.is_empty() || found.alias.starts_with(&worker.mark.alias())) => link::remove(&mut route, &name)?,
        Some(found) if !found.alias.is_empty() && !found.alias.starts_with(&worker.mark.alias()) => {
            return Err(Error::Config(format!("link {name} belongs to {:?}", found.alias)));
        }
        _ => {}
    }
    if !whole {
        let file = File::open(space).map_err(|e| Error::io(format!("open network namespace {}", space.display()), e))?;
        let mut m = Messages::new();
        let (near, far) = (End { name: &name, mac: pod::host_mac(address) }, End { name: UPLINK, mac: pod::pod_mac(address) });
        link::add_veth(&mut m, near, far, file.as_raw_fd(), host::default_mtu(&mut route));
        route.call("make a node's link", &m)?;
    }
    let has_ipv6 = link::has_ipv6();
    if has_ipv6 {
        sysctl::quiet(&name, worker.sides.iter().any(|side| !side.pod_cidr.is_ipv4()))?;
    }
    outside(&mut route, &worker.sides, (&name, &alias), address, has_ipv6)?;
    within(&mut inside, &worker.sides, address, has_ipv6)?;
    host::wait_active(&mut route, &name)
}

/// Of both ends, as of a pod's link: what the host calls from its loopback (a node port) may leave by it, and what comes by it from a
/// loopback address is dropped by the rules, which are of families that the node has alone. Who speaks to the host by it must be reached by
/// it; what comes into a node comes from the host, which has looked, and its answer may go by the lane.
fn ipv4(sides: &[Side], sources: u32) -> [(Ipv4Conf, u32); 5] {
    let localnet = u32::from(sides.iter().any(|side| side.pod_cidr.is_ipv4()));
    [
        (Ipv4Conf::Forwarding, 1),
        (Ipv4Conf::AcceptRedirects, 0),
        (Ipv4Conf::SendRedirects, 0),
        (Ipv4Conf::RpFilter, sources),
        (Ipv4Conf::RouteLocalnet, localnet),
    ]
}

/// The host's side of the link.
fn outside(route: &mut Socket, sides: &[Side], (name, alias): (&str, &str), address: IpAddr, no_ipv6: bool) -> Result<()> {
    let mut m = Messages::new();
    link::set(&mut m, name, &Settings { up: true, alias: Some(alias), mtu: None, ipv4: &ipv4(sides, 1), no_ipv6 });
    link::get(&mut m, name);
    let index = link::index_of(&route.call("set up a node's link", &m)?, name)?;
    let mut m = Messages::new();
    for side in sides {
        let (own, source) = (side.own(), Some(side.host));
        link::add_neighbour(&mut m, index, own, pod::pod_mac(address));
        // Of IPv6 a router must be known to be on a link before it is one.
        if !own.is_ipv4() {
            link::add_route(&mut m, Net::one(own), Way::Link { index, source });
        }
        link::add_route(&mut m, side.pod_cidr, Way::Gateway { index, router: own, source });
    }
    route.call("route to a node", &m).map(drop)
}

/// The node's side of the link.
fn within(inside: &mut Socket, sides: &[Side], address: IpAddr, no_ipv6: bool) -> Result<()> {
    let mut m = Messages::new();
    link::up(&mut m, LOOPBACK_INDEX);
    link::set(&mut m, UPLINK, &Settings { up: true, ipv4: &ipv4(sides, 0), no_ipv6, ..Settings::default() });
    link::get(&mut m, UPLINK);
    let index = link::index_of(&inside.call("set up the link in a node", &m)?, UPLINK)?;
    let mut m = Messages::new();
    for side in sides {
        let (host, own) = (side.host, side.own());
        // The bridge will have it, too; the routes need it before.
        link::add_address(&mut m, index, own);
        link::add_neighbour(&mut m, index, host, pod::host_mac(address));
        link::add_route(&mut m, Net::one(host), Way::Link { index, source: Some(own) });
        link::add_route(&mut m, Net::everything(Family::of(host)), Way::Gateway { index, router: host, source: Some(own) });
    }
    inside.call("set a node's address and routes", &m)?;
    host::wait_local(inside, sides.iter().map(Side::own))
}

/// Takes the node off the host and lets its namespace go; what is not there is no error. Its processes must have ended.
pub fn close(mark: &Mark, number: u32, space: &Path) -> Result<()> {
    let name = mark.link(&format!("{NODE}{number}"));
    let mut route = Socket::open(netlink::ROUTE)?;
    if let Some(found) = link::find(&mut route, &name)?.filter(|l| l.alias.is_empty() || l.alias.starts_with(&mark.alias())) {
        // As long as somebody knows whose they are.
        let ranges: Vec<Net> = pod::ranges_of(&found.alias).into_iter().collect();
        pod::forget(&mut Socket::open(netlink::NETFILTER)?, &ranges);
        link::remove(&mut route, &name)?;
    }
    release(space)
}

/// Lets go of the namespace on a file, and removes the file.
pub fn release(space: &Path) -> Result<()> {
    while holds_namespace(space)? {
        umount2(space, MntFlags::MNT_DETACH).map_err(|e| Error::io(format!("unmount {}", space.display()), e.into()))?;
    }
    match fs::remove_file(space) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(format!("remove {}", space.display()), e)),
        _ => Ok(()),
    }
}

/// Puts the calling thread, and those that it starts from now on, into the namespace on a file.
pub fn enter(space: &Path) -> Result<()> {
    let file = File::open(space).map_err(|e| Error::io(format!("open network namespace {}", space.display()), e))?;
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| Error::io(format!("enter network namespace {}", space.display()), e.into()))
}

/// Whether a namespace is mounted on a file.
fn holds_namespace(space: &Path) -> Result<bool> {
    match statfs(space) {
        Ok(found) => Ok(found.filesystem_type() == NSFS_MAGIC),
        Err(nix::errno::Errno::ENOENT) => Ok(false),
        Err(e) => Err(Error::io(format!("look at {}", space.display()), e.into())),
    }
}

/// Makes a namespace and mounts it on a file.
pub(crate) fn hold(space: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(format!("hold a network namespace on {}", space.display()), e);
    File::options().create(true).truncate(false).write(true).mode(0o600).open(space).map_err(failed)?;
    netns::fresh(|| {
        // It begins with the host's, and the greater of this and a link's own counts: each link has its own.
        sysctl::set("ipv4/conf/all/rp_filter", "0")?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), space, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| failed(e.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_joined_found_again_and_gone_without_a_trace() {
        let side = |pod_cidr: &str, host: &str| Side { pod_cidr: pod_cidr.parse().unwrap(), host: host.parse().unwrap() };
        let (v4, v6) = (side("10.199.1.0/24", "10.199.0.1"), side("fd00:199:0:1::/64", "fd00:199::1"));
        comes_and_goes("both", vec![v4, v6]);
        comes_and_goes("six", vec![v6]);
        comes_and_goes("six-first", vec![v6, v4]);
    }

    fn comes_and_goes(test: &str, sides: Vec<Side>) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root");
            return;
        }
        let folder = std::env::temp_dir().join(format!("knarr-worker-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let space = folder.join("netns");
        // In a namespace of the test's own, which stands for the host's.
        netns::fresh(|| {
            let mark = Mark::new(format!("worker-{}", std::process::id()));
            let worker = Worker { mark: mark.clone(), number: 2, sides: sides.clone() };
            let mut route = Socket::open(netlink::ROUTE)?;
            let mut m = Messages::new();
            link::up(&mut m, LOOPBACK_INDEX);
            sides.iter().for_each(|side| link::add_address(&mut m, LOOPBACK_INDEX, side.host));
            route.call("the host's address", &m)?;
            open(&worker, &space)?;
            let index = |route: &mut Socket| link::find(route, &worker.link()).unwrap().map(|l| (l.index, l.alias));
            let first = index(&mut route).unwrap();
            let ranges = sides.iter().map(|side| side.pod_cidr.to_string()).collect::<Vec<_>>().join(" ");
            assert_eq!(first.1, format!("{}node 2 {ranges}", mark.alias()));
            open(&worker, &space)?;
            assert_eq!(index(&mut route), Some(first), "what is there stays");
            let reach_at = |Side { pod_cidr, host }: Side| {
                let (own, any) = (pod_cidr.first(), Family::of(host).unspecified());
                let server = netns::within(&space, || std::net::UdpSocket::bind((own, 0)).map_err(|e| Error::io("bind", e)))?;
                let client = std::net::UdpSocket::bind((any, 0)).map_err(|e| Error::io("bind", e))?;
                client.send_to(b"?", server.local_addr().unwrap()).map_err(|e| Error::io("send", e))?;
                server.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
                let (_, from) = server.recv_from(&mut [0; 8]).map_err(|e| Error::io("hear", e))?;
                assert_eq!(from.ip(), host, "the host speaks by its address in the cluster");
                server.send_to(b"!", from).map_err(|e| Error::io("answer", e))?;
                client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
                client.recv_from(&mut [0; 8]).map_err(|e| Error::io("hear the answer", e)).map(drop)
            };
            let reach = || sides.iter().copied().try_for_each(reach_at);
            reach()?;
            // Somebody takes the link: both ends are gone, and come again.
            link::remove(&mut route, &worker.link())?;
            open(&worker, &space)?;
            reach()?;
            close(&mark, worker.number, &space)?;
            assert_eq!(index(&mut route), None);
            close(&mark, worker.number, &space)
        })
        .unwrap();
        assert!(!space.exists());
        fs::remove_dir(&folder).unwrap();
    }
}
