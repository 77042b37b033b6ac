//! The nodes with their pods, as informers tell of them and as decisions change them.
//!
//! A pod that was given a node is *assumed* there until the API server says so too, so that the next decision counts it.
//! A pod whose node is not known (yet, or any more) is kept aside.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Meta, region_and_zone};
use k8s_openapi::api::core::v1::Node;

use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Where a pod is.
#[derive(Debug)]
struct Placed {
    pod: Arc<PodInfo>,
    node: String,
    assumed: bool,
}

/// The nodes and their pods.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// By UID.
    pods: HashMap<String, Placed>,
    /// How many of them are only assumed.
    assumed: usize,
    /// Whether the nodes are no longer in their order.
    unsettled: bool,
}

impl Cache {
    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// How many pods there are, and how many of them are only assumed where they are.
    #[must_use]
    pub fn pods(&self) -> (usize, usize) {
        (self.pods.len(), self.assumed)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// Takes in a node's state; the former one.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        if let Some(at) = self.index.get(node.name()) {
            let info = &mut self.nodes[*at];
            let old = info.node.clone();
            self.unsettled |= region_and_zone(&old) != region_and_zone(&node);
            info.set_node(node);
            return Some(old);
        }
        let mut info = NodeInfo::new(node);
        let name = info.name().to_owned();
        for placed in self.pods.values().filter(|p| p.node == name) {
            info.add(placed.pod.clone());
        }
        self.index.insert(name, self.nodes.len());
        self.nodes.push(info);
        self.unsettled = true;
        None
    }

    /// Brings the nodes of different zones in turn (upstream's `nodeTree`): in a large cluster not all are looked at, and those that
    /// are shall be of all zones.
    pub fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let mut turns: HashMap<(String, String), usize> = HashMap::new();
        let mut with_turn: Vec<(usize, NodeInfo)> = Vec::with_capacity(self.nodes.len());
        for info in self.nodes.drain(..) {
            let (region, zone) = region_and_zone(&info.node);
            let turn = turns.entry((region.to_owned(), zone.to_owned())).or_default();
            with_turn.push((*turn, info));
            *turn += 1;
        }
        // Stable: within a turn they stay as they came.
        with_turn.sort_by_key(|(turn, _)| *turn);
        self.nodes.extend(with_turn.into_iter().map(|(_, info)| info));
        self.index = self.nodes.iter().enumerate().map(|(at, info)| (info.name().to_owned(), at)).collect();
    }

    /// Forgets a node. Its pods are remembered, for the case that it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else {
            return;
        };
        self.nodes.swap_remove(at);
        self.unsettled = true;
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name().to_owned(), at);
        }
    }

    /// Puts a pod on a node, because that was decided.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, true);
    }

    /// Puts a pod on a node, or takes in its new state there, because the API server says so; the former state.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) -> Option<Arc<PodInfo>> {
        let before = self.pods.get(pod.pod.uid()).filter(|p| !p.assumed).map(|p| p.pod.clone());
        self.put(pod, node, false);
        before
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        let uid = pod.pod.uid().to_owned();
        self.remove(&uid);
        if let Some(at) = self.index.get(node) {
            self.nodes[*at].add(pod.clone());
        }
        self.assumed += usize::from(assumed);
        self.pods.insert(uid, Placed { pod, node: node.to_owned(), assumed });
    }

    /// Takes a pod off its node; its last state.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        self.assumed -= usize::from(placed.assumed);
        if let Some(at) = self.index.get(&placed.node) {
            self.nodes[*at].remove_this(&placed.pod);
        }
        Some(placed.pod)
    }

    /// Takes a pod off its node if it was only assumed there.
    pub fn forget(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.pods.get(uid).filter(|p| p.assumed)?;
        self.remove(uid)
    }

    /// A pod that is on a node, or assumed there, in its last known state.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|p| &p.pod)
    }

    /// Whether a pod is on a node, or assumed there.
    #[must_use]
    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, zone: &str) -> Arc<Node> {
        let labels = if zone.is_empty() { json!({}) } else { json!({"topology.kubernetes.io/zone": zone}) };
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap())
    }

    #[test]
    fn nodes_of_all_zones_come_in_turn() {
        let mut cache = Cache::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", ""), ("b2", "b")] {
            cache.set_node(node(name, zone));
        }
        let order = |cache: &mut Cache| {
            cache.settle();
            cache.nodes().iter().map(|n| n.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(order(&mut cache), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(cache.nodes().iter().all(|n| cache.node(n.name()).is_some_and(|found| found.name() == n.name())));
        cache.set_node(node("a3", "d"));
        cache.remove_node("b1");
        assert_eq!(order(&mut cache), ["a1", "a3", "c1", "b2", "a2"]);
    }
}
