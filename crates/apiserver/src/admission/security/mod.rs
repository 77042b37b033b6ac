//! PodSecurity: the Pod Security Standards that a namespace asks for by its labels. `enforce` refuses pods; `warn` tells who
//! writes a pod, or something that makes pods.
//!
//! A label may pin a version of the standards: each check has rules that came with versions ([`Check`]), and a version that is not
//! known yet is the newest.

mod baseline;
mod labels;
mod restricted;

use super::{Plugin, World, forbidden, is, items, text};
use crate::{Operation, Write};
use machinery::{Value, status::Status};
use std::collections::HashMap;

const PREFIX: &str = "pod-security.kubernetes.io";

pub(super) struct PodSecurity;

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if is(write, "", "namespaces") {
            return labels::check(world, write, object);
        }
        if write.operation == Operation::Delete || write.namespace.is_empty() {
            return Ok(());
        }
        let is_pod = is(write, "", "pods") && matches!(write.subresource, "" | "ephemeralcontainers");
        if is_pod && write.old.is_some_and(|old| !is_significant(object, old)) {
            return Ok(());
        }
        let pod = if is_pod { Some(object) } else { template(write, object) };
        let Some(pod) = pod else { return Ok(()) };
        let Some(namespace) = world.get(("", "v1", "namespaces"), "", write.namespace) else { return Ok(()) };
        let (labels, settings) = (&namespace["metadata"]["labels"], world.config().admission.of("PodSecurity"));
        if is_exempt(settings, write, pod) {
            return Ok(());
        }
        let (enforce, warn) = (standard(labels, settings, "enforce"), standard(labels, settings, "warn"));
        let told = |(level, version): (Level, &str)| {
            let problems = level.problems(version, pod);
            (!problems.is_empty()).then(|| format!("PodSecurity \"{}:{version}\": {}", level.name(), problems.join(", ")))
        };
        if let Some(why) = is_pod.then(|| told(enforce)).flatten() {
            return Err(forbidden(write, object, format!("violates {why}")));
        }
        // What is enforced need not be told as well.
        if let Some(why) = (!is_pod || warn != enforce).then(|| told(warn)).flatten() {
            write.cx.warn(format!("would violate {why}"));
        }
        Ok(())
    }
}

/// What a namespace's label asks for; empty if it has none.
fn own<'l>(labels: &'l Value, key: &str) -> &'l str {
    text(labels, &format!("{PREFIX}/{key}"))
}

/// The level of a mode and its version: of the namespace's labels, or of the settings for all that have none.
///
/// A level that there is not is the strictest where it is enforced, and none where it is only told of. Where no label says what to warn
/// of, it is what the label has enforced, if that is more (upstream's `PolicyToEvaluate`).
fn standard<'t>(labels: &'t Value, settings: &'t Value, mode: &str) -> (Level, &'t str) {
    let asked = |key: &str| [own(labels, key), text(&settings["defaults"], key)].into_iter().find(|asked| !asked.is_empty());
    let level = match asked(mode).unwrap_or_default() {
        "" => Level::Privileged,
        label if mode == "enforce" => Level::parse(label),
        label => Level::known(label).unwrap_or(Level::Privileged),
    };
    // One that is none, by an older server, is the latest.
    let version = |mode: &str| asked(&format!("{mode}-version")).filter(|version| labels::is_version(version)).unwrap_or("latest");
    match Level::known(own(labels, "enforce")) {
        Some(enforced) if mode == "warn" && own(labels, mode).is_empty() && enforced > level => {
            (enforced, version(if own(labels, "warn-version").is_empty() { "enforce" } else { mode }))
        }
        _ => (level, version(mode)),
    }
}

/// Whether one is on a list of the settings' exemptions.
fn exempts(settings: &Value, list: &str, own: &str) -> bool {
    !own.is_empty() && items(&settings["exemptions"][list]).iter().any(|name| name == own)
}

/// A pod's ephemeral containers by their names, with their images.
fn debuggers(pod: &Value) -> impl Iterator<Item = (&str, &str)> {
    items(&pod["spec"]["ephemeralContainers"]).iter().map(|container| (text(container, "name"), text(container, "image")))
}

