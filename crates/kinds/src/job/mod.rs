//! Jobs and cron jobs (`pkg/registry/batch`, `pkg/apis/batch`).

mod indexes;
mod policy;
mod schedule;
mod spec;
mod status;
#[cfg(test)]
mod tests;

use crate::{
    Context, Propagation, Selectable, Strategy, internal, pod, rules, template,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    labels::Selector,
    names,
};

/// The labels by which a job knows its pods, the older ones first.
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
/// What a cron job's name leaves for the time in the names of its jobs.
const CRON_NAME_MAX: usize = 52;
const BACKOFF_LIMIT: i64 = 6;

/// The strategy of jobs.
#[derive(Debug, Clone, Copy)]
pub struct Jobs;

impl Strategy for Jobs {
    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
             propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = tree::at(obj, &["spec"]) {
            default_template(spec);
            default_spec(spec);
        }
        label(obj);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        tree::set_meta(obj, "generation", 1.into());
        if obj["spec"]["manualSelector"] != true {
            // A job that has its labels from its pods' shares them, the generated ones included.
            let labels = &obj["metadata"]["labels"];
            let shared = !cx.labelled && !tree::empty(labels) && *labels == obj["spec"]["template"]["metadata"]["labels"];
            generate_selector(obj);
            if shared {
                let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
                tree::set_meta(obj, "labels", labels);
            }
        }
    }

    /// One whose pods had none either has the generated ones.
    fn read_again(&self, obj: &mut Value) {
        label(obj);
    }

    fn prepare_status(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        // Upstream gives what it reads of its store the defaults, too.
        label(obj);
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        generated_selector(obj, errors);
        spec::check_job(&obj["spec"], &Path::root("spec"), errors);
        room_for_indexes(obj, errors);
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        spec::check_job(&obj["spec"], &Path::root("spec"), &mut errors);
        spec::check_change(obj, old, &mut errors);
        room_for_indexes(obj, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        status::check(obj, old, &mut errors);
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("status.successful".into(), obj["status"]["succeeded"].as_i64().unwrap_or(0).to_string())]
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { template::name_warning(obj) } else { Vec::new() };
        if template::is_another(obj, old) {
            out.extend(spec_warnings(&obj["spec"], &Path::root("spec")));
        }
        out
    }

    /// Kept as it was before there was a garbage collector.
    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

/// A selector that is wrong, with its fields in the order of their type.
fn shown_selector(selector: &Value, path: &Path, why: &str) -> Error {
    Error::invalid(path, selector.clone(), why).shown_as(internal::text("*metav1.LabelSelector", selector))
}

/// A job without labels has those of its pods.
fn label(obj: &mut Value) {
    let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object()
        && let Some(metadata) = tree::at(obj, &["metadata"])
        && metadata.get("labels").is_none_or(tree::empty)
        && !tree::empty(&labels)
    {
        metadata.insert("labels".into(), labels);
    }
}

