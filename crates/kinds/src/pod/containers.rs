//! Checks of containers: what all have in common, and what distinguishes main, init, sidecar and ephemeral ones.

use super::{env, handlers, mounts, security, volumes::Known, windows};
use crate::{amounts, internal, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// Most rules by which a container restarts, and most exit codes in one.
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
/// What an ephemeral container may not have, in the order in which upstream looks.
const NOT_EPHEMERAL: [&str; 9] =
    ["ports", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];

const UNSAID: &str = "must specify restartPolicy when restart rules are used";

/// What the checks of one container need to know of its pod.
struct Scope<'v> {
    spec: &'v Value,
    volumes: &'v Known<'v>,
    claims: HashSet<&'v str>,
    own_users: bool,
}

/// Checks all containers of a pod.
pub(super) fn check_all(spec: &Value, path: &Path, volumes: &Known<'_>, errors: &mut ErrorList) {
    let claims = tree::list(spec, "resourceClaims").iter().map(|c| tree::text(c, "name")).filter(|n| !n.is_empty()).collect();
    let scope = Scope { spec, volumes, claims, own_users: spec["hostUsers"] == false };
    let mut seen = HashSet::new();
    mains(&scope, &path.child("containers"), &mut seen, errors);
    inits(&scope, &path.child("initContainers"), &mut seen, errors);
    ephemeral(&scope, &path.child("ephemeralContainers"), &seen, errors);
}

/// What holds only for the images of pods: templates have always been allowed spaces round them.
pub(super) fn check_images(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for list in ["containers", "initContainers"] {
        for (at, container) in tree::list(spec, list).iter().enumerate() {
            trimmed(container, &path.child(list).index(at), errors);
        }
    }
}

