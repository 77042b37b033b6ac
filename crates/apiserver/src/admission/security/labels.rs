//! The labels by which a namespace asks for the standards: right when it is made and when they change, and told what they mean for
//! the pods that are there (upstream's `ValidateNamespace`).

use super::{Level, PREFIX};
use crate::{
    Operation, Write,
    admission::{World, text},
    errors,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    status::Status,
};
use std::collections::BTreeMap;

/// Pods that are looked at when a namespace asks for more.
const PODS_MAX: usize = 3000;

/// Checks a write of a namespace.
pub(super) fn check(world: &World, write: &Write<'_>, namespace: &Value) -> Result<(), Status> {
    if !write.subresource.is_empty() || write.operation == Operation::Delete {
        return Ok(());
    }
    let labels = &namespace["metadata"]["labels"];
    let wrong = wrong(labels);
    let Some(old) = write.old else {
        return if wrong.is_empty() { Ok(()) } else { Err(errors::invalid(write.row, write.name, wrong)) };
    };
    let before = &old["metadata"]["labels"];
    if !wrong.is_empty() && wrong != self::wrong(before) {
        return Err(errors::invalid(write.row, write.name, wrong));
    }
    let settings = world.config().admission.of("PodSecurity");
    let enforced = |labels: &Value| {
        let told = |key: &str| text(labels, &format!("{PREFIX}/{key}")).to_owned();
        let (level, version) = (told("enforce"), told("enforce-version"));
        let or = |told: String, key: &str, last: &str| match (told.as_str(), text(&settings["defaults"], key)) {
            ("", "") => last.to_owned(),
            ("", default) => default.to_owned(),
            _ => told,
        };
        (Level::parse(&or(level, "enforce", "privileged")), or(version, "enforce-version", "latest"))
    };
    let ((level, version), (level_before, version_before)) = (enforced(labels), enforced(before));
    let is_laxer = version == version_before && level <= level_before;
    let exempt = settings["exemptions"]["namespaces"].as_array().is_some_and(|names| names.iter().any(|name| name == write.name));
    if level == Level::Privileged || is_laxer || exempt {
        return Ok(());
    }
    violations(world, write.name, level, &version).into_iter().for_each(|warning| write.cx.warn(warning));
    Ok(())
}

/// What is wrong with a namespace's labels.
fn wrong(labels: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for (label, is_level) in ["enforce", "audit", "warn"].into_iter().flat_map(|mode| [(mode.to_owned(), true), (format!("{mode}-version"), false)]) {
        let key = format!("{PREFIX}/{label}");
        let Some(value) = labels[&key].as_str() else { continue };
        let (right, detail) = match is_level {
            true => (matches!(value, "privileged" | "baseline" | "restricted"), "must be one of privileged, baseline, restricted"),
            false => (is_version(value), "must be \"latest\" or \"v1.x\""),
        };
        if !right {
            errors.push(Error::invalid(&Path::root("metadata").child("labels").key(&key), value, detail));
        }
    }
    errors
}

fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("v1.").unwrap_or_default();
    let plain = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    text == "latest" || plain && minor.parse::<i64>().is_ok()
}

/// How the pods that are there offend against what is enforced from now on.
fn violations(world: &World, namespace: &str, level: Level, version: &str) -> Vec<String> {
    let pods = world.list(("", "v1", "pods"), namespace);
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let reasons = level.reasons(pod);
        if !reasons.is_empty() {
            found.entry(reasons).or_default().push(text(&pod["metadata"], "name"));
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > PODS_MAX {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods", pods.len()));
    }
    if !found.is_empty() {
        warnings.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{}:{version}\"", level.name()));
    }
    let mut told: Vec<String> = found
        .iter()
        .map(|(reasons, names)| {
            let first = names.iter().min().copied().unwrap_or_default();
            match names.len() - 1 {
                0 => format!("{first}: {reasons}"),
                1 => format!("{first} (and 1 other pod): {reasons}"),
                others => format!("{first} (and {others} other pods): {reasons}"),
            }
        })
        .collect();
    told.sort();
    warnings.extend(told);
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_name_levels_and_versions() {
        let told = |labels: Value| wrong(&labels).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(told(json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn-version": "v1.30", "a": "b"})).is_empty());
        assert_eq!(
            told(json!({"pod-security.kubernetes.io/warn-version": "v1", "pod-security.kubernetes.io/enforce": "x"})),
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1\": must be \"latest\" or \"v1.x\""
            ]
        );
        assert_eq!(["latest", "v1.0", "v1.37", "v1.01", "v1.", "v2.1", "1.2", "v1.x"].map(is_version), [true, true, true, false, false, false, false, false]);
    }
}
