//! A cluster's addresses, chosen at its first start and kept: the default cluster gets Kubernetes' usual ones, further
//! clusters the next that nobody on this machine uses.
//!
//! Looking for free ranges and keeping them is one step under one lock of the machine ([`Plan::alone`]): two clusters that
//! start at the same time do not find the same.

use anyhow::{Context as _, bail};
use network::{Cidr, Ipv6, Net, mesh::Kind};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    agent,
    files::{RUN_ROOT, private},
};
use crate::kubeconfig::Written;

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
/// A node's range has room for some pods; the kernel's mesh and upstream's allocator take no narrower ones either.
const NODE_PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;
/// The same of IPv6 (upstream's default).
const NODE_PREFIX6: u8 = 64;
/// Prefixes of IPv6: of pods, with room for a node's and no more nodes than upstream allows; of Services, as upstream's.
const POD_PREFIXES6: std::ops::RangeInclusive<u8> = 48..=64;
const SERVICE_PREFIXES6: std::ops::RangeInclusive<u8> = 64..=120;
/// A range of pods has room for a node's (`/24`), a range of Services for the well-known ones; none is wider than upstream allows.
const PREFIXES: std::ops::RangeInclusive<u8> = 12..=24;

/// The addresses of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's name.
    pub name: String,
    /// Where its data lies.
    pub data: PathBuf,
    /// The network of pods, `10.244.0.0`.
    pub pods: Ipv4Addr,
    /// Bits of its prefix.
    #[serde(default = "usual_prefix")]
    pub pods_prefix: u8,
    /// The network of Services, `10.96.0.0`.
    pub services: Ipv4Addr,
    /// Bits of its prefix.
    #[serde(default = "usual_prefix")]
    pub services_prefix: u8,
    /// The ranges of IPv6 of a cluster of both families: of pods and of Services.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "ranges6")]
    pub ipv6: Option<(Net, Net)>,
    /// The API server's port.
    pub port: u16,
    /// Bits of the prefix of a node's range of pods.
    #[serde(default = "usual_node_prefix")]
    pub node_prefix: u8,
    /// Where nodes of other machines reach the API server, of a cluster that has such.
    #[serde(default)]
    pub advertise: Option<IpAddr>,
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
mod ranges6 {
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Ranges {
    /// The pods' network.
    pub pods: Option<Cidr>,
    /// The Services' network.
    pub services: Option<Cidr>,
    /// Both of IPv6.
    pub ipv6: Option<(Net, Net)>,
    /// The API server's port.
    pub port: Option<u16>,
    /// Bits of the prefix of a node's range of pods.
    pub node_prefix: Option<u8>,
    /// Where nodes of other machines reach the API server.
    pub advertise: Option<IpAddr>,
    /// How pods of machines are joined.
    pub pod_network: Option<Kind>,
}

impl Ranges {
    /// The ranges of the flags: of each kind none, one of IPv4, or one of IPv4 and one of IPv6.
    pub fn of(pods: &[Net], services: &[Net]) -> anyhow::Result<Ranges> {
        let (pods, pods6) = families("--cluster-cidr", pods)?;
        let (services, services6) = families("--service-cidr", services)?;
        let ipv6 = match (pods6, services6) {
            (Some(pods), Some(services)) => Some((pods, services)),
            (None, None) => None,
            _ => bail!("a cluster of both families has a range of each for pods and for Services: give two to --cluster-cidr and two to --service-cidr"),
        };
        if let Some((pods, services)) = ipv6 {
            for (range, prefixes) in [(pods, POD_PREFIXES6), (services, SERVICE_PREFIXES6)] {
                if !prefixes.contains(&range.prefix()) {
                    bail!("the range {range} has a prefix of {} bits: such a one of IPv6 has {} to {}", range.prefix(), prefixes.start(), prefixes.end());
                }
            }
            if pods.overlaps(services) {
                bail!("the ranges {pods} and {services} have addresses in common");
            }
        }
        Ok(Ranges { pods, services, ipv6, ..Ranges::default() })
    }
}

fn families(flag: &str, ranges: &[Net]) -> anyhow::Result<(Option<Cidr>, Option<Net>)> {
    match ranges {
        [] => Ok((None, None)),
        [first] if first.is_ipv4() => Ok((first.ipv4(), None)),
        [first, second] if first.is_ipv4() && !second.is_ipv4() => Ok((first.ipv4(), Some(*second))),
        _ => bail!("{flag} takes one range of IPv4, or one of IPv4 and then one of IPv6"),
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
            pods: Ipv4Addr::new(10, pods, 0, 0),
            pods_prefix: PREFIX,
            services: Ipv4Addr::new(10, services, 0, 0),
            services_prefix: PREFIX,
            ipv6: None,
            port: 6443 + u16::from(index),
            node_prefix: NODE_PREFIX,
            advertise: None,
            pod_network: Kind::default(),
            contexts: Vec::new(),
        }
    }

