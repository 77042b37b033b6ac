//! What a job may ask for, and what of it may change.

use super::policy;
use crate::{rules, template, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    labels::Selector,
    names,
};

/// Bounds of indexed jobs: their status lists indexes as text.
const INDEXED_MAX: i64 = 100_000;
const INDEXED_HIGH_MAX: i64 = 10_000;
const MANAGER_BYTES_MAX: usize = 63;

/// Checks the spec of a job with its selector.
pub(super) fn check_job(spec: &Value, path: &Path, errors: &mut ErrorList) {
    check(spec, path, errors);
    let (selector, place) = (&spec["selector"], path.child("selector"));
    let labels = &spec["template"]["metadata"]["labels"];
    let foreign = if selector.is_null() {
        errors.push(Error::required(&place, ""));
        true
    } else {
        rules::label_selector(selector, &place, errors);
        Selector::from_label_selector(selector).is_ok_and(|s| !s.matches(|key| labels.get(key).and_then(Value::as_str)))
    };
    if foreign {
        let place = path.child("template").child("metadata").child("labels");
        errors.push(Error::invalid(&place, labels.clone(), "`selector` does not match template `labels`"));
    }
}

/// Checks the spec of a job, also in a cron job.
pub(super) fn check(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let counts = ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "backoffLimitPerIndex", "maxFailedIndexes"];
    rules::all_not_negative(spec, path, &counts, errors);
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.push(Error::required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        managed_by(manager, &path.child("managedBy"), errors);
    }
    rules::supported(&spec["completionMode"], &path.child("completionMode"), &["NonIndexed", "Indexed"], errors);
    if spec["completionMode"] == "Indexed" {
        indexed(spec, path, errors);
    } else if spec["completionMode"].as_str().is_none_or(|mode| mode == "NonIndexed") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(number) = spec[field].as_i64() {
                errors.push(Error::invalid(&path.child(field), number, "requires indexed completion mode"));
            }
        }
    }
    policy::check(spec, path, errors);
    template::check(spec, path, false, "Job", errors);
    restart_policy(spec, &path.child("template").child("spec").child("restartPolicy"), errors);
}

fn managed_by(manager: &str, path: &Path, errors: &mut ErrorList) {
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(Error::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            rules::name(host, path, names::dns1123_subdomain(host), errors);
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&b);
            if !rest.bytes().all(legal) {
                errors.push(Error::invalid(path, rest, names::regex_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[])));
            }
        }
        _ => errors.push(Error::invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")")),
    }
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(Error::too_long(path, MANAGER_BYTES_MAX));
    }
}

