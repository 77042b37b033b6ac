//! Checks of a pod spec as a whole.

use super::{
    annotations::MIRROR,
    containers, os, placement,
    security::{Users, app_armor, id, seccomp},
    volumes, windows,
};
use crate::{amounts, internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Checks the spec of the pod that has this metadata; a template's pods have none yet.
pub(crate) fn check_spec(spec: &Value, meta: &Value, path: &Path, user: Users, errors: &mut ErrorList) {
    if spec["terminationGracePeriodSeconds"].is_null() {
        errors.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let known = volumes::check(spec, tree::text(meta, "name"), path, errors);
    if meta["annotations"][MIRROR].is_null() {
        resource_claims(spec, &path.child("resourceClaims"), errors);
    } else {
        let refused = tree::list(spec, "resourceClaims").iter().map(|_| Error::forbidden(&Path::unnamed(), "static pods do not support resource claims"));
        errors.extend(refused);
    }
    containers::check_all(spec, path, &known, errors);
    amounts::pod(spec, &path.child("resources"), errors);
    if spec["hostNetwork"] == true {
        host_network(spec, path, user, errors);
    }
    rules::one_of(&spec["restartPolicy"], &path.child("restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    rules::one_of(&spec["dnsPolicy"], &path.child("dnsPolicy"), &policies, errors);
    rules::labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    security(spec, path, errors);
    placement::affinity(&spec["affinity"], &path.child("affinity"), errors);
    dns(spec, path, errors);
    gates(spec, path, errors);
    placement::spreading(spec, path, errors);
    windows::host_process(spec, path, errors);
    host_users(spec, path, errors);
    host_name(spec, path, errors);
    named(spec, path, &["serviceAccountName", "nodeName"], names::dns1123_subdomain, errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    named(spec, path, &["hostname", "subdomain"], names::dns1123_label, errors);
    placement::tolerations(spec, path, errors);
    host_aliases(spec, &path.child("hostAliases"), errors);
    named(spec, path, &["priorityClassName", "runtimeClassName"], names::dns1123_subdomain, errors);
    if !spec["preemptionPolicy"].is_null() {
        rules::one_of(&spec["preemptionPolicy"], &path.child("preemptionPolicy"), &["PreemptLowerPriority", "Never"], errors);
    }
    if !tree::empty(&spec["overhead"]) {
        // Upstream checks it as the limits of a container, and tells it so.
        amounts::container(&json!({"limits": spec["overhead"]}), &HashSet::new(), &path.child("overhead"), errors);
    }
    os::check(spec, path, errors);
    file_keys(spec, path, errors);
    if user == Users::Template && !tree::empty(&spec["ephemeralContainers"]) {
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template"));
    }
}

/// Checks what holds for pods and not for templates.
pub(super) fn check_pod(obj: &Value, user: Users, errors: &mut ErrorList) {
    let (spec, path) = (&obj["spec"], Path::root("spec"));
    super::annotations::check(obj, spec, &Path::root("metadata").child("annotations"), errors);
    check_spec(spec, &obj["metadata"], &path, user, errors);
    if tree::empty(&spec["serviceAccountName"]) {
        for (at, volume) in tree::list(spec, "volumes").iter().enumerate() {
            for (nth, source) in tree::list(&volume["projected"], "sources").iter().enumerate() {
                if source["serviceAccountToken"].is_object() {
                    let place = path.child("volumes").index(at).child("projected").child("sources").index(nth).child("serviceAccountToken");
                    errors.push(Error::forbidden(&place, "must not be specified when serviceAccountName is not set"));
                }
            }
        }
    }
    rules::not_negative(&spec["terminationGracePeriodSeconds"], &path.child("terminationGracePeriodSeconds"), errors);
    containers::check_images(spec, &path, errors);
    if user == Users::Pod && !tree::empty(&spec["ephemeralContainers"]) {
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if user == Users::Pod && !tree::empty(&spec["nodeName"]) && !tree::empty(&spec["schedulingGates"]) {
        errors.push(Error::forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared"));
    }
    if user == Users::Pod {
        super::annotations::agree(obj, &path, errors);
    }
}

fn resource_claims(spec: &Value, list: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, claim) in tree::list(spec, "resourceClaims").iter().enumerate() {
        let (path, name) = (list.index(at), tree::text(claim, "name"));
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if seen.insert(name) {
            rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
        } else {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|s| claim[**s].is_string()).count() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(Error::invalid(&path, claim.clone(), detail).shown_as(internal::text("core.PodResourceClaim", claim)));
            }
            1 => {}
            _ => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(Error::invalid(&path, claim.clone(), detail).shown_as(internal::text("core.PodResourceClaim", claim)));
            }
        }
        for source in sources {
            if let Some(text) = claim[source].as_str() {
                rules::name(text, &path.child(source), names::dns1123_subdomain(text), errors);
            }
        }
    }
}

/// In the host's network a container's port is the host's. Templates may leave the latter out: pods get it by default.
fn host_network(spec: &Value, path: &Path, user: Users, errors: &mut ErrorList) {
    for (at, container) in tree::list(spec, "containers").iter().enumerate() {
        for (nth, port) in tree::list(container, "ports").iter().enumerate() {
            let (host, own) = (port["hostPort"].as_i64().unwrap_or(0), port["containerPort"].as_i64().unwrap_or(0));
            if (user != Users::Template || host != 0) && host != own {
                let place = path.child("containers").index(at).child("ports").index(nth).child("hostPort");
                errors.push(Error::invalid(&place, host, "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

/// A pod with users of its own cannot share most of the host's namespaces.
fn host_users(spec: &Value, path: &Path, errors: &mut ErrorList) {
    if spec["hostUsers"] != false {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[field] == true {
            errors.push(Error::forbidden(&path.child(shown), "when `hostUsers` is false"));
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, _) in tree::list(spec, list).iter().enumerate().filter(|(_, c)| !tree::empty(&c["volumeDevices"])) {
            errors.push(Error::forbidden(&path.child(list).index(at).child("volumeDevices"), "when `hostUsers` is false"));
        }
    }
}

/// Most bytes of a host's name in Linux.
const HOSTNAME_BYTES_MAX: usize = 64;

fn host_name(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    let path = path.child("hostnameOverride");
    if spec["setHostnameAsFQDN"] == true {
        errors.push(Error::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
    }
    if spec["hostNetwork"] == true {
        errors.push(Error::forbidden(&path, "may not be specified when hostNetwork is true"));
    }
    if name.len() > HOSTNAME_BYTES_MAX {
        errors.push(Error::too_long(&path, HOSTNAME_BYTES_MAX));
    }
    rules::name(name, &path, names::dns1123_subdomain(name), errors);
}

/// Names that need not be said; that of a runtime class may not be empty if it is.
fn named(spec: &Value, path: &Path, fields: &[&str], rule: fn(&str) -> Vec<String>, errors: &mut ErrorList) {
    for field in fields.iter().copied() {
        if let Some(value) = spec[field].as_str().filter(|value| !value.is_empty() || field == "runtimeClassName") {
            rules::name(value, &path.child(field), rule(value), errors);
        }
    }
}

fn host_aliases(spec: &Value, list: &Path, errors: &mut ErrorList) {
    for (at, alias) in tree::list(spec, "hostAliases").iter().enumerate() {
        let path = list.index(at);
        rules::ip(tree::text(alias, "ip"), &path.child("ip"), errors);
        for (nth, name) in tree::list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            rules::name(name, &path.child("hostnames").index(nth), names::dns1123_subdomain(name), errors);
        }
    }
}

/// Variables from files need a volume that a container may write, whatever else is wrong with it.
fn file_keys(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let volumes: HashMap<&str, &Value> = tree::list(spec, "volumes").iter().map(|volume| (tree::text(volume, "name"), volume)).collect();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in tree::list(spec, list).iter().enumerate() {
            for (nth, env) in tree::list(container, "env").iter().enumerate().filter(|(_, e)| e["valueFrom"]["fileKeyRef"].is_object()) {
                let name = tree::text(&env["valueFrom"]["fileKeyRef"], "volumeName");
                let place = || path.child(list).index(at).child("env").index(nth).child("valueFrom").child("fileKeyRef").child("volumeName");
                match volumes.get(name) {
                    None => errors.push(Error::not_found(&place(), name)),
                    Some(volume) if !volume["emptyDir"].is_object() => {
                        errors.push(Error::invalid(&place(), name, "referenced volume must be of type emptyDir"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn gates(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, gate) in tree::list(spec, "readinessGates").iter().enumerate() {
        let name = tree::text(gate, "conditionType");
        let path = path.child("readinessGates").index(at).child("conditionType");
        rules::name(name, &path, names::qualified_name(name), errors);
    }
    let mut seen = HashSet::new();
    for (at, gate) in tree::list(spec, "schedulingGates").iter().enumerate() {
        let (name, path) = (tree::text(gate, "name"), path.child("schedulingGates").index(at));
        rules::name(name, &path, names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(Error::duplicate(&path, name));
        }
    }
}

/// Most name servers and search domains of a pod, and most bytes of the latter.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

fn dns(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = tree::list(config, "nameservers");
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            errors.push(Error::required(&path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            errors.push(Error::required(&path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(&path.child("nameservers"), config["nameservers"].clone(), detail));
    }
    for (at, server) in servers.iter().enumerate() {
        rules::ip(server.as_str().unwrap_or_default(), &path.child("nameservers").index(at), errors);
    }
    let searches: Vec<&str> = tree::list(config, "searches").iter().filter_map(Value::as_str).collect();
    let place = path.child("searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(Error::invalid(&place, config["searches"].clone(), detail));
    }
    if searches.join(" ").len() > SEARCH_BYTES_MAX {
        let detail = format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list");
        errors.push(Error::invalid(&place, config["searches"].clone(), detail));
    }
    for (at, search) in searches.into_iter().enumerate().filter(|(_, s)| *s != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        rules::name(name, &place.index(at), search_domain(name), errors);
    }
    for (at, option) in tree::list(config, "options").iter().enumerate() {
        if tree::empty(&option["name"]) {
            errors.push(Error::required(&path.child("options").index(at), "must not be empty"));
        }
    }
}

/// A domain in which underscores are allowed, as is usual in search domains.
fn search_domain(name: &str) -> Vec<String> {
    // Underscores stand where letters may, and before a part's first letter.
    let plain = name.split('.').map(|p| p.strip_prefix('_').unwrap_or(p).replace('_', "-")).collect::<Vec<_>>().join(".");
    let mut out = Vec::new();
    if name.len() > names::SUBDOMAIN_MAX_BYTES {
        out.push(names::too_long(names::SUBDOMAIN_MAX_BYTES));
    }
    if names::is_subdomain(&plain) {
        return out;
    }
    let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end \
        with an alphanumeric character";
    let part = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    out.push(names::regex_error(message, &format!("{part}(\\.{part})*"), &["example.com"]));
    out
}

fn security(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (context, place) = (&spec["securityContext"], path.child("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[field], &place.child(field), errors);
    }
    for (at, group) in tree::list(context, "supplementalGroups").iter().enumerate() {
        id(group, &place.child("supplementalGroups").index(at), errors);
    }
    sysctls(spec, &place, errors);
    rules::supported(&context["fsGroupChangePolicy"], &place.child("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    seccomp(&context["seccompProfile"], &place.child("seccompProfile"), errors);
    windows::options(&context["windowsOptions"], &place.child("windowsOptions"), errors);
    app_armor(&context["appArmorProfile"], &place.child("appArmorProfile"), errors);
    rules::supported(&context["supplementalGroupsPolicy"], &place.child("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    rules::supported(&context["seLinuxChangePolicy"], &place.child("seLinuxChangePolicy"), &["MountOption", "Recursive"], errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
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
        } else if seen.contains(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        match namespace_of(&dotted_sysctl(name)) {
            Some(Shared::Network) if spec["hostNetwork"] == true => {
                errors.push(Error::invalid(&path.child("name"), name, "may not be specified when 'hostNetwork' is true"));
            }
            Some(Shared::Ipc) if spec["hostIPC"] == true => {
                errors.push(Error::invalid(&path.child("name"), name, "may not be specified when 'hostIPC' is true"));
            }
            _ => {}
        }
        seen.insert(name);
    }
}

/// The namespaces of a host that a sysctl may be of.
enum Shared {
    Network,
    Ipc,
}

fn namespace_of(sysctl: &str) -> Option<Shared> {
    match sysctl {
        "kernel.sem"
        | "kernel.shm"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced"
        | "kernel.msg"
        | "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni" => Some(Shared::Ipc),
        _ if sysctl.starts_with("fs.mqueue.") => Some(Shared::Ipc),
        _ if sysctl.starts_with("net.") => Some(Shared::Network),
        _ => None,
    }
}

/// A sysctl's name as it is spelled with dots. Where slashes part it, dots stand inside its parts, and the other way round.
#[must_use]
pub fn dotted_sysctl(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name.as_bytes().get(at) == Some(&b'.')) {
        return name.to_owned();
    }
    let swapped = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swapped).collect()
}

fn is_sysctl(name: &str) -> bool {
    let part = |p: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(p.as_bytes().first()) && edge(p.as_bytes().last()) && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= names::SUBDOMAIN_MAX_BYTES && name.split(['.', '/']).all(part)
}