    fn low(network: Ipv4Addr, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = network.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    /// The node's own address: its bridge's.
    pub fn node_ip(&self) -> Ipv4Addr {
        Self::low(self.pods, 1)
    }

    /// The address of the Service `kubernetes`.
    pub fn api_ip(&self) -> Ipv4Addr {
        Self::low(self.services, 1)
    }

    /// The address of the cluster's DNS.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Self::low(self.services, 10)
    }

    /// Whether these are the default cluster's addresses.
    pub fn is_first(&self) -> bool {
        self.pods == Plan::nth("", Path::new(""), 0).pods
    }

    /// All pods' range.
    pub fn pod_cidr(&self) -> Cidr {
        Cidr::new(self.pods, self.pods_prefix)
    }

    /// The first node's range of pods.
    pub fn node_cidr(&self) -> Cidr {
        Cidr::new(self.pods, self.node_prefix)
    }

    /// The range of pods of a node of this machine by its number, if the cluster's has one for it; its first address is the node's.
    pub fn node_range(&self, number: u32) -> Option<Cidr> {
        let base = self.pod_cidr().nth(number.checked_sub(1)?.checked_mul(1 << (32 - self.node_prefix))?)?;
        Some(Cidr::new(base, self.node_prefix))
    }

    /// The Services' range.
    pub fn service_cidr(&self) -> Cidr {
        Cidr::new(self.services, self.services_prefix)
    }

    /// All pods' ranges, the first family's first.
    pub fn pod_cidrs(&self) -> Vec<Net> {
        [self.pod_cidr().into()].into_iter().chain(self.ipv6.map(|(pods, _)| pods)).collect()
    }

    /// All pods' ranges with the length of a node's prefix in each, the first family's first.
    pub fn node_parts(&self) -> Vec<(String, u8)> {
        let first = (self.pod_cidr().to_string(), self.node_prefix);
        [first].into_iter().chain(self.ipv6.map(|(pods, _)| (pods.to_string(), NODE_PREFIX6))).collect()
    }

    /// The Services' ranges, the first family's first.
    pub fn service_cidrs(&self) -> Vec<Net> {
        [self.service_cidr().into()].into_iter().chain(self.ipv6.map(|(_, services)| services)).collect()
    }

    /// What the node with this range of pods has of IPv6: the part of that range at the same place.
    pub fn ipv6_of(&self, range: Cidr) -> Option<Ipv6> {
        let (pods, services) = self.ipv6?;
        let place = u128::from(self.pod_cidr().offset(range.base())? >> (32 - self.node_prefix));
        let IpAddr::V6(base) = pods.base() else { return None };
        let own = IpAddr::V6((base.to_bits() | place << (128 - NODE_PREFIX6)).into());
        pods.contains(own).then(|| Ipv6 { pod_cidr: Net::new(own, NODE_PREFIX6), cluster_cidr: pods, service_cidr: services })
    }

    /// As [`Self::ipv6_of`] for a further node, which has both families where the cluster has.
    pub fn ipv6_part(&self, range: Cidr) -> anyhow::Result<Option<Ipv6>> {
        let part = self.ipv6_of(range);
        match self.ipv6 {
            Some((pods, _)) if part.is_none() => anyhow::bail!("the range {pods} has no part for it: a node has a /{NODE_PREFIX6}"),
            _ => Ok(part),
        }
    }

