//! Nodes: whether they live, what that means for their pods, their ranges of addresses, and how long they keep what they read.

pub(crate) mod eviction;
pub(crate) mod ipam;
pub(crate) mod lifecycle;
mod taints;
#[cfg(test)]
mod tests;
pub(crate) mod ttl;
mod zones;

pub(crate) use taints::asked;

use client::Meta;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference};

/// A node's condition.
fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// `True`, `False`, `Unknown`; none: the node has not told yet.
fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

/// Whether it has told that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    ready(node) == Some("True")
}

/// How events refer to a node.
fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.meta().name.clone(),
        uid: node.meta().uid.clone(),
        ..ObjectReference::default()
    }
}
