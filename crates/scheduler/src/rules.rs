//! Shorthands for asking objects by the small languages of a pod's placement: label selectors, node selectors, tolerations
//! (`machinery::placement`).

use std::collections::BTreeMap;

use client::Meta;
use k8s_openapi::api::core::v1::Node;
use machinery::labels::Selector;
use machinery::placement::{Place, Taint, Tolerations};

/// Labels as the API has them.
pub type Labels = BTreeMap<String, String>;

/// Whether these labels, if any, are selected.
#[must_use]
pub fn selects(selector: &Selector, labels: Option<&Labels>) -> bool {
    match labels {
        Some(labels) => selector.matches_map(labels),
        None => selector.matches(|_| None),
    }
}

/// A node's labels.
#[must_use]
pub fn label<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// A node as node selectors ask of it.
#[must_use]
pub fn place(node: &Node) -> Place<'_> {
    Place::new(node.name(), node.metadata.labels.as_ref())
}

/// A node's taints.
pub fn taints(node: &Node) -> impl Iterator<Item = Taint<'_>> {
    let all = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    all.iter().map(|t| Taint { key: &t.key, value: t.value.as_deref().unwrap_or_default(), effect: &t.effect })
}

/// Whether every taint of a node that keeps pods away is borne.
#[must_use]
pub fn taints_borne(tolerations: &Tolerations, node: &Node) -> bool {
    taints(node).filter(Taint::keeps_away).all(|taint| tolerations.bear(taint))
}
