//! A cluster's addresses, chosen at its first start and kept: the default cluster gets Kubernetes' usual ones, further
//! clusters the next that nobody on this machine uses.
//!
//! Looking for free ranges and keeping them is one step under one lock of the machine ([`Plan::alone`]): two clusters that
//! start at the same time do not find the same.

use anyhow::{Context as _, bail};
use network::{
    Net, Part,
    mesh::Kind,
    netlink::{ROUTE, Socket},
};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    agent,
    files::{RUN_ROOT, private},
    nodes,
};
use crate::{host, kubeconfig::Written};

/// The plan's file.
pub(super) const FILE: &str = "cluster.json";
/// The lock over looking and keeping; no cluster's name begins with a dot.
const ALONE: &str = ".plan.lock";
/// The default cluster's name.
const DEFAULT: &str = "knarr";
/// Clusters side by side.
pub(super) const CLUSTERS_MAX: u8 = 50;
/// The DNS domain of every cluster.
pub const DOMAIN: &str = "cluster.local";
/// Bits of a range's prefix unless a flag says otherwise.
const PREFIX: u8 = 16;
/// Bits of the prefix of a node's range of pods unless a flag says otherwise.
const NODE_PREFIX: u8 = 24;
/// The same of IPv6 (upstream's default).
const NODE_PREFIX6: u8 = 64;

/// How long the prefixes of a family's ranges may be.
struct Prefixes {
    family: &'static str,
    /// Of pods: with room for some nodes' ranges.
    pods: RangeInclusive<u8>,
    /// Of Services: with room for the well-known ones, and no wider than upstream allows.
    services: RangeInclusive<u8>,
    /// Of a node's pods: with room for some; the kernel's mesh and upstream's allocator take no narrower ones either.
    node: RangeInclusive<u8>,
    /// The flag that says the last.
    flag: &'static str,
}

const PREFIXES4: Prefixes = Prefixes { family: "IPv4", pods: 12..=24, services: 12..=24, node: 16..=28, flag: "--node-cidr-mask-size-ipv4" };
const PREFIXES6: Prefixes = Prefixes { family: "IPv6", pods: 48..=112, services: 64..=120, node: 48..=120, flag: "--node-cidr-mask-size-ipv6" };
/// A cluster has at most so many nodes' ranges, by the bits between the prefixes (upstream's limit).
const NODE_BITS_MAX: u8 = 16;

impl Prefixes {
    fn of(range: Net) -> &'static Prefixes {
        if range.is_ipv4() { &PREFIXES4 } else { &PREFIXES6 }
    }

    fn check(range: Net, allowed: &RangeInclusive<u8>) -> anyhow::Result<()> {
        if allowed.contains(&range.prefix()) {
            return Ok(());
        }
        let family = Prefixes::of(range).family;
        bail!("the range {range} has a prefix of {} bits: such a one of {family} has {} to {}", range.prefix(), allowed.start(), allowed.end())
    }

    fn check_node(&self, prefix: u8) -> anyhow::Result<()> {
        if self.node.contains(&prefix) {
            return Ok(());
        }
        bail!("a node's range of pods cannot have a prefix of {prefix} bits ({}): it has {} to {}", self.flag, self.node.start(), self.node.end())
    }
}

/// The addresses of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub name: String,
    /// Where its data lies.
    pub data: PathBuf,
    /// The first node's name: the host's at the first start. A host that is called otherwise later, or another one to which the data was
    /// moved, has the same node still, with its volumes and its range.
    #[serde(default = "host::name")]
    pub node: String,
    /// The network of pods, `10.244.0.0`; of the first family, as what is not said otherwise.
    pub pods: IpAddr,
    /// Bits of its prefix.
    #[serde(default = "usual_prefix")]
    pub pods_prefix: u8,
    /// The network of Services, `10.96.0.0`.
    pub services: IpAddr,
    /// Bits of its prefix.
    #[serde(default = "usual_prefix")]
    pub services_prefix: u8,
    /// The ranges of the second family of a cluster of both: of pods and of Services. (Versions whose first was IPv4 called it so.)
    #[serde(default, alias = "ipv6", skip_serializing_if = "Option::is_none", with = "pair")]
    pub second: Option<(Net, Net)>,
    /// The API server's port.
    pub port: u16,
    /// Bits of the prefix of a node's range of pods of IPv4.
    #[serde(default = "usual_node_prefix")]
    pub node_prefix: u8,
    /// The same of IPv6.
    #[serde(default = "usual_node_prefix6")]
    pub node_prefix6: u8,
    /// Where nodes of other machines reach this one, of a cluster that has such: the API server at the first.
    #[serde(default, deserialize_with = "some")]
    pub advertise: Vec<IpAddr>,
    /// How pods of its machines are joined.
    #[serde(default, with = "kind")]
    pub pod_network: Kind,
    /// Kubeconfigs that have the cluster's context, and by what its entries are known.
    #[serde(default)]
    pub contexts: Vec<Written>,
}

