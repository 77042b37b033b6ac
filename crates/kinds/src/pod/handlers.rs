//! Probes and lifecycle hooks.

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

const PROBE_NUMBERS: [&str; 5] = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// Checks the probes of a container.
pub(super) fn probes(container: &Value, path: &Path, errors: &mut ErrorList) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[key];
        if !probe.is_object() {
            continue;
        }
        let path = path.child(key);
        handler(probe, &path, &PROBE_HANDLERS, None, errors);
        rules::all_not_negative(probe, &path, &PROBE_NUMBERS, errors);
        let grace = &probe["terminationGracePeriodSeconds"];
        rules::positive(grace, &path.child("terminationGracePeriodSeconds"), errors);
        if key == "readinessProbe" && !grace.is_null() {
            let detail = "must not be set for readinessProbes";
            errors.push(Error::invalid(&path.child("terminationGracePeriodSeconds"), grace.clone(), detail));
        }
        let successes = probe["successThreshold"].as_i64().unwrap_or(1);
        if key != "readinessProbe" && successes != 1 {
            errors.push(Error::invalid(&path.child("successThreshold"), successes, "must be 1"));
        }
    }
}

/// Checks the lifecycle hooks of a container of a pod.
pub(super) fn lifecycle(container: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let own = &container["lifecycle"];
    if !own.is_object() {
        return;
    }
    let path = path.child("lifecycle");
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    for key in ["postStart", "preStop"] {
        if own[key].is_object() {
            handler(&own[key], &path.child(key), &HOOK_HANDLERS, grace, errors);
        }
    }
}

fn handler(owner: &Value, path: &Path, allowed: &[&str], grace: Option<i64>, errors: &mut ErrorList) {
    let mut found = 0;
    for key in allowed.iter().filter(|key| owner[**key].is_object()) {
        found += 1;
        let (handler, path) = (&owner[*key], path.child(key));
        if found > 1 {
            errors.push(Error::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        match *key {
            "exec" => {
                rules::required(handler, &path, "command", errors);
            }
            "httpGet" => http_get(handler, &path, errors),
            "tcpSocket" => port(&handler["port"], &path.child("port"), errors),
            "grpc" => {
                rules::port(handler["port"].as_i64().unwrap_or(0), &path.child("port"), errors);
                if !tree::empty(&handler["mode"]) {
                    rules::supported(&handler["mode"], &path.child("mode"), &["Plaintext", "TLS"], errors);
                }
            }
            _ => sleep(handler, grace, &path, errors),
        }
    }
    if found == 0 {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn sleep(handler: &Value, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let (seconds, Some(grace)) = (handler["seconds"].as_i64().unwrap_or(0), grace) else { return };
    if !(0..=grace).contains(&seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(Error::invalid(path, seconds, detail));
    }
}

fn http_get(handler: &Value, path: &Path, errors: &mut ErrorList) {
    rules::required(handler, path, "path", errors);
    port(&handler["port"], &path.child("port"), errors);
    let scheme = tree::text(handler, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(rules::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in tree::list(handler, "httpHeaders") {
        let name = tree::text(header, "name");
        rules::name(name, &path.child("httpHeaders"), names::http_header_name(name), errors);
    }
}

/// A port by number or name.
pub(crate) fn port(value: &Value, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::String(name) => rules::name(name, path, names::port_name(name), errors),
        other => {
            rules::port(other.as_i64().unwrap_or(0), path, errors);
        }
    }
}
