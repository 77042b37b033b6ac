//! What a job's status may say, and how it may go on (`ValidateJobStatusUpdate`): others than the built-in controller
//! may write it, and everybody relies on an end being an end. A rule is applied only when what it speaks of has changed.

use super::indexes;
use crate::{internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    time,
};
use std::collections::HashSet;

/// One side of an update.
struct Side<'v>(&'v Value);

impl<'v> Side<'v> {
    fn is(&self, condition: &str) -> bool {
        tree::list(self.0, "conditions").iter().any(|c| c["type"] == condition && c["status"] == "True")
    }

    fn finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn number(&self, key: &str) -> i64 {
        self.0[key].as_i64().unwrap_or(0)
    }

    fn has(&self, key: &str) -> bool {
        !self.0[key].is_null()
    }

    fn text(&self, key: &str) -> &'v str {
        tree::text(self.0, key)
    }
}

/// Checks an update of the status, in upstream's order.
pub(super) fn check(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, had, spec, path) = (Side(&obj["status"]), Side(&old["status"]), &obj["spec"], Path::root("status"));
    rules::all_not_negative(new.0, &path, &["active", "succeeded", "failed", "ready", "terminating"], errors);
    uncounted(new.0, &path.child("uncountedTerminatedPods"), errors);
    end(&new, &had, &path, errors);
    left(&new, &had, spec, &path, errors);
    index_lists(&new, &had, spec, &path, errors);
    active(&new, &had, "terminating", &path, errors);
    ready(&new, &had, &path, errors);
    criteria(&new, spec, &path.child("conditions"), errors);
    kept(&new, &had, spec, &path, errors);
}

fn uncounted(status: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        for (at, uid) in tree::list(&status["uncountedTerminatedPods"], list).iter().enumerate() {
            let place = path.child(list).index(at);
            match uid.as_str() {
                None | Some("") => errors.push(Error::invalid(&place, "", "must not be empty")),
                Some(uid) if !seen.insert(uid) => errors.push(Error::duplicate(&place, uid)),
                Some(_) => {}
            }
        }
    }
}

/// An error that shows no value, if it holds.
fn wrong(holds: bool, path: &Path, detail: &str, errors: &mut ErrorList) {
    if holds {
        errors.push(Error::invalid_unshown(path, detail));
    }
}

/// A time is wrong; the first of all counts as none, and is shown so.
fn wrong_time(new: &Side<'_>, key: &str, place: &Path, detail: &str) -> Error {
    let time = &new.0[key];
    Error::invalid(place, time.clone(), detail).shown_as(internal::text("*t", time))
}