fn usual_prefix() -> u8 {
    PREFIX
}

fn usual_node_prefix() -> u8 {
    NODE_PREFIX
}

fn usual_node_prefix6() -> u8 {
    NODE_PREFIX6
}

/// Addresses of a list, or the one or none that versions wrote which knew no more.
fn some<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Kept {
        All(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Kept::deserialize(from)? {
        Kept::All(all) => all,
        Kept::One(one) => one.into_iter().collect(),
    })
}

/// A kind of pod network, by its name.
mod kind {
    use super::Kind;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(kind)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Two ranges as a plan's file has them.
mod pair {
    use network::Net;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _, ser::SerializeTuple as _};

    pub(super) fn serialize<S: Serializer>(ranges: &Option<(Net, Net)>, to: S) -> Result<S::Ok, S::Error> {
        let Some((pods, services)) = ranges else { return to.serialize_none() };
        let mut pair = to.serialize_tuple(2)?;
        pair.serialize_element(&pods.to_string())?;
        pair.serialize_element(&services.to_string())?;
        pair.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(Net, Net)>, D::Error> {
        let range = |text: String| text.parse::<Net>().map_err(D::Error::custom);
        let pair = Option::<(String, String)>::deserialize(from)?;
        pair.map(|(pods, services)| Ok((range(pods)?, range(services)?))).transpose()
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, Default)]
pub struct Ranges {
    /// The pods' network.
    pub pods: Option<Net>,
    /// The Services' network.
    pub services: Option<Net>,
    /// Both of a second family.
    pub second: Option<(Net, Net)>,
    /// The API server's port.
    pub port: Option<u16>,
    /// Bits of the prefix of a node's range of pods.
    pub node_prefixes: NodePrefixes,
    /// Where nodes of other machines reach this one.
    pub advertise: Vec<IpAddr>,
    /// How pods of machines are joined.
    pub pod_network: Option<Kind>,
}

/// Bits of the prefix of a node's range of pods, as upstream's flags say them: of a cluster's only family, or of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodePrefixes {
    /// `--node-cidr-mask-size`
    pub only: Option<u8>,
    /// `--node-cidr-mask-size-ipv4`
    pub ipv4: Option<u8>,
    /// `--node-cidr-mask-size-ipv6`
    pub ipv6: Option<u8>,
}

impl NodePrefixes {
    /// Those of IPv4 and of IPv6 for a cluster of these ranges of pods; none: nothing is said of it.
    fn of(self, pods: &[Net]) -> anyhow::Result<[Option<u8>; 2]> {
        let has = |v4: bool| pods.iter().any(|range| range.is_ipv4() == v4);
        if self.only.is_some() {
            if self.ipv4.or(self.ipv6).is_some() {
                bail!(
                    "--node-cidr-mask-size is said of a cluster's only family, and --node-cidr-mask-size-ipv4 and -ipv6 of each of both: give the one or the others"
                );
            }
            if pods.len() > 1 {
                bail!("--node-cidr-mask-size is not for a cluster of both families: --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6 say it of each");
            }
            return Ok([self.only.filter(|_| has(true)), self.only.filter(|_| has(false))]);
        }
        for (prefix, v4) in [(self.ipv4, true), (self.ipv6, false)] {
            if prefix.is_some() && !has(v4) {
                let Prefixes { flag, family, .. } = if v4 { PREFIXES4 } else { PREFIXES6 };
                bail!("{flag} is said of a family that the cluster does not have: its pods have no {family}");
            }
        }
        Ok([self.ipv4, self.ipv6])
    }
}

