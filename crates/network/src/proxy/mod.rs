//! The service proxy of one node: Services as nftables maps, from the informers' memory.
//!
//! A change of a Service or of its endpoints is turned into a plan (`plan.rs`, pure), the plan's difference to the last one
//! into two batches (`table.rs`), each one transaction of the kernel: what is new, then what leads to it. Connections that exist are not touched: the kernel
//! translates them as they began. Only what nothing else ends is forgotten when its backend is gone: UDP flows, and TCP connections that
//! nobody has answered, which are then led to who is there as soon as their client tries again.
//!
//! The kernel tells when somebody else has changed rules (`nft flush ruleset`, a firewall that is loaded again): then the table is
//! looked at, and written anew if it is not ours any more. Once an hour it is written anew in any case, as upstream does.

mod answers;
mod counts;
mod endpoints;
mod health;
mod healthz;
mod plan;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, Informers, Meta, ObjectKey};
use k8s_openapi::api::core::v1::{self, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cidr::Net;
use crate::conntrack::{self, Flow};
use crate::mark::Mark;
use crate::netlink::{self, Socket};
use crate::nft::{self, Batch, Family, Foreign};
use crate::pod::OwnPort;
use crate::ranges::{self, Machines, ServiceRanges};
use crate::{BY_SERVICE, Error, Part, Result, host, mesh, service_of_slice};
use counts::Counts;
use endpoints::Backend;
use endpoints::Node;
use healthz::Progress;
use plan::{Plan, UdpFront};
use table::{Change, Frame, Table, There};

pub use healthz::PORT as HEALTH_PORT;

/// What nothing leads to any more is emptied after this, and goes a while later: no packet is under way as long.
const STALE: Duration = Duration::from_secs(1);
/// Others' changes come in numbers; one look is for all that come within this.
const SETTLE: Duration = Duration::from_millis(100);
/// As upstream's wholly new table, whatever happened to the one that is there.
const WHOLE: Duration = Duration::from_secs(60 * 60);
/// For ServiceCIDRs to be known at the start: an API server may have none, or not show them.
const RANGES_PATIENCE: Duration = Duration::from_secs(1);
/// After the kernel refused the whole table.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// At which addresses of the host node ports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All, loopback too.
    All,
    /// These alone: so that clusters beside each other can use the same ports.
    Only(Vec<IpAddr>),
    /// Besides those of its own at addresses that others on this machine have, too: there a port is whose cluster comes first, which is one
    /// that has [`NodePortAddresses::All`] of them.
    Shared {
        /// Its own.
        own: Vec<IpAddr>,
        /// The others'.
        with_others: Vec<IpAddr>,
    },
}

impl NodePortAddresses {
    /// Whether the loopback is one of them: IPv4's, as nothing leaves from the other.
    pub fn at_loopback(&self) -> bool {
        self.own().is_none_or(|own| own.iter().any(|ip| ip.is_ipv4() && ip.is_loopback()))
    }

    /// Those that are nobody else's, unless they are all of the host's.
    fn own(&self) -> Option<&[IpAddr]> {
        match self {
            Self::All => None,
            Self::Only(own) | Self::Shared { own, .. } => Some(own),
        }
    }

    /// Which of the host's addresses these are.
    fn among(&self, mut here: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        here.retain(|ip| self.own().is_none_or(|own| own.contains(ip)) || self.with_others().contains(ip));
        here
    }

    /// Those that others have, too.
    fn with_others(&self) -> &[IpAddr] {
        if let Self::Shared { with_others, .. } = self { with_others } else { &[] }
    }
}

/// How a node's proxy works.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's mark.
    pub mark: Mark,
    /// The node's name, by which local endpoints are known.
    pub node_name: String,
    /// What the node has of each family, the first family's first. Services of a family that it does not have are not served here.
    pub sides: Vec<Side>,
    /// Where node ports are served.
    pub node_ports: NodePortAddresses,
    /// Where the node's own processes listen: no Service has these ports at addresses from outside.
    pub own_ports: Vec<OwnPort>,
    /// Addresses at which it tells whether it works, and whether the node takes new connections (`/healthz` at kube-proxy's port 10256); at
    /// loopback, if that is among them, also what it counts (`/metrics` at 10249).
    pub health: Vec<IpAddr>,
}

