//! Checks of a pod spec as a whole.

use super::{containers, placement, volumes};
use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// Whose spec it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// A new pod's.
    Pod,
    /// An existing pod's, which may have ephemeral containers.
    ExistingPod,
    /// A template's.
    Template,
}

/// Checks a pod spec.
pub(crate) fn check_spec(spec: &Value, path: &Path, user: Users, errors: &mut ErrorList) {
    let known = volumes::check(spec, path, errors);
    containers::check_all(spec, path, user, &known, errors);
    rules::one_of(&spec["restartPolicy"], &path.child("restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    dns(spec, path, errors);
    security(spec, path, errors);
    for (at, secret) in tree::list(spec, "imagePullSecrets").iter().enumerate() {
        rules::required(secret, &path.child("imagePullSecrets").index(at), "name", errors);
    }
    placement::check(spec, path, errors);
    if let Some(alias) = tree::list(spec, "hostAliases").iter().find(|a| !rules::is_ip(tree::text(a, "ip"))) {
        errors.push(Error::invalid(&path.child("hostAliases").child("ip"), tree::text(alias, "ip"), rules::BAD_IP));
    }
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("schedulerName", names::qualified_name),
    ] {
        let value = tree::text(spec, field);
        if !value.is_empty() {
            rules::name(value, &path.child(field), rule(value), errors);
        }
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    if user != Users::ExistingPod && !tree::empty(&spec["nodeName"]) && !tree::empty(&spec["schedulingGates"]) {
        errors.push(Error::forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared"));
    }
    gates(spec, path, errors);
}

fn gates(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, gate) in tree::list(spec, "schedulingGates").iter().enumerate() {
        let (name, path) = (tree::text(gate, "name"), path.child("schedulingGates").index(at));
        rules::name(name, &path, names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(Error::duplicate(&path, name));
        }
    }
    for (at, gate) in tree::list(spec, "readinessGates").iter().enumerate() {
        let name = tree::text(gate, "conditionType");
        let path = path.child("readinessGates").index(at).child("conditionType");
        rules::name(name, &path, names::qualified_name(name), errors);
    }
}

/// Most name servers and search domains of a pod, and most bytes of the latter.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

fn dns(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    rules::one_of(&spec["dnsPolicy"], &path.child("dnsPolicy"), &policies, errors);
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = tree::list(config, "nameservers");
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            errors.push(Error::required(&path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        } else if servers.is_empty() {
            errors.push(Error::required(&path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"));
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(&path.child("nameservers"), config["nameservers"].clone(), detail));
    }
    for (at, server) in servers.iter().enumerate() {
        let text = server.as_str().unwrap_or_default();
        if !rules::is_ip(text) {
            errors.push(Error::invalid(&path.child("nameservers").index(at), text, rules::BAD_IP));
        }
    }
    let searches = tree::list(config, "searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(Error::invalid(&path.child("searches"), config["searches"].clone(), detail));
    }
    for (at, option) in tree::list(config, "options").iter().enumerate() {
        rules::required(option, &path.child("options").index(at), "name", errors);
    }
}

/// A group or user ID.
pub(super) fn id(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = value.as_i64().filter(|n| !(0..=i64::from(i32::MAX)).contains(n)) {
        errors.push(Error::invalid(path, number, format!("must be between 0 and {}, inclusive", i32::MAX)));
    }
}

fn security(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (context, place) = (&spec["securityContext"], path.child("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[field], &place.child(field), errors);
    }
    for (at, group) in tree::list(context, "supplementalGroups").iter().enumerate() {
        id(group, &place.child("supplementalGroups").index(at), errors);
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        errors.push(Error::invalid(&place.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    seccomp(&context["seccompProfile"], &place.child("seccompProfile"), errors);
    sysctls(spec, &place, errors);
}

fn sysctls(spec: &Value, place: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, sysctl) in tree::list(&spec["securityContext"], "sysctls").iter().enumerate() {
        let (name, path) = (tree::text(sysctl, "name"), place.child("sysctls").index(at));
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !is_sysctl(name) {
            let pattern = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let detail = format!("must have at most 253 characters and match regex ^{pattern}$");
            errors.push(Error::invalid(&path.child("name"), name, detail));
        } else if !seen.insert(name.replace('/', ".")) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        let name = name.replace('/', ".");
        if spec["hostNetwork"] == true && name.starts_with("net.") {
            errors.push(Error::invalid(&path.child("name"), name.as_str(), "may not be specified when 'hostNetwork' is true"));
        }
        if spec["hostIPC"] == true && (name.starts_with("kernel.shm") || name.starts_with("kernel.msg") || name.starts_with("fs.mqueue.")) {
            errors.push(Error::invalid(&path.child("name"), name.as_str(), "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let part = |p: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(p.as_bytes().first())
            && edge(p.as_bytes().last())
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= names::SUBDOMAIN_MAX_BYTES && name.split(['.', '/']).all(part)
}

/// Checks a seccomp profile.
pub(super) fn seccomp(profile: &Value, path: &Path, errors: &mut ErrorList) {
    if !profile.is_object() {
        return;
    }
    let (kind, local) = (tree::text(profile, "type"), tree::text(profile, "localhostProfile"));
    match kind {
        "Localhost" if local.is_empty() => {
            errors.push(Error::required(&path.child("localhostProfile"), "must be set when seccomp type is Localhost"));
        }
        "Localhost" => volumes::relative(local, &path.child("localhostProfile"), errors),
        "" => errors.push(Error::required(&path.child("type"), "type is required when seccompProfile is set")),
        _ if !profile["localhostProfile"].is_null() => {
            errors.push(Error::invalid(&path.child("localhostProfile"), local, "can only be set when seccomp type is Localhost"));
        }
        _ => {}
    }
}

/// What is deprecated or does not do what it seems to (`pkg/api/pod/warnings.go`).
pub(crate) fn warnings(spec: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for key in ["beta.kubernetes.io/arch", "beta.kubernetes.io/os"] {
        if !spec["nodeSelector"][key].is_null() {
            let new = key.trim_start_matches("beta.");
            out.push(format!("{}[{key}]: deprecated since v1.14; use {new:?} instead", path.child("nodeSelector")));
        }
    }
    for list in ["initContainers", "containers"] {
        for (at, container) in tree::list(spec, list).iter().enumerate() {
            let mut seen = HashSet::new();
            for (env_at, env) in tree::list(container, "env").iter().enumerate() {
                if !seen.insert(tree::text(env, "name")) {
                    let place = path.child(list).index(at).child("env").index(env_at);
                    out.push(format!("{place}: hides previous definition of {:?}, which may be dropped when using apply", tree::text(env, "name")));
                }
            }
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let place = path.child("terminationGracePeriodSeconds");
        out.push(format!("{place}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}
