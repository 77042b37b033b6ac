//! The bridge without ports, which holds the node's addresses and to which the Services' ranges lead; and what the kernel does with
//! packets that are passed on.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::{Inner, LINKS, State, host_addresses, sysctl};
use crate::cidr::Net;
use crate::link::{self, Ipv4Conf, Settings, Way};
use crate::netlink::Messages;
use crate::nft::Family;
use crate::ranges::{self, Machines};
use crate::{Error, Result};

/// In the bridge's alias, after the mark and before the pod range.
pub(super) const BRIDGE: &str = "bridge ";
/// In the bridge's alias, after the ranges: it was this network that switched forwarding of a family on.
fn forwards(family: Family) -> &'static str {
    match family {
        Family::V4 => "forward",
        Family::V6 => "forward6",
    }
}
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The ranges whose addresses nobody has lead nowhere.
    pub(super) ranges: Vec<Net>,
    /// The families of which forwarding was off.
    pub(super) switched: BTreeSet<Family>,
}

impl Told {
    /// Reads what stands behind [`BRIDGE`].
    pub(super) fn parse(text: &str) -> Self {
        let words = || text.split_whitespace();
        Self {
            ranges: words().filter_map(|word| word.parse().ok()).collect(),
            switched: Family::ALL.into_iter().filter(|family| words().any(|word| word == forwards(*family))).collect(),
        }
    }

    fn text(&self) -> String {
        let ranges = self.ranges.iter().map(ToString::to_string);
        ranges.chain(self.switched.iter().map(|family| forwards(*family).to_owned())).collect::<Vec<_>>().join(" ")
    }
}

/// Makes the host pass packets on. A host that passes on IPv6 takes no advice from routers unless a link is told so: what it has learned
/// from them (its default route) would be gone. Links of pods and those that are still to come are not told.
fn forward(family: Family) -> Result<()> {
    if family == Family::V6 && !is_forwarding(family) {
        let links = fs::read_dir(ALL).map_err(|e| Error::io(format!("read {ALL}"), e))?.flatten();
        let learns = |name: &str| !name.starts_with(LINKS) && !["all", "default"].contains(&name);
        for link in links.filter(|link| link.file_name().to_str().is_some_and(learns)) {
            let accepts = link.path().join("accept_ra");
            if fs::read_to_string(&accepts).is_ok_and(|v| v.trim() == "1") {
                fs::write(&accepts, "2").map_err(|e| Error::io(format!("write {}", accepts.display()), e))?;
            }
        }
    }
    sysctl(forwarding(family), "1")
}

/// What the host takes of IPv6 from a link: nothing, or no advice.
pub(crate) fn quiet(link: &str, ipv6: bool) -> Result<()> {
    let set = |name: &str, value: &str| sysctl(&format!("ipv6/conf/{link}/{name}"), value);
    if !ipv6 {
        return set("disable_ipv6", "1");
    }
    set("accept_ra", "0")?;
    set("accept_redirects", "0")?;
    set("disable_ipv6", "0")
}

