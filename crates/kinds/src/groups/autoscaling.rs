//! `policy` and `autoscaling`: disruption budgets, and horizontal autoscalers in both of their versions.

use super::checks;
use crate::{Context, Strategy, amounts, internal, rules, tree};
use machinery::{
    Value, convert,
    field::{Error, ErrorList, Path},
    gvk::{self, Gvk},
    names,
    quantity::Quantity,
};
use serde_json::json;
use std::borrow::Cow;

const PERIOD_MAX_S: i64 = 1800;
const WINDOW_MAX_S: i64 = 3600;
/// Where an autoscaler of version 1 keeps the metrics that its version has no fields for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
/// The annotations in which the old version keeps what its spec has no fields for: the new one has none of them.
const OF_OLD_SPEC: [&str; 4] = [
    METRICS_ANNOTATION,
    "autoscaling.alpha.kubernetes.io/behavior",
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];
/// The same of its status.
const OF_OLD_STATUS: [&str; 2] = ["autoscaling.alpha.kubernetes.io/conditions", "autoscaling.alpha.kubernetes.io/current-metrics"];
/// The share of the requested CPU that is aimed at if nothing is said.
const CPU_PERCENT: i64 = 80;

/// The strategy of disruption budgets.
pub(super) struct Budgets;

impl Strategy for Budgets {
    fn metadata_last(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
            let shown = internal::text("policy.PodDisruptionBudgetSpec", spec);
            errors.push(Error::invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set").shown_as(shown));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            rules::int_or_percent(&spec[field], &path.child(field), true, errors);
        }
        checks::selector(spec, "selector", &path, errors);
        if let Some(policy) = spec["unhealthyPodEvictionPolicy"].as_str().filter(|p| !matches!(*p, "AlwaysAllow" | "IfHealthyBudget")) {
            errors.push(rules::not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]));
        }
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let (mut errors, path) = (ErrorList::new(), Path::root("status"));
        checks::conditions(&obj["status"], &path, &mut errors);
        rules::all_not_negative(&obj["status"], &path, &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], &mut errors);
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The strategy of horizontal autoscalers.
pub(super) struct Autoscalers;

impl Strategy for Autoscalers {
    fn told_blanks(&self) -> &'static [&'static str] {
        &["spec.behavior.scaleUp.policies", "spec.behavior.scaleDown.policies"]
    }

    fn default(&self, obj: &mut Value) {
        let old_version = obj["apiVersion"] == "autoscaling/v1";
        let annotated = !obj["metadata"]["annotations"][METRICS_ANNOTATION].is_null();
        if !old_version {
            tree::drop_annotations(obj, &OF_OLD_SPEC);
            tree::drop_annotations(obj, &OF_OLD_STATUS);
        }
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        tree::fill(spec, "minReplicas", 1);
        if old_version {
            if !annotated {
                tree::fill(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
            }
            return;
        }
        if spec.get("metrics").is_none_or(tree::empty) {
            let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
            spec.insert("metrics".into(), json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
        }
        let Some(behavior) = tree::present(spec, "behavior") else { return };
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        for (direction, policies) in [("scaleUp", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent])), ("scaleDown", json!([percent]))] {
            let Some(rules) = tree::child(behavior, direction) else { continue };
            if direction == "scaleUp" {
                tree::fill(rules, "stabilizationWindowSeconds", 0);
            }
            tree::fill(rules, "selectPolicy", "Max");
            tree::fill(rules, "policies", policies);
        }
    }

    fn stays(&self, part: &str) -> &'static [&'static str] {
        match part {
            "" => &["status"],
            "status" => &["spec"],
            _ => &["spec", "status"],
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::drop_annotations(obj, &OF_OLD_STATUS);
        tree::set_meta(obj, "generation", 1.into());
    }

    /// Of the old version some annotations are of the spec, and others of the status.
    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        tree::keep_annotations(obj, old, &OF_OLD_STATUS);
        let changed = tree::body_differs(&tree::without_blanks(&inside(obj), self.told_blanks()), &inside(old));
        if changed {
            tree::bump_generation(obj, old);
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        tree::keep_annotations(obj, old, &OF_OLD_SPEC);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        check(obj, None)
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        check(obj, Some(old))
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        let (mut errors, path) = (ErrorList::new(), Path::root("status"));
        for (at, condition) in tree::list(&obj["status"], "conditions").iter().enumerate() {
            let place = path.child("conditions").index(at).child("observedGeneration");
            rules::not_negative(&condition["observedGeneration"], &place, &mut errors);
        }
        rules::all_not_negative(&obj["status"], &path, &["currentReplicas", "desiredReplicas"], &mut errors);
        errors
    }
}