/// What a family's rules are made for.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// The node's address: the source of what the node passes on for others.
    pub node_ip: IpAddr,
    /// The pods' range; from outside of it a cluster address is reached under the node's address.
    pub cluster_cidr: Net,
    /// The Services' range, beside those of ServiceCIDRs; what in them is nobody's is dropped.
    pub service_cidr: Net,
}

impl From<Part> for Side {
    fn from(part: Part) -> Self {
        Self { node_ip: part.node_ip(), cluster_cidr: part.cluster_cidr, service_cidr: part.service_cidr }
    }
}

/// Runs the proxy until `shutdown`; `ready` becomes true when all Services that there were at the start are served. The rules stay
/// when it ends (see [`crate::pod::purge`]), but what the node's own processes answered is left to others: the pods run on, and ask for names.
pub async fn run(config: Config, informers: Informers, shutdown: CancellationToken, ready: watch::Sender<bool>) -> Result<()> {
    let services = informers.informer::<Service>();
    let slices = informers.informer::<EndpointSlice>();
    let nodes = informers.informer::<v1::Node>();
    let ranges = ServiceRanges::new(config.sides.iter().map(|side| side.service_cidr), informers.informer::<ServiceCIDR>());
    serve(config, Memory { services, slices, ranges, nodes }, &shutdown, ready).await
}

/// Removes the rules that a proxy of this mark left, for whoever proxies in its place. Blocks for a moment.
pub fn remove(mark: &Mark) -> Result<()> {
    remove_of(mark, &Family::ALL)
}

fn remove_of(mark: &Mark, families: &[Family]) -> Result<()> {
    let mut socket = Socket::open(netlink::NETFILTER)?;
    let table = mark.proxy_table();
    for family in families {
        if nft::tables(&mut socket, *family)?.contains(&table) {
            nft::delete_table(&mut socket, *family, &table)?;
        }
    }
    Ok(())
}

/// The same on these informers: each family by itself, as upstream's proxies of both.
async fn serve(config: Config, memory: Memory, shutdown: &CancellationToken, ready: watch::Sender<bool>) -> Result<()> {
    memory.slices.add_index(BY_SERVICE, service_of_slice);
    let sides = &config.sides;
    let others: Vec<Family> = Family::ALL.into_iter().filter(|family| sides.iter().all(|side| Family::of(side.node_ip) != *family)).collect();
    let mark = config.mark.clone();
    // Of a former start, which had the family. (A kernel without it has no rules of it either.)
    let removed = tokio::task::spawn_blocking(move || remove_of(&mark, &others)).await;
    if let Ok(Err(error)) = removed {
        tracing::debug!(%error, "rules of the other family could not be looked for");
    }
    let waiting = std::sync::atomic::AtomicUsize::new(sides.len());
    let is_ready = || {
        if waiting.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
            ready.send_replace(true);
        }
    };
    let progress = Progress::default();
    // Whoever is on the machine may know them; nobody has asked who is outside.
    let inside = config.health.iter().copied().filter(IpAddr::is_loopback);
    let _counts = counts::serve(inside, progress.counts().clone(), &config.node_name);
    let _health = healthz::serve(&config.health, progress.clone(), memory.nodes.clone(), &config.node_name);
    let all = sides.iter().map(|side| serve_family(&config, *side, memory.clone(), (&progress, shutdown), &is_ready));
    futures_util::future::try_join_all(all).await.map(drop)
}

/// What the rules are made of, as the informers have it.
#[derive(Clone)]
struct Memory {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    ranges: ServiceRanges,
    nodes: Informer<v1::Node>,
}

impl Memory {
    /// The addresses of the nodes' machines, once they are known.
    fn machines(&self) -> Option<BTreeSet<IpAddr>> {
        self.nodes.is_synced().then(|| mesh::machines(&self.nodes))
    }

    /// The ranges of Services of which all that is nobody's is dropped. Who does not know the machines may find the API server's among them:
    /// until then only the cluster's own.
    fn dropped(&self, side: Side, machines: Option<&BTreeSet<IpAddr>>) -> BTreeSet<Net> {
        let mut all = self.ranges.of(Family::of(side.node_ip));
        if machines.is_none() {
            all.retain(|range| self.ranges.own().contains(range));
        }
        let machines = Machines { here: host::addresses().unwrap_or_default(), nodes: machines.cloned().unwrap_or_default() };
        ranges::apart(&all, self.ranges.own(), Some(side.cluster_cidr), &machines)
    }

