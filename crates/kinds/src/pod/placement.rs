//! Where a pod may go: node selectors, affinity, tolerations and spreading.

use crate::{
    rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Checks affinity and anti-affinity.
pub(super) fn affinity(affinity: &Value, path: &Path, errors: &mut ErrorList) {
    let node = &affinity["nodeAffinity"];
    let place = path.child("nodeAffinity");
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_object() {
        node_selector(required, &place.child("requiredDuringSchedulingIgnoredDuringExecution"), errors);
    }
    for (at, term) in tree::list(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        let path = place.child("preferredDuringSchedulingIgnoredDuringExecution").index(at);
        weight(term, &path, errors);
        node_term(&term["preference"], true, &path.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (own, place) = (&affinity[kind], path.child(kind));
        for (at, term) in tree::list(own, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            pod_term(term, &place.child("requiredDuringSchedulingIgnoredDuringExecution").index(at), errors);
        }
        for (at, term) in tree::list(own, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            let path = place.child("preferredDuringSchedulingIgnoredDuringExecution").index(at);
            weight(term, &path, errors);
            pod_term(&term["podAffinityTerm"], &path.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut ErrorList) {
    let weight = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

/// Checks a `NodeSelector`.
pub(crate) fn node_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    let terms = tree::list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(Error::required(&path.child("nodeSelectorTerms"), "must have at least one node selector term"));
    }
    for (at, term) in terms.iter().enumerate() {
        node_term(term, false, &path.child("nodeSelectorTerms").index(at), errors);
    }
}

/// A term that chooses nodes. One that is only `preferred` may have values that no label has, of which a warning tells.
fn node_term(term: &Value, preferred: bool, path: &Path, errors: &mut ErrorList) {
    for (at, requirement) in tree::list(term, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = tree::list(requirement, "values");
        let place = path.child("values");
        match tree::text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(Error::required(&place, "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(Error::forbidden(&place, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.push(Error::required(&place, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.push(rules::typed(Error::invalid(&path.child("operator"), other, "not a valid selector operator"))),
        }
        let key = tree::text(requirement, "key");
        rules::name(key, &path.child("key"), names::qualified_name(key), errors);
        for (nth, value) in values.iter().enumerate().filter(|_| !preferred) {
            let value = value.as_str().unwrap_or_default();
            rules::name(value, &place.index(nth), names::label_value(value), errors);
        }
    }
    for (at, requirement) in tree::list(term, "matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(at);
        let values = tree::list(requirement, "values");
        match tree::text(requirement, "operator") {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(Error::required(&path.child("values"), detail));
            }
            other => errors.push(rules::typed(Error::invalid(&path.child("operator"), other, "not a valid selector operator"))),
        }
        let key = tree::text(requirement, "key");
        if key != "metadata.name" {
            errors.push(Error::invalid(&path.child("key"), key, "not a valid field selector key"));
            continue;
        }
        for (nth, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            rules::name(value, &path.child("values").index(nth), names::dns1123_subdomain(value), errors);
        }
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut ErrorList) {
    rules::label_selector(&term["labelSelector"], &path.child("labelSelector"), errors);
    rules::label_selector(&term["namespaceSelector"], &path.child("namespaceSelector"), errors);
    for name in tree::list(term, "namespaces").iter().filter_map(Value::as_str) {
        rules::name(name, &path.child("namespace"), names::dns1123_label(name), errors);
    }
    label_keys(term, path, errors);
    let key = tree::text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    }
    rules::name(key, &path.child("topologyKey"), names::qualified_name(key), errors);
}

/// Checks the tolerations of an object.
pub(crate) fn tolerations(spec: &Value, path: &Path, errors: &mut ErrorList) {
    each_toleration(tree::list(spec, "tolerations"), &path.child("tolerations"), errors);
}

pub(super) fn each_toleration(all: &[Value], path: &Path, errors: &mut ErrorList) {
    for (at, toleration) in all.iter().enumerate() {
        let path = path.index(at);
        let (key, operator, value) = (tree::text(toleration, "key"), tree::text(toleration, "operator"), tree::text(toleration, "value"));
        if !key.is_empty() {
            rules::name(key, &path.child("key"), names::qualified_name(key), errors);
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(rules::typed(Error::invalid(&path.child("operator"), operator, detail)));
        }
        let effect = tree::text(toleration, "effect");
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            errors.push(rules::typed(Error::invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")));
        }
        match operator {
            "" | "Equal" => rules::name(value, &path.child("operator"), names::label_value(value), errors),
            "Exists" if !value.is_empty() => {
                errors.push(Error::invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            // Comparisons are not served by default.
            "Gt" | "Lt" => errors.push(rules::not_supported(&path.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"])),
            other => errors.push(rules::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.push(rules::not_supported(&path.child("effect"), effect, &effects));
        }
    }
}

/// Checks the constraints of spreading.
pub(super) fn spreading(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let constraints = tree::list(spec, "topologySpreadConstraints");
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(at);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(Error::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, when) = (tree::text(constraint, "topologyKey"), tree::text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        }
        let allowed = ["DoNotSchedule", "ScheduleAnyway"];
        if !allowed.contains(&when) {
            errors.push(rules::not_supported(&path.child("whenUnsatisfiable"), when, &allowed));
        }
        let again = |c: &Value| tree::text(c, "topologyKey") == key && tree::text(c, "whenUnsatisfiable") == when;
        if constraints[at + 1..].iter().any(again) {
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {when}}}")));
        }
        let domains = &constraint["minDomains"];
        if let Some(number) = domains.as_i64().filter(|n| *n <= 0) {
            errors.push(Error::invalid(&path.child("minDomains"), number, "must be greater than zero"));
        }
        if !domains.is_null() && when != "DoNotSchedule" {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            errors.push(Error::invalid(&path.child("minDomains"), domains.clone(), detail));
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            rules::supported(&constraint[field], &path.child(field), &["Honor", "Ignore"], errors);
        }
        label_keys(constraint, &path, errors);
        rules::label_selector(&constraint["labelSelector"], &path.child("labelSelector"), errors);
    }
}

/// The keys whose values a pod takes from its own labels into the selector (KEP-3243, KEP-3633).
fn label_keys(term: &Value, path: &Path, errors: &mut ErrorList) {
    let selector = &term["labelSelector"];
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = tree::list(term, field);
        if !keys.is_empty() && selector.is_null() {
            errors.push(Error::forbidden(&path.child(field), "must not be specified when labelSelector is not set"));
            continue;
        }
        for (at, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            rules::name(key, &path.child(field).index(at), names::qualified_name(key), errors);
        }
    }
    let own = tree::list(term, "matchLabelKeys");
    let places: HashMap<&str, usize> = own.iter().enumerate().map(|(at, key)| (key.as_str().unwrap_or_default(), at)).collect();
    let mut seen: HashSet<&str> = tree::entries(selector, "matchLabels").map(|(key, _)| key).collect();
    for term in tree::list(selector, "matchExpressions") {
        let key = tree::text(term, "key");
        // The pod's own value has been added to the selector already; a second mention is the user's.
        if let Some(at) = places.get(key).filter(|_| seen.contains(key)) {
            errors.push(Error::invalid(&path.index(*at), key, "exists in both matchLabelKeys and labelSelector"));
        }
        seen.insert(key);
    }
    let others: HashSet<&str> = tree::list(term, "mismatchLabelKeys").iter().filter_map(Value::as_str).collect();
    for (at, key) in own.iter().enumerate() {
        if key.as_str().is_some_and(|key| others.contains(key)) {
            errors.push(Error::invalid(&path.child("matchLabelKeys").index(at), key.clone(), "exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

/// Adds what the pod's own labels say to the selectors that ask for it by key (KEP-3243, KEP-3633).
pub(super) fn merge_label_keys(spec: &mut Fields, labels: &Value) {
    if let Some(affinity) = tree::present(spec, "affinity") {
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(own) = tree::present(affinity, kind) else { continue };
            for term in tree::each(own, "preferredDuringSchedulingIgnoredDuringExecution") {
                if let Some(term) = tree::present(term, "podAffinityTerm") {
                    merge(term, labels);
                }
            }
            tree::each(own, "requiredDuringSchedulingIgnoredDuringExecution").for_each(|term| merge(term, labels));
        }
    }
    tree::each(spec, "topologySpreadConstraints").for_each(|constraint| merge(constraint, labels));
}

fn merge(term: &mut Fields, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if added.is_empty() {
        return;
    }
    // Without a selector nothing is matched, whatever the keys say.
    let Some(selector) = tree::present(term, "labelSelector") else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(list) => list.extend(added),
        None => {
            selector.insert("matchExpressions".into(), added.into());
        }
    }
}
