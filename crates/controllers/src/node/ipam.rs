//! Gives every node its range of pod addresses out of the cluster's. A node for which none was left is looked at again when
//! another goes (the original tries it again and again).
//!
//! Where nodes of other machines join, the nodes of the control plane's machine have the parts with the lowest numbers, each by its
//! own ([`Machines`](crate::Machines)); then the others' are given from the end, so that both have room, and never one that a node of
//! this machine has or is about to have. When such a cluster gains a second family, its nodes are given a range of that beside the one
//! that they have. (The original's API lets no node gain a range, so it is not tried there.)

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Client, Delta, EventType, Informer, Meta, Patch, PatchParams, Recorder, WorkQueue};
use instruments::{Counter, Family, Kind, Labelled, Registry};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use super::reference;
use crate::machines::{Held, Machines};
use crate::range::{Range, cidrs};
use crate::work::{Controller, Cx, Step};

/// Runs the controller until the end; without a range there is nothing to give.
pub(crate) async fn run(cx: Cx) {
    let config = &cx.config;
    let text = config.cluster_cidr.clone().unwrap_or_default();
    let pools: Vec<Pool> = text.split(',').filter_map(|t| Pool::parse(t.trim(), config.node_cidr_mask, config.node_cidr_mask_v6)).collect();
    if pools.is_empty() {
        return cx.shutdown.cancelled().await;
    }
    let client = cx.client("node-controller");
    let recorder = cx.recorder(&client, "cidrAllocator");
    let machines = config.machines.clone();
    let nodes = cx.informers.informer();
    let counts = Counts::new(cx.metrics(), &pools, &nodes);
    let controller = Arc::new(Ipam { client, recorder, nodes, pools, machines, given: Mutex::default(), counts });
    cx.setup(&controller)
        .on(&controller.nodes, Ipam::heard)
        // One at a time: two nodes must not get the same range.
        .work(1)
        .await;
}

struct Ipam {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pools: Vec<Pool>,
    machines: Option<Machines>,
    /// Given to nodes that the informer has not told of yet.
    given: Mutex<HashSet<(String, String)>>,
    counts: Counts,
}

impl Ipam {
    fn heard(&self, queue: &WorkQueue<String>, change: &Delta<Node>) {
        self.counts.heard(&self.pools, change);
        concerned(&self.nodes.list(), change, |node| self.lacks(node)).into_iter().for_each(|name| queue.add(name));
    }

    /// Whether a node has no range, or none of a family that it may gain.
    fn lacks(&self, node: &Node) -> bool {
        let has = cidrs(node);
        has.is_empty() || self.machines.is_some() && self.pools.iter().any(|pool| pool.of(&has).is_none())
    }
}

/// The nodes that a change may give a range: the one that changed, or, when one that had a range goes, all that lack one.
fn concerned(nodes: &[Arc<Node>], change: &Delta<Node>, lacks: impl Fn(&Node) -> bool) -> Vec<String> {
    match change {
        Delta::Added(node) | Delta::Updated { new: node, .. } if lacks(node) => vec![node.name().to_owned()],
        Delta::Deleted(gone) if !cidrs(gone).is_empty() => nodes.iter().filter(|n| lacks(n)).map(|n| n.name().to_owned()).collect(),
        _ => Vec::new(),
    }
}

impl Controller for Ipam {
    const QUEUE: &'static str = "cidrallocator_node";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let nodes = self.nodes.list();
        self.given.lock().retain(|(node, _)| nodes.iter().any(|n| n.name() == node && self.lacks(n)));
        let Some(node) = self.nodes.get("", name).filter(|n| self.lacks(n) && !n.is_deleting()) else { return Ok(None) };
        // Until the range is written no node of this machine is added that could have it.
        let held = match &self.machines {
            Some(machines) => Some(machines.held().await?),
            None => None,
        };
        let free = self.free(&node, &nodes, held.as_ref());
        let Some(free) = free else {
            self.tell(&node, "CIDRNotAvailable");
            return Ok(None);
        };
        self.given.lock().extend(free.iter().map(|c| (name.clone(), c.clone())));
        let patch = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": free[0], "podCIDRs": free}});
        match self.client.all::<Node>().patch(name, &Patch::Strategic(patch), &PatchParams::default()).await {
            Err(error) if !error.is_not_found() => {
                self.tell(&node, "CIDRAssignmentFailed");
                Err(error)
            }
            _ => Ok(None),
        }
    }
}