    /// The first node's addresses, the first family's first.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        [self.node_ip().into()].into_iter().chain(self.ipv6_of(self.node_cidr()).map(|v6| v6.node_ip())).collect()
    }

    /// All ranges of the cluster.
    pub fn ranges(&self) -> Vec<Net> {
        [self.pod_cidrs(), self.service_cidrs()].concat()
    }

    fn overlaps(&self, other: &Plan) -> bool {
        let ours = self.ranges();
        self.port == other.port || other.ranges().iter().any(|theirs| ours.iter().any(|own| own.overlaps(*theirs)))
    }

    /// The plan with what the command line asks for.
    fn with(mut self, ranges: &Ranges) -> Plan {
        if let Some(pods) = ranges.pods {
            (self.pods, self.pods_prefix) = (pods.base(), pods.prefix());
        }
        if let Some(services) = ranges.services {
            (self.services, self.services_prefix) = (services.base(), services.prefix());
        }
        self.ipv6 = ranges.ipv6.or(self.ipv6);
        self.port = ranges.port.unwrap_or(self.port);
        self.node_prefix = ranges.node_prefix.unwrap_or(self.node_prefix);
        self.advertise = ranges.advertise.or(self.advertise);
        self.pod_network = ranges.pod_network.unwrap_or(self.pod_network);
        self
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
    [plan.pod_cidr(), plan.service_cidr()].into_iter().find_map(|range| taken.by(range).map(|who| format!("{who} is in the way of {range}")))
}

/// The addresses of the cluster of this name with its data here; [`super::Cluster::plan`] says more.
pub(super) fn choose(name: &str, data: &Path, ranges: &Ranges, others: &[Plan]) -> anyhow::Result<Plan> {
    for range in [ranges.pods, ranges.services].into_iter().flatten() {
        if !PREFIXES.contains(&range.prefix()) {
            bail!("the range {range} has a prefix of {} bits: a cluster's have {} to {}", range.prefix(), PREFIXES.start(), PREFIXES.end());
        }
    }
    if let Some(prefix) = ranges.node_prefix.filter(|prefix| !NODE_PREFIXES.contains(prefix)) {
        bail!(
            "a node's range of pods cannot have a prefix of {prefix} bits (--node-cidr-mask-size): it has {} to {}",
            NODE_PREFIXES.start(),
            NODE_PREFIXES.end()
        );
    }
    if let Some(mut plan) = read(&data.join(FILE)) {
        (plan.name, plan.data) = (name.to_owned(), data.to_owned());
        let asked = plan.clone().with(ranges);
        // A second family may come later; nothing that was chosen changes.
        let stays = |chosen: &[Net], asked: &[Net]| asked.starts_with(chosen);
        let ranges = stays(&plan.pod_cidrs(), &asked.pod_cidrs()) && stays(&plan.service_cidrs(), &asked.service_cidrs());
        if !ranges || asked.node_prefix != plan.node_prefix {
            bail!(
                "the addresses of the cluster {name:?} were chosen at its first start ({} for pods, /{} for each node's, {} for Services): `knarr down --name \
                 {name}` first",
                list(&plan.pod_cidrs()),
                plan.node_prefix,
                list(&plan.service_cidrs())
            );
        }
        if let (None, Some((pods, services))) = (plan.ipv6, asked.ipv6) {
            let taken = Taken::now(name);
            if let Some(who) = taken.by6(pods).or_else(|| taken.by6(services)) {
                bail!("the cluster cannot have {pods} and {services}: {who}");
            }
        }
        if let Some(other) = others.iter().find(|o| asked.overlaps(o)) {
            bail!(
                "the cluster {:?} uses the addresses {} or port {} of this one: run `knarr down --name {}` first",
                other.name,
                list(&asked.pod_cidrs()),
                asked.port,
                other.name
            );
        }
        return Ok(asked);
    }
    let taken = Taken::now(name);
    let wrong = |plan: &Plan| -> Option<String> {
        if plan.node_prefix < plan.pods_prefix {
            return Some(format!("{} has no room for a node's range of /{}", plan.pod_cidr(), plan.node_prefix));
        }
        if plan.pod_cidr().overlaps(plan.service_cidr()) {
            return Some(format!("the ranges {} and {} have addresses in common", plan.pod_cidr(), plan.service_cidr()));
        }
        if let Some(other) = others.iter().find(|o| plan.overlaps(o)) {
            return Some(format!("the cluster {:?} has {}, {} and port {}", other.name, other.pod_cidr(), other.service_cidr(), other.port));
        }
        let in_use = |range: &dyn std::fmt::Display, who: Option<String>| who.map(|who| format!("{range} is in use on this machine: {who}"));
        let mut v4 = [plan.pod_cidr(), plan.service_cidr()].into_iter();
        v4.find_map(|range| in_use(&range, taken.by(range)))
            .or_else(|| plan.ipv6.and_then(|(pods, services)| [pods, services].into_iter().find_map(|range| in_use(&range, taken.by6(range)))))
    };
    let first = u8::from(name != DEFAULT);
    let mut candidates = (first..CLUSTERS_MAX).map(|i| Plan::nth(name, data, i).with(ranges));
    let mut last = String::new();
    let free = candidates.find(|plan| wrong(plan).map(|why| last = why).is_none());
    free.with_context(|| format!("no free ranges of addresses for the cluster ({last}): choose with --cluster-cidr and --service-cidr"))
}