/// What both versions become inside of upstream, which is what it compares, checks and prints: the new one has fields for all.
pub(crate) fn inside(obj: &Value) -> Cow<'_, Value> {
    if obj["apiVersion"] != "autoscaling/v1" {
        return Cow::Borrowed(obj);
    }
    let shape = |version: &str| Gvk::new("autoscaling", version, "HorizontalPodAutoscaler");
    Cow::Owned(convert::convert(obj.clone(), &shape("v1"), &shape("v2")))
}

fn check(obj: &Value, old: Option<&Value>) -> ErrorList {
    let obj = inside(obj);
    let (mut errors, spec, path) = (ErrorList::new(), &obj["spec"], Path::root("spec"));
    let (least, most) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
    let place = path.child("maxReplicas");
    if least.is_some_and(|least| most < least) {
        errors.push(Error::invalid(&place, most, "must be greater than or equal to `minReplicas`"));
    }
    let (target, place) = (&spec["scaleTargetRef"], path.child("scaleTargetRef"));
    let same = old.is_some_and(|old| ["apiVersion", "kind"].iter().all(|f| old["spec"]["scaleTargetRef"][*f] == target[*f]));
    let group_needed = target["kind"] != "ReplicationController";
    check_object(target, &place, (!same).then_some(group_needed), &mut errors);
    check_metrics(spec, least, &path.child("metrics"), &mut errors);
    for direction in ["scaleUp", "scaleDown"] {
        check_scaling(&spec["behavior"][direction], &path.child("behavior").child(direction), &mut errors);
    }
    // Upstream's declared rules are told after those that are written out.
    if let Some(least) = least.filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child("minReplicas"), least, "must be greater than or equal to 0"));
    }
    let place = path.child("maxReplicas");
    match most {
        0 => errors.push(Error::required(&place, "")),
        ..0 => errors.push(Error::invalid(&place, most, "must be greater than or equal to 1")),
        _ => {}
    }
    errors
}

/// A reference to an object. `group_needed`: whether its version must name a group; `None`: the version is not looked at.
fn check_object(reference: &Value, path: &Path, group_needed: Option<bool>, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        if rules::required(reference, path, field, errors) {
            let value = tree::text(reference, field);
            rules::name(value, &path.child(field), names::path_segment(value), errors);
        }
    }
    let Some(group_needed) = group_needed else { return };
    let version = tree::text(reference, "apiVersion");
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.push(Error::invalid(&path.child("apiVersion"), version, detail));
    } else if group_needed && gvk::parse_api_version(version).0.is_empty() {
        errors.push(Error::invalid(&path.child("apiVersion"), version, "apiVersion must specify API group"));
    }
}

/// The sources that a metric may have: name, field, whether it is a resource's.
const SOURCES: [(&str, &str); 5] =
    [("Object", "object"), ("External", "external"), ("Pods", "pods"), ("Resource", "resource"), ("ContainerResource", "containerResource")];

fn check_metrics(spec: &Value, least: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let metrics = tree::list(spec, "metrics");
    for (at, metric) in metrics.iter().enumerate() {
        check_metric(metric, &path.index(at), errors);
    }
    let from_outside = metrics.iter().any(|m| m["type"] == "Object" || m["type"] == "External");
    if least == Some(0) && !from_outside {
        errors.push(Error::forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas"));
    }
}

fn check_metric(metric: &Value, path: &Path, errors: &mut ErrorList) {
    const KINDS: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = tree::text(metric, "type");
    if kind.is_empty() {
        errors.push(Error::required(&path.child("type"), "must specify a metric source type"));
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(rules::not_supported(&path.child("type"), kind, &KINDS));
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| !metric[*field].is_null()).collect();
    if let Some(first) = present.first() {
        check_source(first, &metric[*first], &path.child(first), errors);
    }
    match expected {
        Some(field) if metric[field].is_null() => {
            errors.push(Error::required(&path.child(field), "must populate information for the given metric source"));
        }
        _ => {}
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|field| Some(*field) != expected) {
            errors.push(Error::forbidden(&path.child(other), "must populate the given metric source only"));
        }
    }
}

