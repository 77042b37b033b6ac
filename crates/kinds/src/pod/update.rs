//! What of an existing pod may change.

use crate::tree;
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
    (allow it to be set to 1 if it was previously negative)";

/// Checks an update of the pod itself.
pub(super) fn check(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::root("spec");
    if new == old {
        return;
    }
    for list in ["containers", "initContainers"] {
        if tree::list(new, list).len() != tree::list(old, list).len() {
            let what = if list == "containers" { "containers" } else { "initContainers" };
            errors.push(Error::forbidden(&path.child(list), format!("pod updates may not add or remove {what}")));
        }
    }
    if !errors.is_empty() {
        return;
    }
    deadline(new, old, &path, errors);
    tolerations(new, old, &path, errors);
    gates(new, old, &path, errors);
    let munged = munge(new, old);
    if errors.is_empty() && munged != *old {
        let changed: Vec<String> = differing(&munged, old);
        errors.push(Error::forbidden(&path, format!("{FORBIDDEN}\nchanged: {}", changed.join(", "))));
    }
}

fn differing(new: &Value, old: &Value) -> Vec<String> {
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = keys(new);
    all.extend(keys(old));
    all.sort();
    all.dedup();
    all.into_iter().filter(|k| new[k.as_str()] != old[k.as_str()]).collect()
}

/// The new spec with everything that may change taken from the old one.
fn munge(new: &Value, old: &Value) -> Value {
    let mut out = new.clone();
    let gated = !tree::list(old, "schedulingGates").is_empty();
    let Some(fields) = out.as_object_mut() else { return out };
    for list in ["containers", "initContainers"] {
        let images = tree::list(old, list).iter().map(|c| c.get("image").cloned());
        for (container, image) in tree::each(fields, list).zip(images) {
            match image {
                Some(image) => container.insert("image".into(), image),
                None => container.remove("image"),
            };
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) && new["terminationGracePeriodSeconds"] == 1 {
        free.push("terminationGracePeriodSeconds");
    }
    // A gated pod may still be narrowed to fewer nodes (KEP-3838).
    if gated {
        if narrows_selector(new, old) {
            free.push("nodeSelector");
        }
        free.push("affinity");
    }
    for key in free {
        match old.get(key) {
            Some(value) => fields.insert(key.into(), value.clone()),
            None => fields.remove(key),
        };
    }
    out
}

fn narrows_selector(new: &Value, old: &Value) -> bool {
    tree::entries(old, "nodeSelector").all(|(key, value)| new["nodeSelector"].get(key) == Some(value))
}

fn deadline(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let path = path.child("activeDeadlineSeconds");
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errors.push(Error::invalid(&path, now, format!("must be between 0 and {}, inclusive", i32::MAX)));
        }
        (Some(now), Some(before)) if now > before => {
            errors.push(Error::invalid(&path, now, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => errors.push(Error::invalid(&path, Value::Null, "must not update from a positive integer to nil value")),
        _ => {}
    }
}

fn tolerations(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let now = tree::list(new, "tolerations");
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|k| tree::text(a, k) == tree::text(b, k));
    let lost = tree::list(old, "tolerations").iter().any(|o| !now.iter().any(|n| same(n, o)));
    if lost {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(&path.child("tolerations"), detail));
    }
}

fn gates(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let had = tree::list(old, "schedulingGates");
    for gate in tree::list(new, "schedulingGates") {
        if !had.contains(gate) {
            let name = tree::text(gate, "name");
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(Error::forbidden(&path.child("schedulingGates").child("name"), detail));
        }
    }
}

/// A container that has ended for good does not run again.
pub(super) fn check_container_states(new: &Value, old: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    if spec["restartPolicy"] == "Always" {
        return;
    }
    let path = path.child("containerStatuses");
    for before in tree::list(old, "containerStatuses") {
        let state = &before["state"]["terminated"];
        if !state.is_object() || (spec["restartPolicy"] == "OnFailure" && state["exitCode"] != 0) || has_own_rule(spec, &before["name"]) {
            continue;
        }
        let now = tree::list(new, "containerStatuses").iter().enumerate().find(|(_, c)| c["name"] == before["name"]);
        if let Some((at, _)) = now.filter(|(_, c)| !c["state"]["terminated"].is_object()) {
            errors.push(Error::forbidden(&path.index(at).child("state"), "may not be transitioned to non-terminated state"));
        }
    }
}

fn has_own_rule(spec: &Value, name: &Value) -> bool {
    let own = |c: &&Value| c["name"] == *name;
    tree::list(spec, "containers").iter().find(own).is_some_and(|c| !c["restartPolicy"].is_null() || !tree::empty(&c["restartPolicyRules"]))
}