fn list(ranges: &[Net]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What this machine uses: routes and addresses.
pub(super) struct Taken {
    routes: Vec<(String, Cidr)>,
    addresses: Vec<(String, IpAddr)>,
}

impl Taken {
    /// But for what the cluster of this name has left: its data may be gone, and its links stand.
    fn now(cluster: &str) -> Taken {
        let routes = parse(&std::fs::read_to_string("/proc/net/route").unwrap_or_default());
        let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let addresses = all.filter_map(|i| Some((i.interface_name.clone(), ip(i.address.as_ref()?)?))).collect();
        let links = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let aliases = links.filter_map(|l| Some((l.file_name().into_string().ok()?, std::fs::read_to_string(l.path().join("ifalias")).ok()?)));
        Taken { routes, addresses }.without(&network::Mark::new(cluster).alias(), aliases)
    }

    /// Leaves out links whose alias begins with a mark, and the ranges that it names: addresses of theirs that nobody has are a
    /// route without a link.
    pub(super) fn without(mut self, mark: &str, aliases: impl Iterator<Item = (String, String)>) -> Taken {
        let own: Vec<(String, String)> = aliases.filter(|(_, alias)| alias.starts_with(mark)).collect();
        let ranges: Vec<Cidr> = own.iter().flat_map(|(_, alias)| alias.split_whitespace()).filter_map(|word| word.parse().ok()).collect();
        let ours = |link: &String| own.iter().any(|(name, _)| name == link);
        self.routes.retain(|(link, to)| !ours(link) && !ranges.contains(to));
        self.addresses.retain(|(link, _)| !ours(link));
        self
    }

    /// Who is in the way of a range. A route that holds it among much else (a VPN's `10.0.0.0/8`, the default route) is not:
    /// the cluster's own, more specific routes come before it.
    pub(super) fn by(&self, range: Cidr) -> Option<String> {
        let route = self.routes.iter().find(|(_, to)| to.prefix() >= range.prefix() && to.overlaps(range));
        let address = self.addresses.iter().find(|(_, ip)| Net::from(range).contains(*ip));
        route.map(|(link, to)| format!("the route {to} by {link}")).or_else(|| address.map(|(link, ip)| format!("{link} has the address {ip}")))
    }

    /// Who is in the way of a range of IPv6: its addresses.
    fn by6(&self, range: Net) -> Option<String> {
        self.addresses.iter().find(|(_, ip)| range.contains(*ip)).map(|(link, ip)| format!("{link} has the address {ip}"))
    }

    #[cfg(test)]
    pub(super) fn of(routes: &str, addresses: &[(&str, Ipv4Addr)]) -> Taken {
        Taken { routes: parse(routes), addresses: addresses.iter().map(|(link, ip)| ((*link).to_owned(), IpAddr::V4(*ip))).collect() }
    }
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// The routes of `/proc/net/route`.
fn parse(table: &str) -> Vec<(String, Cidr)> {
    let number = |field: Option<&str>| field.and_then(|f| u32::from_str_radix(f, 16).ok()).map(u32::from_be);
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let link = fields.next()?.to_owned();
        let (destination, mask) = (number(fields.next())?, number(fields.nth(5))?);
        Some((link, Cidr::new(Ipv4Addr::from_bits(destination), u8::try_from(mask.leading_ones()).unwrap_or(32))))
    });
    lines.collect()
}
