//! Pod templates: as a part of workloads, as the kind `PodTemplate`, and as the revisions that controllers keep of them.

use crate::{Strategy, meta, pod, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

/// Checks the template of a workload whose pods run for good (`always`) or to an end.
pub(crate) fn check(spec: &Value, path: &Path, always: bool, what: &str, errors: &mut ErrorList) {
    let (template, path) = (&spec["template"], path.child("template"));
    // Upstream leaves `metadata` out of these paths.
    rules::labels(&template["metadata"]["labels"], &path.child("labels"), errors);
    meta::annotations(&template["metadata"]["annotations"], &path.child("annotations"), errors);
    pod::check_annotations(template, &template["spec"], &path.child("annotations"), errors);
    pod::check_spec(&template["spec"], &Value::Null, &path.child("spec"), pod::Users::Template, errors);
    pod::annotations_agree(template, &path.child("spec"), errors);
    if always {
        runs_for_good(&template["spec"], &path.child("spec"), what, errors);
    }
}

/// The pods of a workload that has no end have none.
pub(crate) fn runs_for_good(pod: &Value, path: &Path, what: &str, errors: &mut ErrorList) {
    let policy = tree::text(pod, "restartPolicy");
    if policy != "Always" {
        errors.push(rules::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        errors.push(Error::forbidden(&path.child("activeDeadlineSeconds"), format!("activeDeadlineSeconds in {what} is not Supported")));
    }
}

/// The warnings of a workload's template: of a new one, and whenever the workload has changed.
pub(crate) fn warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    if !is_another(obj, old) {
        return Vec::new();
    }
    pod::warnings_of_template(&obj["spec"]["template"], &Path::root("spec").child("template"))
}

/// Whether an object is new or of another generation than it was.
pub(crate) fn is_another(obj: &Value, old: Option<&Value>) -> bool {
    old.is_none_or(|old| old["metadata"]["generation"] != obj["metadata"]["generation"])
}

/// A warning if the names of a new workload's pods, which begin with its own, are no host names.
pub(crate) fn name_warning(obj: &Value) -> Vec<String> {
    let problems = names::dns1123_label(tree::text(&obj["metadata"], "name"));
    if problems.is_empty() {
        return Vec::new();
    }
    let words = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    vec![format!("metadata.name: {words}: [{}]", problems.join(" "))]
}

/// The strategy of pod templates.
#[derive(Debug, Clone, Copy)]
pub struct PodTemplates;

impl Strategy for PodTemplates {
    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        if let Some(fields) = obj.as_object_mut() {
            pod::defaults::template(fields);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check(obj, &Path::empty(), false, "PodTemplate", errors);
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if is_another(obj, old) { pod::warnings_of_template(&obj["template"], &Path::root("template")) } else { Vec::new() }
    }
}

/// The strategy of controller revisions: their data never changes.
#[derive(Debug, Clone, Copy)]
pub struct ControllerRevisions;

impl Strategy for ControllerRevisions {
    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        rules::not_negative(&obj["revision"], &Path::root("revision"), errors);
        match &obj["data"] {
            Value::Null => errors.push(Error::required(&Path::root("data"), "data is mandatory")),
            Value::Object(_) => {}
            _ => errors.push(Error::required(&Path::root("data"), "data must be a valid JSON object")),
        }
    }

    /// What cannot change is not looked at again.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        rules::not_negative(&obj["revision"], &Path::root("revision"), &mut errors);
        rules::immutable(&obj["data"], &old["data"], &Path::root("data"), &mut errors);
        errors
    }
}