fn check_source(kind: &str, source: &Value, path: &Path, errors: &mut ErrorList) {
    match kind {
        "resource" | "containerResource" => {
            match tree::text(source, "name") {
                "" => errors.push(Error::required(&path.child("name"), "must specify a resource name")),
                name if kind == "containerResource" => amounts::of_container(name, &path.child("name"), errors),
                _ => {}
            }
            if kind == "containerResource" {
                let container = tree::text(source, "container");
                match container {
                    "" => errors.push(Error::required(&path.child("container"), "must specify a container")),
                    name => rules::name(name, &path.child("container"), names::dns1123_label(name), errors),
                }
            }
        }
        _ => {
            if kind == "object" {
                check_object(&source["describedObject"], &path.child("describedObject"), Some(false), errors);
            }
            let name = tree::text(&source["metric"], "name");
            let place = path.child("metric").child("name");
            match name {
                "" => errors.push(Error::required(&place, "must specify a metric name")),
                name => rules::name(name, &place, names::path_segment(name), errors),
            }
        }
    }
    check_target(kind, &source["target"], &path.child("target"), errors);
}

fn check_target(kind: &str, target: &Value, path: &Path, errors: &mut ErrorList) {
    let word = tree::text(target, "type");
    if word.is_empty() {
        errors.push(Error::required(&path.child("type"), "must specify a metric target type"));
    }
    if !matches!(word, "Utilization" | "Value" | "AverageValue") {
        errors.push(rules::typed(Error::invalid(&path.child("type"), word, "must be either Utilization, Value, or AverageValue")));
    }
    for field in ["value", "averageValue"] {
        if rules::quantity(&target[field]).is_some_and(|q| q <= Quantity::ZERO) {
            errors.push(Error::invalid(&path.child(field), target[field].clone(), "must be positive"));
        }
    }
    if let Some(percent) = target["averageUtilization"].as_i64().filter(|p| *p < 1) {
        errors.push(Error::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
    let has = |field: &str| !target[field].is_null();
    let need = |field: &str, detail: &str| Error::required(&path.child(field), detail);
    let clash = |field: &str, detail: &str| Error::forbidden(&path.child(field), detail);
    match kind {
        "object" if !has("value") && !has("averageValue") => errors.push(need("averageValue", "must set either a target value or averageValue")),
        "external" if !has("value") && !has("averageValue") => {
            errors.push(need("averageValue", "must set either a target value for metric or a per-pod target"));
        }
        "external" if has("value") && has("averageValue") => {
            errors.push(clash("value", "may not set both a target value for metric and a per-pod target"));
        }
        "pods" if !has("averageValue") => errors.push(need("averageValue", "must specify a positive target averageValue")),
        "resource" | "containerResource" => match (has("averageUtilization"), has("averageValue")) {
            (false, false) => errors.push(need("averageUtilization", "must set either a target raw value or a target utilization")),
            (true, true) => errors.push(clash("averageValue", "may not set both a target raw value and a target utilization")),
            _ => {}
        },
        _ => {}
    }
}

fn check_scaling(scaling: &Value, path: &Path, errors: &mut ErrorList) {
    if scaling.is_null() {
        return;
    }
    let place = path.child("stabilizationWindowSeconds");
    match scaling["stabilizationWindowSeconds"].as_i64() {
        Some(s) if s < 0 => errors.push(Error::invalid(&place, s, "must be greater than or equal to zero")),
        Some(s) if s > WINDOW_MAX_S => errors.push(Error::invalid(&place, s, format!("must be less than or equal to {WINDOW_MAX_S}"))),
        _ => {}
    }
    if let Some(select) = scaling["selectPolicy"].as_str().filter(|s| !matches!(*s, "Max" | "Min" | "Disabled")) {
        errors.push(rules::not_supported(&path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]));
    }
    let (policies, place) = (tree::list(scaling, "policies"), path.child("policies"));
    if policies.is_empty() {
        errors.push(Error::required(&place, "must specify at least one Policy"));
    }
    for (at, policy) in policies.iter().enumerate() {
        let place = place.index(at);
        let kind = tree::text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(rules::not_supported(&place.child("type"), kind, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            let number = policy[field].as_i64().unwrap_or(0);
            if number <= 0 {
                errors.push(Error::invalid(&place.child(field), number, "must be greater than zero"));
            }
            if field == "periodSeconds" && number > PERIOD_MAX_S {
                errors.push(Error::invalid(&place.child(field), number, format!("must be less than or equal to {PERIOD_MAX_S}")));
            }
        }
    }
    rules::quantity_not_negative(&scaling["tolerance"], &path.child("tolerance"), errors);
}