impl Ranges {
    /// The ranges of the flags: of each kind none, one, or one of each family, the first family's first.
    pub fn of(pods: &[Net], services: &[Net]) -> anyhow::Result<Ranges> {
        let ((pods, pods2), (services, services2)) = (families("--cluster-cidr", pods)?, families("--service-cidr", services)?);
        let second = match (pods2, services2) {
            (Some(pods), Some(services)) => Some((pods, services)),
            (None, None) => None,
            _ => bail!("a cluster of both families has a range of each for pods and for Services: give two to --cluster-cidr and two to --service-cidr"),
        };
        match (pods, services) {
            (Some(pods), Some(services)) if pods.is_ipv4() != services.is_ipv4() => {
                bail!("the families of --cluster-cidr ({pods}) and --service-cidr ({services}) are the same, in the same order")
            }
            (Some(one), None) | (None, Some(one)) if !one.is_ipv4() => bail!("a cluster of IPv6 is told both its ranges: --cluster-cidr and --service-cidr"),
            _ => {}
        }
        for range in pods.into_iter().chain(pods2) {
            Prefixes::check(range, &Prefixes::of(range).pods)?;
        }
        for range in services.into_iter().chain(services2) {
            Prefixes::check(range, &Prefixes::of(range).services)?;
        }
        for (pods, services) in pods.zip(services).into_iter().chain(second) {
            if pods.overlaps(services) {
                bail!("the ranges {pods} and {services} have addresses in common");
            }
        }
        Ok(Ranges { pods, services, second, ..Ranges::default() })
    }
}

fn families(flag: &str, ranges: &[Net]) -> anyhow::Result<(Option<Net>, Option<Net>)> {
    match ranges {
        [] => Ok((None, None)),
        [only] => Ok((Some(*only), None)),
        [first, second] if first.is_ipv4() != second.is_ipv4() => Ok((Some(*first), Some(*second))),
        _ => bail!("{flag} takes one range, or one of each family, the first family's first"),
    }
}

impl Plan {
    /// The lock under which a plan is chosen and kept. Blocks while another start does so: milliseconds.
    pub fn alone() -> anyhow::Result<Flock<File>> {
        private(Path::new(RUN_ROOT)).with_context(|| format!("cannot make {RUN_ROOT}"))?;
        let path = Path::new(RUN_ROOT).join(ALONE);
        let file =
            File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(|| format!("cannot lock {}", path.display()))
    }

    pub(super) fn nth(name: &str, data: &Path, index: u8) -> Plan {
        let (pods, services) = if index == 0 { (244, 96) } else { (128 + index, 32 + index) };
        Plan {
            name: name.to_owned(),
            data: data.to_owned(),
            node: host::name(),
            pods: [10, pods, 0, 0].into(),
            pods_prefix: PREFIX,
            services: [10, services, 0, 0].into(),
            services_prefix: PREFIX,
            second: None,
            port: 6443 + u16::from(index),
            node_prefix: NODE_PREFIX,
            node_prefix6: NODE_PREFIX6,
            advertise: Vec::new(),
            pod_network: Kind::default(),
            contexts: Vec::new(),
        }
    }

    /// The first node's own address: its bridge's.
    pub fn node_ip(&self) -> IpAddr {
        self.pod_cidr().first()
    }

    /// The address of the Service `kubernetes`.
    pub fn api_ip(&self) -> IpAddr {
        self.service_cidr().first()
    }

    /// The address of the cluster's DNS. (As kubeadm's, its Service is of the first family.)
    pub fn dns_ip(&self) -> IpAddr {
        let services = self.service_cidr();
        services.nth(10).unwrap_or_else(|| services.first())
    }

    /// Whether this is the default cluster, or has its addresses.
    pub fn is_first(&self) -> bool {
        self.name == DEFAULT || self.pods == Plan::nth("", Path::new(""), 0).pods
    }

    /// The machine's addresses that are this cluster's and others', unless it may have them all.
    pub fn shared(&self) -> Option<&[IpAddr]> {
        if self.is_first() { None } else { Some(&self.advertise) }
    }

    /// All pods' range.
    pub fn pod_cidr(&self) -> Net {
        Net::new(self.pods, self.pods_prefix)
    }

    /// The Services' range.
    pub fn service_cidr(&self) -> Net {
        Net::new(self.services, self.services_prefix)
    }

    /// The ranges of pods and of Services of each family, the first family's first.
    fn families(&self) -> impl Iterator<Item = (Net, Net)> {
        [(self.pod_cidr(), self.service_cidr())].into_iter().chain(self.second)
    }

    /// All pods' ranges, the first family's first.
    pub fn pod_cidrs(&self) -> Vec<Net> {
        self.families().map(|(pods, _)| pods).collect()
    }

    /// The Services' ranges, the first family's first.
    pub fn service_cidrs(&self) -> Vec<Net> {
        self.families().map(|(_, services)| services).collect()
    }

