//! ReplicaSets and their forerunner, ReplicationControllers.

use crate::{Propagation, Selectable, Strategy, deployment, pod, rules, template, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

const COUNTS: [&str; 6] = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas", "observedGeneration"];

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
        rules::all_not_negative(spec, &path, &["minReadySeconds"], errors);
        let selector = &spec["selector"];
        // Upstream makes a selector of any map.
        if tree::empty(selector) {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        rules::not_negative(&spec["replicas"], &path.child("replicas"), errors);
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
