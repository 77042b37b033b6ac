//! The bridge without ports, which holds the node's addresses and to which the Services' ranges lead; and what the kernel does with
//! packets that are passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::lan::{self, Lan};
use super::tracked::{self, AtLeast};
use super::{Inner, State};
use crate::cidr::Net;
use crate::link::{self, Ipv4Conf, Link, Settings, Way};
use crate::mark::{ALIAS, LINKS};
use crate::netlink::{Messages, Socket};
use crate::nft::Family;
use crate::ranges::{self, Machines};
use crate::{Error, Result, host, sysctl};

/// In the bridge's alias, after the mark and before the pod range.
pub(super) const BRIDGE: &str = "bridge ";
/// In the bridge's alias, after the ranges: it was this network that switched forwarding of a family on.
fn forwards(family: Family) -> &'static str {
    match family {
        Family::V4 => "forward",
        Family::V6 => "forward6",
    }
}
/// Before the numbers of links, with commas between them, that were told to take routers' advice all the same.
const ADVISED: &str = "ra:";
/// Before the number of the link that leads to the loopback and from it because this network said so.
const LOCALNET: &str = "localnet:";
/// Bytes of an alias, which the kernel limits.
const ALIAS_MAX: usize = 255;
/// Parameters of all links.
const ALL: &str = "/proc/sys/net/ipv6/conf";

/// The parameter that makes a host pass packets of a family on.
pub(super) fn forwarding(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    }
}

/// Whether the host passes packets on.
pub(super) fn is_forwarding(family: Family) -> bool {
    fs::read_to_string(format!("/proc/sys/net/{}", forwarding(family))).is_ok_and(|v| v.trim() == "1")
}

/// What a bridge's alias says behind the mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The ranges whose addresses nobody has lead nowhere.
    pub(super) ranges: Vec<Net>,
    /// The families of which forwarding was off.
    pub(super) switched: BTreeSet<Family>,
    /// The numbers of the links that take routers' advice because this network said so.
    pub(super) advised: BTreeSet<u32>,
    /// What the kernel was told of tracked connections before, by [`AtLeast::tag`].
    pub(super) tracking: BTreeMap<&'static str, u32>,
    /// The number of the machine's link that has `route_localnet` because this network said so.
    pub(super) localnet: Option<u32>,
}

impl Told {
    /// Reads what stands behind [`BRIDGE`].
    pub(super) fn parse(text: &str) -> Self {
        let words = || text.split_whitespace();
        let advised = words().filter_map(|word| word.strip_prefix(ADVISED)).flat_map(|all| all.split(',')).filter_map(|n| n.parse().ok());
        Self {
            advised: advised.collect(),
            ranges: words().filter_map(|word| word.parse().ok()).collect(),
            switched: Family::ALL.into_iter().filter(|family| words().any(|word| word == forwards(*family))).collect(),
            tracking: before(|tag| words().find_map(|word| word.strip_prefix(tag)?.parse().ok())),
            localnet: words().find_map(|word| word.strip_prefix(LOCALNET)?.parse().ok()),
        }
    }

    fn text(&self) -> String {
        let ranges = self.ranges.iter().map(ToString::to_string);
        let advised = self.advised.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let advised = Some(advised).filter(|all| !all.is_empty()).map(|all| format!("{ADVISED}{all}"));
        let tracking = self.tracking.iter().map(|(tag, before)| format!("{tag}{before}"));
        let localnet = self.localnet.map(|index| format!("{LOCALNET}{index}"));
        let switched = self.switched.iter().map(|family| forwards(*family).to_owned());
        ranges.chain(switched).chain(tracking).chain(localnet).chain(advised).collect::<Vec<_>>().join(" ")
    }

    /// The alias that begins with this. Of links there may be more than have room: those with the highest numbers stay as they are.
    fn alias(&mut self, begins: &str) -> String {
        loop {
            let alias = format!("{begins}{}", self.text());
            if alias.len() <= ALIAS_MAX || self.advised.pop_last().is_none() {
                return alias;
            }
        }
    }
}

