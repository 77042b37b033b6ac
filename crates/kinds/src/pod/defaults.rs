//! The defaults of pods and pod templates (`pkg/apis/core/v1/defaults.go`).

use super::{image, volumes};
use crate::{
    amounts, rules,
    tree::{self, Fields},
};
use machinery::{Map, Value};
use serde_json::json;

/// The defaults of a pod: those of a template, and what only pods have.
pub(crate) fn pod(spec: &mut Fields) {
    pod_spec(spec);
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    tree::fill(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        for container in tree::each(spec, list) {
            requests_from_limits(container);
        }
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            tree::each(spec, list).for_each(host_ports);
        }
    }
}

/// The defaults of a pod spec, in a pod or a template.
pub(crate) fn pod_spec(spec: &mut Fields) {
    alias_service_account(spec);
    tree::fill_text(spec, "dnsPolicy", "ClusterFirst");
    tree::fill_text(spec, "restartPolicy", "Always");
    tree::fill(spec, "securityContext", json!({}));
    tree::fill(spec, "terminationGracePeriodSeconds", 30);
    tree::fill_text(spec, "schedulerName", "default-scheduler");
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        tree::each(spec, list).for_each(container);
    }
    tree::each(spec, "volumes").for_each(volumes::default);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are written.
pub(crate) fn alias_service_account(spec: &mut Fields) {
    let get = |spec: &Fields, key: &str| spec.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
    match get(spec, "serviceAccountName").or_else(|| get(spec, "serviceAccount")) {
        Some(name) => {
            for key in ["serviceAccountName", "serviceAccount"] {
                if spec.get(key).and_then(Value::as_str) != Some(&name) {
                    spec.insert(key.into(), name.clone().into());
                }
            }
        }
        None => {
            spec.remove("serviceAccount");
        }
    }
}

fn container(container: &mut Fields) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if image::is_latest(image) { "Always" } else { "IfNotPresent" };
    tree::fill_text(container, "imagePullPolicy", policy);
    tree::fill_text(container, "terminationMessagePath", "/dev/termination-log");
    tree::fill_text(container, "terminationMessagePolicy", "File");
    for port in tree::each(container, "ports") {
        tree::fill_text(port, "protocol", "TCP");
    }
    for env in tree::each(container, "env") {
        let Some(source) = tree::present(env, "valueFrom") else { continue };
        if let Some(from) = tree::present(source, "fieldRef") {
            tree::fill_text(from, "apiVersion", "v1");
        }
        if let Some(from) = tree::present(source, "fileKeyRef") {
            tree::fill(from, "optional", false);
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(fields) = tree::present(container, key) {
            probe(fields);
        }
    }
    if let Some(lifecycle) = tree::present(container, "lifecycle") {
        for key in ["postStart", "preStop"] {
            if let Some(http) = tree::present(lifecycle, key).and_then(|h| tree::present(h, "httpGet")) {
                http_get(http);
            }
        }
    }
}

fn probe(probe: &mut Fields) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        if probe.get(key).is_none_or(|v| v.is_null() || v == 0) {
            probe.insert(key.into(), value.into());
        }
    }
    if let Some(http) = tree::present(probe, "httpGet") {
        http_get(http);
    }
    if let Some(grpc) = tree::present(probe, "grpc") {
        tree::fill(grpc, "service", "");
    }
}

fn http_get(http: &mut Fields) {
    tree::fill_text(http, "path", "/");
    tree::fill_text(http, "scheme", "HTTP");
}

fn host_ports(container: &mut Fields) {
    for port in tree::each(container, "ports") {
        if port.get("hostPort").is_none_or(|v| v.is_null() || v == 0)
            && let Some(number) = port.get("containerPort").cloned()
        {
            port.insert("hostPort".into(), number);
        }
    }
}

/// What is limited and not requested is requested as it is limited.
fn requests_from_limits(owner: &mut Fields) {
    let Some(resources) = tree::present(owner, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let Some(requests) = tree::child(resources, "requests") else { return };
    for (name, limit) in limits {
        tree::fill(requests, &name, limit);
    }
}

/// What a pod as a whole requests, where it says anything of itself: what its containers do together, else what limits it.
/// After admission, which may still add containers.
pub(crate) fn pod_level_requests(spec: &mut Value) {
    let own = &spec["resources"];
    if tree::empty(&own["limits"]) && tree::empty(&own["requests"]) {
        return;
    }
    let (requests, limits) = (amounts::of_containers(spec, "requests"), amounts::of_containers(spec, "limits"));
    let Some(resources) = tree::at(spec, &["resources"]) else { return };
    for (name, sum) in limits.into_iter().filter(|(name, _)| amounts::is_huge(name)) {
        let known = resources.get("requests").is_some_and(|r| !r[&name].is_null());
        if let Some(limits) = tree::child(resources, "limits").filter(|_| !known) {
            tree::fill(limits, &name, sum.to_string());
        }
    }
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut wanted: Vec<(String, Value)> = Vec::new();
    // Of what may not be requested for more than there is (huge pages) the limit is what is requested.
    for (name, sum) in requests.into_iter().filter(|(name, _)| amounts::is_pod_level(name) && !amounts::is_huge(name)) {
        wanted.push((name, sum.to_string().into()));
    }
    wanted.extend(limits.into_iter().filter(|(name, _)| amounts::is_pod_level(name)));
    if !wanted.is_empty()
        && let Some(requests) = tree::child(resources, "requests")
    {
        for (name, value) in wanted {
            tree::fill(requests, &name, value);
        }
    }
    pod_level_limits(spec);
}

/// A pod that requests something as a whole is limited by its containers' limits, if all of them have one.
fn pod_level_limits(spec: &mut Value) {
    let own = &spec["resources"];
    let requests = rules::quantities(&own["requests"]);
    let containers = || ["containers", "initContainers"].into_iter().flat_map(|list| tree::list(spec, list));
    let open = |name: &str| amounts::is_pod_level(name) && own["limits"].get(name).is_none();
    let limited = |name: &str| containers().all(|c| c["resources"]["limits"].get(name).is_some());
    let sums = amounts::of_containers(spec, "limits");
    let found: Vec<(String, String)> = requests
        .into_iter()
        .filter(|(name, _)| open(name) && limited(name))
        .filter_map(|(name, request)| Some((name.to_owned(), (*sums.get(name)?).max(request).to_string())))
        .collect();
    if found.is_empty() {
        return;
    }
    if let Some(limits) = tree::at(spec, &["resources", "limits"]) {
        for (name, value) in found {
            limits.insert(name, value.into());
        }
    }
}

/// The defaults of a template and its spec, made if absent.
pub(crate) fn template(owner: &mut Fields) {
    if let Some(template) = tree::child(owner, "template") {
        tree::fill(template, "metadata", Value::Object(Map::new()));
        if let Some(spec) = tree::child(template, "spec") {
            pod_spec(spec);
        }
    }
}
