//! The annotations that mean something to pods: mirrors, costs of deletion, and what was said of security and tolerations before there
//! were fields for it.

use super::placement;
use crate::{
    rules,
    tree::{self, Fields},
};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    quote::Quoted,
};
use serde_json::json;

/// The annotation of a pod that shows a static pod of the kubelet's.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation by which a replica set chooses whom to delete.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Where tolerations once stood.
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
/// Profiles of seccomp, of the pod and (with its name) of a container.
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// With a container's name: its profile of AppArmor.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Checks the annotations of a pod or a template.
pub(crate) fn check(owner: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(annotations) = owner["metadata"]["annotations"].as_object() else { return };
    let text = |key: &str| annotations.get(key).and_then(Value::as_str);
    if let Some(value) = annotations.get(MIRROR).filter(|_| tree::empty(&spec["nodeName"])) {
        errors.push(Error::invalid(&path.key(MIRROR), value.clone(), "must set spec.nodeName if mirror pod annotation is set"));
    }
    match rules::told(text(TOLERATIONS).unwrap_or_default(), "[]core.Toleration", Value::is_array) {
        Err(why) => errors.push(Error::invalid(path, TOLERATIONS, why)),
        Ok(all) => placement::each_toleration(all.as_array().map(Vec::as_slice).unwrap_or_default(), &path.child(TOLERATIONS), errors),
    }
    if let Some(text) = text(DELETION_COST) {
        let canonical = text.parse::<i32>().is_ok() && !text.starts_with('+') && (text == "0" || !text.trim_start_matches('-').starts_with('0'));
        if !canonical {
            errors.push(Error::invalid(&path.key(DELETION_COST), text, "must be a 32bit integer"));
        }
    }
    if let Some(profile) = text(SECCOMP_POD) {
        seccomp(profile, &path.child(SECCOMP_POD), errors);
    }
    let texts = || annotations.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    for (key, profile) in texts().filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        seccomp(profile, &path.child(key), errors);
    }
    for (key, profile) in texts() {
        let Some(name) = key.strip_prefix(APP_ARMOR) else { continue };
        if !containers(spec).any(|container| container["name"] == name) {
            errors.push(Error::invalid(&path.key(key), name, "container not found"));
        }
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            errors.push(Error::invalid(&path.key(key), profile, format!("invalid AppArmor profile name: {}", Quoted(profile))));
        }
    }
}

fn seccomp(profile: &str, path: &Path, errors: &mut ErrorList) {
    match profile.strip_prefix("localhost/") {
        Some(local) => super::sources::relative(local, path, errors),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.push(Error::invalid(path, profile, "must be a valid seccomp profile")),
    }
}

/// What a new pod or a template says in a field and in an annotation of old is the same (`validateSeccompAnnotationsAndFields`,
/// `validateAppArmorAnnotationsAndFieldsMatchOnCreate`).
pub(crate) fn agree(owner: &Value, path: &Path, errors: &mut ErrorList) {
    let (spec, annotations) = (&owner["spec"], &owner["metadata"]["annotations"]);
    if !annotations.is_object() {
        return;
    }
    let pods_own = &spec["securityContext"];
    if let Some(text) = annotations[SECCOMP_POD].as_str() {
        says(text, &pods_own["seccompProfile"], "seccomp", &path.child("securityContext").child("seccompProfile"), errors);
    }
    for (what, field, prefix) in [("seccomp", "seccompProfile", SECCOMP_CONTAINER), ("apparmor", "appArmorProfile", APP_ARMOR)] {
        let of_pods = what == "apparmor";
        if of_pods && spec["os"]["name"] == "windows" {
            continue;
        }
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for (at, container) in tree::list(spec, list).iter().enumerate() {
                let own = &container["securityContext"][field];
                let profile = if of_pods && own.is_null() { &pods_own[field] } else { own };
                if let Some(text) = annotations[format!("{prefix}{}", tree::text(container, "name"))].as_str() {
                    says(text, profile, what, &path.child(list).index(at).child("securityContext").child(field), errors);
                }
            }
        }
    }
}