fn trimmed(container: &Value, path: &Path, errors: &mut ErrorList) {
    let image = tree::text(container, "image");
    if image.trim() != image {
        errors.push(Error::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

fn mains<'v>(scope: &Scope<'v>, list: &Path, seen: &mut HashSet<&'v str>, errors: &mut ErrorList) {
    let containers = tree::list(scope.spec, "containers");
    if containers.is_empty() {
        errors.push(Error::required(list, ""));
    }
    for (at, container) in containers.iter().enumerate() {
        let path = list.index(at);
        common(container, &path, scope, errors);
        unique(container, &path, seen, errors);
        seen.insert(tree::text(container, "name"));
        handlers::lifecycle(container, scope.spec, &path, errors);
        handlers::probes(container, &path, errors);
        restarts(container, &path, errors);
    }
    let mut ports = HashSet::new();
    for (at, container) in containers.iter().enumerate() {
        host_ports(container, &list.index(at), &mut ports, errors);
    }
}

fn inits<'v>(scope: &Scope<'v>, list: &Path, seen: &mut HashSet<&'v str>, errors: &mut ErrorList) {
    for (at, container) in tree::list(scope.spec, "initContainers").iter().enumerate() {
        let path = list.index(at);
        common(container, &path, scope, errors);
        // Upstream does not look at rules of one that does not say how it restarts.
        if container["restartPolicy"].is_null() && !tree::empty(&container["restartPolicyRules"]) {
            errors.push(Error::required(&path.child("restartPolicy"), UNSAID));
        } else {
            restarts(container, &path, errors);
        }
        unique(container, &path, seen, errors);
        // They run one by one, and only collide with themselves; upstream counts from the list's beginning.
        host_ports(container, &list.index(0), &mut HashSet::new(), errors);
        if container["restartPolicy"] == "Always" {
            handlers::lifecycle(container, scope.spec, &path, errors);
            handlers::probes(container, &path, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !container[field].is_null() {
                errors.push(Error::forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always"));
            }
        }
        for (nth, policy) in tree::list(container, "resizePolicy").iter().enumerate().filter(|(_, p)| p["restartPolicy"] == "RestartContainer") {
            let place = path.child("resizePolicy").index(nth).child("restartPolicy");
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.push(Error::invalid(&place, policy["restartPolicy"].clone(), detail));
        }
    }
}

fn ephemeral<'v>(scope: &Scope<'v>, list: &Path, others: &HashSet<&'v str>, errors: &mut ErrorList) {
    let mut seen = others.clone();
    for (at, container) in tree::list(scope.spec, "ephemeralContainers").iter().enumerate() {
        let path = list.index(at);
        common(container, &path, scope, errors);
        trimmed(container, &path, errors);
        if !seen.insert(tree::text(container, "name")) {
            errors.push(Error::duplicate(&path.child("name"), tree::text(container, "name")));
        }
        let target = tree::text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
        // An object, a list and a text that need not be there are set though they say nothing.
        let is_said = |value: &Value| value.is_object() || value.is_array() || value.is_string();
        let is_set = |field: &str| !tree::empty(&container[field]) || (is_said(&container[field]) && field != "resources");
        for field in NOT_EPHEMERAL.into_iter().filter(|field| is_set(field)) {
            errors.push(Error::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
        }
        for (nth, mount) in tree::list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !tree::empty(&mount[field]) {
                    let place = path.child("volumeMounts").index(nth).child(field);
                    errors.push(Error::forbidden(&place, "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

/// No name is one as well, once there is a container that runs for good without.
fn unique<'v>(container: &'v Value, path: &Path, seen: &mut HashSet<&'v str>, errors: &mut ErrorList) {
    let name = tree::text(container, "name");
    if seen.contains(name) {
        errors.push(Error::duplicate(&path.child("name"), name));
    } else if !name.is_empty() {
        seen.insert(name);
    }
}

fn common(c: &Value, path: &Path, scope: &Scope<'_>, errors: &mut ErrorList) {
    let name = tree::text(c, "name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
    }
    rules::required(c, path, "image", errors);
    rules::one_of(&c["terminationMessagePolicy"], &path.child("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"], errors);
    ports(c, path, errors);
    env::check(c, path, errors);
    mounts::check(c, scope.volumes, path, errors);
    rules::one_of(&c["imagePullPolicy"], &path.child("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
    amounts::container(&c["resources"], &scope.claims, &path.child("resources"), errors);
    resize_policy(c, &scope.spec["restartPolicy"], &path.child("resizePolicy"), errors);
    security(&c["securityContext"], scope.own_users, &path.child("securityContext"), errors);
}

fn ports(c: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, port) in tree::list(c, "ports").iter().enumerate() {
        let path = path.child("ports").index(at);
        let name = tree::text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if problems.is_empty() && !seen.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            rules::name(name, &path.child("name"), problems, errors);
        }
        let number = port["containerPort"].as_i64().unwrap_or(0);
        if number == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            rules::port(number, &path.child("containerPort"), errors);
        }
        let host = port["hostPort"].as_i64().unwrap_or(0);
        if host != 0 {
            rules::port(host, &path.child("hostPort"), errors);
        }
        rules::one_of(&port["protocol"], &path.child("protocol"), &["SCTP", "TCP", "UDP"], errors);
    }
}

fn host_ports(c: &Value, path: &Path, seen: &mut HashSet<String>, errors: &mut ErrorList) {
    for (at, port) in tree::list(c, "ports").iter().enumerate() {
        let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) else { continue };
        let text = format!("{}/{}/{number}", tree::text(port, "protocol"), tree::text(port, "hostIP"));
        if seen.contains(&text) {
            errors.push(Error::duplicate(&path.child("ports").index(at).child("hostPort"), text.as_str()));
        }
        seen.insert(text);
    }
}

fn resize_policy(c: &Value, restart: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (at, policy) in tree::list(c, "resizePolicy").iter().enumerate() {
        let (resource, own) = (tree::text(policy, "resourceName"), tree::text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(Error::duplicate(&path.index(at), resource));
        }
        rules::one_of(&policy["resourceName"], path, &["cpu", "memory"], errors);
        rules::one_of(&policy["restartPolicy"], path, &["NotRequired", "RestartContainer"], errors);
        if restart == "Never" && own != "NotRequired" {
            errors.push(Error::invalid(path, own, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"));
        }
    }
}

/// The container's own restart policy and its rules (KEP-5307).
fn restarts(c: &Value, path: &Path, errors: &mut ErrorList) {
    let list = tree::list(c, "restartPolicyRules");
    match c["restartPolicy"].as_str() {
        None if list.is_empty() => return,
        None => errors.push(Error::required(&path.child("restartPolicy"), UNSAID)),
        Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => errors.push(rules::not_supported(&path.child("restartPolicy"), other, &["Always", "Never", "OnFailure"])),
    }
    let place = path.child("restartPolicyRules");
    if list.len() > RESTART_RULES_MAX {
        errors.push(Error::too_many(&place, list.len(), RESTART_RULES_MAX));
    }
    for (at, rule) in list.iter().enumerate() {
        let path = place.index(at);
        let (action, allowed) = (tree::text(rule, "action"), ["Restart", "RestartAllContainers"]);
        if !allowed.contains(&action) {
            errors.push(rules::not_supported(&path.child("action"), action, &allowed));
        }
        let (codes, path) = (&rule["exitCodes"], path.child("exitCodes"));
        if !codes.is_object() {
            errors.push(Error::required(&path, "must be specified"));
            continue;
        }
        let operator = tree::text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(rules::not_supported(&path.child("operator"), operator, &["In", "NotIn"]));
        }
        let values = tree::list(codes, "values").len();
        if values > EXIT_CODES_MAX {
            errors.push(Error::too_many(&path.child("values"), values, EXIT_CODES_MAX));
        }
    }
}

fn security(context: &Value, own_users: bool, path: &Path, errors: &mut ErrorList) {
    if !context.is_object() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        security::id(&context[field], &path.child(field), errors);
    }
    match context["procMount"].as_str() {
        None | Some("Default") => {}
        Some("Unmasked") if own_users => {}
        Some("Unmasked") => errors.push(Error::invalid(&path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`")),
        Some(other) => errors.push(rules::not_supported(&path.child("procMount"), other, &["Default", "Unmasked"])),
    }
    security::seccomp(&context["seccompProfile"], &path.child("seccompProfile"), errors);
    if context["allowPrivilegeEscalation"] == false {
        let mut bad = |detail: &str| errors.push(Error::invalid(path, context.clone(), detail).shown_as(internal::text("core.SecurityContext", context)));
        if context["privileged"] == true {
            bad("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        for _ in tree::list(&context["capabilities"], "add").iter().filter(|c| *c == "CAP_SYS_ADMIN") {
            bad("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows::options(&context["windowsOptions"], &path.child("windowsOptions"), errors);
    security::app_armor(&context["appArmorProfile"], &path.child("appArmorProfile"), errors);
}