/// The former values of the parameters of which there is one.
fn before(of: impl Fn(&str) -> Option<u32>) -> BTreeMap<&'static str, u32> {
    tracked::ALL.iter().filter_map(|parameter| Some((parameter.tag, of(parameter.tag)?))).collect()
}

/// What the alias of a bridge says, of whichever cluster's network of this program's.
pub(super) fn told(link: &Link) -> Option<Told> {
    link.alias.split_once('/').and_then(|(_, rest)| rest.strip_prefix(BRIDGE)).map(Told::parse)
}

/// It hears nobody.
const LOOPBACK: &str = "lo";
/// Whose advice a link takes (`accept_ra`): of routers, unless the host is one; of routers, whatever the host is.
const UNLESS_ROUTER: &str = "1";
const ALWAYS: &str = "2";

/// The links that take advice of routers as long as this host is none, by name and number. Links of pods are none, nor are those still to come.
fn learners(route: &mut Socket) -> Result<Vec<Link>> {
    let mut links = link::list(route)?;
    links.retain(|link| {
        !link.name.starts_with(LINKS) && link.name != LOOPBACK && fs::read_to_string(accepts(&link.name)).is_ok_and(|v| v.trim() == UNLESS_ROUTER)
    });
    Ok(links)
}

fn accepts(link: &str) -> String {
    format!("{ALL}/{link}/accept_ra")
}

/// Tells a link whose advice it takes; one that has gone meanwhile needs none.
fn advise(link: &str, whose: &str) -> Result<()> {
    match sysctl::set(&format!("ipv6/conf/{link}/accept_ra"), whose) {
        Err(_) if !Path::new(&accepts(link)).exists() => Ok(()),
        other => other,
    }
}

/// Puts back what a network has told links about routers' advice: the host is no router any more.
pub(super) fn unadvise(route: &mut Socket, advised: &BTreeSet<u32>) -> Result<()> {
    for link in link::list(route)?.iter().filter(|link| advised.contains(&link.index)) {
        if fs::read_to_string(accepts(&link.name)).is_ok_and(|v| v.trim() == ALWAYS) {
            advise(&link.name, UNLESS_ROUTER)?;
        }
    }
    Ok(())
}

