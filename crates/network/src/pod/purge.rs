//! What a cluster has made on this host, taken away.
//!
//! **Killed at any point, the next one finds what is left.** What there is to do for a node stands in the alias of its bridge: its ranges,
//! whose route to nowhere and whose tracked connections go, and whether forwarding was switched on for it. So the bridge is the last to go.

use std::collections::BTreeSet;

use super::bridge::{self, Told, told};
use super::{Others, firewall, lan, legacy, tracked};
use crate::cidr::Net;
use crate::link::{self, Link};
use crate::mark::{ALIAS, Mark};
use crate::netlink::{self, Socket};
use crate::nft::{self, Family};
use crate::{Result, conntrack, mesh, sysctl};

/// Removes everything on this host that carries the mark: links, routes, rules; how many things there were.
pub fn purge(mark: &Mark) -> Result<usize> {
    let (mut route, mut nft) = (Socket::open(netlink::ROUTE)?, Socket::open(netlink::NETFILTER)?);
    lan::take_back(&mut route, mark)?;
    let mut removed = mesh::purge(&mut route, mark)? + firewall::close(&mut nft, mark)?;
    let ours = [mark.table(), mark.proxy_table()];
    for family in Family::ALL {
        removed += legacy::close(mark, family)?;
        for table in nft::tables(&mut nft, family)?.iter().filter(|t| ours.contains(t)) {
            nft::delete_table(&mut nft, family, table)?;
            removed += 1;
        }
    }
    let links = link::list(&mut route)?;
    let (own, others): (Vec<Link>, Vec<Link>) = links.into_iter().partition(|link| link.alias.starts_with(&mark.alias()));
    let (bridges, ends): (Vec<Link>, Vec<Link>) = own.into_iter().partition(|link| told(link).is_some());
    // Of this node's pods, and of further nodes' of this machine.
    let ranges = |links: &[Link]| links.iter().flat_map(|link| ranges_of(&link.alias)).collect::<Vec<_>>();
    forget(&mut nft, &[ranges(&ends), ranges(&bridges)].concat());
    for end in &ends {
        link::remove(&mut route, &end.name)?;
    }
    let beside: Vec<Told> = others.iter().filter(|link| link.alias.starts_with(ALIAS)).filter_map(told).collect();
    let has_beside = |family: Family| beside.iter().any(|told| told.ranges.iter().any(|range| range.family() == family));
    // Whoever came since and passes packets on (another cluster, Docker) found it on and did not say that he needs it.
    let others = Others { chains: nft::base_chains(&mut nft)?, legacy: Family::ALL.into_iter().filter(|family| legacy::in_use(*family)).collect() };
    for bridge in &bridges {
        let Told { ranges, switched, advised, tracking, .. } = told(bridge).unwrap_or_default();
        for parameter in tracked::ALL.iter().filter(|_| beside.is_empty()) {
            tracking.get(parameter.tag).map_or(Ok(()), |before| parameter.put_back(*before))?;
        }
        for range in ranges {
            link::delete_route(&mut route, range, false)?;
        }
        for family in switched.into_iter().filter(|family| !has_beside(*family) && !others.pass_on(*family)) {
            sysctl::set(bridge::forwarding(family), "0")?;
            if family == Family::V6 {
                bridge::unadvise(&mut route, &advised)?;
            }
        }
    }
    // Once more: of the packets that were under way.
    forget(&mut nft, &ranges(&bridges));
    for bridge in &bridges {
        link::remove(&mut route, &bridge.name)?;
    }
    Ok(removed + ends.len() + bridges.len())
}

/// The ranges that an alias names.
pub(crate) fn ranges_of(alias: &str) -> BTreeSet<Net> {
    alias.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Forgets the connections of a cluster's pods. Where the kernel tracks nothing there is nothing to forget.
pub(crate) fn forget(nft: &mut Socket, ranges: &[Net]) {
    match conntrack::forget_ranges(nft, ranges) {
        Ok(flows) => tracing::debug!(flows, "forgot connections of the cluster's pods"),
        Err(error) => tracing::debug!(%error, "connections of the cluster's pods stay known for a while"),
    }
}
