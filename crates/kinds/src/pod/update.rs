//! What of an existing pod may change.

use super::annotations::{APP_ARMOR, MIRROR};
use crate::{
    internal,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};
use std::collections::HashSet;

const FORM: &str = "core.PodSpec";
const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
    (allow it to be set to 1 if it was previously negative)";

/// Checks an update of the pod itself.
pub(super) fn check(obj: &Value, old: &Value, errors: &mut ErrorList) {
    annotations(obj, old, errors);
    let (new, old, path) = (&obj["spec"], &old["spec"], Path::root("spec"));
    for list in ["containers", "initContainers"] {
        if tree::list(new, list).len() != tree::list(old, list).len() {
            errors.push(Error::forbidden(&path.child(list), "pod updates may not add or remove containers"));
            return;
        }
    }
    if !deadline(new, old, &path, errors) {
        return;
    }
    tolerations(new, old, &path, errors);
    gates(new, old, &path, errors);
    if internal::same(FORM, new, old) {
        return;
    }
    let munged = munge(new, old, &path, errors);
    if !internal::same(FORM, &munged, old) {
        let changed = internal::difference(FORM, old, &munged);
        errors.push(Error::forbidden(&path, format!("{FORBIDDEN}\n{changed}")));
    }
}

/// Annotations by which the kubelet and old AppArmor profiles are told do not change.
fn annotations(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::root("metadata").child("annotations");
    let fixed = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    let (new, old) = (&obj["metadata"]["annotations"], &old["metadata"]["annotations"]);
    for (key, value) in old.as_object().into_iter().flatten().filter(|(key, value)| new.get(key.as_str()) != Some(*value)) {
        let _ = value;
        if let Some(what) = fixed(key) {
            errors.push(Error::forbidden(&path.key(key), format!("may not remove or update {what}")));
        }
    }
    for (key, _) in new.as_object().into_iter().flatten().filter(|(key, _)| old.get(key.as_str()).is_none()) {
        if let Some(what) = fixed(key) {
            errors.push(Error::forbidden(&path.key(key), format!("may not add {what}")));
        }
    }
}

/// The new spec with everything that may change taken from the old one.
fn munge(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) -> Value {
    let mut out = new.clone();
    let Some(fields) = out.as_object_mut() else { return out };
    // Upstream makes the lists anew, as none where they are empty.
    fields.retain(|key, list| !matches!(key.as_str(), "containers" | "initContainers") || !tree::empty(list));
    for list in ["containers", "initContainers"] {
        let images = tree::list(old, list).iter().map(|c| c.get("image"));
        for (container, image) in tree::each(fields, list).zip(images) {
            put(container, "image", image);
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put(fields, key, old.get(key));
    }
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) && new["terminationGracePeriodSeconds"] == 1 {
        put(fields, "terminationGracePeriodSeconds", old.get("terminationGracePeriodSeconds"));
    }
    // A gated pod may still be narrowed to fewer nodes (KEP-3838).
    if !tree::list(old, "schedulingGates").is_empty() {
        if !same(&new["nodeSelector"], &old["nodeSelector"]) {
            narrowed_selector(new, old, &path.child("nodeSelector"), errors);
        }
        put(fields, "nodeSelector", old.get("nodeSelector"));
        let (now, before) = (&new["affinity"]["nodeAffinity"], &old["affinity"]["nodeAffinity"]);
        if now != before {
            narrowed_affinity(now, before, &path.child("affinity").child("nodeAffinity"), errors);
            let affinity = tree::child(fields, "affinity");
            if let Some(affinity) = affinity {
                put(affinity, "nodeAffinity", old["affinity"].get("nodeAffinity"));
            }
            if old.get("affinity").is_none() && fields.get("affinity").is_some_and(tree::empty) {
                fields.remove("affinity");
            }
        }
    }
    out
}

fn put(fields: &mut Fields, key: &str, value: Option<&Value>) {
    match value {
        Some(value) => fields.insert(key.into(), value.clone()),
        None => fields.remove(key),
    };
}

fn same(new: &Value, old: &Value) -> bool {
    new == old || (tree::empty(new) && tree::empty(old))
}

fn narrowed_selector(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if tree::entries(old, "nodeSelector").any(|(key, value)| new["nodeSelector"].get(key) != Some(value)) {
        errors.push(Error::invalid(path, new["nodeSelector"].clone(), "only additions to spec.nodeSelector are allowed (no mutations or deletions)"));
    }
}

/// Required terms may be added where there were none, or get further requirements; preferences are free.
fn narrowed_affinity(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let key = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |affinity: &'_ Value| affinity[key]["nodeSelectorTerms"].as_array().cloned().unwrap_or_default();
    let (now, before) = (terms(new), terms(old));
    if before.is_empty() {
        return;
    }
    let place = path.child(key).child("nodeSelectorTerms");
    if now.len() != before.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown = internal::text("[]core.NodeSelectorTerm", &new[key]["nodeSelectorTerms"]);
        errors.push(Error::invalid(&place, now, detail).shown_as(shown));
        return;
    }
    for (at, (now, before)) in now.iter().zip(&before).enumerate() {
        let grown = |list: &str| {
            let (now, before) = (tree::list(now, list), tree::list(before, list));
            now.len() >= before.len() && now.iter().zip(before).all(|(n, b)| n == b)
        };
        let was_empty = tree::empty(&before["matchExpressions"]) && tree::empty(&before["matchFields"]);
        if now != before && (was_empty || !grown("matchExpressions") || !grown("matchFields")) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(Error::invalid(&place.index(at), now.clone(), detail).shown_as(internal::text("core.NodeSelectorTerm", now)));
        }
    }
}

/// Whether the rest is to be looked at, too.
fn deadline(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errors.push(Error::invalid(&path, now, format!("must be between 0 and {}, inclusive", i32::MAX)));
            return false;
        }
        (Some(now), Some(before)) if now > before => {
            errors.push(Error::invalid(&path, now, "must be less than or equal to previous value"));
            return false;
        }
        (None, Some(_)) => errors.push(Error::invalid(&path, Value::Null, "must not update from a positive integer to nil value")),
        _ => {}
    }
    true
}

fn tolerations(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let own = |toleration: &'_ Value| ["key", "operator", "value", "effect"].map(|key| tree::text(toleration, key).to_owned());
    let now: HashSet<_> = tree::list(new, "tolerations").iter().map(own).collect();
    if tree::list(old, "tolerations").iter().any(|toleration| !now.contains(&own(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(&path.child("tolerations"), detail));
    }
}

fn gates(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let had = tree::by_text(tree::list(old, "schedulingGates"), "name");
    for (at, gate) in tree::list(new, "schedulingGates").iter().enumerate() {
        if !had.contains_key(tree::text(gate, "name")) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", tree::text(gate, "name"));
            errors.push(Error::forbidden(&path.child("schedulingGates").index(at).child("name"), detail));
        }
    }
}
