//! Deployments (`pkg/registry/apps/deployment`, `pkg/apis/apps`).

use crate::{Context, Strategy, internal, pod, rules, template, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    numerals,
};

/// What a deployment is to be rolled back to, as versions of old had it in their specification.
const ROLLBACK: &str = "deprecated.deployment.rollback.to";

/// The strategy of deployments.
#[derive(Debug, Clone, Copy)]
pub struct Deployments;

impl Strategy for Deployments {
    /// What was to be rolled back to is a number of the internal form.
    fn inconvertible(&self, obj: &Value) -> Option<String> {
        let revision = tree::text(&obj["metadata"]["annotations"], ROLLBACK);
        let why = Some(revision).filter(|revision| !revision.is_empty()).and_then(|revision| numerals::whole("ParseInt", revision).err())?;
        Some(format!("failed to parse annotation[{ROLLBACK}]={revision} as int64: {why}"))
    }

    fn default(&self, obj: &mut Value) {
        settle_rollback(obj);
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        pod::defaults::template(spec);
        tree::fill(spec, "replicas", 1);
        tree::fill(spec, "revisionHistoryLimit", 10);
        tree::fill(spec, "progressDeadlineSeconds", 600);
        let Some(strategy) = tree::child(spec, "strategy") else { return };
        tree::fill_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").is_some_and(|t| t == "RollingUpdate")
            && let Some(rolling) = tree::child(strategy, "rollingUpdate")
        {
            tree::fill(rolling, "maxUnavailable", "25%");
            tree::fill(rolling, "maxSurge", "25%");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "status");
        // Annotations count as well: a rollback is noted in them.
        let annotations = |v: &'_ Value| v["metadata"]["annotations"].clone();
        if tree::body_differs(obj, old) || annotations(obj) != annotations(old) {
            tree::bump_generation(obj, old);
        }
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        if let Some(metadata) = tree::at(obj, &["metadata"]) {
            match old["metadata"].get("labels") {
                Some(labels) => metadata.insert("labels".into(), labels.clone()),
                None => metadata.remove("labels"),
            };
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        rules::not_negative(&spec["replicas"], &path.child("replicas"), errors);
        if rules::workload_selector(spec, &path, "deployment", errors) {
            template::check(spec, &path, true, "ReplicaSet", errors);
        }
        strategy(&spec["strategy"], &path.child("strategy"), errors);
        rules::all_not_negative(spec, &path, &["minReadySeconds", "revisionHistoryLimit"], errors);
        if let Some(revision) = rollback(obj).filter(|revision| *revision < 0) {
            errors.push(Error::invalid(&path.child("rollback").child("version"), revision, rules::NEGATIVE));
        }
        rules::not_negative(&spec["progressDeadlineSeconds"], &path.child("progressDeadlineSeconds"), errors);
        if let (Some(deadline), ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64().unwrap_or(0))
            && deadline <= ready
        {
            errors.push(Error::invalid(&path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds"));
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable_part("*metav1.LabelSelector", &obj["spec"]["selector"], &old["spec"]["selector"], &Path::root("spec").child("selector"), errors);
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = status_numbers(
            &obj["status"],
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ],
            "updatedReplicas",
        );
        rules::collisions(&obj["status"], &old["status"], &mut errors);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { template::name_warning(obj) } else { Vec::new() };
        out.extend(template::warnings(obj, old));
        out
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" => &[&["spec"], &["metadata", "labels"]],
            _ => &[],
        }
    }
}

/// What the deployment is to be rolled back to, if it says so.
fn rollback(obj: &Value) -> Option<i64> {
    numerals::whole("ParseInt", tree::text(&obj["metadata"]["annotations"], ROLLBACK)).ok()
}

/// The annotation as it comes out of upstream's internal form.
fn settle_rollback(obj: &mut Value) {
    match rollback(obj) {
        Some(revision) => {
            if let Some(annotations) = tree::at(obj, &["metadata", "annotations"]) {
                annotations.insert(ROLLBACK.into(), revision.to_string().into());
            }
        }
        None if tree::text(&obj["metadata"]["annotations"], ROLLBACK).is_empty() => tree::drop_annotations(obj, &[ROLLBACK]),
        None => {}
    }
}

fn strategy(strategy: &Value, path: &Path, errors: &mut ErrorList) {
    let (kind, rolling, place) = (tree::text(strategy, "type"), &strategy["rollingUpdate"], path.child("rollingUpdate"));
    match kind {
        "Recreate" if !rolling.is_null() => {
            errors.push(Error::forbidden(&place, "may not be specified when strategy `type` is 'Recreate'"));
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => errors.push(Error::required(&place, "this should be defaulted and never be nil")),
        "RollingUpdate" => {
            rules::int_or_percent(&rolling["maxUnavailable"], &place.child("maxUnavailable"), false, errors);
            rules::int_or_percent(&rolling["maxSurge"], &place.child("maxSurge"), false, errors);
            if rules::is_zero(&rolling["maxUnavailable"]) && rules::is_zero(&rolling["maxSurge"]) {
                let value = rolling["maxUnavailable"].clone();
                errors.push(rules::typed(Error::invalid(&place.child("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0")));
            }
            rules::at_most_all(&rolling["maxUnavailable"], &place.child("maxUnavailable"), errors);
        }
        // The original names the strategy as a whole, in its internal spelling.
        other => {
            let shown = internal::text("apps.DeploymentStrategy", strategy);
            errors.push(Error::not_supported(path, other, &["Recreate", "RollingUpdate"]).shown_as(shown));
        }
    }
}

/// Checks the counts of a workload's status: none negative, and those of a part at most the whole.
pub(crate) fn status_numbers(status: &Value, fields: &[&str], part: &str) -> ErrorList {
    let (mut errors, path) = (ErrorList::new(), Path::root("status"));
    rules::all_not_negative(status, &path, fields, &mut errors);
    let number = |key: &str| status[key].as_i64().unwrap_or(0);
    let whole = number("replicas");
    for key in [part, "readyReplicas", "availableReplicas"] {
        if number(key) > whole {
            errors.push(Error::invalid(&path.child(key), number(key), "cannot be greater than status.replicas"));
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        errors.push(Error::invalid(&path.child("availableReplicas"), number("availableReplicas"), "cannot be greater than readyReplicas"));
    }
    errors
}
