//! The subresources `ephemeralcontainers` and `resize`: what a request to them may change.

use super::{annotations::MIRROR, defaults, qos, security::Users, spec};
use crate::{
    internal,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
};

/// The resources that change without a new pod.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What is wrong with an update of a pod's ephemeral containers: they may be added, never changed or removed.
pub(super) fn check_ephemeral(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    spec::check_pod(obj, Users::ExistingPod, &mut errors);
    if is_mirror(old) {
        return vec![Error::forbidden(&Path::unnamed(), "static pods do not support ephemeral containers")];
    }
    const FORM: &str = "core.EphemeralContainer";
    let path = Path::root("spec").child("ephemeralContainers");
    let known = tree::by_text(tree::list(&obj["spec"], "ephemeralContainers"), "name");
    for before in tree::list(&old["spec"], "ephemeralContainers") {
        let name = tree::text(before, "name");
        match known.get(name) {
            None => errors.push(Error::forbidden(&path, format!("existing ephemeral containers {name:?} may not be removed\n"))),
            Some(now) if !internal::same(FORM, now, before) => {
                let changed = internal::difference(FORM, before, now);
                errors.push(Error::forbidden(&path, format!("existing ephemeral containers {name:?} may not be changed\n{changed}")));
            }
            Some(_) => {}
        }
    }
    errors
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

/// Readies a resize: all but the resources of containers and pod is the old pod's. Containers that do not match the old
/// ones stay as they are, for the check to complain; where they are more or fewer nothing is readied.
pub(super) fn prepare_resize(obj: &mut Value, old: &Value) {
    let Some(new) = obj.get("spec").cloned() else { return };
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|l| tree::list(&new, l).len() != tree::list(&old["spec"], l).len()) {
        return;
    }
    let mut next = old["spec"].clone();
    if let Some(fields) = next.as_object_mut() {
        for list in lists {
            merge(fields, list, &new);
        }
        // A client that does not know of the pod's own resources does not clear them.
        if let Some(own) = new.get("resources").filter(|r| !r.is_null()) {
            fields.insert("resources".into(), own.clone());
        }
    }
    defaults::pod_level_requests(&mut next);
    if let Some(fields) = obj.as_object_mut() {
        fields.insert("spec".into(), next);
    }
    tree::keep_all_but(obj, old, &["spec"]);
}

fn merge(fields: &mut Fields, list: &str, new: &Value) {
    let wanted = tree::list(new, list);
    let same = tree::each(fields, list).zip(wanted).all(|(old, new)| old.get("name") == new.get("name"));
    if !same {
        fields.insert(list.into(), wanted.into());
        return;
    }
    for (container, wanted) in tree::each(fields, list).zip(wanted) {
        for key in ["resources", "resizePolicy"] {
            match wanted.get(key) {
                Some(value) => container.insert(key.into(), value.clone()),
                None => container.remove(key),
            };
        }
    }
}

/// What is wrong with a resize.
pub(super) fn check_resize(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    spec::check_pod(obj, Users::ExistingPod, &mut errors);
    if is_mirror(old) {
        return vec![Error::forbidden(&Path::unnamed(), "static pods cannot be resized")];
    }
    if old["spec"]["os"]["name"] == "windows" {
        return vec![Error::forbidden(&Path::unnamed(), "windows pods cannot be resized")];
    }
    let (new, old_spec, path) = (&obj["spec"], &old["spec"], Path::root("spec"));
    let before = old["status"]["qosClass"].as_str().filter(|q| !q.is_empty()).unwrap_or_else(|| qos::qos_class(old_spec));
    if before != qos::qos_class(new) {
        let shown = obj["status"]["qosClass"].clone();
        errors.push(Error::invalid(&path, shown, "Pod QOS Class may not change as a result of resizing"));
    }
    let running = tree::list(&old["status"], "containerStatuses").iter().find(|c| c["state"]["running"].is_object());
    if running.is_some_and(|c| c["resources"].is_null()) {
        errors.push(Error::forbidden(&path, "Pod running on node without support for resize"));
    }
    let of_all = has_amounts(new) || has_amounts(old_spec);
    if of_all {
        amounts_of_all(&new["resources"], &old_spec["resources"], &path, &mut errors);
    }
    if !ordered(new, old_spec, &path, &mut errors) {
        return errors;
    }
    amounts(new, old_spec, &path, &mut errors);
    // A pod that says nothing of itself does not begin to say it without an amount.
    if errors.is_empty() && !of_all && !internal::same("*core.ResourceRequirements", &new["resources"], &old_spec["resources"]) {
        errors.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
    }
    errors
}

