//! The pod network of one node: a point-to-point link per pod, addresses, ports of the host, egress.
//!
//! A pod's only neighbour is the host: it has an address of its own and a route to the gateway, and the host has a route to
//! it by its link. So every packet of a pod is routed by the host and seen by its rules, between pods of one node too (on a
//! switched bridge, answers would pass them by); a pod reaches itself by its Service like any other; nobody can speak for
//! another's address, since the host drops what comes from a link by which its source is not reached. Hardware addresses follow
//! from the IP address and are told to both sides, so nothing is ever asked by ARP and the first packet goes out at once.
//!
//! The bridge holds the gateway's address, which is the node's; it has no ports. Everything is found again by name and
//! alias after a crash; what was made half is made anew when it is asked for again. What others change afterwards (a flushed
//! rule set, a firewall that starts later, forwarding switched off) is put right by [`PodNetwork::keep`], at the kernel's news
//! and once a minute.
//!
//! Where forwarding was off, the host is no router by switching it on for pods: what is not theirs is dropped (as Docker does).
//! It is dropped too if the host is meant to be a router from then on and nobody has a rule of his own for what is passed on:
//! "on" cannot be switched on again, so the kernel shows nothing of that wish. A chain at the forward hook shows it, be it empty, and
//! so does forwarding that is on before knarr starts; from then on knarr decides about its own packets only.

mod bridge;
mod families;
mod firewall;
mod holders;
mod ipam;
mod lan;
mod legacy;
mod own;
mod ports;
mod probe;
mod purge;
mod rules;
mod tracked;
mod tunnel;

pub use own::OwnPort;
pub use probe::Passage;
pub use purge::purge;
pub(crate) use purge::{forget, ranges_of};
pub(crate) use rules::protocol;

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Informers;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::cidr::Net;
use crate::link::{self, End, Ipv4Conf, Settings, Way};
use crate::mark::{Mark, NODE, OVERLAY, hash};
use crate::netlink::{self, Messages, Socket};
use crate::nft::{self, At, Batch, Family, Foreign};
use crate::ranges::ServiceRanges;
use crate::{Error, Part, Result, host, mesh, netns};
use bridge::{BRIDGE, Told};
use firewall::How;
use holders::Holders;
use ipam::{Ipam, Record};
use lan::Lan;

/// The name of a pod's link inside the pod.
const INSIDE: &str = "eth0";
/// The loopback link's number in every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Two sandboxes whose links' names are the same by chance get different ones.
const NAME_ATTEMPTS: u32 = 8;
/// What the names of all clusters' tables begin with.
const TABLES: &str = "knarr-";
/// Others' changes come in numbers; one look is for all that come within this.
const SETTLE: Duration = Duration::from_millis(100);
/// From the start to the first look whether packets get through: it is not to hold up the first pods.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// Between two looks for which there is no news: links, addresses, parameters.
const LOOK: Duration = Duration::from_secs(60);

/// How a node's pod network is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's mark.
    pub mark: Mark,
    /// The node's volatile directory; addresses are kept below it.
    pub run_dir: PathBuf,
    /// The bridge's name; none: by the mark.
    pub bridge: Option<String>,
    /// What the node has of each family, the first family's first.
    pub parts: Vec<Part>,
    /// The links' MTU; none: as the host's default route.
    pub mtu: Option<u32>,
    /// Ports of the host that the node itself answers: no pod gets them, whatever it asks for.
    pub own_ports: Vec<OwnPort>,
    /// The node is a namespace behind a host ([`crate::worker`]) that translates what leaves the cluster.
    pub behind: bool,
    /// This machine's address by which packets of pods travel between machines in datagrams ([`mesh::Kind::Vxlan`]).
    pub tunnel: Option<IpAddr>,
    /// This machine's address on the link by which routes lead to pods of other machines ([`mesh::Kind::Routes`]).
    pub lan: Option<Ipv4Addr>,
}

/// A port of the host that leads into a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Address of the host; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A sandbox to be joined to the network.
#[derive(Clone, Debug, Default)]
pub struct AttachRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// Ports of the host that lead into it.
    pub host_ports: Vec<HostPort>,
}

/// What a pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddresses {
    /// Its addresses; the first is the pod's IP.
    pub ips: Vec<IpAddr>,
    /// The host as the pod sees it, of the first family.
    pub gateway: IpAddr,
}