/// Whether an annotation says what a profile says, if there is one.
fn says(text: &str, profile: &Value, what: &str, path: &Path, errors: &mut ErrorList) {
    let (local, differs) = (text.strip_prefix("localhost/"), |field: &str, part: &str| {
        Error::forbidden(&path.child(field), format!("{what} {part} in annotation and field must match"))
    });
    match tree::text(profile, "type") {
        "Unconfined" if text != "unconfined" => errors.push(differs("type", "type")),
        "RuntimeDefault" if text != "runtime/default" && (what, text) != ("seccomp", "docker/default") => errors.push(differs("type", "type")),
        "Localhost" => match local {
            None => errors.push(differs("type", "type")),
            Some(local) if profile["localhostProfile"] != local => errors.push(differs("localhostProfile", "profile")),
            Some(_) => {}
        },
        _ => {}
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| tree::list(spec, list))
}

/// The field that says what an annotation of AppArmor says; none if it says nothing that a field can.
fn app_armor(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let local = other.strip_prefix("localhost/").filter(|local| !local.is_empty() && local.trim() == *local)?;
            Some(json!({"type": "Localhost", "localhostProfile": local}))
        }
    }
}

/// What annotations say of a new pod's containers their fields say from now on (KEP-24, version skew).
pub(super) fn sync_app_armor(obj: &mut Value) {
    if obj["spec"]["os"]["name"] == "windows" {
        return;
    }
    let annotations = obj["metadata"]["annotations"].clone();
    let pods_own = obj["spec"]["securityContext"]["appArmorProfile"].clone();
    let Some(spec) = obj.as_object_mut().and_then(|obj| tree::present(obj, "spec")) else { return };
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in tree::each(spec, list) {
            let profile = container.get("name").and_then(Value::as_str).and_then(|name| annotations[format!("{APP_ARMOR}{name}")].as_str()).and_then(app_armor);
            if let Some(profile) = profile.filter(|profile| *profile != pods_own) {
                set_profile(container, profile);
            }
        }
    }
}

fn set_profile(container: &mut Fields, profile: Value) {
    if let Some(context) = tree::child(container, "securityContext") {
        tree::fill(context, "appArmorProfile", profile);
    }
}

/// What is said of annotations that fields have taken the place of.
pub(super) fn warnings(owner: &Value, at: &Path, out: &mut Vec<String>) {
    let (spec, annotations, path) = (&owner["spec"], &owner["metadata"]["annotations"], at.child("metadata").child("annotations"));
    if annotations.is_null() {
        return;
    }
    let pods_own = &spec["securityContext"];
    let dead = |key: &str| format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", path.key(key));
    if pods_own["seccompProfile"].is_null() && !annotations[SECCOMP_POD].is_null() {
        out.push(dead(SECCOMP_POD));
    }
    for container in containers(spec) {
        let (name, context) = (tree::text(container, "name"), &container["securityContext"]);
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if context["seccompProfile"].is_null() && !annotations[&key].is_null() {
            out.push(dead(&key));
        }
        // A pod's own have become its containers' fields by now.
        if *at != Path::empty() {
            app_armor_warning(owner, container, at, out);
        }
    }
}

/// The same of AppArmor's annotations alone, of a new pod whose fields do not say yet what they say ([`sync_app_armor`]).
pub(super) fn app_armor_warnings(pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if pod["spec"]["os"]["name"] != "windows" {
        containers(&pod["spec"]).for_each(|container| app_armor_warning(pod, container, &Path::empty(), &mut out));
    }
    out
}

fn app_armor_warning(owner: &Value, container: &Value, at: &Path, out: &mut Vec<String>) {
    let (context, pods_own) = (&container["securityContext"], &owner["spec"]["securityContext"]);
    let key = format!("{APP_ARMOR}{}", tree::text(container, "name"));
    let Some(annotation) = owner["metadata"]["annotations"][&key].as_str() else { return };
    let (said, alone) = (app_armor(annotation), context["appArmorProfile"].is_null());
    if alone && (said.is_none() || said.as_ref() != Some(&pods_own["appArmorProfile"])) {
        let place = at.child("metadata").child("annotations").key(&key);
        out.push(format!("{place}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
    }
}