    /// The range of a node's pods, as far as it has one.
    fn pod_cidr(&self, node: &str, family: Family) -> Option<Net> {
        let node = self.nodes.get("", node)?;
        mesh::ranges(&node).into_iter().find(|range| range.family() == family)
    }

    /// The address of a node, which is its machine's if it has joined by itself; until its Node says so, that at which its pods know it.
    fn address(&self, node: &str, side: Side) -> IpAddr {
        let node = self.nodes.get("", node);
        let all = node.iter().flat_map(|n| n.status.iter().flat_map(|s| s.addresses.iter().flatten())).filter(|a| a.type_ == "InternalIP");
        let mut all = all.filter_map(|a| a.address.parse::<IpAddr>().ok());
        all.find(|ip| Family::of(*ip) == Family::of(side.node_ip)).unwrap_or(side.node_ip)
    }

    /// The zone of a node, as far as it is said.
    fn zone(&self, node: &str) -> String {
        self.nodes.get("", node).and_then(|node| node.label(ZONE).map(str::to_owned)).unwrap_or_default()
    }
}

/// A proxy that serves all that there was, and the news since.
type Begun = (Proxy, Changes, mpsc::UnboundedReceiver<Delta<ServiceCIDR>>, mpsc::UnboundedReceiver<Delta<v1::Node>>);

async fn begin(config: &Config, side: Side, memory: Memory, (progress, shutdown): (&Progress, &CancellationToken)) -> Result<Begun> {
    let (service_changes, slice_changes) = (memory.services.subscribe(), memory.slices.subscribe());
    memory.services.synced().await;
    memory.slices.synced().await;
    // Their places may be said later, or by nobody.
    let (range_changes, node_changes) = (memory.ranges.objects().subscribe(), memory.nodes.subscribe());
    let _ = tokio::time::timeout(RANGES_PATIENCE, async { tokio::join!(memory.ranges.objects().synced(), memory.nodes.synced()) }).await;
    let mut proxy = Proxy::new(config, side, memory, (progress.clone(), shutdown.clone()))?;
    let (family, counts) = (proxy.node.family, progress.counts().clone());
    let mut changes = Changes { services: service_changes, slices: slice_changes, family, counts, told: Vec::new() };
    let mut dirty = changes.take();
    // What was told before this start did not wait for it.
    changes.told.clear();
    dirty.extend(proxy.memory.services.list().iter().map(|s| s.key()));
    proxy.start(&dirty).await;
    if config.node_ports == NodePortAddresses::All {
        proxy.tell_rivals().await;
    }
    tracing::info!(services = dirty.len(), family = proxy.node.family.name(), "service proxy is in step");
    progress.updated(family);
    Ok((proxy, changes, range_changes, node_changes))
}

async fn serve_family(
    config: &Config,
    side: Side,
    memory: Memory,
    (progress, shutdown): (&Progress, &CancellationToken),
    is_ready: &(dyn Fn() + Sync),
) -> Result<()> {
    let (mut proxy, mut changes, mut range_changes, mut node_changes) = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        begun = begin(config, side, memory, (progress, shutdown)) => begun?,
    };
    let family = proxy.node.family;
    is_ready();
    let mut news = Foreign::listen();
    let mut whole = Box::pin(tokio::time::sleep(WHOLE));
    loop {
        let stale = async {
            match proxy.table.has_stale() {
                true => tokio::time::sleep(STALE).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            dirty = changes.next() => match dirty {
                Some(dirty) => {
                    progress.queued(family, Instant::now());
                    proxy.update(&dirty).await;
                    changes.told.drain(..).for_each(|told| progress.counts().programmed(family, told));
                }
                None => break,
            },
            node = node_changes.recv() => match node {
                Some(_) => {
                    while node_changes.try_recv().is_ok() {}
                    proxy.follow_node().await;
                    proxy.follow_ranges().await;
                }
                None => break,
            },
            range = range_changes.recv() => match range {
                Some(_) => {
                    while range_changes.try_recv().is_ok() {}
                    proxy.follow_ranges().await;
                }
                None => break,
            },
            () = stale => proxy.update(&BTreeSet::new()).await,
            () = news.changed() => {
                proxy.look_if_gone().await;
                tokio::time::sleep(SETTLE).await;
                news.heard();
                proxy.look().await;
            }
            () = &mut whole => {
                proxy.write_whole().await;
                whole.as_mut().reset(Instant::now() + WHOLE);
            }
        }
        progress.updated(family);
    }
    // The informers end by the same word, and may be heard before it.
    if !shutdown.is_cancelled() {
        return Err(Error::Closed);
    }
    proxy.leave().await;
    Ok(())
}