impl Ipam {
    /// Tells a node's user what is with its range (upstream's `RecordNodeStatusChange`).
    fn tell(&self, node: &Node, what: &str) {
        self.recorder.event(&reference(node), EventType::Normal, what, format!("Node {} status is now: {what}", node.name()));
    }

    /// A part of each range for a node: the one that it has, or one that is free; its own if it is of this machine.
    fn free(&self, node: &Node, nodes: &[Arc<Node>], held: Option<&Held>) -> Option<Vec<String>> {
        let (name, has) = (node.name(), cidrs(node));
        if let Some(own) = held.and_then(|held| held.nodes.get(name)) {
            return Some(own.clone());
        }
        let given = self.given.lock();
        let given = given.iter().filter(|(node, _)| node != name).map(|(_, range)| range.as_str());
        let reserved = held.iter().flat_map(|held| held.nodes.values().flatten()).map(String::as_str);
        let mut taken: Vec<Range> = given.chain(reserved).filter_map(Range::parse).collect();
        taken.extend(nodes.iter().flat_map(|node| cidrs(node)).filter_map(|text| Range::parse(&text)));
        self.pools.iter().map(|pool| pool.of(&has).or_else(|| pool.free(&taken, held.is_some()))).collect()
    }
}

const ALLOCATIONS: Family =
    Family::new("node_ipam_controller_cidrset_cidrs_allocations_total", Kind::Counter, "[ALPHA] Counter measuring total number of CIDR allocations.");
const RELEASES: Family =
    Family::new("node_ipam_controller_cidrset_cidrs_releases_total", Kind::Counter, "[ALPHA] Counter measuring total number of CIDR releases.");
const USAGE: Family = Family::new("node_ipam_controller_cidrset_usage_cidrs", Kind::Gauge, "[ALPHA] Gauge measuring percentage of allocated CIDRs.");
const MAX: Family = Family::new("node_ipam_controller_cirdset_max_cidrs", Kind::Gauge, "[ALPHA] Maximum number of CIDRs that can be allocated.");
const LABEL: &str = "clusterCIDR";

/// What is counted of ranges, each as it is seen at a node (upstream `cidrset/metrics.go`).
struct Counts {
    allocations: Arc<Labelled<1, Counter>>,
    releases: Arc<Labelled<1, Counter>>,
}

impl Counts {
    fn new(registry: &Registry, pools: &[Pool], nodes: &Informer<Node>) -> Self {
        let (pools, nodes) = (pools.to_vec(), nodes.clone());
        registry.collect(&[(&USAGE, &[LABEL]), (&MAX, &[LABEL])], move |out| {
            let nodes = nodes.list();
            for pool in &pools {
                let (name, most) = (pool.name(), pool.parts());
                let used = nodes.iter().filter(|node| pool.of(&cidrs(node)).is_some()).count();
                out.add(&USAGE, &[(LABEL, &name)], used as f64 / most, None);
                out.add(&MAX, &[(LABEL, &name)], most, None);
            }
        });
        Self { allocations: registry.counters(&ALLOCATIONS, [LABEL]), releases: registry.counters(&RELEASES, [LABEL]) }
    }

    /// A node has a range that it had not, or is gone with one.
    fn heard(&self, pools: &[Pool], change: &Delta<Node>) {
        let (before, after) = match change {
            Delta::Added(node) => (Vec::new(), cidrs(node)),
            Delta::Updated { old, new } => (cidrs(old), cidrs(new)),
            Delta::Deleted(node) => (cidrs(node), Vec::new()),
        };
        for pool in pools {
            match (pool.of(&before), pool.of(&after)) {
                (None, Some(_)) => self.allocations.with([&pool.name()]).inc(),
                (Some(_), None) => self.releases.with([&pool.name()]).inc(),
                _ => {}
            }
        }
    }
}

/// A range of addresses that is given away in equal parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pool {
    range: Range,
    bits: u8,
    prefix: u8,
    part: u8,
}

