//! ReplicaSets and their forerunner, ReplicationControllers.

use crate::{Propagation, Selectable, Strategy, deployment, pod, rules, template, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

const COUNTS: [&str; 6] = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas", "observedGeneration"];

/// The beginning of annotations that hold what a version cannot say.
const NOT_CONVERTIBLE: &str = "non-convertible.kubernetes.io";

/// The strategy of replica sets.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            pod::defaults::template(spec);
            tree::fill(spec, "replicas", 1);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        rules::all_not_negative(spec, &path, &["replicas", "minReadySeconds"], errors);
        if rules::workload_selector(spec, &path, "deployment", errors) {
            template::check(spec, &path, true, "ReplicaSet", errors);
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable_part("*metav1.LabelSelector", &obj["spec"]["selector"], &old["spec"]["selector"], &Path::root("spec").child("selector"), errors);
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        deployment::status_numbers(&obj["status"], &COUNTS, "fullyLabeledReplicas")
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { template::name_warning(obj) } else { Vec::new() };
        out.extend(template::warnings(obj, old));
        out
    }
}

/// The strategy of replication controllers.
#[derive(Debug, Clone, Copy)]
pub struct ReplicationControllers;

impl Strategy for ReplicationControllers {
    fn default(&self, obj: &mut Value) {
        let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
        if !tree::empty(&labels) {
            if let Some(metadata) = tree::at(obj, &["metadata"])
                && metadata.get("labels").is_none_or(tree::empty)
            {
                metadata.insert("labels".into(), labels.clone());
            }
            if let Some(spec) = tree::at(obj, &["spec"])
                && spec.get("selector").is_none_or(tree::empty)
            {
                spec.insert("selector".into(), labels);
            }
        }
        if let Some(spec) = tree::at(obj, &["spec"]) {
            tree::fill(spec, "replicas", 1);
            if spec.get("template").is_some_and(Value::is_object) {
                pod::defaults::template(spec);
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let selector = &spec["selector"];
        // Upstream makes a selector of any map.
        if tree::empty(selector) {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        rules::all_not_negative(spec, &path, &["replicas", "minReadySeconds"], errors);
        if spec["template"].is_null() {
            errors.push(Error::required(&path.child("template"), ""));
            return;
        }
        let labels = &spec["template"]["metadata"]["labels"];
        if tree::entries(spec, "selector").any(|(key, value)| labels.get(key) != Some(value)) {
            let place = path.child("template").child("metadata").child("labels");
            errors.push(Error::invalid(&place, labels.clone(), "`selector` does not match template `labels`"));
        }
        template::check(spec, &path, true, "ReplicationController", errors);
    }

    /// What another version said that this one cannot say stands in annotations, and stays as it is.
    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let (selector, mut told) = (&obj["spec"]["selector"], 0);
        let is_other = *selector != old["spec"]["selector"];
        for (key, value) in tree::entries(&old["metadata"], "annotations").filter(|(key, _)| key.starts_with(NOT_CONVERTIBLE)) {
            let Some((_, field)) = key.split_once('/').filter(|(_, field)| !field.contains('/')) else { continue };
            if !field.contains("selector") {
                let mut error = Error::not_found(&Path::root(field), value.clone());
                error.detail = "unknown non-convertible field".into();
                errors.push(error);
            } else if is_other && told < rules::LISTS_TOLD_MAX {
                // There may be some thousand such annotations, and each error holds the whole selector.
                told += 1;
                errors.push(Error::invalid(&Path::root("spec").child("selector"), selector.clone(), "cannot update non-convertible selector"));
            }
        }
    }

    fn validate_status(&self, obj: &Value, _old: &Value) -> ErrorList {
        deployment::status_numbers(&obj["status"], &COUNTS, "fullyLabeledReplicas")
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("status.replicas".into(), obj["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { template::name_warning(obj) } else { Vec::new() };
        // Upstream looks at the template that a changed one had.
        if template::is_another(obj, old) {
            out.extend(template::warnings(old.unwrap_or(obj), None));
        }
        out
    }

    /// Kept as it was before there was a garbage collector.
    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}