    /// Bits of the prefix of a node's part of a range of pods.
    fn node_prefix_of(&self, pods: Net) -> u8 {
        if pods.is_ipv4() { self.node_prefix } else { self.node_prefix6 }
    }

    /// All pods' ranges with the length of a node's prefix in each, the first family's first.
    pub fn node_parts(&self) -> Vec<(String, u8)> {
        self.pod_cidrs().into_iter().map(|pods| (pods.to_string(), self.node_prefix_of(pods))).collect()
    }

    /// What a node of this machine has of each family, by its number: of each range of pods the part with that number, whose first address
    /// is the node's.
    pub fn parts(&self, number: u32) -> anyhow::Result<Vec<Part>> {
        let of = |(pods, services): (Net, Net)| {
            let prefix = self.node_prefix_of(pods);
            let own = number.checked_sub(nodes::FIRST).and_then(|place| pods.part(place, prefix));
            let pod_cidr = own.with_context(|| format!("the range {pods} has no part for node {number}: a node has a /{prefix}"))?;
            Ok(Part { pod_cidr, cluster_cidr: pods, service_cidr: services })
        };
        self.families().map(of).collect()
    }

    /// What the first node has.
    pub fn first(&self) -> Vec<Part> {
        let of = |(pods, services): (Net, Net)| Part { pod_cidr: Net::new(pods.base(), self.node_prefix_of(pods)), cluster_cidr: pods, service_cidr: services };
        self.families().map(of).collect()
    }

    /// What a node has of each family that is given these ranges of pods: of the first in any case.
    pub fn parts_of(&self, ranges: &[Net]) -> anyhow::Result<Vec<Part>> {
        let own = |pods: Net| ranges.iter().copied().find(|range| pods.holds(*range));
        let pods = self.pod_cidr();
        own(pods).with_context(|| format!("the node's ranges of pods ({}) have no part of the cluster's {pods}", list(ranges)))?;
        let of = |(pods, services): (Net, Net)| Some(Part { pod_cidr: own(pods)?, cluster_cidr: pods, service_cidr: services });
        Ok(self.families().filter_map(of).collect())
    }

    /// The first node's addresses, the first family's first.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        self.pod_cidrs().into_iter().map(Net::first).collect()
    }

    /// All ranges of the cluster.
    pub fn ranges(&self) -> Vec<Net> {
        [self.pod_cidrs(), self.service_cidrs()].concat()
    }

    fn overlaps(&self, other: &Plan) -> bool {
        let ours = self.ranges();
        other.ranges().iter().any(|theirs| ours.iter().any(|own| own.overlaps(*theirs)))
    }

    /// The plan with what the command line asks for.
    fn with(mut self, ranges: &Ranges) -> anyhow::Result<Plan> {
        if let Some(pods) = ranges.pods {
            (self.pods, self.pods_prefix) = (pods.base(), pods.prefix());
        }
        if let Some(services) = ranges.services {
            (self.services, self.services_prefix) = (services.base(), services.prefix());
        }
        self.second = ranges.second.or(self.second);
        let [v4, v6] = ranges.node_prefixes.of(&self.pod_cidrs())?;
        (self.node_prefix, self.node_prefix6) = (v4.unwrap_or(self.node_prefix), v6.unwrap_or(self.node_prefix6));
        self.port = ranges.port.unwrap_or(self.port);
        if !ranges.advertise.is_empty() {
            self.advertise.clone_from(&ranges.advertise);
        }
        self.pod_network = ranges.pod_network.unwrap_or(self.pod_network);
        Ok(self)
    }

    /// Refuses lengths of prefixes that leave no room.
    fn check(&self) -> anyhow::Result<()> {
        for pods in self.pod_cidrs() {
            let (all, prefix) = (Prefixes::of(pods), self.node_prefix_of(pods));
            all.check_node(prefix)?;
            if prefix < pods.prefix() {
                bail!("{pods} has no room for a node's range of /{prefix} ({})", all.flag);
            }
            if prefix - pods.prefix() > NODE_BITS_MAX {
                bail!(
                    "{pods} has room for more ranges of /{prefix} than a cluster may have nodes: at most {NODE_BITS_MAX} bits are between them ({})",
                    all.flag
                );
            }
        }
        Ok(())
    }
}