/// What the end of a job goes with.
fn end(new: &Side<'_>, had: &Side<'_>, path: &Path, errors: &mut ErrorList) {
    let changed = |kind: &str| new.is(kind) != had.is(kind);
    let differs = |key: &str| new.0[key] != had.0[key];
    let (complete, failed, place) = (new.is("Complete"), new.is("Failed"), path.child("conditions"));
    let (target, criteria) = (new.is("FailureTarget"), new.is("SuccessCriteriaMet"));
    let both = |other: &str, there: bool| (changed("Complete") || changed(other)) && complete && there;
    wrong(both("Failed", failed), &place, "cannot set Complete=True and Failed=true conditions", errors);
    wrong(both("FailureTarget", target), &place, "cannot set Complete=True and FailureTarget=true conditions", errors);
    completion(new, had, &path.child("completionTime"), errors);
    let untold = (changed("Failed") || differs("failedIndexes")) && failed && !target;
    wrong(untold, &place, "cannot set Failed=True condition without the FailureTarget=true condition", errors);
    let unmet = both("SuccessCriteriaMet", !criteria);
    wrong(unmet, &place, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition", errors);
}

fn completion(new: &Side<'_>, had: &Side<'_>, place: &Path, errors: &mut ErrorList) {
    let differs = |key: &str| new.0[key] != had.0[key];
    let completed = new.is("Complete") != had.is("Complete") || differs("completionTime");
    if completed && new.has("completionTime") && !new.is("Complete") {
        errors.push(wrong_time(new, "completionTime", place, "cannot set completionTime when there is no Complete=True condition"));
    }
    if completed && !new.has("completionTime") && new.is("Complete") {
        errors.push(Error::required(place, "completionTime is required for Complete jobs"));
    }
    let parse = |key: &str| time::parse(new.text(key)).ok();
    if (differs("startTime") || differs("completionTime"))
        && let (Some(start), Some(end)) = (parse("startTime"), parse("completionTime"))
        && end < start
    {
        errors.push(wrong_time(new, "completionTime", place, "must be equal to or after `startTime`"));
    }
}

/// What a finished job has no more.
fn left(new: &Side<'_>, had: &Side<'_>, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (finished, ended) = (new.finished(), new.finished() != had.finished());
    let differs = |key: &str| new.0[key] != had.0[key];
    active(new, had, "active", path, errors);
    let nothing_to_do = spec["suspend"] == true && spec["completions"] == 0;
    if (ended || differs("startTime")) && !nothing_to_do && !new.has("startTime") && finished {
        errors.push(Error::required(&path.child("startTime"), "startTime is required for finished job"));
    }
    let pods = &new.0["uncountedTerminatedPods"];
    let some = !tree::empty(&pods["failed"]) || !tree::empty(&pods["succeeded"]);
    if (ended || differs("uncountedTerminatedPods")) && finished && some {
        let shown = internal::text("*batch.UncountedTerminatedPods", pods);
        errors.push(Error::invalid(&path.child("uncountedTerminatedPods"), pods.clone(), "must be empty for finished job").shown_as(shown));
    }
}

fn active(new: &Side<'_>, had: &Side<'_>, key: &str, path: &Path, errors: &mut ErrorList) {
    if (new.finished() != had.finished() || new.0[key] != had.0[key]) && new.number(key) > 0 && new.finished() {
        errors.push(Error::invalid(&path.child(key), new.number(key), format!("{key}>0 is invalid for finished job")));
    }
}

fn ready(new: &Side<'_>, had: &Side<'_>, path: &Path, errors: &mut ErrorList) {
    let differs = |key: &str| new.0[key] != had.0[key];
    if (differs("ready") || differs("active")) && new.has("ready") && new.number("ready") > new.number("active") {
        errors.push(Error::invalid(&path.child("ready"), new.number("ready"), "cannot set more ready pods than active"));
    }
}

fn criteria(new: &Side<'_>, spec: &Value, place: &Path, errors: &mut ErrorList) {
    let met = new.is("SuccessCriteriaMet");
    wrong(met && new.is("Failed"), place, "cannot set SuccessCriteriaMet=True and Failed=true conditions", errors);
    wrong(met && new.is("FailureTarget"), place, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", errors);
    let unmet = spec["successPolicy"].is_object() && !met && new.is("Complete");
    wrong(unmet, place, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True", errors);
}

/// What may not change.
fn kept(new: &Side<'_>, had: &Side<'_>, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let differs = |key: &str| new.0[key] != had.0[key];
    let place = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        wrong(had.is(kind) && !new.is(kind), &place, &format!("cannot disable the terminal {kind}=True condition"), errors);
    }
    // Indexed jobs can be scaled down.
    let scalable = spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"];
    for (key, fixed) in [("failed", true), ("succeeded", !scalable)] {
        if fixed && new.number(key) < had.number(key) {
            errors.push(Error::invalid(&path.child(key), new.number(key), format!("cannot decrease the {key} counter")));
        }
    }
    if new.has("completionTime") && had.has("completionTime") && differs("completionTime") {
        errors.push(wrong_time(new, "completionTime", &path.child("completionTime"), rules::IMMUTABLE));
    }
    let resumed = tree::list(new.0, "conditions").iter().any(|c| c["type"] == "Suspended" && c["status"] == "False");
    let resuming = had.is("Suspended") && resumed;
    if differs("startTime") && !resuming && had.has("startTime") && spec["suspend"] != true {
        errors.push(wrong_time(new, "startTime", &path.child("startTime"), "field is immutable for unsuspended job once set"));
    }
    let (met, was_met) = (new.is("SuccessCriteriaMet"), had.is("SuccessCriteriaMet"));
    wrong(was_met && !met, &place, "cannot disable the SuccessCriteriaMet=True condition", errors);
    let late = had.is("Complete") && !was_met && met;
    wrong(late, &place, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions", errors);
}

fn index_lists(new: &Side<'_>, had: &Side<'_>, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let differs = |key: &str| new.0[key] != had.0[key];
    let (completed, failed) = (new.text("completedIndexes"), new.text("failedIndexes"));
    let completions = spec["completions"].as_i64();
    let mut format = |key: &str, text: &str| {
        if let Some(Err(problem)) = completions.map(|c| indexes::count(text, c)) {
            errors.push(Error::invalid(&path.child(key), text, format!("error parsing {key}: {problem}")));
        }
    };
    if differs("completedIndexes") {
        format("completedIndexes", completed);
    }
    if differs("failedIndexes") && spec["backoffLimitPerIndex"].is_number() && new.has("failedIndexes") {
        format("failedIndexes", failed);
    }
    if differs("completedIndexes") && !completed.is_empty() && spec["completionMode"] != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(Error::invalid(&path.child("completedIndexes"), completed, detail));
    }
    if differs("failedIndexes") && spec["backoffLimitPerIndex"].is_null() && new.has("failedIndexes") {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(Error::invalid(&path.child("failedIndexes"), failed, detail));
    }
    if (differs("failedIndexes") || differs("completedIndexes"))
        && let Some(at) = completions.and_then(|c| indexes::overlap(completed, failed, c))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {at}");
        errors.push(Error::invalid(&path.child("failedIndexes"), failed, detail));
    }
}
