//! `/healthz`, `/livez`, `/readyz` and their single checks, in upstream's text form.
//!
//! The names of the checks are upstream's, since dashboards and probes name them; what this server does in one
//! process is healthy once it answers at all, so two facts decide: bootstrap is over, and the end has not begun.

use crate::{ApiServer, Body, body, query::Query};
use http::{Response, StatusCode, header};
use machinery::quote::Quoted;
use std::collections::BTreeSet;

/// The paths of health, as they are counted.
const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];
/// Checks that fail until the bootstrap objects are there.
const BOOTSTRAP_CHECKS: [&str; 3] =
    ["poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes", "poststarthook/start-system-namespaces-controller"];

/// The checks in the order in which upstream makes them.
const ORDER: [&str; 38] = [
    "ping",
    "log",
    "loopback-serving-certificate",
    "etcd",
    "etcd-readiness",
    "informer-sync",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/storage-readiness",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
    "shutdown",
];

/// Answers a health path; `None` if it is none.
pub(crate) fn answer(server: &ApiServer, path: &str, query: &Query<'_>) -> Option<Response<Body>> {
    let path = path.strip_prefix('/').filter(|path| !path.ends_with('/'))?;
    let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
    let endpoint = ENDPOINTS.into_iter().find(|known| *known == endpoint)?;
    if !check.is_empty() {
        let check = names(endpoint).into_iter().find(|known| *known == check)?;
        if !healthy(server, endpoint, check) {
            return Some(failed(format!("internal server error: {check}\n")));
        }
        // The answer of a single check is written by another hand.
        let mut response = text(StatusCode::OK, "ok".into());
        response.headers_mut().remove(header::X_CONTENT_TYPE_OPTIONS);
        return Some(response);
    }
    let excluded: BTreeSet<_> = query.all("exclude").collect();
    let names = names(endpoint);
    let mut lines = String::new();
    let mut passed = true;
    for name in names.iter().copied() {
        if excluded.contains(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if healthy(server, endpoint, name) {
            lines.push_str(&format!("[+]{name} ok\n"));
        } else {
            passed = false;
            lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    let unknown: Vec<String> = excluded.iter().filter(|name| !names.iter().any(|known| known == *name)).map(|name| Quoted(name).to_string()).collect();
    if !unknown.is_empty() {
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(", ")));
    }
    Some(match (passed, query.get("verbose").is_some()) {
        (true, false) => text(StatusCode::OK, "ok".into()),
        (true, true) => text(StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
        (false, _) => failed(format!("{lines}{endpoint} check failed\n")),
    })
}

fn names(endpoint: &str) -> Vec<&'static str> {
    let named = machinery::resources::roots().filter_map(|root| root.strip_prefix('/')?.strip_prefix(endpoint)?.strip_prefix('/'));
    let mut names: Vec<&'static str> = named.collect();
    names.sort_by_key(|name| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    names
}

fn healthy(server: &ApiServer, endpoint: &'static str, check: &'static str) -> bool {
    let held = match check {
        "shutdown" => !server.world().ending().is_cancelled(),
        name if BOOTSTRAP_CHECKS.contains(&name) => endpoint == "livez" || server.is_bootstrapped(),
        _ => true,
    };
    server.world().metrics().checked(check, endpoint, held);
    held
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

fn failed(lines: String) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, lines)
}
