//! How fast the pods of dead nodes are evicted (upstream `handleDisruption` and `RateLimitedTimedQueue`): one node every ten
//! seconds in a zone, a tenth of that in a large zone of which most is dead, none in a small one; and if no zone has a node
//! that lives, it is rather this side that is cut off: then nobody is evicted, and what was begun is taken back.
//!
//! Each node's state is noted as it changes, so that no event looks at all nodes. Has no clock: the caller says the time.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::ready;
use crate::meta::labels;

/// Between two nodes of a zone (upstream `--node-eviction-rate` 0.1).
const INTERVAL: Duration = Duration::from_secs(10);
/// The same in a large zone most of which is dead (upstream `--secondary-node-eviction-rate` 0.01).
const INTERVAL_PARTIAL: Duration = Duration::from_secs(100);
/// A zone with more nodes is large (upstream `--large-cluster-size-threshold`).
const LARGE: usize = 50;
/// Per cent of a zone's nodes that are dead (upstream `--unhealthy-zone-threshold` 0.55), and how many at least.
const UNHEALTHY_PERCENT: usize = 55;
const UNHEALTHY_MIN: usize = 3;
/// The label that takes a node out of this count.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// How a zone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Normal,
    /// Most of it is dead.
    Partial,
    /// All of it is.
    Full,
}

#[derive(Debug, Default)]
struct Zone {
    alive: usize,
    dead: usize,
    state: State,
    /// When the next node may be evicted; none: at once.
    next: Option<Instant>,
}

impl Zone {
    fn size(&self) -> usize {
        self.alive + self.dead
    }

    fn judge(&self) -> State {
        match self.dead {
            0 => State::Normal,
            _ if self.alive == 0 => State::Full,
            dead if dead >= UNHEALTHY_MIN && dead * 100 >= self.size() * UNHEALTHY_PERCENT => State::Partial,
            _ => State::Normal,
        }
    }

    /// None: nobody is evicted there.
    fn interval(&self) -> Option<Duration> {
        match self.state {
            State::Partial => (self.size() > LARGE).then_some(INTERVAL_PARTIAL),
            State::Normal | State::Full => Some(INTERVAL),
        }
    }

    fn count(&mut self, is_alive: bool) -> &mut usize {
        if is_alive { &mut self.alive } else { &mut self.dead }
    }
}

/// What a node counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    zone: String,
    is_alive: bool,
    is_excluded: bool,
}

/// The word about a dead node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Its pods may go now.
    Now,
    /// Its turn has not come.
    In(Duration),
    /// Not while the zone is as it is.
    Not,
    /// No zone has a node that lives.
    CutOff,
}

/// All nodes by zone.
#[derive(Debug, Default)]
pub(super) struct Zones {
    nodes: HashMap<String, Known>,
    zones: HashMap<String, Zone>,
    /// No zone has a node that lives.
    cut_off: bool,
}

/// What a change of a node changed for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turned {
    /// Nodes to look at again, since their zone, or all zones, turned.
    pub(super) nodes: Vec<String>,
    /// Some node lives again after none did.
    pub(super) came_back: bool,
}

impl Zones {
    /// A node as it is now; none: it is gone.
    pub(super) fn note(&mut self, name: &str, node: Option<&Node>) -> Turned {
        let new = node.map(|n| Known { zone: zone(n), is_alive: ready(n) == Some("True"), is_excluded: labels(n).contains_key(EXCLUDED) });
        let old = self.nodes.get(name).cloned();
        if old == new {
            return Turned::default();
        }
        for (known, is_new) in [(&old, false), (&new, true)] {
            let Some(known) = known.as_ref().filter(|k| !k.is_excluded) else { continue };
            let zone = self.zones.entry(known.zone.clone()).or_default();
            let count = zone.count(known.is_alive);
            *count = if is_new { *count + 1 } else { count.saturating_sub(1) };
        }
        self.zones.retain(|_, z| z.size() > 0);
        match new {
            Some(known) => drop(self.nodes.insert(name.to_owned(), known)),
            None => drop(self.nodes.remove(name)),
        }
        self.turn()
    }

    fn turn(&mut self) -> Turned {
        let mut turned: Vec<String> = Vec::new();
        for (name, zone) in &mut self.zones {
            let state = zone.judge();
            if state != zone.state {
                // A new limiter, as upstream's: the first goes at once.
                (zone.state, zone.next) = (state, None);
                turned.push(name.clone());
            }
        }
        let cut_off = !self.zones.is_empty() && self.zones.values().all(|z| z.state == State::Full);
        let came_back = self.cut_off && !cut_off;
        let all = self.cut_off != cut_off;
        self.cut_off = cut_off;
        let concerned = self.nodes.iter().filter(|(_, k)| all || turned.contains(&k.zone));
        Turned { nodes: concerned.map(|(name, _)| name.clone()).collect(), came_back }
    }

