//! Checks of containers.

use super::{handlers, spec, spec::Users, volumes};
use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// What the checks of one container need to know of its pod.
struct Scope<'v> {
    host_network: bool,
    volumes: &'v HashSet<&'v str>,
}

/// Which list a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    Sidecar,
    Ephemeral,
}

/// Checks all containers of a pod.
pub(super) fn check_all(spec: &Value, path: &Path, user: Users, volumes: &HashSet<&str>, errors: &mut ErrorList) {
    let scope = Scope { host_network: spec["hostNetwork"] == true, volumes };
    let mut seen = HashSet::new();
    let place = path.child("containers");
    let mains = tree::list(spec, "containers");
    if mains.is_empty() {
        errors.push(Error::required(&place, ""));
    }
    let mut host_ports = HashSet::new();
    for (at, container) in mains.iter().enumerate() {
        one(container, &place.index(at), Role::Main, &scope, &mut seen, errors);
        conflicting_host_ports(container, &place.index(at), &mut host_ports, errors);
    }
    let place = path.child("initContainers");
    for (at, container) in tree::list(spec, "initContainers").iter().enumerate() {
        let role = if container["restartPolicy"] == "Always" { Role::Sidecar } else { Role::Init };
        one(container, &place.index(at), role, &scope, &mut seen, errors);
    }
    let place = path.child("ephemeralContainers");
    let ephemeral = tree::list(spec, "ephemeralContainers");
    match user {
        Users::Pod if !ephemeral.is_empty() => errors.push(Error::forbidden(&place, "cannot be set on create")),
        Users::Template if !ephemeral.is_empty() => errors.push(Error::forbidden(&place, "ephemeral containers not allowed in pod template")),
        _ => {
            for (at, container) in ephemeral.iter().enumerate() {
                one(container, &place.index(at), Role::Ephemeral, &scope, &mut seen, errors);
            }
        }
    }
}