/// The informers' news, as the Services that they concern.
struct Changes {
    services: mpsc::UnboundedReceiver<Delta<Service>>,
    slices: mpsc::UnboundedReceiver<Delta<EndpointSlice>>,
    family: Family,
    counts: Arc<Counts>,
    /// When what changed the endpoints was told, of slices that were not looked at yet.
    told: Vec<Timestamp>,
}

fn of_slices(delta: &Delta<EndpointSlice>) -> impl Iterator<Item = ObjectKey> + '_ {
    let old = if let Delta::Updated { old, .. } = delta { Some(old) } else { None };
    old.into_iter().chain([delta.object()]).filter_map(|s| Some(ObjectKey::new(s.namespace(), s.label(SERVICE_NAME)?)))
}

/// When the change of pods or of a Service was told that a slice was written for.
const TOLD_AT: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The label of a slice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Changes {
    /// Waits for news; all that is there comes in one go. None: the informers have ended.
    async fn next(&mut self) -> Option<BTreeSet<ObjectKey>> {
        let mut dirty = BTreeSet::new();
        tokio::select! {
            delta = self.slices.recv() => self.slice(&delta?, &mut dirty),
            delta = self.services.recv() => self.service(&delta?, &mut dirty),
        }
        dirty.extend(self.take());
        Some(dirty)
    }

    fn take(&mut self) -> BTreeSet<ObjectKey> {
        let mut dirty = BTreeSet::new();
        while let Ok(delta) = self.slices.try_recv() {
            self.slice(&delta, &mut dirty);
        }
        while let Ok(delta) = self.services.try_recv() {
            self.service(&delta, &mut dirty);
        }
        dirty
    }

    fn service(&self, delta: &Delta<Service>, dirty: &mut BTreeSet<ObjectKey>) {
        self.counts.services.inc();
        dirty.insert(delta.object().key());
    }

    fn slice(&mut self, delta: &Delta<EndpointSlice>, dirty: &mut BTreeSet<ObjectKey>) {
        let told = |slice: &EndpointSlice| slice.annotation(TOLD_AT).and_then(|at| at.parse::<Timestamp>().ok());
        let slice = delta.object();
        if slice.address_type == self.family.name() {
            self.counts.slices.inc();
            let before = match delta {
                Delta::Added(_) => None,
                Delta::Updated { old, .. } => told(old),
                Delta::Deleted(gone) => told(gone),
            };
            self.told.extend(told(slice).filter(|now| Some(*now) != before));
        }
        dirty.extend(of_slices(delta));
    }
}

struct Proxy {
    memory: Memory,
    node: Node,
    side: Side,
    /// The nodes' machines of which the rules know.
    machines: Option<BTreeSet<IpAddr>>,
    table: Table,
    socket: Arc<Mutex<Socket>>,
    health: health::Checks,
    progress: Progress,
    /// Then what the kernel refuses is not tried again.
    shutdown: CancellationToken,
}

impl Proxy {
    fn new(config: &Config, side: Side, memory: Memory, (progress, shutdown): (Progress, CancellationToken)) -> Result<Self> {
        let family = Family::of(side.node_ip);
        let (all, machines) = (memory.ranges.of(family), memory.machines());
        let frame = Frame {
            table: config.mark.proxy_table(),
            node_ip: side.node_ip,
            cluster_cidr: Some(side.cluster_cidr),
            service_ranges: memory.dropped(side, machines.as_ref()),
            node_ports: config.node_ports.clone(),
        };
        let node = Node {
            name: config.node_name.clone(),
            ip: memory.address(&config.node_name, side),
            zone: memory.zone(&config.node_name),
            family,
            cluster_cidr: Some(side.cluster_cidr),
            pod_cidr: memory.pod_cidr(&config.node_name, family),
            service_ranges: all,
            own_ports: config.own_ports.clone(),
            is_leaving: false,
        };
        Ok(Self {
            memory,
            node,
            side,
            machines,
            table: Table::new(frame),
            socket: Arc::new(Mutex::new(Socket::open(netlink::NETFILTER)?)),
            health: health::Checks::new(&config.node_ports, family, progress.clone()),
            progress,
            shutdown,
        })
    }