    /// Shows each zone with its nodes that live and those that do not.
    pub(super) fn each(&self, mut show: impl FnMut(&str, usize, usize)) {
        self.zones.iter().filter(|(_, zone)| zone.size() > 0).for_each(|(name, zone)| show(name, zone.alive, zone.dead));
    }

    /// Whether no zone has a node that lives.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Whether the pods of a dead node may go; [`Word::Now`] takes the zone's turn.
    pub(super) fn may_evict(&mut self, node: &Node, now: Instant) -> Word {
        if self.cut_off {
            return Word::CutOff;
        }
        // A node that is not counted waits for its turn like the others of its zone.
        let zone = self.zones.entry(zone(node)).or_default();
        let Some(interval) = zone.interval() else { return Word::Not };
        match zone.next.filter(|next| *next > now) {
            Some(next) => Word::In(next - now),
            None => {
                zone.next = Some(now + interval);
                Word::Now
            }
        }
    }
}

/// A node's zone: its region and zone together, as upstream's `GetZoneKey` has them.
pub(super) fn zone(node: &Node) -> String {
    let (region, zone) = client::region_and_zone(node);
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str, ready: &str) -> Node {
        let value = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value(value).unwrap_or_default()
    }

    /// `count` nodes of a zone, of which the first `dead` are.
    fn fill(zones: &mut Zones, zone: &str, count: usize, dead: usize) {
        for n in 0..count {
            let name = format!("{zone}{n}");
            zones.note(&name, Some(&node(&name, zone, if n < dead { "Unknown" } else { "True" })));
        }
    }

    #[test]
    fn one_node_goes_every_ten_seconds_in_each_zone() {
        let (mut zones, now) = (Zones::default(), Instant::now());
        fill(&mut zones, "a", 10, 2);
        fill(&mut zones, "b", 10, 1);
        let (a0, a1, b0) = (node("a0", "a", "Unknown"), node("a1", "a", "Unknown"), node("b0", "b", "Unknown"));
        assert_eq!(zones.may_evict(&a0, now), Word::Now);
        assert_eq!(zones.may_evict(&a1, now + Duration::from_secs(1)), Word::In(Duration::from_secs(9)));
        assert_eq!(zones.may_evict(&b0, now), Word::Now, "another zone");
        assert_eq!(zones.may_evict(&a1, now + INTERVAL), Word::Now);
    }

    #[test]
    fn where_most_is_dead_nobody_goes_or_few() {
        let (mut small, mut large, now) = (Zones::default(), Zones::default(), Instant::now());
        fill(&mut small, "a", 20, 11);
        assert_eq!(small.may_evict(&node("a0", "a", "Unknown"), now), Word::Not);
        let turned = small.note("a0", Some(&node("a0", "a", "True")));
        assert_eq!((turned.nodes.len(), turned.came_back), (20, false), "the zone is well again: all its nodes are looked at");
        assert_eq!(small.may_evict(&node("a1", "a", "Unknown"), now), Word::Now);
        fill(&mut large, "a", 100, 60);
        assert_eq!(large.may_evict(&node("a0", "a", "Unknown"), now), Word::Now);
        assert_eq!(large.may_evict(&node("a1", "a", "Unknown"), now), Word::In(INTERVAL_PARTIAL));
        let mut two = Zones::default();
        fill(&mut two, "a", 3, 2);
        assert_eq!(two.may_evict(&node("a0", "a", "Unknown"), now), Word::Now, "two are not most of a zone");
    }

    #[test]
    fn a_dead_zone_is_evicted_and_a_dead_cluster_is_not() {
        let (mut zones, now) = (Zones::default(), Instant::now());
        fill(&mut zones, "a", 4, 4);
        assert_eq!(zones.may_evict(&node("a0", "a", "Unknown"), now), Word::CutOff);
        let turned = zones.note("b0", Some(&node("b0", "b", "True")));
        assert_eq!((turned.nodes.len(), turned.came_back), (5, true));
        assert_eq!(zones.may_evict(&node("a0", "a", "Unknown"), now), Word::Now, "somebody lives: the zone is really dead");
        let turned = zones.note("b0", None);
        assert_eq!((turned.nodes.len(), turned.came_back), (4, false), "nobody does any more");
        assert_eq!(zones.note("a0", Some(&node("a0", "a", "False"))), Turned::default(), "a heartbeat turns nothing");
        let mut apart = node("x", "x", "True");
        apart.metadata.labels.get_or_insert_default().insert(EXCLUDED.to_owned(), String::new());
        zones.note("x", Some(&apart));
        assert_eq!(zones.may_evict(&node("a0", "a", "Unknown"), now), Word::CutOff, "who is not counted does not live");
    }
}
