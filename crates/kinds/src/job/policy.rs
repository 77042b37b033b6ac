//! When a job gives up, and when it has succeeded: pod failure, success and replacement policies.

use super::indexes;
use crate::{internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

/// Checks the policies of a job.
pub(super) fn check(spec: &Value, path: &Path, errors: &mut ErrorList) {
    if spec["podFailurePolicy"].is_object() {
        failure(spec, &path.child("podFailurePolicy").child("rules"), errors);
    }
    let (success, place) = (&spec["successPolicy"], path.child("successPolicy"));
    if success.is_object() && spec["completionMode"] != "Indexed" {
        errors.push(Error::invalid(&place, success.clone(), "requires indexed completion mode").shown_as(internal::text("batch.SuccessPolicy", success)));
    } else if success.is_object() {
        let (list, place) = (tree::list(success, "rules"), place.child("rules"));
        if list.is_empty() {
            errors.push(Error::required(&place, "at least one rules must be specified when the successPolicy is specified"));
        }
        if list.len() > RULES_MAX {
            errors.push(Error::too_many(&place, list.len(), RULES_MAX));
        }
        for (at, rule) in list.iter().enumerate() {
            success_rule(rule, spec["completions"].as_i64().unwrap_or(0), &place.index(at), errors);
        }
    }
    let allowed: &[&str] = if spec["podFailurePolicy"].is_object() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    rules::supported(&spec["podReplacementPolicy"], &path.child("podReplacementPolicy"), allowed, errors);
}

fn failure(spec: &Value, list: &Path, errors: &mut ErrorList) {
    let rules = tree::list(&spec["podFailurePolicy"], "rules");
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(list, rules.len(), RULES_MAX));
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = list.index(at);
        let place = path.child("action");
        match tree::text(rule, "action") {
            "" => errors.push(Error::required(&place, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
            "FailIndex" if spec["backoffLimitPerIndex"].is_null() => {
                errors.push(Error::invalid(&place, "FailIndex", "requires the backoffLimitPerIndex to be set"));
            }
            "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
            other => errors.push(rules::not_supported(&place, other, &["Count", "FailIndex", "FailJob", "Ignore"])),
        }
        let (codes, conditions) = (&rule["onExitCodes"], tree::list(rule, "onPodConditions"));
        if codes.is_object() {
            exit_codes(codes, &spec["template"]["spec"], &path.child("onExitCodes"), errors);
        }
        pod_conditions(conditions, &path.child("onPodConditions"), errors);
        match (codes.is_object(), conditions.is_empty()) {
            (true, false) => errors.push(Error::invalid_unshown(&path, "specifying both OnExitCodes and OnPodConditions is not supported")),
            (false, true) => errors.push(Error::invalid_unshown(&path, "specifying one of OnExitCodes and OnPodConditions is required")),
            _ => {}
        }
    }
}

fn exit_codes(codes: &Value, pod: &Value, path: &Path, errors: &mut ErrorList) {
    let operator = tree::text(codes, "operator");
    match operator {
        "" => errors.push(Error::required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]")),
        "In" | "NotIn" => {}
        other => errors.push(rules::not_supported(&path.child("operator"), other, &["In", "NotIn"])),
    }
    if let Some(name) = codes["containerName"].as_str() {
        let known = ["containers", "initContainers"].iter().any(|list| tree::list(pod, list).iter().any(|c| c["name"] == name));
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(Error::invalid(&path.child("containerName"), name, detail));
        }
    }
    let (values, place) = (tree::list(codes, "values"), path.child("values"));
    if values.is_empty() {
        // Upstream shows a list that is not there.
        errors.push(Error::invalid(&place, codes["values"].clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(Error::too_many(&place, values.len(), EXIT_CODES_MAX));
    }
    let numbers: Vec<i64> = values.iter().map(|v| v.as_i64().unwrap_or(0)).collect();
    let mut seen = HashSet::new();
    for (at, number) in numbers.iter().enumerate() {
        if operator == "In" && *number == 0 {
            errors.push(Error::invalid(&place.index(at), 0, "must not be 0 for the In operator"));
        }
        if !seen.insert(number) {
            errors.push(Error::duplicate(&place.index(at), *number));
        }
    }
    if !numbers.is_sorted() {
        errors.push(Error::invalid(&place, values, "must be ordered"));
    }
}

fn pod_conditions(conditions: &[Value], list: &Path, errors: &mut ErrorList) {
    if conditions.len() > RULES_MAX {
        errors.push(Error::too_many(list, conditions.len(), RULES_MAX));
    }
    for (at, pattern) in conditions.iter().enumerate() {
        let (path, kind) = (list.index(at), tree::text(pattern, "type"));
        rules::name(kind, &path.child("type"), names::qualified_name(kind), errors);
        match tree::text(pattern, "status") {
            "" => errors.push(Error::required(&path.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]")),
            "False" | "True" | "Unknown" => {}
            other => errors.push(rules::not_supported(&path.child("status"), other, &["False", "True", "Unknown"])),
        }
    }
}

fn success_rule(rule: &Value, completions: i64, path: &Path, errors: &mut ErrorList) {
    let (count, listed) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if count.is_none() && listed.is_none() {
        errors.push(Error::required(path, "at least one of succeededCount or succeededIndexes must be specified"));
    }
    let mut total = 0;
    if let Some(text) = listed {
        let place = path.child("succeededIndexes");
        if text.len() > INDEXES_BYTES_MAX {
            errors.push(Error::too_long(&place, INDEXES_BYTES_MAX));
        }
        match indexes::count(text, completions) {
            Ok(count) => total = count,
            Err(problem) => errors.push(Error::invalid(&place, text, format!("error parsing succeededIndexes: {problem}"))),
        }
    }
    let Some(count) = count else { return };
    let place = path.child("succeededCount");
    rules::not_negative(&count.into(), &place, errors);
    if count > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(Error::invalid(&place, count, detail));
    }
    if listed.is_some() && count > total {
        let detail = format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)");
        errors.push(Error::invalid(&place, count, detail));
    }
}