/// The pod network. Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    mark: Mark,
    bridge: String,
    /// Of the first family.
    gateway: IpAddr,
    mtu: u32,
    /// This machine speaks IPv6.
    has_ipv6: bool,
    state: Mutex<State>,
}

struct State {
    route: Socket,
    nft: Socket,
    ipam: Ipam,
    /// Who has the host's ports.
    holders: Holders,
    /// Those of which the rules let the host pass packets on for others than pods.
    router: BTreeSet<Family>,
    /// What the bridge's alias says: whoever takes the bridge away takes it with it.
    told: Told,
    /// All ranges of Services, once they are known; until then those that are led here stay.
    services: Option<BTreeSet<Net>>,
    /// Those of them of which it was told that another's route stays.
    elsewhere: BTreeSet<Net>,
    /// The addresses of the nodes' machines, as far as they are known.
    machines: BTreeSet<IpAddr>,
    /// The machine's own link, where routes lead to other machines' pods by it.
    lan: Option<Lan>,
}

/// What others have on this host.
struct Others {
    chains: Vec<nft::BaseChain>,
    /// The families of which there are rules of `iptables-legacy`.
    legacy: Vec<Family>,
}

impl Others {
    fn look(socket: &mut Socket) -> Result<Self> {
        let mut chains = nft::base_chains(socket)?;
        chains.retain(|c| !c.table.starts_with(TABLES));
        Ok(Self { chains, legacy: Family::ALL.into_iter().filter(|family| legacy::in_use(*family)).collect() })
    }

    /// Whether somebody has rules for a family's packets that this host passes on.
    fn pass_on(&self, family: Family) -> bool {
        let concerns = |chain: &nft::BaseChain| chain.family == nft::INET || chain.family == family.number();
        self.legacy.contains(&family) || self.chains.iter().any(|c| concerns(c) && c.at == At::Forward as u32)
    }
}

/// A pod's end has this hardware address, by its address of the first family.
pub(crate) fn pod_mac(address: IpAddr) -> [u8; 6] {
    hardware(0x58, address)
}

/// The host's end of a pod's link has this one.
pub(crate) fn host_mac(address: IpAddr) -> [u8; 6] {
    hardware(0x59, address)
}

fn hardware(kind: u8, address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(ip) => ip.octets(),
        // On a link there is nobody else.
        IpAddr::V6(ip) => ((hash(&[&ip.to_string()]) & 0xffff_ffff) as u32).to_be_bytes(),
    };
    [0x0a, kind, a, b, c, d]
}

/// A node's range of pods has room for some; that of a second family for those whose places are in both.
const PLACES_MIN: u32 = 6;