    fn plans(&self, dirty: &BTreeSet<ObjectKey>) -> Vec<(ObjectKey, Plan)> {
        let plan = |key: &ObjectKey| {
            let service = self.memory.services.get_key(key)?;
            let slices = self.memory.slices.by_index(BY_SERVICE, &key.to_string());
            Some(plan::of(&service, &slices, &self.node))
        };
        dirty.iter().map(|key| (key.clone(), plan(key).unwrap_or_default())).collect()
    }

    /// Writes the whole table.
    async fn start(&mut self, dirty: &BTreeSet<ObjectKey>) {
        let plans = self.plans(dirty);
        self.checks(&plans);
        drop(self.table.change(plans, Instant::now()));
        self.write_whole().await;
        // Flows that began under a former process may lead to backends that went meanwhile.
        let fronts: Vec<UdpFront> = dirty.iter().filter_map(|k| self.table.plan(k)).flat_map(|p| p.udp.values().cloned()).collect();
        self.forget_flows(fronts, BTreeSet::new()).await;
    }

    async fn update(&mut self, dirty: &BTreeSet<ObjectKey>) {
        let plans = self.plans(dirty);
        let fronts = plans.iter().flat_map(|(key, plan)| stale_fronts(self.table.plan(key), plan)).collect();
        let before = |key, plan: &Plan| self.table.plan(key).map_or_else(BTreeSet::new, |old| old.tcp.difference(&plan.tcp).copied().collect());
        let gone: BTreeSet<Backend> = plans.iter().flat_map(|(key, plan)| before(key, plan)).collect();
        self.checks(&plans);
        let begun = Instant::now();
        // Without a rule that changes flows may end all the same: an endpoint that finishes its work goes from the rules before it goes.
        let Change { make, lead } = self.table.change(plans, Instant::now());
        let written = match self.commit(make, "make what Services need").await {
            Ok(()) => self.commit(lead, "update Services").await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => self.progress.counts().partial(self.node.family, begun.elapsed()),
            Err(error) => {
                tracing::warn!(%error, "the kernel refused a change of Services; writing all of them anew");
                self.write_whole().await;
            }
        }
        self.forget_flows(fronts, gone).await;
    }

    /// The node may have a range of pods now, or be in another zone: endpoints may be preferred for it. It may have another address.
    async fn follow_node(&mut self) {
        let (zone, pod_cidr) = (self.memory.zone(&self.node.name), self.memory.pod_cidr(&self.node.name, self.node.family));
        let ip = self.memory.address(&self.node.name, self.side);
        if self.node.zone != zone || self.node.pod_cidr != pod_cidr || self.node.ip != ip {
            (self.node.zone, self.node.pod_cidr, self.node.ip) = (zone, pod_cidr, ip);
            self.update_all().await;
        }
    }

    /// The node's own processes end, and its pods may run on without them for long.
    async fn leave(&mut self) {
        let answered = |key: &ObjectKey| {
            let plan = self.table.plan(key);
            plan.is_some_and(|plan| plan.tcp.iter().chain(plan.udp.values().flat_map(|front| &front.backends)).any(|backend| self.node.answers(*backend)))
        };
        let theirs: BTreeSet<ObjectKey> = self.memory.services.list().iter().map(|s| s.key()).filter(answered).collect();
        if !theirs.is_empty() {
            self.node.is_leaving = true;
            self.update(&theirs).await;
        }
    }

    /// Every Service may be served otherwise now.
    async fn update_all(&mut self) {
        let all = self.memory.services.list().iter().map(|s| s.key()).collect();
        self.update(&all).await;
    }