/// Whether a pod asks for anything as a whole.
fn has_amounts(spec: &Value) -> bool {
    ["requests", "limits"].iter().any(|field| !tree::empty(&spec["resources"][*field]))
}

fn amounts_of_all(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let place = path.child("resources");
    if new.is_null() && !old.is_null() {
        errors.push(Error::forbidden(&place, "pod-level resources cannot be removed"));
        return;
    }
    if removed(new, old, "requests") {
        errors.push(Error::forbidden(&place.child("requests"), "pod-level resource requests cannot be removed"));
    }
    if removed(new, old, "limits") {
        errors.push(Error::forbidden(&place.child("limits"), "pod-level resource limits cannot be removed"));
    }
    if masked(new, old) != rest(old) {
        errors.push(Error::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
}

/// Containers are neither added, removed, renamed nor moved.
fn ordered(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    for list in ["containers", "initContainers"] {
        let (now, had, place) = (tree::list(new, list), tree::list(old, list), path.child(list));
        if now.len() != had.len() {
            errors.push(Error::forbidden(&place, format!("{list} may not be added or removed on resize")));
            continue;
        }
        for (at, _) in now.iter().zip(had).enumerate().filter(|(_, (n, h))| n["name"] != h["name"]) {
            errors.push(Error::forbidden(&place.index(at).child("name"), format!("{list} may not be renamed or reordered on resize")));
        }
    }
    errors.len() == before
}

fn amounts(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let pairs = |list: &str| tree::list(new, list).iter().zip(tree::list(old, list)).enumerate();
    for list in ["initContainers", "containers"] {
        for (at, (now, had)) in pairs(list) {
            let place = path.child(list).index(at).child("resources");
            for (field, what) in [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")] {
                if removed(&now["resources"], &had["resources"], field) {
                    errors.push(Error::forbidden(&place.child(field), what));
                }
            }
        }
    }
    let is_more = |now: &Value, had: &Value| {
        tree::list(now, "resizePolicy") != tree::list(had, "resizePolicy") || masked(&now["resources"], &had["resources"]) != rest(&had["resources"])
    };
    for _ in pairs("containers").filter(|(_, (now, had))| is_more(now, had)) {
        errors.push(Error::forbidden(path, "only cpu and memory resources are mutable"));
    }
    for (at, (now, had)) in pairs("initContainers") {
        let place = path.child("initContainers").index(at);
        if is_more(now, had) {
            errors.push(Error::forbidden(&place, "only cpu and memory resources for init or sidecar containers are mutable"));
        }
        // One that ends is not started again for it.
        if now["restartPolicy"] != "Always" && !internal::same("core.Container", now, had) {
            let restarts = tree::list(now, "resizePolicy").iter().filter(|policy| policy["restartPolicy"] == "RestartContainer");
            errors.extend(restarts.map(|_| Error::forbidden(&place, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")));
        }
    }
}

fn removed(new: &Value, old: &Value, field: &str) -> bool {
    tree::entries(old, field).any(|(name, _)| new[field].get(name).is_none())
}

/// The resources with what may change taken from the old ones; empty parts are left out.
fn masked(new: &Value, old: &Value) -> Value {
    let mut out = if new.is_null() { Value::Object(Fields::new()) } else { new.clone() };
    for field in ["requests", "limits"] {
        let Some(list) = tree::at(&mut out, &[field]) else { continue };
        for name in RESIZABLE {
            match old[field].get(name) {
                Some(value) => list.insert(name.into(), value.clone()),
                None => list.remove(name),
            };
        }
    }
    rest(&out)
}

fn rest(resources: &Value) -> Value {
    let fields = resources.as_object().into_iter().flatten().filter(|(_, v)| !tree::empty(v));
    Value::Object(fields.map(|(k, v)| (k.clone(), v.clone())).collect())
}