fn indexed(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let number = |key: &str| spec[key].as_i64();
    let (completions, parallelism, failed) = (number("completions"), number("parallelism"), number("maxFailedIndexes"));
    if completions.is_none() {
        errors.push(Error::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    let most = |field: &str, value: Option<i64>, limit: i64, rest: &str| {
        let value = value.filter(|v| *v > limit)?;
        let limit = if rest == "completions" { "completions".to_owned() } else { format!("{limit}{rest}") };
        Some(Error::invalid(&path.child(field), value, format!("must be less than or equal to {limit}")))
    };
    errors.extend(most("parallelism", parallelism, INDEXED_MAX, " when completion mode is Indexed"));
    errors.extend(completions.and_then(|completions| most("maxFailedIndexes", failed, completions, "completions")));
    errors.extend(most("maxFailedIndexes", failed, INDEXED_MAX, ""));
    if completions.is_some_and(|c| c > INDEXED_MAX) && number("backoffLimitPerIndex").is_some() {
        let rest = format!(" when completions are above {INDEXED_MAX} and used with backoff limit per index");
        if failed.is_none() {
            let detail = format!("must be specified when completions is above {INDEXED_MAX}");
            errors.push(Error::required(&path.child("maxFailedIndexes"), detail));
        }
        errors.extend(most("parallelism", parallelism, INDEXED_HIGH_MAX, &rest));
        errors.extend(most("maxFailedIndexes", failed, INDEXED_HIGH_MAX, &rest));
    }
}

fn restart_policy(spec: &Value, path: &Path, errors: &mut ErrorList) {
    match tree::text(&spec["template"]["spec"], "restartPolicy") {
        "" | "Always" => errors.push(Error::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec["podFailurePolicy"].is_object() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(Error::invalid(path, "OnFailure", detail));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(rules::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

/// Checks what of a job changes.
pub(super) fn check_change(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, had, path) = (&obj["spec"], &old["spec"], Path::root("spec"));
    if new["completionMode"] != "Indexed" {
        rules::immutable(&new["completions"], &had["completions"], &path.child("completions"), errors);
    } else if new["completions"] != had["completions"] && !new["completions"].is_null() && new["completions"] != new["parallelism"] {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(Error::invalid(&path.child("completions"), new["completions"].clone(), detail));
    }
    rules::immutable_part("*metav1.LabelSelector", &new["selector"], &had["selector"], &path.child("selector"), errors);
    template_change(obj, old, &path, errors);
    let fixed = [
        ("completionMode", "*s"),
        ("podFailurePolicy", "*batch.PodFailurePolicy"),
        ("backoffLimitPerIndex", "*i"),
        ("managedBy", "*s"),
        ("successPolicy", "*batch.SuccessPolicy"),
    ];
    for (field, form) in fixed {
        rules::immutable_part(form, &new[field], &had[field], &path.child(field), errors);
    }
}

/// The template is fixed; a suspended job without pods may still be told where its pods shall run and with how much.
fn template_change(obj: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let (new, mut expected) = (&obj["spec"]["template"], old["spec"]["template"].clone());
    let suspended = old["spec"]["suspend"] == true;
    let conditions = tree::list(&old["status"], "conditions");
    let parked = old["status"]["startTime"].is_null() || conditions.iter().any(|c| c["type"] == "Suspended" && c["status"] == "True");
    let free = suspended && parked && old["status"]["active"].as_i64().unwrap_or(0) == 0;
    if free {
        take(&mut expected, new, &["metadata"], &["annotations", "labels"]);
        take(&mut expected, new, &["spec"], &["nodeSelector", "tolerations", "schedulingGates"]);
        if new["spec"]["affinity"].is_object() || old["spec"]["template"]["spec"]["affinity"].is_object() {
            take(&mut expected, new, &["spec", "affinity"], &["nodeAffinity"]);
            if new["spec"]["affinity"].is_null() && expected["spec"]["affinity"].as_object().is_some_and(|a| a.is_empty()) {
                take(&mut expected, new, &["spec"], &["affinity"]);
            }
        }
        if let Some(spec) = tree::at(&mut expected, &["spec"]) {
            for list in ["containers", "initContainers"] {
                let wanted = tree::list(&new["spec"], list);
                if spec.get(list).and_then(Value::as_array).map_or(0, Vec::len) != wanted.len() {
                    continue;
                }
                for (container, wanted) in tree::each(spec, list).zip(wanted) {
                    if container.get("name") == wanted.get("name")
                        && let Some(resources) = wanted.get("resources")
                    {
                        container.insert("resources".into(), resources.clone());
                    }
                }
            }
        }
        return rules::immutable_part("core.PodSpec", &new["spec"], &expected["spec"], &path.child("template.spec"), errors);
    }
    rules::immutable_part("core.PodTemplateSpec", new, &expected, &path.child("template"), errors);
}

/// Copies fields of a part from one tree to another, their absence included.
fn take(to: &mut Value, from: &Value, part: &[&str], fields: &[&str]) {
    let source = part.iter().fold(from, |v, key| &v[*key]);
    let Some(target) = tree::at(to, part) else { return };
    for field in fields {
        match source.get(*field) {
            Some(value) => target.insert((*field).into(), value.clone()),
            None => target.remove(*field),
        };
    }
}
