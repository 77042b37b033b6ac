//! The labels by which a namespace asks for the standards: right when it is made and when they change, and told what they mean for
//! the pods that are there (upstream's `ValidateNamespace`).

use super::{Level, PREFIX, exempts, own, standard};
use crate::{
    Operation, Write,
    admission::{World, items, text},
    errors,
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    status::Status,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// Pods that are looked at when a namespace asks for more.
const PODS_MAX: usize = 3000;

/// Checks a write of a namespace.
pub(super) fn check(world: &World, write: &Write<'_>, namespace: &Value) -> Result<(), Status> {
    if !write.subresource.is_empty() || write.operation == Operation::Delete {
        return Ok(());
    }
    let (labels, settings) = (&namespace["metadata"]["labels"], world.config().admission.of("PodSecurity"));
    let wrong = wrong(labels);
    let exempt = exempts(settings, "namespaces", write.name);
    let Some(old) = write.old else {
        if !wrong.is_empty() {
            return Err(errors::invalid(write.row, write.name, wrong));
        }
        if exempt {
            ignored(settings, labels, write.name).into_iter().for_each(|warning| write.cx.warn(warning));
        }
        return Ok(());
    };
    let before = &old["metadata"]["labels"];
    if !wrong.is_empty() && wrong != self::wrong(before) {
        return Err(errors::invalid(write.row, write.name, wrong));
    }
    let (level, version) = standard(labels, settings, "enforce");
    let (level_before, version_before) = standard(before, settings, "enforce");
    let is_laxer = version == version_before && level <= level_before;
    if level == Level::Privileged || is_laxer {
        return Ok(());
    }
    let warnings = if exempt { Vec::from_iter(ignored(settings, labels, write.name)) } else { violations(world, write.name, settings, (level, version)) };
    warnings.into_iter().for_each(|warning| write.cx.warn(warning));
    Ok(())
}

/// What is told to whoever asks for standards where none count; nothing if that is no more than what all others have.
fn ignored(settings: &Value, labels: &Value, namespace: &str) -> Option<String> {
    let policy = |labels: &Value| {
        ["enforce", "audit", "warn"].map(|mode| match standard(labels, settings, mode) {
            (Level::Privileged, _) => None,
            (level, version) => Some((mode, format!("{mode}={}:{version}", level.name()))),
        })
    };
    let asked = policy(labels);
    if asked.iter().all(Option::is_none) || asked == policy(&Value::Null) {
        return None;
    }
    let is_own = |mode: &str| !own(labels, mode).is_empty() || !own(labels, &format!("{mode}-version")).is_empty();
    let told: Vec<String> = asked.into_iter().flatten().filter(|(mode, _)| is_own(mode)).map(|(_, told)| told).collect();
    Some(format!("namespace {namespace:?} is exempt from Pod Security, and the policy ({}) will be ignored", told.join(", ")))
}

/// What is wrong with a namespace's labels.
fn wrong(labels: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for (label, is_level) in ["enforce", "audit", "warn"].into_iter().flat_map(|mode| [(mode.to_owned(), true), (format!("{mode}-version"), false)]) {
        let key = format!("{PREFIX}/{label}");
        let Some(value) = labels[&key].as_str() else { continue };
        let (right, detail) = match is_level {
            true => (Level::known(value).is_some(), "must be one of privileged, baseline, restricted"),
            false => (is_version(value), "must be \"latest\" or \"v1.x\""),
        };
        if !right {
            errors.push(Error::invalid(&Path::root("metadata").child("labels").key(&key), value, detail));
        }
    }
    errors
}

/// Whether a label names a version of the standards.
pub(super) fn is_version(text: &str) -> bool {
    let minor = text.strip_prefix("v1.").unwrap_or_default();
    let plain = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    text == "latest" || plain && minor.parse::<i64>().is_ok()
}

/// Pods in the order in which they are looked at: one of each controller comes before its others. Those of exempt runtime classes are none
/// (upstream's `prioritizePods`).
fn by_controllers(settings: &Value, pods: Vec<Arc<Value>>) -> Vec<Arc<Value>> {
    let mut seen = HashSet::new();
    let counts = |pod: &Arc<Value>| !exempts(settings, "runtimeClasses", text(&pod["spec"], "runtimeClassName"));
    let is_first = |pod: &Arc<Value>| {
        let controller = items(&pod["metadata"]["ownerReferences"]).iter().find(|owner| owner["controller"] == true);
        controller.is_none_or(|owner| seen.insert(text(owner, "uid").to_owned()))
    };
    let (mut first, others): (Vec<_>, Vec<_>) = pods.into_iter().filter(counts).partition(is_first);
    first.extend(others);
    first
}

/// How the pods that are there offend against what is enforced from now on.
fn violations(world: &World, namespace: &str, settings: &Value, (level, version): (Level, &str)) -> Vec<String> {
    let pods = by_controllers(settings, world.list(("", "v1", "pods"), namespace));
    let count = pods.len();
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let reasons = level.reasons(version, pod);
        if !reasons.is_empty() {
            found.entry(reasons).or_default().push(text(&pod["metadata"], "name"));
        }
    }
    let mut warnings = Vec::new();
    if count > PODS_MAX {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {PODS_MAX} of {count} existing pods"));
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
    fn who_asks_where_nothing_counts_is_told() {
        let told = |labels: Value| {
            let labels: Value = labels.as_object().into_iter().flatten().map(|(key, value)| (format!("{PREFIX}/{key}"), value.clone())).collect();
            let settings = json!({"defaults": {"enforce": "baseline", "audit": "restricted", "audit-version": "v1.30"}});
            ignored(&settings, &labels, "own")
        };
        let of = |policy: &str| Some(format!("namespace \"own\" is exempt from Pod Security, and the policy ({policy}) will be ignored"));
        assert_eq!(told(json!({})), None);
        assert_eq!(told(json!({"enforce": "privileged", "audit": "privileged"})), None);
        assert_eq!(told(json!({"enforce-version": "latest", "warn": "privileged"})), None);
        assert_eq!(told(json!({"enforce": "restricted"})), of("enforce=restricted:latest"));
        assert_eq!(told(json!({"enforce": "privileged", "audit-version": "v1.31", "warn": "baseline"})), of("audit=restricted:v1.31, warn=baseline:latest"));
        assert_eq!(told(json!({"enforce": "baseline", "warn-version": "v1.29"})), of("enforce=baseline:latest, warn=baseline:v1.29"));
        assert_eq!(told(json!({"enforce": "privileged"})), of(""));
    }

    #[test]
    fn one_pod_of_each_controller_is_looked_at_first() {
        let pod = |name: &str, owner: Option<&str>, class: &str| {
            let owners = owner.map(|uid| json!({"uid": uid, "controller": true}));
            Arc::new(json!({"metadata": {"name": name, "ownerReferences": Vec::from_iter(owners)}, "spec": {"runtimeClassName": class}}))
        };
        let pods = vec![
            pod("a", Some("x"), ""),
            pod("b", Some("x"), ""),
            pod("c", Some("y"), "vm"),
            pod("d", Some("y"), "own"),
            pod("e", None, ""),
            pod("f", None, ""),
        ];
        let ordered = by_controllers(&json!({"exemptions": {"runtimeClasses": ["vm"]}}), pods);
        assert_eq!(ordered.iter().map(|pod| text(&pod["metadata"], "name")).collect::<Vec<_>>(), ["a", "d", "e", "f", "b"]);
    }

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