impl Pool {
    pub(super) fn parse(text: &str, mask: u8, mask_v6: u8) -> Option<Self> {
        let range = Range::parse(text)?;
        let prefix: u8 = text.split_once('/')?.1.parse().ok()?;
        let (bits, part) = if range.is_ipv4() { (32, mask) } else { (128, mask_v6) };
        (prefix <= part && part <= bits).then_some(Self { range, bits, prefix, part })
    }

    /// The whole range, as it is written.
    fn name(self) -> String {
        format!("{}/{}", self.address(self.range.bounds().0), self.prefix)
    }

    /// How many parts it has.
    fn parts(self) -> f64 {
        f64::from(self.part - self.prefix).exp2()
    }

    /// The one of a node's ranges that is of this family.
    fn of(self, ranges: &[String]) -> Option<String> {
        ranges.iter().find(|text| Range::parse(text).is_some_and(|range| range.is_ipv4() == self.range.is_ipv4())).cloned()
    }

    /// The first part that has no address in common with what is taken; the last if it is looked for from the end.
    pub(super) fn free(self, taken: &[Range], from_end: bool) -> Option<String> {
        let (first, last) = self.range.bounds();
        let step = u32::from(self.bits - self.part);
        let highest = 1u128.checked_shl(u32::from(self.part - self.prefix)).map_or(u128::MAX, |count| count - 1);
        let number = |address: u128| (address - first).checked_shr(step).unwrap_or(0);
        let mut numbers: Vec<(u128, u128)> = taken
            .iter()
            .filter(|range| range.is_ipv4() == self.range.is_ipv4() && range.bounds().0 <= last && range.bounds().1 >= first)
            .map(|range| (number(range.bounds().0.max(first)), number(range.bounds().1.min(last))))
            .map(|(low, high)| if from_end { (highest - high, highest - low) } else { (low, high) })
            .collect();
        numbers.sort_unstable();
        let mut free = 0;
        for (low, high) in numbers {
            if low > free {
                break;
            }
            free = free.max(high.checked_add(1)?);
        }
        (free <= highest).then(|| self.text(if from_end { highest - free } else { free }))
    }

    fn text(self, number: u128) -> String {
        let address = self.range.bounds().0 | number.checked_shl(u32::from(self.bits - self.part)).unwrap_or(0);
        format!("{}/{}", self.address(address), self.part)
    }

