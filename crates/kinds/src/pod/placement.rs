//! Where a pod may go: node selectors, affinity, tolerations and spreading.

use crate::{meta, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// Checks all that a pod spec says about its place.
pub(super) fn check(spec: &Value, path: &Path, errors: &mut ErrorList) {
    meta::labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    affinity(&spec["affinity"], &path.child("affinity"), errors);
    tolerations(spec, path, errors);
    spreading(spec, path, errors);
}

fn affinity(affinity: &Value, path: &Path, errors: &mut ErrorList) {
    let node = &affinity["nodeAffinity"];
    let place = path.child("nodeAffinity");
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_object() {
        node_selector(required, &place.child("requiredDuringSchedulingIgnoredDuringExecution"), errors);
    }
    for (at, term) in tree::list(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        let path = place.child("preferredDuringSchedulingIgnoredDuringExecution").index(at);
        weight(term, &path, errors);
        node_term(&term["preference"], &path.child("preference"), errors);
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
        node_term(term, &path.child("nodeSelectorTerms").index(at), errors);
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut ErrorList) {
    for list in ["matchExpressions", "matchFields"] {
        for (at, requirement) in tree::list(term, list).iter().enumerate() {
            let path = path.child(list).index(at);
            let values = tree::list(requirement, "values").len();
            match tree::text(requirement, "operator") {
                "In" | "NotIn" if values == 0 => {
                    errors.push(Error::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    errors.push(Error::forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
                }
                "Gt" | "Lt" if values != 1 => {
                    errors.push(Error::required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
            }
            let key = tree::text(requirement, "key");
            if list == "matchFields" && key != "metadata.name" {
                errors.push(Error::invalid(&path.child("key"), key, "not a valid field selector key"));
            } else if list == "matchExpressions" {
                rules::name(key, &path.child("key"), names::qualified_name(key), errors);
            }
        }
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut ErrorList) {
    rules::label_selector(&term["labelSelector"], &path.child("labelSelector"), errors);
    rules::label_selector(&term["namespaceSelector"], &path.child("namespaceSelector"), errors);
    for (at, name) in tree::list(term, "namespaces").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        rules::name(name, &path.child("namespace").index(at), names::dns1123_label(name), errors);
    }
    let key = tree::text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    }
    rules::name(key, &path.child("topologyKey"), names::qualified_name(key), errors);
}

/// Checks the tolerations of an object.
pub(crate) fn tolerations(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, toleration) in tree::list(spec, "tolerations").iter().enumerate() {
        let path = path.child("tolerations").index(at);
        let (key, operator, value) = (tree::text(toleration, "key"), tree::text(toleration, "operator"), tree::text(toleration, "value"));
        if !key.is_empty() {
            rules::name(key, &path.child("key"), names::qualified_name(key), errors);
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&path.child("operator"), operator, detail));
        }
        let effect = tree::text(toleration, "effect");
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            errors.push(Error::invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator {
            "" | "Equal" => rules::name(value, &path.child("operator"), names::label_value(value), errors),
            "Exists" if !value.is_empty() => {
                errors.push(Error::invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" | "Gt" | "Lt" => {}
            other => errors.push(Error::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.push(Error::not_supported(&path.child("effect"), effect, &effects));
        }
    }
}

fn spreading(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, constraint) in tree::list(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(at);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(Error::invalid(&path.child("maxSkew"), skew, "must be greater than 0"));
        }
        let (key, when) = (tree::text(constraint, "topologyKey"), tree::text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        } else {
            rules::name(key, &path.child("topologyKey"), names::qualified_name(key), errors);
        }
        let allowed = ["DoNotSchedule", "ScheduleAnyway"];
        if !allowed.contains(&when) {
            errors.push(Error::not_supported(&path.child("whenUnsatisfiable"), when, &allowed));
        }
        if !seen.insert((key, when)) {
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {when}}}")));
        }
        let domains = &constraint["minDomains"];
        rules::positive(domains, &path.child("minDomains"), errors);
        if !domains.is_null() && when != "DoNotSchedule" {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            errors.push(Error::invalid(&path.child("minDomains"), domains.clone(), detail));
        }
        rules::label_selector(&constraint["labelSelector"], &path.child("labelSelector"), errors);
    }
}