    /// ServiceCIDRs or machines may have come or gone: other addresses are Services' alone.
    async fn follow_ranges(&mut self) {
        let (all, machines) = (self.memory.ranges.of(self.node.family), self.memory.machines());
        if all == self.node.service_ranges && machines == self.machines {
            return;
        }
        let dropped = self.memory.dropped(self.side, machines.as_ref());
        self.machines = machines;
        if all != self.node.service_ranges {
            tracing::info!(ranges = %all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), "the Services' ranges have changed");
            self.node.service_ranges = all;
            self.update_all().await;
        }
        let batch = self.table.set_ranges(dropped);
        if let Err(error) = self.commit(batch, "drop what is nobody's in the Services' ranges").await {
            tracing::warn!(%error, "the kernel refused the Services' ranges; writing all rules anew");
            self.write_whole().await;
        }
    }

    fn checks(&mut self, plans: &[(ObjectKey, Plan)]) {
        for (service, plan) in plans {
            self.health.set(service, plan.health);
            if !plan.withheld.is_empty() && self.table.plan(service).is_none_or(|before| before.withheld != plan.withheld) {
                tracing::warn!(%service, withheld = ?plan.withheld, "a Service does not get addresses and ports that are the node's own or another Service's");
            }
        }
    }

    async fn write_whole(&mut self) {
        let begun = Instant::now();
        self.write_until_taken().await;
        self.progress.counts().full(self.node.family, begun.elapsed());
    }

    async fn write_until_taken(&mut self) {
        let mut pause = RETRY;
        loop {
            let there = self.there().await.inspect_err(|error| tracing::warn!(%error, "the Services' rules cannot be listed")).ok();
            let batch = self.table.whole(there.as_ref(), Instant::now());
            let Err(first) = self.commit(batch, "write all Services").await else { return };
            // As another version or configuration made it, the table cannot be kept.
            let batch = self.table.whole(None, Instant::now());
            let Err(error) = self.commit(batch, "write all Services from nothing").await else {
                tracing::warn!(error = %first, "the Services' rules were made from nothing; clients are not remembered");
                return;
            };
            tracing::error!(%error, "the kernel refused the Services' rules; trying again");
            self.progress.queued(self.node.family, Instant::now());
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            }
        }
    }

    /// A table that somebody took away is not waited for: nothing leads to any Service meanwhile.
    async fn look_if_gone(&mut self) {
        let (table, family) = (self.table.name().to_owned(), self.node.family);
        let is_there = self.kernel(move |socket| Ok(nft::tables(socket, family)?.contains(&table))).await;
        if let Ok(false) = is_there {
            self.look().await;
        }
    }

    /// Another cluster may serve node ports at all of the host's addresses, too. Of the two nobody comes first by rights, and the kernel takes the
    /// one whose chains were made last.
    async fn tell_rivals(&self) {
        match self.kernel(nft::base_chains).await {
            Ok(chains) => {
                let rivals = table::rivals(&chains, self.node.family, self.table.name());
                if !rivals.is_empty() {
                    tracing::warn!(
                        clusters = %rivals.join(","),
                        "others serve node ports at all addresses of this machine, too: of two with the same port the one that was started last is called. --node-port-addresses gives a cluster addresses of its own"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "other clusters' rules cannot be looked at"),
        }
    }

    /// Whether the table is as it was written; else it is written anew.
    async fn look(&mut self) {
        let (table, rules, family) = (self.table.name().to_owned(), self.table.rules(), self.node.family);
        let found = self
            .kernel(move |socket| {
                let there = nft::tables(socket, family)?.contains(&table);
                Ok(if there { nft::rules(socket, family, &table)?.len() } else { 0 })
            })
            .await;
        match found {
            Ok(found) if found == rules => {}
            Ok(found) => {
                tracing::warn!(found, rules, "somebody changed the Services' rules; writing them again");
                self.write_whole().await;
            }
            Err(error) => tracing::warn!(%error, "the Services' rules cannot be looked at"),
        }
    }

    /// What is in the kernel's table.
    async fn there(&self) -> Result<There> {
        let (table, family) = (self.table.name().to_owned(), self.node.family);
        self.kernel(move |socket| {
            if !nft::tables(socket, family)?.contains(&table) {
                return Ok(There::default());
            }
            Ok(There { chains: nft::chains(socket, family, &table)?, sets: nft::sets(socket, family, &table)? })
        })
        .await
    }

    async fn kernel<T: Send + 'static>(&self, work: impl FnOnce(&mut Socket) -> Result<T> + Send + 'static) -> Result<T> {
        let socket = self.socket.clone();
        tokio::task::spawn_blocking(move || work(&mut socket.lock())).await.unwrap_or(Err(Error::Closed))
    }

    async fn commit(&self, batch: Batch, what: &'static str) -> Result<()> {
        self.kernel(move |socket| batch.commit(socket, what)).await.inspect_err(|_| self.progress.counts().failed(self.node.family))
    }

    /// Forgets flows at UDP ports to whom they no longer lead, and unanswered connections to backends of TCP that are gone.
    async fn forget_flows(&self, fronts: Vec<UdpFront>, gone: BTreeSet<Backend>) {
        if fronts.is_empty() && gone.is_empty() {
            return;
        }
        let (family, served) = (self.node.family, self.table.node_ports().clone());
        let forgotten = self.kernel(move |socket| {
            let mut flows = 0;
            if !fronts.is_empty() {
                let stale = Stale::new(&fronts, served.among(host::addresses()?));
                flows += conntrack::forget_udp(socket, family, |flow| stale.is(flow))?;
            }
            if !gone.is_empty() {
                flows += conntrack::forget_unanswered(socket, family, |flow| flow.called != flow.answers && gone.contains(&flow.answers))?;
            }
            Ok(flows)
        });
        match forgotten.await {
            Ok(0) => {}
            Ok(flows) => {
                self.progress.counts().forgot(family, flows.try_into().unwrap_or(u64::MAX));
                tracing::debug!(flows, "forgot flows to endpoints that are gone");
            }
            Err(error) => tracing::warn!(%error, "flows to endpoints that are gone may stay"),
        }
    }
}

