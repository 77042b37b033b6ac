//! Gives every node its range of pod addresses out of the cluster's. A node for which none was left is looked at again when
//! another goes (the original tries it again and again).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Client, Delta, EventType, Informer, Meta, Patch, PatchParams, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use super::reference;
use crate::work::{Controller, Cx, Step};

/// Bits of a node's IPv6 range (upstream's default).
const V6_MASK: u8 = 64;

/// Runs the controller until the end; without a range there is nothing to give.
pub(crate) async fn run(cx: Cx) {
    let text = cx.config.cluster_cidr.clone().unwrap_or_default();
    let ranges: Vec<Range> = text.split(',').filter_map(|t| Range::parse(t.trim(), cx.config.node_cidr_mask)).collect();
    if ranges.is_empty() {
        return cx.shutdown.cancelled().await;
    }
    let client = cx.client("node-controller");
    let recorder = cx.recorder(&client, "cidrAllocator");
    let controller = Arc::new(Ipam { client, recorder, nodes: cx.informers.informer(), ranges, given: Mutex::default() });
    cx.setup(&controller)
        .on(&controller.nodes, Ipam::heard)
        // One at a time: two nodes must not get the same range.
        .work(1)
        .await;
}

fn cidrs(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    if all.is_empty() { spec.and_then(|s| s.pod_cidr.clone()).into_iter().filter(|c| !c.is_empty()).collect() } else { all }
}

struct Ipam {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    ranges: Vec<Range>,
    /// Given to nodes that the informer has not told of yet.
    given: Mutex<HashSet<(String, String)>>,
}

impl Ipam {
    fn heard(&self, queue: &WorkQueue<String>, change: &Delta<Node>) {
        concerned(&self.nodes.list(), change).into_iter().for_each(|name| queue.add(name));
    }
}

/// The nodes that a change may give a range: the one that changed, or, when one that had a range goes, all that lack one.
fn concerned(nodes: &[Arc<Node>], change: &Delta<Node>) -> Vec<String> {
    let lacks = |node: &Node| cidrs(node).is_empty();
    match change {
        Delta::Added(node) | Delta::Updated { new: node, .. } if lacks(node) => vec![node.name().to_owned()],
        Delta::Deleted(gone) if !lacks(gone) => nodes.iter().filter(|n| lacks(n)).map(|n| n.name().to_owned()).collect(),
        _ => Vec::new(),
    }
}

impl Controller for Ipam {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let nodes = self.nodes.list();
        self.given.lock().retain(|(node, _)| nodes.iter().any(|n| n.name() == node && cidrs(n).is_empty()));
        let Some(node) = self.nodes.get("", name).filter(|n| cidrs(n).is_empty() && !n.is_deleting()) else { return Ok(None) };
        let mut taken: HashSet<String> = nodes.iter().flat_map(|n| cidrs(n)).collect();
        taken.extend(self.given.lock().iter().filter(|(n, _)| n != name).map(|(_, c)| c.clone()));
        let free: Option<Vec<String>> = self.ranges.iter().map(|r| r.free(&taken)).collect();
        let Some(free) = free else {
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            self.recorder.event(&reference(&node), EventType::Normal, "CIDRNotAvailable", message);
            return Ok(None);
        };
        self.given.lock().extend(free.iter().map(|c| (name.clone(), c.clone())));
        let patch = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": free[0], "podCIDRs": free}});
        match self.client.all::<Node>().patch(name, &Patch::Strategic(patch), &PatchParams::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

/// A range of addresses that is given away in equal parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Range {
    base: u128,
    bits: u8,
    prefix: u8,
    part: u8,
}

impl Range {
    pub(super) fn parse(text: &str, mask: u8) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix.parse().ok()?;
        let (base, bits, part) = match address.parse().ok()? {
            IpAddr::V4(a) => (u128::from(u32::from(a)), 32, mask),
            IpAddr::V6(a) => (u128::from(a), 128, V6_MASK),
        };
        (prefix <= part && part <= bits).then_some(Self { base, bits, prefix, part })
    }

    /// The first part that nobody has.
    pub(super) fn free(&self, taken: &HashSet<String>) -> Option<String> {
        let count = 1u128.checked_shl(u32::from(self.part - self.prefix)).unwrap_or(u128::MAX);
        let step = self.bits - self.part;
        let text = |n: u128| {
            let address = self.base | n.checked_shl(u32::from(step)).unwrap_or(0);
            let address = if self.bits == 32 { IpAddr::from(u32::try_from(address).ok()?.to_be_bytes()) } else { IpAddr::from(address.to_be_bytes()) };
            Some(format!("{address}/{}", self.part))
        };
        // Of one more than are taken one is free.
        let tries = count.min(taken.len() as u128 + 1);
        (0..tries).filter_map(text).find(|c| !taken.contains(c))
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
        assert_eq!(concerned(&left, &Delta::Deleted(node("gone", Some("10.0.1.0/24")))), ["waits"]);
        assert_eq!(concerned(&left, &Delta::Added(left[1].clone())), ["waits"]);
        assert!(concerned(&left, &Delta::Added(left[0].clone())).is_empty() && concerned(&left, &Delta::Deleted(node("gone", None))).is_empty());
    }
}
