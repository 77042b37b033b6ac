//! The small languages of a pod's placement: label selectors, node selectors, tolerations.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use machinery::labels::Selector;

/// Labels as the API has them.
pub type Labels = BTreeMap<String, String>;

/// A selector from its typed form; none selects nothing, and so does one that cannot be read.
#[must_use]
pub fn selector(from: Option<&LabelSelector>) -> Selector {
    let Some(from) = from else {
        return Selector::nothing();
    };
    let value = serde_json::to_value(from).unwrap_or_default();
    Selector::from_label_selector(&value).unwrap_or_else(|_| Selector::nothing())
}

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

/// Whether a pod's `nodeSelector` and required node affinity allow a node.
#[must_use]
pub fn node_allowed(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    if spec.node_selector.iter().flatten().any(|(k, v)| label(node, k) != Some(v.as_str())) {
        return false;
    }
    required(pod).is_none_or(|selector| selector_matches(selector, node))
}

/// A pod's required node affinity.
#[must_use]
pub fn required(pod: &Pod) -> Option<&NodeSelector> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether one of a node selector's terms holds.
#[must_use]
pub fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// Whether all of a term holds; a term of nothing never does.
#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.metadata.name.as_deref();
    expressions.iter().all(|r| holds(r, label(node, &r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && matches!(r.operator.as_str(), "In" | "NotIn") && holds(r, name))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let within = value.is_some_and(|v| values.iter().any(|x| x == v));
    match requirement.operator.as_str() {
        "In" => within,
        "NotIn" => !within,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(value, values).is_some_and(|(have, limit)| have > limit),
        "Lt" => compare(value, values).is_some_and(|(have, limit)| have < limit),
        _ => false,
    }
}

fn compare(value: Option<&str>, values: &[String]) -> Option<(i64, i64)> {
    Some((value?.parse().ok()?, values.first()?.parse().ok()?))
}

/// Whether a toleration bears a taint (`Lt` and `Gt` are behind a feature gate that is off, and bear nothing).
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if set(&toleration.effect).is_some_and(|e| e != taint.effect) || set(&toleration.key).is_some_and(|k| k != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        "Exists" => true,
        _ => false,
    }
}

/// A pod's tolerations.
#[must_use]
pub fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// A node's taints.
#[must_use]
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Whether a pod bears every taint of a node that keeps pods away.
#[must_use]
pub fn taints_borne(pod: &Pod, node: &Node) -> bool {
    let bearing = tolerations(pod);
    let mut hard = taints(node).iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    hard.all(|taint| bearing.iter().any(|t| tolerates(t, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cpus": "8"}}})).unwrap()
    }

    fn allowed(spec: Value) -> bool {
        node_allowed(
            &serde_json::from_value(json!({"spec": {"containers": [], "nodeSelector": spec["nodeSelector"],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": spec.get("terms").map(|t| json!({"nodeSelectorTerms": t}))}}}}))
            .unwrap(),
            &node(),
        )
    }

    #[test]
    fn node_selectors() {
        let one = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let terms = |list: Value| json!({"terms": list});
        let yes = [
            json!({}),
            json!({"nodeSelector": {"zone": "a"}}),
            terms(json!([{"matchExpressions": [one("zone", "In", &["b", "a"])]}])),
            terms(json!([{"matchExpressions": [one("zone", "NotIn", &["b"]), one("gpu", "NotIn", &["x"])]}])),
            terms(json!([{"matchExpressions": [one("cpus", "Gt", &["4"]), one("cpus", "Lt", &["9"])]}])),
            terms(json!([{"matchExpressions": [one("gpu", "Exists", &[])]}, {"matchExpressions": [one("gpu", "DoesNotExist", &[])]}])),
            terms(json!([{"matchFields": [one("metadata.name", "In", &["n1"])]}])),
        ];
        for case in yes {
            assert!(allowed(case.clone()), "{case}");
        }
        let no = [
            json!({"nodeSelector": {"zone": "b"}}),
            json!({"nodeSelector": {"gpu": ""}}),
            terms(json!([])),
            terms(json!([{}])),
            terms(json!([{"matchExpressions": [one("zone", "In", &["a"]), one("cpus", "Gt", &["8"])]}])),
            terms(json!([{"matchExpressions": [one("zone", "Gt", &["4"])]}])),
            terms(json!([{"matchFields": [one("metadata.name", "NotIn", &["n1"])]}])),
            terms(json!([{"matchFields": [one("metadata.uid", "In", &["n1"])]}])),
        ];
        for case in no {
            assert!(!allowed(case.clone()), "{case}");
        }
    }

    #[test]
    fn tolerations_bear_taints() {
        let bears = |toleration: Value| {
            let taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
            tolerates(&serde_json::from_value(toleration).unwrap(), &taint)
        };
        assert!(bears(json!({"key": "k", "value": "v"})));
        assert!(bears(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})));
        assert!(bears(json!({"operator": "Exists"})));
        assert!(!bears(json!({"key": "k", "value": "w"})));
        assert!(!bears(json!({"key": "k", "value": "v", "effect": "NoExecute"})));
        assert!(!bears(json!({"key": "j", "operator": "Exists"})));
    }
}