/// The UDP ports of a Service whose flows may be stale after this change: a backend went, or the first one came (until then
/// clients talked past the translation), or an address went.
fn stale_fronts(before: Option<&Plan>, after: &Plan) -> Vec<UdpFront> {
    let mut out = Vec::new();
    for (name, old) in before.into_iter().flat_map(|p| &p.udp) {
        match after.udp.get(name) {
            None => out.push(UdpFront { backends: BTreeSet::new(), ..old.clone() }),
            Some(new) => {
                let first = old.backends.is_empty() && !new.backends.is_empty();
                let moved = old.node_port != new.node_port;
                if first || moved || !old.backends.is_subset(&new.backends) || !old.addresses.is_subset(&new.addresses) {
                    let addresses = old.addresses.union(&new.addresses).copied().collect();
                    out.push(UdpFront { addresses, ..new.clone() });
                }
                if moved && old.node_port.is_some() {
                    out.push(UdpFront { addresses: BTreeSet::new(), node_port: old.node_port, backends: BTreeSet::new() });
                }
            }
        }
    }
    let new = after.udp.iter().filter(|(name, front)| !front.backends.is_empty() && before.is_none_or(|b| !b.udp.contains_key(*name)));
    out.extend(new.map(|(_, front)| front.clone()));
    out
}

/// Decides which flows are stale, by whom they called.
struct Stale<'a> {
    addresses: BTreeMap<(IpAddr, u16), &'a UdpFront>,
    ports: BTreeMap<u16, &'a UdpFront>,
    /// The host's addresses at which node ports are served.
    served: BTreeSet<IpAddr>,
}

impl<'a> Stale<'a> {
    fn new(fronts: &'a [UdpFront], served: BTreeSet<IpAddr>) -> Self {
        let addresses = fronts.iter().flat_map(|f| f.addresses.iter().map(move |a| (*a, f))).collect();
        Self { addresses, ports: fronts.iter().filter_map(|f| Some((f.node_port?, f))).collect(), served }
    }

    fn is(&self, flow: &Flow) -> bool {
        if let Some(front) = self.addresses.get(&flow.called) {
            return !front.backends.contains(&flow.answers);
        }
        // A client on the host that called before there was an endpoint: the kernel knows its flow, untranslated, for as long as it asks again.
        // Elsewhere, and where nobody answers, a flow that nobody translated may be the host's own business.
        let is_ours = |front: &UdpFront| flow.answers != flow.called || self.served.contains(&flow.called.0) && !front.backends.is_empty();
        self.ports.get(&flow.called.1).is_some_and(|front| is_ours(front) && !front.backends.contains(&flow.answers))
    }
}