    fn address(self, number: u128) -> IpAddr {
        // An address of IPv4 has its number's last four bytes.
        let [.., a, b, c, d] = number.to_be_bytes();
        if self.range.is_ipv4() { IpAddr::from([a, b, c, d]) } else { IpAddr::from(number.to_be_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_got_no_range_is_looked_at_when_one_is_free() {
        let node = |name: &str, range: Option<&str>| -> Arc<Node> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": range}})).unwrap_or_default())
        };
        let left = [node("a", Some("10.0.0.0/24")), node("waits", None)];
        let concerned = |change: Delta<Node>| concerned(&left, &change, |node| cidrs(node).is_empty());
        assert_eq!(concerned(Delta::Deleted(node("gone", Some("10.0.1.0/24")))), ["waits"]);
        assert_eq!(concerned(Delta::Added(left[1].clone())), ["waits"]);
        assert!(concerned(Delta::Added(left[0].clone())).is_empty() && concerned(Delta::Deleted(node("gone", None))).is_empty());
    }

    #[test]
    fn ranges_are_counted_as_they_are_given_and_come_back() {
        let node = |name: &str, ranges: &[&str]| -> Arc<Node> {
            let spec = json!({"podCIDR": ranges.first(), "podCIDRs": ranges});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap_or_default())
        };
        let (registry, pools) = (Registry::default(), ["10.244.0.0/16", "fd00:1::/56"].map(|text| Pool::parse(text, 24, 64).expect("a range")).to_vec());
        let there = [node("a", &["10.244.0.0/24", "fd00:1::/64"]), node("b", &["10.244.1.0/24"])];
        let nodes = Informer::fixed(there.iter().map(|n| (**n).clone()));
        let counts = Counts::new(&registry, &pools, &nodes);
        counts.heard(&pools, &Delta::Added(node("b", &[])));
        counts.heard(&pools, &Delta::Updated { old: node("b", &[]), new: there[1].clone() });
        counts.heard(&pools, &Delta::Updated { old: there[1].clone(), new: there[1].clone() });
        counts.heard(&pools, &Delta::Deleted(there[0].clone()));
        let text = registry.text();
        for line in [
            "node_ipam_controller_cidrset_cidrs_allocations_total{clusterCIDR=\"10.244.0.0/16\"} 1",
            "node_ipam_controller_cidrset_cidrs_releases_total{clusterCIDR=\"fd00:1::/56\"} 1",
            "node_ipam_controller_cidrset_usage_cidrs{clusterCIDR=\"10.244.0.0/16\"} 0.0078125",
            "node_ipam_controller_cirdset_max_cidrs{clusterCIDR=\"fd00:1::/56\"} 256",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[tokio::test]
    async fn a_node_gains_a_range_of_a_second_family_where_the_cluster_is_knarrs() {
        use crate::fake::Fake;
        use crate::machines::tests::machines;
        let node = |name: &str, ranges: &[&str]| -> Node {
            client::typed(&json!({"metadata": {"name": name}, "spec": {"podCIDR": ranges[0], "podCIDRs": ranges}})).expect("a node")
        };
        let written = async |machines| {
            let fake = Fake::new(|_, _| (200, json!({"kind": "Node", "apiVersion": "v1", "metadata": {}})));
            let client = fake.client();
            let nodes = [node("a", &["10.244.255.0/24"]), node("b", &["10.244.254.0/24", "fd00:1:0:ff::/64"])];
            let pools = ["10.244.0.0/16", "fd00:1::/56"].map(|text| Pool::parse(text, 24, 64).expect("a range")).to_vec();
            let recorder = Recorder::new(client.clone(), "cidrAllocator", "");
            let nodes = Informer::fixed(nodes);
            let counts = Counts::new(&Registry::default(), &pools, &nodes);
            let ipam = Ipam { recorder, client, nodes, pools, machines, given: Mutex::default(), counts };
            for name in ["a", "b"] {
                ipam.reconcile(&name.to_owned()).await.expect("a step");
            }
            fake.written()
        };
        let all = written(Some(machines(&[]))).await;
        assert!(all.len() == 1 && all[0].starts_with("PATCH /api/v1/nodes/a ") && all[0].contains(r#"["10.244.255.0/24","fd00:1:0:fe::/64"]"#), "{all:?}");
        assert_eq!(written(None).await, [""; 0]);
    }

    #[tokio::test]
    async fn nodes_of_this_machine_have_their_own_and_others_the_last_that_nobody_has() {
        use crate::fake::Fake;
        use crate::machines::tests::machines;
        let fake = Fake::new(|_, _| (200, json!({"kind": "Node", "apiVersion": "v1", "metadata": {}})));
        let client = fake.client();
        let node = |name: &str, range: Option<&str>| -> Node {
            client::typed(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": range}})).expect("a node")
        };
        let nodes = [node("old", Some("10.244.3.128/25")), node("a", None), node("b", None), node("host-2", None), node("c", None)];
        let (nodes, pools) = (Informer::fixed(nodes), vec![Pool::parse("10.244.0.0/22", 24, 64).expect("a range")]);
        let ipam = Ipam {
            recorder: Recorder::new(client.clone(), "cidrAllocator", ""),
            client,
            counts: Counts::new(&Registry::default(), &pools, &nodes),
            nodes,
            pools,
            machines: Some(machines(&[("host", "10.244.0.0/24"), ("host-2", "10.244.1.0/24")])),
            given: Mutex::default(),
        };
        for name in ["a", "host-2", "b"] {
            ipam.reconcile(&name.to_owned()).await.expect("a step");
        }
        let written: Vec<String> = fake.written().into_iter().filter(|w| w.starts_with("PATCH")).collect();
        let given = |name: &str, range: &str| written.iter().any(|w| w.starts_with(&format!("PATCH /api/v1/nodes/{name} ")) && w.contains(range));
        assert!(given("a", "10.244.2.0/24") && given("host-2", "10.244.1.0/24"), "{written:?}");
        assert_eq!(written.len(), 2, "the last part has an address of an old node, and nothing is left for b: {written:?}");
    }
}
