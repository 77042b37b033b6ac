//! Whether a node is one that a pod asks for: its selector and its required node affinity.

use client::Meta;
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::meta::{labels, map};

/// Whether the pod may be on the node by what it asks of nodes.
pub(crate) fn fits(spec: &PodSpec, node: &Node) -> bool {
    let selected = map(spec.node_selector.as_ref()).iter().all(|(k, v)| labels(node).get(k) == Some(v));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()).and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| matches(r, node))
}

/// Whether one of the terms holds.
fn matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| holds(term, node))
}

fn holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| is(r, labels(node).get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && is(r, Some(node.name())))
}

fn is(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let has = |v: &str| values.iter().any(|w| w == v);
    let number = |t: Option<&str>| t.and_then(|t| t.parse::<i64>().ok());
    let limit = number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(has),
        "NotIn" => !value.is_some_and(has),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(limit).is_some_and(|(v, l)| v > l),
        "Lt" => number(value).zip(limit).is_some_and(|(v, l)| v < l),
        _ => false,
    }
}

/// The one node that a DaemonSet's pod is meant for, by its affinity.
pub(crate) fn target(spec: &PodSpec) -> Option<&str> {
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let name = fields.filter(|f| f.key == "metadata.name" && f.operator == "In").find_map(|f| f.values.as_ref()?.first());
    name.map(String::as_str)
}

/// Binds a template to one node: the scheduler is to put the pod there and nowhere else.
pub(crate) fn bind(spec: &mut PodSpec, node: &str) {
    let name = NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![name.clone()]);
    }
}