fn one<'v>(c: &'v Value, path: &Path, role: Role, scope: &Scope<'_>, seen: &mut HashSet<&'v str>, errors: &mut ErrorList) {
    let name = tree::text(c, "name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
        if !seen.insert(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
    }
    let image = tree::text(c, "image");
    if image.is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(Error::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    rules::one_of(&c["terminationMessagePolicy"], &path.child("terminationMessagePolicy"), &["FallbackToLogsOnError", "File"], errors);
    ports(c, path, scope, errors);
    env(c, path, errors);
    env_from(c, path, errors);
    mounts(c, path, scope, errors);
    rules::one_of(&c["imagePullPolicy"], &path.child("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
    resources(&c["resources"], &path.child("resources"), errors);
    security(&c["securityContext"], &path.child("securityContext"), errors);
    match role {
        Role::Main | Role::Sidecar => {
            handlers::lifecycle(c, path, errors);
            handlers::probes(c, path, errors);
        }
        Role::Init => {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if !c[field].is_null() {
                    errors.push(Error::forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always"));
                }
            }
        }
        Role::Ephemeral => {
            for field in ["ports", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "resources", "resizePolicy"] {
                if !tree::empty(&c[field]) {
                    errors.push(Error::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

fn ports(c: &Value, path: &Path, scope: &Scope<'_>, errors: &mut ErrorList) {
    let mut names_seen = HashSet::new();
    for (at, port) in tree::list(c, "ports").iter().enumerate() {
        let path = path.child("ports").index(at);
        let name = tree::text(port, "name");
        if !name.is_empty() {
            rules::name(name, &path.child("name"), names::port_name(name), errors);
            if !names_seen.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        let number = port["containerPort"].as_i64().unwrap_or(0);
        let host = port["hostPort"].as_i64().unwrap_or(0);
        if number == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            errors.extend(names::port_number(number).into_iter().map(|m| Error::invalid(&path.child("containerPort"), number, m)));
        }
        if host != 0 {
            errors.extend(names::port_number(host).into_iter().map(|m| Error::invalid(&path.child("hostPort"), host, m)));
        }
        if scope.host_network && host != 0 && host != number {
            errors.push(Error::invalid(&path.child("containerPort"), number, "must match `hostPort` when `hostNetwork` is true"));
        }
        let protocol = tree::text(port, "protocol");
        rules::one_of(&protocol.into(), &path.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
        let ip = tree::text(port, "hostIP");
        if !ip.is_empty() && !rules::is_ip(ip) {
            errors.push(Error::invalid(&path.child("hostIP"), ip, rules::BAD_IP));
        }
    }
}

fn conflicting_host_ports(c: &Value, path: &Path, seen: &mut HashSet<String>, errors: &mut ErrorList) {
    for (at, port) in tree::list(c, "ports").iter().enumerate() {
        let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) else { continue };
        let text = format!("{}/{}/{number}", tree::text(port, "protocol"), tree::text(port, "hostIP"));
        if seen.contains(&text) {
            errors.push(Error::duplicate(&path.child("ports").index(at).child("hostPort"), text.as_str()));
        }
        seen.insert(text);
    }
}

const ENV_FIELDS: [&str; 8] = [
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP",
];
const ENV_SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

fn env(c: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, env) in tree::list(c, "env").iter().enumerate() {
        let path = path.child("env").index(at);
        let name = tree::text(env, "name");
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            rules::name(name, &path.child("name"), names::env_var_name(name), errors);
        }
        let (from, place) = (&env["valueFrom"], path.child("valueFrom"));
        if !from.is_object() {
            continue;
        }
        let found: Vec<&&str> = ENV_SOURCES.iter().filter(|key| from[**key].is_object()).collect();
        if !tree::empty(&env["value"]) && !found.is_empty() {
            errors.push(Error::invalid(&place, "", "may not be specified when `value` is not empty"));
        } else if found.is_empty() {
            errors.push(Error::invalid(&place, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"));
        } else if found.len() > 1 {
            errors.push(Error::invalid(&place, "", "may not have more than one field specified at a time"));
        }
        for key in found {
            let (source, place) = (&from[*key], place.child(key));
            match *key {
                "fieldRef" => {
                    let mut allowed = ENV_FIELDS.to_vec();
                    allowed.push("status.podIPs");
                    field_ref(source, &place, &allowed, errors);
                }
                "resourceFieldRef" => resource_ref(source, &place, false, errors),
                "fileKeyRef" => {}
                _ => {
                    rules::required(source, &place, "name", errors);
                    if rules::required(source, &place, "key", errors) {
                        let key = tree::text(source, "key");
                        rules::name(key, &place.child("key"), names::config_map_key(key), errors);
                    }
                }
            }
        }
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn field_ref(source: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    rules::required(source, path, "apiVersion", errors);
    if !rules::required(source, path, "fieldPath", errors) {
        return;
    }
    let (text, place) = (tree::text(source, "fieldPath"), path.child("fieldPath"));
    if let Some((base, key)) = text.strip_suffix(']').and_then(|t| t.split_once("['")) {
        let key = key.trim_end_matches('\'');
        match base {
            "metadata.labels" => rules::name(key, &place, names::qualified_name(key), errors),
            "metadata.annotations" => rules::name(key, &place, names::qualified_name(&key.to_lowercase()), errors),
            _ => errors.push(Error::invalid(&place, text, "does not support subscript")),
        }
    } else if !allowed.contains(&text) {
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        errors.push(Error::not_supported(&place, text, &allowed));
    }
}

const RESOURCE_FIELDS: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// Checks a reference to a container's resources; in a volume the container must be named.
pub(super) fn resource_ref(source: &Value, path: &Path, volume: bool, errors: &mut ErrorList) {
    if volume && tree::empty(&source["containerName"]) {
        errors.push(Error::required(&path.child("containerName"), ""));
    }
    if !rules::required(source, path, "resource", errors) {
        return;
    }
    let resource = tree::text(source, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if !RESOURCE_FIELDS.contains(&resource) && !huge {
        errors.push(Error::not_supported(&path.child("resource"), resource, &RESOURCE_FIELDS));
    }
    let divisor = tree::text(source, "divisor");
    let (allowed, what): (&[&str], &str) = match resource.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => (&["", "0", "1m", "1"], "cpu"),
        "memory" => (&["", "0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"], "memory"),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let detail = if what == "cpu" { "only divisor's values 1m and 1 are supported with the cpu resource" } else {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
        };
        errors.push(Error::invalid(&path.child("divisor"), divisor, detail));
    }
}

fn env_from(c: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, source) in tree::list(c, "envFrom").iter().enumerate() {
        let path = path.child("envFrom").index(at);
        let prefix = tree::text(source, "prefix");
        if !prefix.is_empty() {
            rules::name(prefix, &path.child("prefix"), names::env_var_name(prefix), errors);
        }
        let found: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|k| source[*k].is_object()).collect();
        for key in &found {
            rules::required(&source[*key], &path.child(key), "name", errors);
        }
        match found.len() {
            0 => errors.push(Error::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(Error::invalid(&path, "", "may not have more than one field specified at a time")),
        }
    }
}

fn mounts(c: &Value, path: &Path, scope: &Scope<'_>, errors: &mut ErrorList) {
    let mut taken = HashSet::new();
    for (at, mount) in tree::list(c, "volumeMounts").iter().enumerate() {
        let path = path.child("volumeMounts").index(at);
        let (name, target) = (tree::text(mount, "name"), tree::text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        if target.is_empty() {
            errors.push(Error::required(&path.child("mountPath"), ""));
        }
        if !scope.volumes.contains(name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
        if !taken.insert(target) {
            errors.push(Error::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        let (sub, expr) = (tree::text(mount, "subPath"), tree::text(mount, "subPathExpr"));
        if !sub.is_empty() {
            volumes::relative(sub, &path.child("subPath"), errors);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                errors.push(Error::invalid(&path.child("subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive"));
            }
            volumes::relative(expr, &path.child("subPathExpr"), errors);
        }
        if mount["mountPropagation"] == "Bidirectional" && c["securityContext"]["privileged"] != true {
            errors.push(Error::forbidden(&path.child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"));
        }
    }
    for (at, device) in tree::list(c, "volumeDevices").iter().enumerate() {
        let path = path.child("volumeDevices").index(at);
        rules::required(device, &path, "name", errors);
        rules::required(device, &path, "devicePath", errors);
        let name = tree::text(device, "name");
        if !name.is_empty() && !scope.volumes.contains(name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
    }
}

/// Whether the resource is one of Kubernetes' own, which may be requested below the limit.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split('/').next().is_some_and(|p| p.ends_with("kubernetes.io"))
}

fn resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let problems = names::qualified_name(name);
    let shaped = problems.is_empty();
    rules::name(name, path, problems, errors);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if shaped && !name.contains('/') && !standard {
        errors.push(Error::invalid(path, name, "must be a standard resource type or fully qualified"));
        errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
    }
}

/// Checks requests and limits.
pub(super) fn resources(resources: &Value, path: &Path, errors: &mut ErrorList) {
    for (name, value) in tree::entries(resources, "limits") {
        let place = path.child("limits").key(name);
        resource_name(name, &path.child("limits"), errors);
        rules::quantity_not_negative(value, &place, errors);
    }
    let limits = &resources["limits"];
    for (name, value) in tree::entries(resources, "requests") {
        let place = path.child("requests");
        resource_name(name, &place, errors);
        rules::quantity_not_negative(value, &place.key(name), errors);
        let limit = limits.get(name).and_then(rules::quantity);
        let (Some(request), Some(limit)) = (rules::quantity(value), limit) else {
            if !is_native(name) || name.starts_with("hugepages-") {
                errors.push(Error::required(&path.child("limits"), "Limit must be set for non overcommitable resources"));
            }
            continue;
        };
        let exact = !is_native(name) || name.starts_with("hugepages-");
        if exact && request != limit {
            errors.push(Error::invalid(&place, request.to_string(), format!("must be equal to {name} limit of {limit}")));
        } else if request > limit {
            errors.push(Error::invalid(&place, request.to_string(), format!("must be less than or equal to {name} limit of {limit}")));
        }
    }
    let mut seen = HashSet::new();
    for (at, claim) in tree::list(resources, "claims").iter().enumerate() {
        let path = path.child("claims").index(at);
        rules::required(claim, &path, "name", errors);
        if !seen.insert((tree::text(claim, "name"), tree::text(claim, "request"))) {
            errors.push(Error::duplicate(&path, tree::text(claim, "name")));
        }
    }
}

fn security(context: &Value, path: &Path, errors: &mut ErrorList) {
    if !context.is_object() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        spec::id(&context[field], &path.child(field), errors);
    }
    spec::seccomp(&context["seccompProfile"], &path.child("seccompProfile"), errors);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            errors.push(Error::invalid(path, context.clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        if tree::list(&context["capabilities"], "add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, context.clone(), detail));
        }
    }
}