impl PodNetwork {
    /// Makes the network, or takes over the one that is there with all its pods. Blocks for some milliseconds.
    pub fn open(config: Config) -> Result<Self> {
        let first = *config.parts.first().ok_or_else(|| Error::Config("the node has no range of pods".into()))?;
        if let Some(small) = config.parts.iter().map(|part| part.pod_cidr).find(|range| range.last_place() < PLACES_MIN) {
            return Err(Error::Config(format!("the pod range {small} is too small")));
        }
        let highest = config.parts.iter().map(|part| part.pod_cidr.last_place()).min().unwrap_or(PLACES_MIN);
        let mut route = Socket::open(netlink::ROUTE)?;
        let mut nft = Socket::open(netlink::NETFILTER)?;
        let machines = tunnel::former(&mut nft, config.tunnel, &config.mark.table());
        let bridge = config.bridge.clone().unwrap_or_else(|| config.mark.bridge());
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => host::default_mtu(&mut route),
        };
        let has_ipv6 = link::has_ipv6();
        if let Some(range) = config.parts.iter().map(|part| part.pod_cidr).find(|range| !range.is_ipv4() && !has_ipv6) {
            return Err(Error::Config(format!("the pod range {range} cannot be used: this machine's kernel does not speak IPv6")));
        }
        let ipam = Ipam::open(config.run_dir.join("ipam"), first.pod_cidr, highest)?;
        let holders = Holders::but_for(config.own_ports.clone());
        let state = Mutex::new(State {
            route,
            nft,
            ipam,
            holders,
            router: BTreeSet::from(Family::ALL),
            told: Told::default(),
            services: None,
            elsewhere: BTreeSet::new(),
            machines,
            lan: None,
        });
        let inner = Inner { mark: config.mark.clone(), gateway: first.node_ip(), config, bridge, mtu, has_ipv6, state };
        {
            let state = &mut *inner.state.lock();
            let others = Others::look(&mut state.nft)?;
            let tracks = tracked::is_on();
            inner.find_lan(state);
            inner.make_bridge(state)?;
            // Those of a former start may be open still.
            inner.keep_quiet(state)?;
            state.router = inner.routers(state, &others);
            inner.write_rules(state)?;
            if !tracks {
                // The first rules of a machine that need it let the kernel track connections: what is said of these can be said now.
                inner.make_bridge(state)?;
            }
            state.lan.as_ref().map_or(Ok(()), |lan| lan.open(&mut state.route))?;
            // What a former start let through may be other ranges than these.
            inner.open_firewall(&mut state.nft, &others, How::Anew);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts right what others change, until `shutdown`.
    ///
    /// After the start, and when others have changed rules, it also tries whether pods' packets get through, and says so in the
    /// log where they do not.
    pub async fn keep(&self, shutdown: CancellationToken) {
        let mut news = Foreign::listen();
        let (mut look_at, mut probe_at) = (later(LOOK), later(PROBE_AFTER));
        let (mut news_since, mut passes) = (true, true);
        loop {
            let probes = news_since || !passes;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = news.changed() => {
                    news_since = true;
                    self.guard().await;
                }
                () = tokio::time::sleep_until(look_at) => {}
                () = tokio::time::sleep_until(probe_at), if probes => {}
            }
            tokio::time::sleep(SETTLE).await;
            news.heard();
            let inner = self.inner.clone();
            if let Err(error) = blocking(move || inner.repair()).await {
                tracing::warn!(%error, "the pod network is not as it should be; looking again in a minute");
            }
            look_at = later(LOOK);
            if probes && probe_at <= later(Duration::ZERO) {
                passes = self.tell_passage(passes).await;
                // Others may change rules all the time.
                (news_since, probe_at) = (false, later(LOOK));
            }
        }
    }

    /// Leads the ranges of ServiceCIDRs to the node as well, as they come and go, until `shutdown`: they are reached where the host has no
    /// default route, and by the node's address.
    pub async fn lead_services(&self, informers: Informers, shutdown: CancellationToken) {
        let (ranges, nodes) = (ServiceRanges::new(self.inner.own_services(), informers.informer()), informers.informer::<Node>());
        let (mut changes, mut moves) = (ranges.objects().subscribe(), nodes.subscribe());
        let known = async {
            ranges.objects().synced().await;
            // One of them may have its machine there, and who led it away would not hear of it: until then the node's own ranges are led alone.
            nodes.synced().await;
            let mut led = None;
            loop {
                while changes.try_recv().is_ok() {}
                while moves.try_recv().is_ok() {}
                let now = (ranges.now(), mesh::machines(&nodes));
                if led.as_ref() != Some(&now) {
                    let (inner, (ranges, machines)) = (self.inner.clone(), now.clone());
                    led = Some(now);
                    if let Err(error) = blocking(move || inner.lead(ranges, machines)).await {
                        tracing::warn!(%error, "the Services' ranges are not led to this node; trying again within a minute");
                        led = None;
                    }
                }
                let goes_on = tokio::select! {
                    change = changes.recv() => change.is_some(),
                    change = moves.recv() => change.is_some(),
                    () = tokio::time::sleep(LOOK), if led.is_none() => true,
                };
                if !goes_on {
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = known => {}
        }
    }

    /// Rules that somebody took away are not waited for: without them others reach the host's loopback by its open links.
    async fn guard(&self) {
        let inner = self.inner.clone();
        if let Err(error) = blocking(move || inner.guard()).await {
            tracing::warn!(%error, "the pod network's rules are not as they should be; looking again at once");
        }
    }

    /// Tries whether packets get through and says what has changed; whether they do.
    async fn tell_passage(&self, before: bool) -> bool {
        let Passage { pods, node } = match self.probe().await {
            Ok(passage) => passage,
            Err(error) => {
                tracing::debug!(%error, "the pod network could not be tried");
                return before;
            }
        };
        let why = if self.inner.families().any(legacy::in_use) { "iptables-legacy has rules on this host" } else { "a firewall of this host" };
        match (pods && node, before) {
            (false, true) => tracing::warn!(pods, node, why, "packets of pods do not get through to each other (pods) or to DNS and the API (node)"),
            (true, false) => tracing::warn!("packets of pods get through again"),
            _ => {}
        }
        pods && node
    }

    /// Sends packets as pods do, from network namespaces that are thrown away: which get through.
    pub async fn probe(&self) -> Result<Passage> {
        let inner = self.inner.clone();
        blocking(move || inner.probe()).await
    }

    /// The gateway's address of the first family: the node's `InternalIP`.
    pub fn gateway(&self) -> IpAddr {
        self.inner.gateway
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.inner.bridge
    }

    /// The addresses of a sandbox that is joined.
    pub fn addresses(&self, sandbox: &str) -> Option<PodAddresses> {
        let state = self.inner.state.lock();
        let (address, record) = state.ipam.find(sandbox).filter(|(_, record)| record.ready)?;
        Some(self.inner.answer(address, record.both))
    }

    /// Joins a sandbox's namespace to the network. Asked again, it answers what it has, and finishes what is unfinished.
    pub async fn attach(&self, netns: &Path, request: AttachRequest) -> Result<PodAddresses> {
        let (inner, netns) = (self.inner.clone(), netns.to_owned());
        blocking(move || inner.attach(&netns, request)).await
    }

    /// Takes a sandbox off the network and frees its address. One that is not joined is no error.
    pub async fn detach(&self, sandbox: &str) -> Result<()> {
        let (inner, sandbox) = (self.inner.clone(), sandbox.to_owned());
        let (at, id) = (inner.clone(), sandbox.clone());
        let Some(link) = blocking(move || at.detach(&id)).await? else { return Ok(()) };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.remove_link(&sandbox, &link) {
                tracing::warn!(%sandbox, link, %error, "a pod's link stays until its namespace is gone");
            }
        });
        Ok(())
    }