impl Inner {
    /// Makes the bridge, its addresses and routes, and switches forwarding on; what is there already stays.
    pub(super) fn make_bridge(&self, state: &mut State) -> Result<()> {
        let (config, name, route) = (&self.config, &self.bridge, &mut state.route);
        // The ranges stand in the alias, so that whoever clears up knows which routes to remove, and whether forwarding was off.
        let ours = format!("{}{BRIDGE}", config.mark.alias());
        let was_off: BTreeSet<Family> = self.families().iter().copied().filter(|family| !is_forwarding(*family)).collect();
        let mut former = Told::default();
        // What was so when the bridge was made counts: who has switched a router's forwarding off for a moment does not make it ours.
        let mut switched = match link::find(route, name)? {
            Some(found) if found.alias.starts_with(&ours) => {
                former = Told::parse(&found.alias[ours.len()..]);
                former.switched.clone()
            }
            Some(found) if found.alias.is_empty() => was_off.clone(),
            Some(found) => return Err(Error::Config(format!("link {name} belongs to {:?}", found.alias))),
            None => {
                let mut m = Messages::new();
                link::add_bridge(&mut m, name);
                route.call(&format!("make the bridge {name}"), &m)?;
                state.switched.union(&was_off).copied().collect()
            }
        };
        let told_of = |family: Family| former.ranges.iter().any(|range| range.family() == family);
        if !former.ranges.is_empty() && !told_of(Family::V6) && was_off.contains(&Family::V6) {
            // A family that comes later.
            switched.insert(Family::V6);
        }
        state.switched = switched;
        let told = Told { ranges: self.ranges(), switched: state.switched.clone() };
        self.quiet(name, config.ipv6.is_some())?;
        let alias = format!("{ours}{}", told.text());
        let mut m = Messages::new();
        let ipv4 = [(Ipv4Conf::Forwarding, 1), (Ipv4Conf::AcceptRedirects, 0), (Ipv4Conf::RouteLocalnet, 1)];
        link::set(&mut m, name, &Settings { up: true, alias: Some(&alias), mtu: Some(self.mtu), ipv4: &ipv4, no_ipv6: self.has_ipv6 });
        link::get(&mut m, name);
        let index = link::index_of(&route.call(&format!("set up the bridge {name}"), &m)?, name)?;
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
        self.families().iter().try_for_each(|family| forward(*family))
    }

    /// The node's ranges of pods.
    fn ranges(&self) -> Vec<Net> {
        [self.config.pod_cidr.into()].into_iter().chain(self.config.ipv6.map(|v6| v6.pod_cidr)).collect()
    }

    /// These are the Services' ranges, and these the addresses of the nodes' machines.
    pub(super) fn lead(&self, ranges: BTreeSet<Net>, nodes: BTreeSet<IpAddr>) -> Result<()> {
        let mut here = host_addresses()?;
        here.retain(|ip| Some(*ip) != self.gateway_of(Family::of(*ip)));
        let machines = Machines { here, nodes };
        let (v4, v6): (BTreeSet<Net>, BTreeSet<Net>) = ranges.into_iter().partition(|range| range.is_ipv4());
        let own = self.own_services();
        let mut led = ranges::apart(&v4, &own, Some(self.cluster().into()), &machines);
        // Where the node has no IPv6 they lead nowhere.
        led.extend(self.config.ipv6.map(|ipv6| ranges::apart(&v6, &own, Some(ipv6.cluster_cidr), &machines)).unwrap_or_default());
        let state = &mut *self.state.lock();
        state.services = Some(led);
        state.elsewhere.clear();
        self.route_services(state)
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
        quiet(link, ipv6)
    }

    /// The links that are there take no advice from pods; others may have changed it (a network manager, a former version).
    pub(super) fn keep_quiet(&self, state: &State) -> Result<()> {
        let pods = state.ipam.records().map(|(_, record)| (&record.link, record.ipv6));
        for (link, ipv6) in pods.chain([(&self.bridge, self.config.ipv6.is_some())]) {
            let quiet = self.quiet(link, ipv6).and_then(|()| sysctl(&format!("ipv4/conf/{link}/accept_redirects"), "0"));
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
        let older = Told { ranges: vec![range], switched: BTreeSet::from([Family::V4]) };
        assert_eq!(Told::parse("10.244.0.0/24 forward"), older, "as versions before wrote it");
        assert_eq!(older.text(), "10.244.0.0/24 forward");
        let both = Told { ranges: vec![range, "fd00:244::/64".parse().unwrap()], switched: BTreeSet::from(Family::ALL) };
        assert_eq!(Told::parse(&both.text()), both);
        assert_eq!(Told::parse("10.244.0.0/24").switched, BTreeSet::new());
    }
}