impl Inner {
    /// Makes the bridge, its addresses and routes, and switches forwarding on; what is there already stays.
    pub(super) fn make_bridge(&self, state: &mut State) -> Result<()> {
        let (name, route) = (&self.bridge, &mut state.route);
        // The ranges stand in the alias, so that whoever clears up knows which routes to remove, and whether forwarding was off.
        let ours = format!("{}{BRIDGE}", self.mark.alias());
        let was_off: BTreeSet<Family> = self.families().filter(|family| !is_forwarding(*family)).collect();
        // Of a bridge that somebody has taken away this process knows it.
        let mut former = state.told.clone();
        // What was so when the bridge was made counts: who has switched a router's forwarding off for a moment does not make it ours.
        let mut switched = match link::find(route, name)? {
            Some(found) if found.alias.starts_with(&ours) => {
                former = Told::parse(&found.alias[ours.len()..]);
                former.switched.clone()
            }
            Some(found) if !found.alias.is_empty() => return Err(Error::Config(format!("link {name} belongs to {:?}", found.alias))),
            found => {
                if found.is_none() {
                    let mut m = Messages::new();
                    link::add_bridge(&mut m, name);
                    route.call(&format!("make the bridge {name}"), &m)?;
                }
                former.switched.union(&was_off).copied().collect()
            }
        };
        let told_of = |family: Family| former.ranges.iter().any(|range| range.family() == family);
        if !former.ranges.is_empty() {
            // A family that comes later.
            switched.extend(was_off.iter().filter(|family| !told_of(**family)));
        }
        // A host that passes on IPv6 takes no advice from routers unless a link is told so: what it has learned from them (its default
        // route) would be gone.
        let learners = if was_off.contains(&Family::V6) { learners(route)? } else { Vec::new() };
        let advised = former.advised.iter().copied().chain(learners.iter().map(|link| link.index)).collect();
        let less: BTreeMap<&str, (u32, &AtLeast)> = tracked::ALL.iter().filter_map(|p| Some((p.tag, (p.less()?, p)))).collect();
        // Another cluster's network may have said so before: the last of them puts it back.
        let links = link::list(route)?;
        let beside: Vec<Told> = links.iter().filter(|link| link.alias.starts_with(ALIAS) && !link.alias.starts_with(&ours)).filter_map(told).collect();
        let by_others = |tag: &str| beside.iter().find_map(|told| told.tracking.get(tag).copied());
        let tracking = before(|tag| former.tracking.get(tag).copied().or(less.get(tag).map(|(now, _)| *now)).or_else(|| by_others(tag)));
        let theirs = |index: u32| beside.iter().any(|told| told.localnet == Some(index));
        let was_open = |lan: &Lan| former.localnet != Some(lan.index) && !theirs(lan.index) && lan.is_open(&links);
        let localnet = state.lan.as_ref().filter(|lan| !was_open(lan)).map(|lan| lan.index);
        if let Some(left) = former.localnet.filter(|index| Some(*index) != localnet && !theirs(*index)) {
            lan::close(&links, left)?;
        }
        let mut told = Told { ranges: self.ranges(), switched, advised, tracking, localnet };
        self.quiet(name, self.has(Family::V6))?;
        let alias = told.alias(&ours);
        let mut m = Messages::new();
        let ipv4 = [(Ipv4Conf::Forwarding, 1), (Ipv4Conf::AcceptRedirects, 0), (Ipv4Conf::RouteLocalnet, self.localnet())];
        link::set(&mut m, name, &Settings { up: true, alias: Some(&alias), mtu: Some(self.mtu), ipv4: &ipv4, no_ipv6: self.has_ipv6 });
        link::get(&mut m, name);
        let index = link::index_of(&route.call(&format!("set up the bridge {name}"), &m)?, name)?;
        state.told = told.clone();
        for gone in former.ranges.into_iter().filter(|range| !told.ranges.contains(range)) {
            link::delete_route(route, gone, false)?;
            link::remove_address(route, index, gone.first())?;
        }
        let mut m = Messages::new();
        for range in told.ranges {
            link::add_address(&mut m, index, range.first());
            // An address of the range that no pod has is answered at once, not waited for.
            link::add_route(&mut m, range, Way::Unreachable);
        }
        for services in self.own_services() {
            link::add_route(&mut m, services, Way::Link { index, source: self.gateway_of(services.family()) });
        }
        route.call("set the bridge's addresses and routes", &m)?;
        // Those that stand in the alias, by which `purge` finds them.
        for link in learners.iter().filter(|link| told.advised.contains(&link.index)) {
            advise(&link.name, ALWAYS)?;
        }
        less.into_values().try_for_each(|(_, parameter)| parameter.raise())?;
        self.families().try_for_each(|family| sysctl::set(forwarding(family), "1"))
    }

    /// `route_localnet` of this network's links: where there is no IPv4, no rule guards the host's loopback.
    pub(super) fn localnet(&self) -> u32 {
        u32::from(self.has(Family::V4))
    }

    /// The node's ranges of pods.
    fn ranges(&self) -> Vec<Net> {
        self.config.parts.iter().map(|part| part.pod_cidr).collect()
    }

    /// These are the Services' ranges, and these the addresses of the nodes' machines.
    pub(super) fn lead(&self, ranges: BTreeSet<Net>, nodes: BTreeSet<IpAddr>) -> Result<()> {
        let mut here = host::addresses()?;
        here.retain(|ip| Some(*ip) != self.gateway_of(Family::of(*ip)));
        let (machines, own) = (Machines { here, nodes: nodes.clone() }, self.own_services());
        let of = |family: Family| ranges.iter().copied().filter(|range| range.family() == family).collect();
        // Those of a family that the node does not have lead nowhere.
        let parts = self.config.parts.iter();
        let led = parts.flat_map(|part| ranges::apart(&of(part.family()), &own, Some(part.cluster_cidr), &machines)).collect();
        let state = &mut *self.state.lock();
        state.services = Some(led);
        state.elsewhere.clear();
        let known = self.know(state, nodes);
        self.route_services(state).and(known)
    }

