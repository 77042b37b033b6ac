//! Environment variables of containers, and what they and files take from the pod or its containers.

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quantity::Quantity,
};

/// The fields of a pod that a variable may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

/// Checks the variables of a container.
pub(super) fn check(c: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, env) in tree::list(c, "env").iter().enumerate() {
        let path = path.child("env").index(at);
        let name = tree::text(env, "name");
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            rules::name(name, &path.child("name"), names::env_var_name(name), errors);
        }
        if env["valueFrom"].is_object() {
            value_from(env, &path.child("valueFrom"), errors);
        }
    }
    env_from(c, &path.child("envFrom"), errors);
}

fn value_from(env: &Value, path: &Path, errors: &mut ErrorList) {
    let from = &env["valueFrom"];
    let mut found = 0;
    for key in SOURCES {
        let source = &from[key];
        if !source.is_object() {
            continue;
        }
        found += 1;
        let path = path.child(key);
        match key {
            "fieldRef" => field_ref(source, &path, &ENV_FIELDS, errors),
            "resourceFieldRef" => resource_ref(source, &path, false, errors),
            "fileKeyRef" => file_key(source, &path, errors),
            _ => {
                let name = tree::text(source, "name");
                rules::name(name, &path.child("name"), names::dns1123_subdomain(name), errors);
                if rules::required(source, &path, "key", errors) {
                    let key = tree::text(source, "key");
                    rules::name(key, &path.child("key"), names::config_map_key(key), errors);
                }
            }
        }
    }
    let detail = match found {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if !tree::empty(&env["value"]) => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(Error::invalid(path, "", detail));
}

fn file_key(source: &Value, path: &Path, errors: &mut ErrorList) {
    if rules::required(source, path, "key", errors) {
        let key = tree::text(source, "key");
        rules::name(key, &path.child("key"), names::env_var_name(key), errors);
    }
    if rules::required(source, path, "volumeName", errors) {
        let name = tree::text(source, "volumeName");
        rules::name(name, &path.child("volumeName"), names::dns1123_label(name), errors);
    }
    if rules::required(source, path, "path", errors) {
        super::sources::no_backsteps(tree::text(source, "path"), &path.child("path"), errors);
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn field_ref(source: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if !rules::required(source, path, "apiVersion", errors) || !rules::required(source, path, "fieldPath", errors) {
        return;
    }
    let text = tree::text(source, "fieldPath");
    let version = tree::text(source, "apiVersion");
    if version != "v1" {
        errors.push(Error::invalid(&path.child("fieldPath"), text, format!("error converting fieldPath: unsupported pod version: {version}")));
        return;
    }
    if let Some((base, key)) = text.strip_suffix("']").and_then(|t| t.split_once("['")).filter(|(base, _)| !base.is_empty()) {
        match base {
            "metadata.labels" => rules::name(key, path, names::qualified_name(key), errors),
            // Upstream shows it as it looks at it.
            "metadata.annotations" => {
                let key = names::lower(key);
                rules::name(&key, path, names::qualified_name(&key), errors);
            }
            _ => errors.push(not_convertible(text, "field label does not support subscript", path)),
        }
    } else if !is_known(text) {
        errors.push(not_convertible(text, "field label not supported", path));
    } else if !allowed.contains(&text) {
        errors.push(Error::not_supported(&path.child("fieldPath"), text, allowed));
    }
}

fn not_convertible(text: &str, why: &str, path: &Path) -> Error {
    Error::invalid(&path.child("fieldPath"), text, format!("error converting fieldPath: {why}: {text}"))
}

/// The labels of fields that exist at all (`ConvertDownwardAPIFieldLabel`).
fn is_known(text: &str) -> bool {
    ENV_FIELDS.contains(&text)
        || matches!(text, "metadata.annotations" | "metadata.labels" | "spec.restartPolicy" | "spec.schedulerName" | "status.phase" | "spec.host")
}

const RESOURCE_FIELDS: [&str; 6] = ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const SIZE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Checks a reference to a container's resources; in a volume the container must be named.
pub(super) fn resource_ref(source: &Value, path: &Path, volume: bool, errors: &mut ErrorList) {
    let resource = tree::text(source, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && tree::empty(&source["containerName"]) {
        errors.push(Error::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge {
        errors.push(Error::not_supported(&path.child("resource"), resource, &RESOURCE_FIELDS));
    }
    let Some(divisor) = rules::quantity(&source["divisor"]).filter(|d| *d != Quantity::ZERO) else { return };
    let (allowed, what): (&[&str], &str) = match resource.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (&SIZE_DIVISORS, "memory"),
        "ephemeral-storage" => (&SIZE_DIVISORS, "local ephemeral storage"),
        _ if huge => (&SIZE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        let listed = if what == "cpu" { "1m and 1".to_owned() } else { SIZE_DIVISORS.join(", ") };
        let detail = format!("only divisor's values {listed} are supported with the {what} resource");
        errors.push(Error::invalid(&path.child("divisor"), resource, detail));
    }
}

fn env_from(c: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, source) in tree::list(c, "envFrom").iter().enumerate() {
        let place = path.index(at);
        let prefix = tree::text(source, "prefix");
        if !prefix.is_empty() {
            rules::name(prefix, &place.child("prefix"), names::env_var_name(prefix), errors);
        }
        let mut found = 0;
        for key in ["configMapRef", "secretRef"] {
            let reference = &source[key];
            if !reference.is_object() {
                continue;
            }
            found += 1;
            if rules::required(reference, &place.child(key), "name", errors) {
                let name = tree::text(reference, "name");
                rules::name_or_prefix(name, &place.child(key).child("name"), errors);
            }
        }
        // Upstream names the list, not the element.
        match found {
            0 => errors.push(Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(Error::invalid(path, "", "may not have more than one field specified at a time")),
        }
    }
}