fn spec_warnings(spec: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let number = |key: &str| spec[key].as_i64().unwrap_or(0);
    if spec["completionMode"] == "Indexed" && number("completions") > 100_000 && number("parallelism") > 10_000 {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    out.extend(pod::warnings_of_template(&spec["template"], &path.child("template")));
    out
}

/// The defaults of a job's template, also in a cron job.
fn default_template(spec: &mut Fields) {
    pod::defaults::template(spec);
    if let Some(policy) = tree::present(spec, "podFailurePolicy") {
        for rule in tree::each(policy, "rules") {
            tree::each(rule, "onPodConditions").for_each(|pattern| tree::fill_text(pattern, "status", "True"));
        }
    }
}

fn default_spec(spec: &mut Fields) {
    let absent = |spec: &Fields, key: &str| spec.get(key).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    tree::fill(spec, "parallelism", 1);
    let limit = if absent(spec, "backoffLimitPerIndex") { BACKOFF_LIMIT } else { i64::from(i32::MAX) };
    tree::fill(spec, "backoffLimit", limit);
    tree::fill(spec, "completionMode", "NonIndexed");
    tree::fill(spec, "suspend", false);
    let policy = if absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    tree::fill(spec, "podReplacementPolicy", policy);
    tree::fill(spec, "manualSelector", false);
}

/// Labels the pods with their job's name and UID, and selects them by the latter.
fn generate_selector(obj: &mut Value) {
    let (name, uid) = (Value::from(tree::text(&obj["metadata"], "name")), obj["metadata"]["uid"].clone());
    if let Some(labels) = tree::at(obj, &["spec", "template", "metadata", "labels"]) {
        for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
            for key in keys {
                // The user's own value stays, and is refused if it is another.
                labels.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    if let Some(selected) = tree::at(obj, &["spec", "selector", "matchLabels"]) {
        selected.entry(UID_LABELS[1]).or_insert(uid);
    }
}

fn generated_selector(obj: &Value, errors: &mut ErrorList) {
    let (metadata, spec) = (&obj["metadata"], &obj["spec"]);
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return;
    }
    let (name, uid) = (tree::text(metadata, "name"), tree::text(metadata, "uid"));
    if uid.is_empty() {
        errors.push(Error::required(&Path::root("metadata.uid"), ""));
    }
    let (labels, path) = (&spec["template"]["metadata"]["labels"], Path::root("spec.template.metadata.labels"));
    for (key, expected) in [(UID_LABELS[0], uid), (NAME_LABELS[0], name), (UID_LABELS[1], uid), (NAME_LABELS[1], name)] {
        match labels[key].as_str() {
            None => errors.push(Error::required(&path.key(key), format!("must be '{expected}'"))),
            Some(found) if found != expected => errors.push(Error::invalid(&path.key(key), labels.clone(), format!("must be '{expected}'"))),
            Some(_) => {}
        }
    }
    let expected = |key: &str| match key {
        key if NAME_LABELS.contains(&key) => Some(name),
        key if UID_LABELS.contains(&key) => Some(uid),
        _ => None,
    };
    if Selector::from_label_selector(&spec["selector"]).is_ok_and(|s| !s.matches(expected)) {
        errors.push(shown_selector(&spec["selector"], &Path::root("spec.selector"), "`selector` not auto-generated"));
    }
}

/// The pods of an indexed job are named after their index; the longest such name must be a host's name.
fn room_for_indexes(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let completions = spec["completions"].as_i64().unwrap_or(0);
    if spec["completionMode"] != "Indexed" || completions <= 0 {
        return;
    }
    let name = tree::text(&obj["metadata"], "name");
    let longest = format!("{name}-{}", completions - 1);
    if !names::dns1123_label(&longest).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.push(Error::invalid(&Path::root("metadata.name"), name, detail));
    }
}

/// The strategy of cron jobs.
#[derive(Debug, Clone, Copy)]
pub struct CronJobs;

impl Strategy for CronJobs {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        if let Some(job) = tree::child(spec, "jobTemplate").and_then(|t| tree::child(t, "spec")) {
            default_template(job);
        }
        tree::fill_text(spec, "concurrencyPolicy", "Allow");
        tree::fill(spec, "suspend", false);
        tree::fill(spec, "successfulJobsHistoryLimit", 3);
        tree::fill(spec, "failedJobsHistoryLimit", 1);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        check_cron(obj, None, errors);
        let name = tree::text(&obj["metadata"], "name");
        if name.len() > CRON_NAME_MAX {
            errors.push(Error::invalid(&Path::root("metadata.name"), name, "must be no more than 52 characters"));
        }
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_cron(obj, Some(old), &mut errors);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { template::name_warning(obj) } else { Vec::new() };
        if template::is_another(obj, old) {
            out.extend(spec_warnings(&obj["spec"]["jobTemplate"]["spec"], &Path::root("spec.jobTemplate.spec")));
        }
        if old.is_some() && tree::text(&obj["spec"], "schedule").contains("TZ") {
            out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        out
    }
}

fn check_cron(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (spec, path) = (&obj["spec"], Path::root("spec"));
    if !tree::empty(&spec["schedule"]) {
        let (text, place) = (tree::text(spec, "schedule"), path.child("schedule"));
        if let Err(problem) = schedule::check(text) {
            errors.push(Error::invalid(&place, text, problem));
        }
        if text.contains("TZ") {
            let had = old.is_some_and(|o| tree::text(&o["spec"], "schedule").contains("TZ"));
            if !had {
                errors.push(Error::invalid(&place, text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
            } else if !spec["timeZone"].is_null() {
                errors.push(Error::invalid(&place, text, "cannot use both timeZone field and TZ or CRON_TZ in schedule"));
            }
        }
    }
    rules::not_negative(&spec["startingDeadlineSeconds"], &path.child("startingDeadlineSeconds"), errors);
    if let Some(zone) = spec["timeZone"].as_str().filter(|_| old.is_none_or(|o| o["spec"]["timeZone"] != spec["timeZone"])) {
        schedule::check_zone(zone, &path.child("timeZone"), errors);
    }
    rules::one_of(&spec["concurrencyPolicy"], &path.child("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], errors);
    let (job, place) = (&spec["jobTemplate"]["spec"], path.child("jobTemplate").child("spec"));
    spec::check(job, &place, errors);
    if !job["selector"].is_null() {
        errors.push(shown_selector(&job["selector"], &place.child("selector"), "`selector` will be auto-generated"));
    }
    if job["manualSelector"] == true {
        errors.push(Error::not_supported(&place.child("manualSelector"), true, &["nil", "false"]));
    }
    rules::all_not_negative(spec, &path, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
    // A declared rule, and such rules are asked last.
    rules::required(spec, &path, "schedule", errors);
}