    /// After a restart: frees what belongs to sandboxes that are no more.
    pub async fn adopt(&self, live: &HashSet<String>) -> Result<()> {
        let gone: Vec<String> = {
            let state = self.inner.state.lock();
            state.ipam.records().map(|(_, r)| &r.sandbox).filter(|s| !live.contains(*s)).cloned().collect()
        };
        for sandbox in gone {
            self.detach(&sandbox).await?;
        }
        let inner = self.inner.clone();
        blocking(move || inner.sweep()).await
    }
}

fn later(after: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + after
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

impl Inner {
    /// A family's table with the ports of these pods.
    fn table(&self, family: Family, (state, router): (&State, bool), pods: &[(IpAddr, Vec<HostPort>)]) -> Option<Batch> {
        let lan = state.lan.as_ref().map(|lan| lan.index);
        let of = rules::Of { router, behind: self.config.behind, tunnel: self.tunnel(family, &state.machines), lan };
        let part = self.part(family)?;
        Some(rules::table(&self.mark, part.cluster_cidr, part.node_ip(), of, pods))
    }

    /// The table with the ports of the pods that exist.
    fn write_rules(&self, state: &mut State) -> Result<()> {
        self.write_rules_without(state, None)
    }

    /// The same without the ports of a pod that goes.
    fn write_rules_without(&self, state: &mut State, leaving: Option<IpAddr>) -> Result<()> {
        let stay = state.ipam.records().filter(|(address, _)| Some(*address) != leaving);
        let ports = state.holders.settle(stay.map(|(address, record)| (address, record.ports.as_slice())));
        for family in Family::ALL {
            let pod = |address: &IpAddr| self.pod_of(family, *address, state.ipam.get(*address).is_some_and(|record| record.both));
            let pods: Vec<_> = ports.iter().filter_map(|(address, ports)| Some((pod(address)?, ports.clone()))).collect();
            match self.table(family, (&*state, state.router.contains(&family)), &pods) {
                Some(table) => table.commit(&mut state.nft, "write the pod network's rules")?,
                // Of a former start, which had the family.
                None if nft::tables(&mut state.nft, family)?.contains(&self.mark.table()) => nft::delete_table(&mut state.nft, family, &self.mark.table())?,
                None => {}
            }
        }
        if let Some(lan) = &mut state.lan {
            lan.is_guarded = true;
        }
        Ok(())
    }

    fn open_firewall(&self, socket: &mut Socket, others: &Others, how: How) {
        let opened = firewall::open(socket, &self.mark, &self.pods(), &others.chains, how).map(|refuses_others| {
            if refuses_others && self.config.tunnel.is_some() {
                // Who else sends some is not to be believed: whom to let in is the administrator's word.
                let why = "this host's firewall refuses what it does not know: unless it lets in other machines' datagrams (VXLAN), their pods do not reach this one's";
                tracing::warn!(udp_port = mesh::VXLAN_PORT, "{why}");
            }
        });
        let legacy = self.pods().into_iter().filter(|pods| others.legacy.contains(&pods.range.family()));
        let opened = legacy.fold(opened, |opened, pods| opened.and_then(|()| legacy::open(&self.mark, pods)));
        if let Err(error) = opened {
            tracing::warn!(%error, "this host's firewall may keep pods from each other and from the node");
        }
    }

    /// Looks whether everything is there, and makes again what is not. What others have is looked at, and their firewall opened,
    /// without the lock: pods come and go meanwhile, whatever their programs take.
    fn repair(&self) -> Result<()> {
        let mut socket = Socket::open(netlink::NETFILTER)?;
        let others = Others::look(&mut socket)?;
        self.repair_own(&others)?;
        self.open_firewall(&mut socket, &others, How::WhereMissing);
        Ok(())
    }

    fn repair_own(&self, others: &Others) -> Result<()> {
        let state = &mut *self.state.lock();
        let bridge = link::find(&mut state.route, &self.bridge)?;
        let forwards = self.families().all(bridge::is_forwarding);
        let here = host::addresses()?;
        let addressed = self.config.parts.iter().all(|part| here.contains(&part.node_ip()));
        let stands = bridge.is_some_and(|b| b.up) && addressed && forwards;
        let former = state.lan.clone();
        self.find_lan(state);
        let moved = state.lan.as_ref().is_some_and(|lan| !lan.is_guarded);
        if !stands {
            tracing::warn!(bridge = self.bridge, forwards, "somebody changed the pod network's bridge or forwarding; making them again");
        }
        if !stands || moved {
            // No rules are written for another link before it is noted, and the former one closed.
            self.make_bridge(state).inspect_err(|_| state.lan = former)?;
        }
        self.route_services(state)?;
        self.keep_quiet(state)?;
        let router = self.routers(state, others);
        if !self.has_rules(state)? {
            self.tell_changed();
        } else if router != state.router {
            tracing::info!(?router, "whether somebody has rules for what this host passes on has changed: with none it passes on for pods alone");
        } else if !moved {
            return state.lan.as_ref().map_or(Ok(()), |lan| lan.open(&mut state.route));
        }
        let before = std::mem::replace(&mut state.router, router);
        self.write_rules_or_close(state).inspect_err(|_| state.router = before)?;
        state.lan.as_ref().map_or(Ok(()), |lan| lan.open(&mut state.route))
    }

    /// Writes the rules again if they are not all there. Nothing else is looked at: this is soon done.
    fn guard(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        if self.has_rules(state)? {
            return Ok(());
        }
        self.tell_changed();
        self.write_rules_or_close(state)?;
        state.lan.as_ref().map_or(Ok(()), |lan| lan.open(&mut state.route))
    }

    fn tell_changed(&self) {
        tracing::warn!(table = self.mark.table(), "somebody changed the pod network's rules; writing them again");
    }

    /// Whether there are as many rules as were written.
    fn has_rules(&self, state: &mut State) -> Result<bool> {
        let table = self.mark.table();
        for family in self.families() {
            let whole = self.table(family, (&*state, state.router.contains(&family)), &[]).map_or(0, |table| table.rules());
            let there = nft::tables(&mut state.nft, family)?.contains(&table);
            if !there || nft::rules(&mut state.nft, family, &table)?.len() != whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where the kernel does not take the rules, the machine's own link is closed until it does.
    fn write_rules_or_close(&self, state: &mut State) -> Result<()> {
        let written = self.write_rules(state);
        let (told, route) = (state.told.localnet, &mut state.route);
        if let (Err(_), Some(lan)) = (&written, &mut state.lan) {
            lan.leave_unguarded(route, told)
                .unwrap_or_else(|error| tracing::warn!(%error, "other machines may reach this one's loopback by the link between them"));
        }
        written
    }

    fn attach(&self, netns: &Path, request: AttachRequest) -> Result<PodAddresses> {
        let sandbox = request.sandbox_id;
        let space = File::open(netns).map_err(|e| Error::io(format!("open network namespace {}", netns.display()), e))?;
        let mut state = self.state.lock();
        let state = &mut *state;
        let both = self.config.parts.len() > 1;
        let address = match state.ipam.find(&sandbox) {
            Some((address, record)) if record.ready => return Ok(self.answer(address, record.both)),
            Some((address, _)) => address,
            None => {
                let link = self.mark.link(&sandbox);
                state.ipam.allocate(Record { sandbox: sandbox.clone(), link, both, ports: Vec::new(), ready: false })?
            }
        };
        let made = self.make_link(state, &sandbox, address, space.as_raw_fd()).and_then(|link| {
            self.inside(netns, address)?;
            host::wait_active(&mut state.route, &link)?;
            // Half-made by a start that had other families.
            if state.ipam.get(address).is_some_and(|record| record.both != both) {
                state.ipam.update(address, Record { sandbox: sandbox.clone(), link: link.clone(), both, ports: Vec::new(), ready: false })?;
            }
            self.add_ports(state, address, &request.host_ports)?;
            state.ipam.update(address, Record { sandbox: sandbox.clone(), link, both, ports: request.host_ports.clone(), ready: true })
        });
        if let Err(e) = made {
            // The namespace may be gone, and with it the link: nothing of it is to stay.
            if let Err(error) = self.remove_ports(state, address, &request.host_ports) {
                tracing::warn!(%sandbox, %error, "host ports of a pod that could not be joined are still open");
                state.holders.give(address);
                // Its elements must not lead to the next pod of the address.
                if let Err(error) = self.write_rules_without(state, Some(address)) {
                    tracing::warn!(%sandbox, %error, "the rules could not be written without them");
                }
            }
            let link = state.ipam.find(&sandbox).map(|(_, r)| r.link.clone());
            if let Some(link) = link {
                let _ = link::remove(&mut state.route, &link);
            }
            state.ipam.free(address)?;
            return Err(e);
        }
        Ok(self.answer(address, both))
    }

    /// Makes the pair of links and the host's side of it; the name of the host's end.
    fn make_link(&self, state: &mut State, sandbox: &str, address: IpAddr, netns: RawFd) -> Result<String> {
        let alias = format!("{}{sandbox}", self.mark.alias());
        let mut name = self.mark.link(sandbox);
        for attempt in 1..=NAME_ATTEMPTS {
            match self.try_link(state, &name, &alias, address, netns) {
                Err(e) if e.errno() == Some(libc::EEXIST) && attempt < NAME_ATTEMPTS => {
                    // Our own half-made one goes; another's of the same name stays, and ours is named differently.
                    match link::find(&mut state.route, &name)? {
                        Some(found) if found.alias == alias || found.alias.is_empty() => link::remove(&mut state.route, &name)?,
                        _ => name = self.mark.link(&format!("{sandbox}/{attempt}")),
                    }
                }
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        if let Some((_, record)) = state.ipam.find(sandbox)
            && record.link != name
        {
            let record = Record { link: name.clone(), ..record.clone() };
            state.ipam.update(address, record)?;
        }
        Ok(name)
    }

    fn try_link(&self, state: &mut State, name: &str, alias: &str, address: IpAddr, netns: RawFd) -> Result<()> {
        let mut m = Messages::new();
        let (near, far) = (End { name, mac: host_mac(address) }, End { name: INSIDE, mac: pod_mac(address) });
        link::add_veth(&mut m, near, far, netns, self.mtu);
        state.route.call("make a pod's link", &m)?;
        self.quiet(name, self.has(Family::V6))?;
        let mut m = Messages::new();
        // Strict source checks: a pod speaks for its own address alone. Loopback is let through towards pods, so that the
        // host reaches a node port at 127.0.0.1; from pods the guard chain drops it.
        // Redirects are advice of a router, and a pod is none; where the host forwards, the link's own word decides.
        let ipv4 = [
            (Ipv4Conf::Forwarding, 1),
            (Ipv4Conf::AcceptRedirects, 0),
            (Ipv4Conf::SendRedirects, 0),
            (Ipv4Conf::RpFilter, 1),
            (Ipv4Conf::RouteLocalnet, self.localnet()),
        ];
        link::set(&mut m, name, &Settings { up: true, alias: Some(alias), mtu: None, ipv4: &ipv4, no_ipv6: self.has_ipv6 });
        link::get(&mut m, name);
        let index = link::index_of(&state.route.call("set up a pod's link", &m)?, name)?;
        let mut m = Messages::new();
        for ip in self.addresses_of(address, true) {
            link::add_neighbour(&mut m, index, ip, pod_mac(address));
            link::add_route(&mut m, Net::one(ip), Way::Link { index, source: self.gateway_of(Family::of(ip)) });
        }
        state.route.call("route to a pod", &m).map(drop)
    }

    /// The pod's side.
    fn inside(&self, netns: &Path, address: IpAddr) -> Result<()> {
        let mut socket = netns::within(netns, || Socket::open(netlink::ROUTE))?;
        let mut m = Messages::new();
        link::up(&mut m, LOOPBACK_INDEX);
        link::set(&mut m, INSIDE, &Settings { up: true, no_ipv6: self.has_ipv6, ..Settings::default() });
        link::get(&mut m, INSIDE);
        let index = link::index_of(&socket.call("set up the link in a pod", &m)?, INSIDE)?;
        let mut m = Messages::new();
        for family in self.families() {
            let Some((ip, gateway)) = self.pod_of(family, address, true).zip(self.gateway_of(family)) else { continue };
            link::add_address(&mut m, index, ip);
            link::add_neighbour(&mut m, index, gateway, host_mac(address));
            link::add_route(&mut m, Net::one(gateway), Way::Link { index, source: None });
            link::add_route(&mut m, Net::everything(family), Way::Gateway { index, router: gateway, source: None });
        }
        socket.call("set a pod's address and routes", &m)?;
        host::wait_local(&mut socket, self.addresses_of(address, true))
    }

    /// Takes a sandbox off the network; the name of the link that is left to be removed.
    fn detach(&self, sandbox: &str) -> Result<Option<String>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some((address, record)) = state.ipam.find(sandbox).map(|(a, r)| (a, r.clone())) else { return Ok(None) };
        self.remove_ports(state, address, &record.ports)?;
        // Without its route a pod is cut off both ways: what it sends fails the source check.
        for ip in self.addresses_of(address, record.both) {
            link::delete_route(&mut state.route, Net::one(ip), true)?;
        }
        state.ipam.free(address)?;
        Ok(Some(record.link))
    }

    /// Removes a sandbox's link, if it is there and its own. The kernel takes tens of milliseconds for it, so nobody waits, and
    /// the socket is not the one that attachments use.
    fn remove_link(&self, sandbox: &str, name: &str) -> Result<()> {
        let alias = format!("{}{sandbox}", self.mark.alias());
        let mut socket = Socket::open(netlink::ROUTE)?;
        // With its namespace the link may be gone already, and its name another's.
        if link::find(&mut socket, name)?.is_some_and(|l| l.alias == alias || l.alias.is_empty()) {
            link::remove(&mut socket, name)?;
        }
        Ok(())
    }

    /// Removes links of sandboxes that have no address.
    fn sweep(&self) -> Result<()> {
        let prefix = self.mark.alias();
        let mut state = self.state.lock();
        let state = &mut *state;
        for found in link::list(&mut state.route)? {
            let Some(sandbox) = found.alias.strip_prefix(&prefix).filter(|s| !s.starts_with(BRIDGE) && !s.starts_with(OVERLAY) && !s.starts_with(NODE)) else {
                continue;
            };
            if state.ipam.find(sandbox).is_none() {
                link::remove(&mut state.route, &found.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_follow_from_the_first_familys() {
        assert_eq!(pod_mac([10, 244, 0, 9].into()), [0x0a, 0x58, 10, 244, 0, 9]);
        let [one, other]: [IpAddr; 2] = ["fd00::9", "fd00::a"].map(|ip| ip.parse().unwrap());
        assert!(pod_mac(one) != host_mac(one) && pod_mac(one) != pod_mac(other));
    }
}
