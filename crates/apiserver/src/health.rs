//! `/healthz`, `/livez`, `/readyz` and their single checks, in upstream's text form.
//!
//! The names of the checks are upstream's, since dashboards and probes name them; what this server does in one
//! process is healthy once it answers at all, so two facts decide: bootstrap is over, and the end has not begun.

use crate::{ApiServer, Body, body, query::Query};
use http::{Response, StatusCode, header};

/// Checks that fail until the bootstrap objects are there.
const BOOTSTRAP_CHECKS: [&str; 3] =
    ["poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes", "poststarthook/start-system-namespaces-controller"];

/// Answers a health path; `None` if it is none.
pub(crate) fn answer(server: &ApiServer, path: &str, query: &Query<'_>) -> Option<Response<Body>> {
    let path = path.strip_prefix('/').filter(|path| !path.ends_with('/'))?;
    let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
    if !matches!(endpoint, "healthz" | "livez" | "readyz") {
        return None;
    }
    if !check.is_empty() {
        if !names(endpoint).any(|name| name == check) {
            return None;
        }
        return Some(if healthy(server, endpoint, check) { text(StatusCode::OK, "ok".into()) } else { failed(format!("internal server error: {check}\n")) });
    }
    let excluded = |name: &str| query.all("exclude").any(|e| e == name);
    let mut lines = String::new();
    let mut passed = true;
    for name in names(endpoint) {
        if excluded(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if healthy(server, endpoint, name) {
            lines.push_str(&format!("[+]{name} ok\n"));
        } else {
            passed = false;
            lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    Some(match (passed, query.get("verbose").is_some()) {
        (true, false) => text(StatusCode::OK, "ok".into()),
        (true, true) => text(StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
        (false, _) => failed(format!("{lines}{endpoint} check failed\n")),
    })
}

fn names(endpoint: &str) -> impl Iterator<Item = &'static str> {
    let endpoint = endpoint.to_owned();
    machinery::resources::roots().filter_map(move |root| root.strip_prefix('/')?.strip_prefix(endpoint.as_str())?.strip_prefix('/'))
}

fn healthy(server: &ApiServer, endpoint: &str, check: &str) -> bool {
    match check {
        "shutdown" => !server.world().ending().is_cancelled(),
        name if BOOTSTRAP_CHECKS.contains(&name) => endpoint == "livez" || server.is_bootstrapped(),
        _ => true,
    }
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