    /// The Services' ranges lead to the bridge, and none that is no more. A route that somebody has for the very same range is his.
    pub(super) fn route_services(&self, state: &mut State) -> Result<()> {
        let Some(wanted) = &state.services else { return Ok(()) };
        let Some(bridge) = link::find(&mut state.route, &self.bridge)? else { return Ok(()) };
        let there = link::ranges_by(&mut state.route, bridge.index)?;
        for gone in there.difference(wanted) {
            link::delete_route(&mut state.route, *gone, true)?;
        }
        let missing: BTreeSet<Net> = wanted.difference(&there).copied().collect();
        let taken = if missing.is_empty() { BTreeSet::new() } else { link::ranges_elsewhere(&mut state.route, bridge.index, &missing)? };
        for range in missing {
            if !taken.contains(&range) {
                let mut m = Messages::new();
                link::add_new_route(&mut m, range, Way::Link { index: bridge.index, source: self.gateway_of(range.family()) });
                match state.route.call(&format!("lead the Services' range {range} to the node"), &m) {
                    // It came since.
                    Err(e) if e.errno() == Some(libc::EEXIST) => {}
                    other => {
                        other?;
                        continue;
                    }
                }
            }
            // Told once: this is looked at each minute.
            if state.elsewhere.insert(range) {
                tracing::warn!(%range, "the range of Services has another route on this machine, which stays");
            }
        }
        Ok(())
    }

    /// What the host takes from a link of a pod: no advice about routes; and nothing of IPv6 if the pod has none. By default it would take
    /// addresses and routes, its default route among them, from whoever calls himself a router there. To be done before the link is up.
    pub(super) fn quiet(&self, link: &str, ipv6: bool) -> Result<()> {
        if !self.has_ipv6 {
            return Ok(());
        }
        sysctl::quiet(link, ipv6)
    }

    /// The links that are there take no advice from pods; others may have changed it (a network manager, a former version).
    pub(super) fn keep_quiet(&self, state: &State) -> Result<()> {
        let pods = state.ipam.records().map(|(address, record)| (&record.link, self.pod_of(Family::V6, address, record.both).is_some()));
        for (link, ipv6) in pods.chain([(&self.bridge, self.has(Family::V6))]) {
            let quiet = self.quiet(link, ipv6).and_then(|()| sysctl::set(&format!("ipv4/conf/{link}/accept_redirects"), "0"));
            match quiet {
                // It went with its namespace.
                Err(_) if !Path::new("/proc/sys/net/ipv4/conf").join(link).exists() => {}
                other => other?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_tells_what_it_was_told() {
        let range: Net = "10.244.0.0/24".parse().unwrap();
        let older = Told { ranges: vec![range], switched: BTreeSet::from([Family::V4]), ..Told::default() };
        assert_eq!(Told::parse("10.244.0.0/24 forward"), older, "as versions before wrote it");
        assert_eq!(older.text(), "10.244.0.0/24 forward");
        let ranges = vec!["fd00:244::/64".parse().unwrap(), range];
        let mut both = Told { ranges, switched: BTreeSet::from(Family::ALL), advised: BTreeSet::from([2, 117]), ..Told::default() };
        (both.tracking, both.localnet) = (BTreeMap::from([("half-closed:", 60), ("room:", 65_536)]), Some(2));
        assert_eq!(Told::parse(&both.text()), both);
        assert_eq!(both.alias("knarr:a/bridge "), "knarr:a/bridge fd00:244::/64 10.244.0.0/24 forward forward6 half-closed:60 room:65536 localnet:2 ra:2,117");
        both.advised = (1000..1100).collect();
        let alias = both.alias("knarr:a/bridge ");
        assert!(alias.len() <= ALIAS_MAX && alias.contains("ra:1000,1001") && !both.advised.contains(&1099), "{alias}");
        assert_eq!(Told::parse("10.244.0.0/24").switched, BTreeSet::new());
    }
}