/// Whether an update of a pod is one that the standards are asked about: another image, or another container.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let changed = ["containers", "initContainers"].iter().any(|field| {
        let (now, before) = (items(&pod["spec"][*field]), items(&old["spec"][*field]));
        now.len() != before.len() || now.iter().zip(before).any(|(now, before)| now["image"] != before["image"])
    });
    changed || {
        let before: HashMap<&str, &str> = debuggers(old).collect();
        debuggers(pod).any(|(name, image)| before.get(name) != Some(&image))
    }
}

/// Whether the settings let a namespace, a user or a runtime class do what they like.
fn is_exempt(settings: &Value, write: &Write<'_>, pod: &Value) -> bool {
    let exempt = |list: &str, own: &str| exempts(settings, list, own);
    exempt("namespaces", write.namespace) || exempt("usernames", &write.cx.user.name) || exempt("runtimeClasses", text(&pod["spec"], "runtimeClassName"))
}

/// The pod template of what makes pods, if this write sets it.
fn template<'a>(write: &Write<'_>, object: &'a Value) -> Option<&'a Value> {
    if !write.subresource.is_empty() {
        return None;
    }
    let at = |object: &'a Value| match (write.row.resource.group.as_str(), write.row.resource.resource.as_str()) {
        ("apps", "deployments" | "daemonsets" | "replicasets" | "statefulsets") | ("batch", "jobs") | ("", "replicationcontrollers") => {
            Some(&object["spec"]["template"])
        }
        ("batch", "cronjobs") => Some(&object["spec"]["jobTemplate"]["spec"]["template"]),
        ("", "podtemplates") => Some(&object["template"]),
        _ => None,
    };
    at(object).filter(|t| t.is_object())
}

/// The standards, from lax to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn known(label: &str) -> Option<Level> {
        match label {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    /// The level of a label; of one that there is not the strictest (it was stored by an older server: a write is refused).
    fn parse(label: &str) -> Level {
        Level::known(label).unwrap_or(Level::Restricted)
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }

    /// What of a pod (or template) is against the standard: reasons with their details, in the order of upstream's checks.
    fn problems(self, version: &str, pod: &Value) -> Vec<String> {
        let told = |(reason, detail): (&str, String)| if detail.is_empty() { reason.to_owned() } else { format!("{reason} ({detail})") };
        self.found(version, pod).map(told).collect()
    }

    /// The reasons alone.
    fn reasons(self, version: &str, pod: &Value) -> String {
        self.found(version, pod).map(|(reason, _)| reason).collect::<Vec<_>>().join(", ")
    }

    /// What the checks of a version of the standard find: those of the baseline first, but for those that stricter ones replace.
    fn found(self, version: &str, pod: &Value) -> impl Iterator<Item = (&'static str, String)> {
        let minor = minor(version);
        let checks: Vec<&'static Check> = match self {
            Level::Privileged => Vec::new(),
            Level::Baseline => baseline::CHECKS.iter().collect(),
            Level::Restricted => baseline::CHECKS.iter().filter(|check| minor < check.replaced).chain(&restricted::CHECKS).collect(),
        };
        checks.into_iter().filter_map(move |check| check.at(minor)).filter_map(move |rule| rule(pod))
    }
}

/// The minor version of a version of the standards; that of the latest is beyond all that there are.
fn minor(version: &str) -> u32 {
    version.strip_prefix("v1.").and_then(|minor| minor.parse().ok()).unwrap_or(NEVER).min(NEVER - 1)
}

/// No version: later than the latest.
const NEVER: u32 = u32::MAX;

/// What a rule finds forbidden in a pod (or template): the reason and the detail.
type Found = Option<(&'static str, String)>;
type Rule = fn(&Value) -> Found;

/// A check of a standard.
struct Check {
    /// Its rules, each with the minor version of the standards that it came with, the oldest first.
    rules: &'static [(u32, Rule)],
    /// The version from which on the restricted standard has a stricter check in its place.
    replaced: u32,
}

impl Check {
    /// The rule at a version of the standards.
    fn at(&self, minor: u32) -> Option<Rule> {
        self.rules.iter().rev().find(|(since, _)| *since <= minor).map(|(_, rule)| *rule)
    }
}

/// Every container of a pod.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| items(&spec[list]))
}

/// The names of the containers that are so.
fn those(spec: &Value, so: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|c| so(c)).map(|c| text(c, "name")).collect()
}

fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|n| format!("\"{}\"", n.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, or `containers "a", "b"`.
fn named<T: AsRef<str>>(one: &str, names: &[T]) -> String {
    format!("{one}{} {}", if names.len() == 1 { "" } else { "s" }, quoted(names))
}

fn is_windows(spec: &Value) -> bool {
    spec["os"]["name"] == "windows"
}

/// Whether a pod's users are nobody on the host.
fn has_own_users(pod: &Value) -> bool {
    pod["spec"]["hostUsers"] == false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        let pod = json!({"spec": {"containers": [{"name": "c"}]}});
        assert!(Level::Baseline.problems("latest", &pod).is_empty());
        assert_eq!(
            Level::Restricted.problems("latest", &pod).join(", "),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let strict = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        let own = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        assert!(
            Level::Restricted
                .problems("latest", &json!({"spec": {"securityContext": own, "containers": [{"name": "c", "securityContext": strict}]}}))
                .is_empty()
        );
    }

    #[test]
    fn another_image_or_container_is_looked_at_again() {
        let old = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": [{"name": "e", "image": "i"}]}});
        let with = |pointer: &str, value: Value| {
            let mut pod = old.clone();
            *pod.pointer_mut(pointer).expect("a field") = value;
            pod
        };
        assert!(!is_significant(&with("/spec/containers/0/name", "d".into()), &old));
        assert!(is_significant(&with("/spec/ephemeralContainers/0/image", "j".into()), &old));
        assert!(is_significant(&with("/spec/containers/0/image", "j".into()), &old));
        assert!(is_significant(&with("/spec/ephemeralContainers/0/name", "f".into()), &old));
        assert!(is_significant(&with("/spec/containers", json!([])), &old));
    }

    #[test]
    fn what_reaches_the_host_is_not_baseline() {
        let pod = json!({"spec": {"hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced"}, {"name": "kernel.msgmax"}]},
            "containers": [
                {"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}], "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN", "KILL"]}}},
                {"name": "b", "securityContext": {"privileged": true, "procMount": "Unmasked"}}]}});
        assert_eq!(
            Level::Baseline.problems("latest", &pod),
            [
                "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
                "host namespaces (hostNetwork=true, hostPID=true)",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"a\" uses hostPorts 443, 80)",
                "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
                "procMount (container \"b\" must not set securityContext.procMount to \"Unmasked\")",
                "forbidden sysctls (kernel.msgmax)",
            ]
        );
        assert!(Level::Privileged.problems("latest", &pod).is_empty());
    }

    #[test]
    fn a_pinned_version_has_the_checks_of_its_time() {
        let told = |version: &str, pod: &Value| Level::Restricted.reasons(version, pod);
        let plain = json!({"spec": {"containers": [{"name": "c", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}}]}});
        assert_eq!(told("v1.7", &plain), "non-default capabilities, privileged, runAsNonRoot != true");
        assert_eq!(told("v1.18", &plain), "non-default capabilities, privileged, allowPrivilegeEscalation != false, runAsNonRoot != true");
        let all = "privileged, allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile";
        assert_eq!([told("v1.22", &plain), told("v1.99", &plain), told("latest", &plain)], [all; 3]);
        let windows = json!({"spec": {"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]}});
        assert_eq!(told("v1.24", &windows), "allowPrivilegeEscalation != false, unrestricted capabilities, seccompProfile");
        assert_eq!(told("v1.25", &windows), "");
        let mut own = json!({"spec": {"hostUsers": false, "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [
            {"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "procMount": "Unmasked"}}]}});
        assert_eq!(told("v1.34", &own), "procMount, runAsNonRoot != true, runAsUser=0");
        assert_eq!(told("v1.35", &own), "procMount");
        own["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"host": "10.0.0.1"}});
        assert_eq!([Level::Baseline.reasons("v1.33", &own), Level::Baseline.reasons("latest", &own)], ["procMount", "probe or lifecycle host"]);
    }

    #[test]
    fn annotations_of_old_are_looked_at() {
        let pod = json!({"metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined", "container.seccomp.security.alpha.kubernetes.io/c": "unconfined"}},
            "spec": {"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}});
        assert_eq!(
            Level::Baseline.problems("v1.18", &pod),
            [
                "forbidden AppArmor profiles (container \"c\" and annotation must not set AppArmor profile type to \"Unconfined\", \
                 \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
                "seccompProfile (forbidden annotation container.seccomp.security.alpha.kubernetes.io/c=\"unconfined\")",
            ]
        );
    }
}