pub(super) fn read(path: &Path) -> Option<Plan> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The plans of the other clusters that stand on this machine. One that has but a node here is none: what it uses is seen where it is.
pub(super) fn others(name: &str) -> Vec<Plan> {
    let entries = std::fs::read_dir(RUN_ROOT).into_iter().flatten().flatten();
    let plans = entries.filter(|e| e.file_name() != name).filter_map(|e| read(&e.path().join(FILE)));
    plans.filter(|plan| !plan.data.join(agent::FILE).exists()).collect()
}

/// Who has a cluster's ranges on this machine already: links and routes, those of this name left out.
pub(super) fn in_the_way(plan: &Plan) -> Option<String> {
    let taken = Taken::now(&plan.name);
    plan.ranges().into_iter().find_map(|range| taken.by(range).map(|who| format!("{who} is in the way of {range}")))
}

/// The addresses of the cluster of this name with its data here; [`super::Cluster::plan`] says more.
pub(super) fn choose(name: &str, data: &Path, ranges: &Ranges, others: &[Plan]) -> anyhow::Result<Plan> {
    choose_beside(&Taken::now(name), name, data, ranges, others)
}

/// The same on a machine that uses this.
pub(super) fn choose_beside(taken: &Taken, name: &str, data: &Path, ranges: &Ranges, others: &[Plan]) -> anyhow::Result<Plan> {
    if let Some(mut plan) = read(&data.join(FILE)) {
        (plan.name, plan.data) = (name.to_owned(), data.to_owned());
        return kept(taken, plan, ranges, others);
    }
    let wrong = |plan: &Plan| -> Option<String> {
        if let Some((pods, services)) = plan.families().find(|(pods, services)| pods.overlaps(*services)) {
            return Some(format!("the ranges {pods} and {services} have addresses in common"));
        }
        if let Some(other) = others.iter().find(|o| plan.overlaps(o) || plan.port == o.port) {
            return Some(format!("the cluster {:?} has {} and port {}", other.name, list(&other.ranges()), other.port));
        }
        plan.ranges().into_iter().find_map(|range| taken.by(range).map(|who| format!("{range} is in use on this machine: {who}")))
    };
    // One that is asked for is not looked for.
    if let Some(port) = ranges.port {
        has_port(port, others)?;
    }
    let first = u8::from(name != DEFAULT);
    let mut last = String::new();
    for index in first..CLUSTERS_MAX {
        let plan = Plan::nth(name, data, index).with(ranges)?;
        plan.check()?;
        match wrong(&plan) {
            None => return Ok(plan),
            Some(why) => last = why,
        }
    }
    bail!("no free ranges of addresses for the cluster ({last}): choose with --cluster-cidr, --service-cidr and --port")
}

/// The addresses of a cluster that has some. A second family may come later; nothing that was chosen changes.
fn kept(taken: &Taken, plan: Plan, ranges: &Ranges, others: &[Plan]) -> anyhow::Result<Plan> {
    let (name, asked) = (plan.name.clone(), plan.clone().with(ranges)?);
    let stays = |chosen: &[Net], asked: &[Net]| asked.starts_with(chosen);
    let stay = stays(&plan.pod_cidrs(), &asked.pod_cidrs()) && stays(&plan.service_cidrs(), &asked.service_cidrs());
    let same = plan.pod_cidrs().iter().all(|pods| plan.node_prefix_of(*pods) == asked.node_prefix_of(*pods));
    if !stay || !same {
        let parts = plan.node_parts().iter().map(|(_, prefix)| format!("/{prefix}")).collect::<Vec<_>>().join(",");
        bail!(
            "the addresses of the cluster {name:?} were chosen at its first start ({} for pods, {parts} for each node's, {} for Services): `knarr down --name \
             {name}` first",
            list(&plan.pod_cidrs()),
            list(&plan.service_cidrs())
        );
    }
    asked.check()?;
    if let (None, Some((pods, services))) = (plan.second, asked.second)
        && let Some(who) = taken.by(pods).or_else(|| taken.by(services))
    {
        bail!("the cluster cannot have {pods} and {services}: {who}");
    }
    if ranges.pods.or(ranges.services).is_some() && ranges.second.is_none() && plan.second.is_some() {
        // What has addresses of the second family keeps them, in the API as on nodes (upstream's clusters do so, too).
        tracing::warn!(ranges = list(&plan.ranges()), "a cluster of both families stays one of both: `knarr down` is the way back to one");
    }
    if let Some(other) = others.iter().find(|o| asked.overlaps(o)) {
        bail!("the cluster {:?} uses addresses of this one ({}): run `knarr down --name {}` first", other.name, list(&asked.ranges()), other.name);
    }
    has_port(asked.port, others)?;
    Ok(asked)
}

