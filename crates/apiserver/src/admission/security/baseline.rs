//! The checks of the baseline standard: known ways out of a container.

use super::{Check, containers, items, named, quoted, text, those};
use machinery::Value;
use std::collections::BTreeSet;

/// In upstream's order: by the names of the checks.
pub(super) const CHECKS: [Check; 11] =
    [app_armor, capabilities, host_namespaces, host_path_volumes, host_ports, host_process, privileged, proc_mount, se_linux, seccomp, sysctls];

const CAPABILITIES: [&str; 13] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"];
/// Sysctls that have no effect outside of the pod.
const SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

type Found = Option<(&'static str, String)>;

/// The pod's and the containers' security contexts that are so: `pod`, `container "a"`.
fn setters(spec: &Value, so: impl Fn(&Value) -> bool) -> Vec<String> {
    let own = so(&spec["securityContext"]).then(|| "pod".to_owned());
    let names = those(spec, |c| so(&c["securityContext"]));
    let rest = (!names.is_empty()).then(|| named("container", &names));
    own.into_iter().chain(rest).collect()
}

pub(super) fn app_armor(spec: &Value) -> Found {
    let bad = setters(spec, |s| text(&s["appArmorProfile"], "type") == "Unconfined");
    let detail = format!("{} must not set AppArmor profile type to \"Unconfined\"", bad.join(" and "));
    (!bad.is_empty()).then_some(("forbidden AppArmor profile", detail))
}

/// Capabilities beyond a list, as both standards tell them.
pub(super) fn added(spec: &Value, allowed: &[&str]) -> Option<String> {
    let beyond = |c: &Value| {
        let all = items(&c["securityContext"]["capabilities"]["add"]).iter().filter_map(Value::as_str);
        all.filter(|name| !allowed.contains(name)).map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let names = those(spec, |c| !beyond(c).is_empty());
    let all: Vec<String> = containers(spec).flat_map(beyond).collect::<BTreeSet<_>>().into_iter().collect();
    (!names.is_empty()).then(|| format!("{} must not include {} in securityContext.capabilities.add", named("container", &names), quoted(&all)))
}

fn capabilities(spec: &Value) -> Found {
    added(spec, &CAPABILITIES).map(|detail| ("non-default capabilities", detail))
}

pub(super) fn host_namespaces(spec: &Value) -> Found {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|n| spec[**n] == true).map(|n| format!("{n}=true")).collect();
    (!shared.is_empty()).then(|| ("host namespaces", shared.join(", ")))
}

fn host_path_volumes(spec: &Value) -> Found {
    let names: Vec<&str> = items(&spec["volumes"]).iter().filter(|v| v["hostPath"].is_object()).map(|v| text(v, "name")).collect();
    (!names.is_empty()).then(|| ("hostPath volumes", named("volume", &names)))
}

pub(super) fn host_ports(spec: &Value) -> Found {
    let ports = |c: &Value| items(&c["ports"]).iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).collect::<BTreeSet<i64>>();
    let names = those(spec, |c| !ports(c).is_empty());
    let all: Vec<String> = containers(spec).flat_map(ports).collect::<BTreeSet<_>>().iter().map(ToString::to_string).collect();
    let (use_word, plural) = (if names.len() == 1 { "uses" } else { "use" }, if all.len() == 1 { "" } else { "s" });
    (!names.is_empty()).then(|| ("hostPort", format!("{} {use_word} hostPort{plural} {}", named("container", &names), all.join(", "))))
}

pub(super) fn host_process(spec: &Value) -> Found {
    let bad = setters(spec, |s| s["windowsOptions"]["hostProcess"] == true);
    (!bad.is_empty()).then(|| ("hostProcess", format!("{} must not set securityContext.windowsOptions.hostProcess=true", bad.join(" and "))))
}

pub(super) fn privileged(spec: &Value) -> Found {
    let names = those(spec, |c| c["securityContext"]["privileged"] == true);
    (!names.is_empty()).then(|| ("privileged", format!("{} must not set securityContext.privileged=true", named("container", &names))))
}

pub(super) fn proc_mount(spec: &Value) -> Found {
    let mount = |c: &Value| text(&c["securityContext"], "procMount").to_owned();
    let bad = |c: &Value| !matches!(mount(c).as_str(), "" | "Default");
    let names = those(spec, bad);
    let all: Vec<String> = containers(spec).filter(|c| bad(c)).map(mount).collect::<BTreeSet<_>>().into_iter().collect();
    (!names.is_empty()).then(|| ("procMount", format!("{} must not set securityContext.procMount to {}", named("container", &names), quoted(&all))))
}

pub(super) fn se_linux(spec: &Value) -> Found {
    let kinds = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let odd = |s: &Value| !kinds.contains(&text(&s["seLinuxOptions"], "type"));
    let sets = |s: &Value, field: &str| !text(&s["seLinuxOptions"], field).is_empty();
    let bad = setters(spec, |s| odd(s) || sets(s, "user") || sets(s, "role"));
    if bad.is_empty() {
        return None;
    }
    let contexts: Vec<&Value> = std::iter::once(&spec["securityContext"]).chain(containers(spec).map(|c| &c["securityContext"])).collect();
    let types: BTreeSet<&str> = contexts.iter().filter(|s| odd(s)).map(|s| text(&s["seLinuxOptions"], "type")).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        let list: Vec<&str> = types.into_iter().collect();
        data.push(format!("type{} {}", if list.len() == 1 { "" } else { "s" }, quoted(&list)));
    }
    for field in ["user", "role"] {
        if contexts.iter().any(|s| sets(s, field)) {
            data.push(format!("{field} may not be set"));
        }
    }
    Some(("seLinuxOptions", format!("{} set forbidden securityContext.seLinuxOptions: {}", bad.join(" and "), data.join("; "))))
}

fn seccomp(spec: &Value) -> Found {
    let bad = setters(spec, |s| text(&s["seccompProfile"], "type") == "Unconfined");
    let detail = format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", bad.join(" and "));
    (!bad.is_empty()).then_some(("seccompProfile", detail))
}

pub(super) fn sysctls(spec: &Value) -> Found {
    let names = items(&spec["securityContext"]["sysctls"]).iter().map(|s| text(s, "name"));
    let bad: Vec<&str> = names.filter(|n| !SYSCTLS.contains(n)).collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}