/// Refuses another cluster's port.
fn has_port(port: u16, others: &[Plan]) -> anyhow::Result<()> {
    match others.iter().find(|other| other.port == port) {
        Some(other) => {
            bail!("port {port} is the one of the cluster {:?}: choose another with --port, or run `knarr down --name {}` first", other.name, other.name)
        }
        None => Ok(()),
    }
}

/// Ranges with commas between them.
pub fn list(ranges: &[Net]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What this machine uses: routes and addresses.
pub(super) struct Taken {
    routes: Vec<(String, Net)>,
    addresses: Vec<(String, IpAddr)>,
}

impl Taken {
    /// But for what the cluster of this name has left: its data may be gone, and its links stand.
    fn now(cluster: &str) -> Taken {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let routes = [parse(&read("/proc/net/route")), parse6(&read("/proc/net/ipv6_route"))].concat();
        let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let addresses = all.filter_map(|i| Some((i.interface_name.clone(), ip(i.address.as_ref()?)?))).collect();
        // The kernel's own answer is of this network namespace; `/sys` is of the one in which it was mounted.
        let links = Socket::open(ROUTE).and_then(|mut socket| network::link::list(&mut socket)).unwrap_or_default();
        let aliases = links.into_iter().map(|link| (link.name, link.alias));
        Taken { routes, addresses }.without(&network::Mark::new(cluster).alias(), aliases)
    }

    /// Leaves out links whose alias begins with a mark, and the ranges that it names: addresses of theirs that nobody has are a
    /// route without a link.
    pub(super) fn without(mut self, mark: &str, aliases: impl Iterator<Item = (String, String)>) -> Taken {
        let own: Vec<(String, String)> = aliases.filter(|(_, alias)| alias.starts_with(mark)).collect();
        let ranges: Vec<Net> = own.iter().flat_map(|(_, alias)| alias.split_whitespace()).filter_map(|word| word.parse().ok()).collect();
        let ours = |link: &String| own.iter().any(|(name, _)| name == link);
        self.routes.retain(|(link, to)| !ours(link) && !ranges.contains(to));
        self.addresses.retain(|(link, _)| !ours(link));
        self
    }

    /// Who is in the way of a range. A route that holds it among much else (a VPN's `10.0.0.0/8`, the default route) is not:
    /// the cluster's own, more specific routes come before it.
    pub(super) fn by(&self, range: Net) -> Option<String> {
        let route = self.routes.iter().find(|(_, to)| to.prefix() >= range.prefix() && to.overlaps(range));
        let address = self.addresses.iter().find(|(_, ip)| range.contains(*ip));
        route.map(|(link, to)| format!("the route {to} by {link}")).or_else(|| address.map(|(link, ip)| format!("{link} has the address {ip}")))
    }

    #[cfg(test)]
    pub(super) fn of(routes: &str, routes6: &str, addresses: &[(&str, IpAddr)]) -> Taken {
        let routes = [parse(routes), parse6(routes6)].concat();
        Taken { routes, addresses: addresses.iter().map(|(link, ip)| ((*link).to_owned(), *ip)).collect() }
    }
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// The routes of `/proc/net/route`.
fn parse(table: &str) -> Vec<(String, Net)> {
    let number = |field: Option<&str>| field.and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::from_be);
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let link = fields.next()?.to_owned();
        let (destination, mask) = (number(fields.next())?, number(fields.nth(5))?);
        Some((link, Net::new(Ipv4Addr::from_bits(destination), u8::try_from(mask.leading_ones()).unwrap_or(32))))
    });
    lines.collect()
}

/// Of routes of IPv6 those that are an address of this host, or everybody's of a range (`RTF_LOCAL`, `RTF_ANYCAST`).
const OF_ADDRESSES: u32 = 0x8010_0000;

/// The routes of `/proc/net/ipv6_route`: destination, prefix, source, its prefix, router, metric, two counts, flags, link.
fn parse6(table: &str) -> Vec<(String, Net)> {
    let lines = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, prefix, .., flags, link] = fields[..] else { return None };
        let to = Ipv6Addr::from_bits(u128::from_str_radix(to, 16).ok()?);
        let is_route = u32::from_str_radix(flags, 16).ok()? & OF_ADDRESSES == 0;
        is_route.then_some((link.to_owned(), Net::new(to, u8::from_str_radix(prefix, 16).ok()?)))
    });
    lines.collect()
}
