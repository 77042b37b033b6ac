//! The checks of the baseline standard: known ways out of a container.

use super::{Check, Found, NEVER, containers, items, named, quoted, text, those};
use machinery::{Value, quote::Quoted};
use std::collections::BTreeSet;

/// In upstream's order: by the names of the checks, capitals first.
pub(super) static CHECKS: [Check; 12] = [
    Check { rules: &[(0, app_armor)], replaced: NEVER },
    Check { rules: &[(0, capabilities)], replaced: 22 },
    Check { rules: &[(0, host_namespaces)], replaced: NEVER },
    Check { rules: &[(0, host_path_volumes)], replaced: 0 },
    Check { rules: &[(0, host_ports)], replaced: NEVER },
    Check { rules: &[(34, probed_hosts)], replaced: NEVER },
    Check { rules: &[(0, privileged)], replaced: NEVER },
    Check { rules: &[(0, proc_mount), (35, proc_mount_of_own_users)], replaced: 35 },
    Check { rules: &[(0, se_linux::<4>), (31, se_linux::<5>)], replaced: NEVER },
    Check { rules: &[(0, seccomp_annotations), (19, seccomp)], replaced: 19 },
    Check { rules: &[(0, sysctls::<5>), (27, sysctls::<6>), (29, sysctls::<10>), (32, sysctls::<12>), (37, sysctls::<14>)], replaced: NEVER },
    Check { rules: &[(0, host_process)], replaced: NEVER },
];

const CAPABILITIES: [&str; 13] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"];
/// Sysctls that have no effect outside of the pod, in the order in which the versions of the standards came to allow them.
const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];
/// Types of SELinux that confine a container, in the same order; an empty one is the runtime's own.
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// What annotations said before there were fields.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// The pod's and the containers' security contexts that are so: `pod`, `container "a"`.
fn setters(spec: &Value, so: impl Fn(&Value) -> bool) -> Vec<String> {
    let own = so(&spec["securityContext"]).then(|| "pod".to_owned());
    let names = those(spec, |c| so(&c["securityContext"]));
    let rest = (!names.is_empty()).then(|| named("container", &names));
    own.into_iter().chain(rest).collect()
}

/// What is found in the pod's and the containers' security contexts, sorted, each once.
fn in_contexts<'p>(spec: &'p Value, what: impl Fn(&'p Value) -> Option<&'p str>) -> Vec<&'p str> {
    let contexts = std::iter::once(&spec["securityContext"]).chain(containers(spec).map(|c| &c["securityContext"]));
    contexts.filter_map(what).collect::<BTreeSet<_>>().into_iter().collect()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn app_armor(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let bad = |context: &Value| !matches!(text(&context["appArmorProfile"], "type"), "" | "RuntimeDefault" | "Localhost");
    let mut setters = setters(spec, bad);
    let mut told: Vec<String> =
        in_contexts(spec, |context| bad(context).then(|| text(&context["appArmorProfile"], "type"))).into_iter().map(str::to_owned).collect();
    let annotations = pod["metadata"]["annotations"].as_object().into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_str()?)));
    let is_allowed = |profile: &str| profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
    let odd: Vec<String> = annotations
        .filter(|&(key, profile)| key.starts_with(APP_ARMOR_ANNOTATION) && !is_allowed(profile))
        .map(|(key, profile)| format!("{key}={}", Quoted(profile)))
        .collect();
    if !odd.is_empty() {
        setters.push(format!("annotation{}", plural(odd.len())));
        told.extend(odd);
    }
    let reason = if told.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    let detail = format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&told));
    (!setters.is_empty()).then_some((reason, detail))
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

fn capabilities(pod: &Value) -> Found {
    added(&pod["spec"], &CAPABILITIES).map(|detail| ("non-default capabilities", detail))
}

fn host_namespaces(pod: &Value) -> Found {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|n| pod["spec"][**n] == true).map(|n| format!("{n}=true")).collect();
    (!shared.is_empty()).then(|| ("host namespaces", shared.join(", ")))
}

fn host_path_volumes(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let names: Vec<&str> = items(&spec["volumes"]).iter().filter(|v| v["hostPath"].is_object()).map(|v| text(v, "name")).collect();
    (!names.is_empty()).then(|| ("hostPath volumes", named("volume", &names)))
}

fn host_ports(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let ports = |c: &Value| -> BTreeSet<String> {
        items(&c["ports"]).iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).map(|p| p.to_string()).collect()
    };
    let names = those(spec, |c| !ports(c).is_empty());
    let all: Vec<String> = containers(spec).flat_map(ports).collect::<BTreeSet<_>>().into_iter().collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    (!names.is_empty()).then(|| ("hostPort", format!("{} {uses} hostPort{} {}", named("container", &names), plural(all.len()), all.join(", "))))
}

/// Hosts that the kubelet would ask in a container's name, in probes and hooks.
fn probed_hosts(pod: &Value) -> Found {
    let hosts = |container: &Value| -> BTreeSet<String> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].into_iter().map(|hook| &container["lifecycle"][hook]);
        let asked = probes.chain(hooks).flat_map(|handler| ["httpGet", "tcpSocket"].map(|by| text(&handler[by], "host")));
        asked.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let spec = &pod["spec"];
    let names: Vec<&str> = those(spec, |c| !hosts(c).is_empty()).into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let all: Vec<String> = containers(spec).flat_map(hosts).collect::<BTreeSet<_>>().into_iter().collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!("{} {uses} probe or lifecycle host{} {}", named("container", &names), plural(all.len()), quoted(&all));
    (!names.is_empty()).then_some(("probe or lifecycle host", detail))
}

fn host_process(pod: &Value) -> Found {
    let bad = setters(&pod["spec"], |s| s["windowsOptions"]["hostProcess"] == true);
    (!bad.is_empty()).then(|| ("hostProcess", format!("{} must not set securityContext.windowsOptions.hostProcess=true", bad.join(" and "))))
}

fn privileged(pod: &Value) -> Found {
    let names = those(&pod["spec"], |c| c["securityContext"]["privileged"] == true);
    (!names.is_empty()).then(|| ("privileged", format!("{} must not set securityContext.privileged=true", named("container", &names))))
}

pub(super) fn proc_mount(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let mount = |c: &Value| text(&c["securityContext"], "procMount").to_owned();
    let bad = |c: &Value| !matches!(mount(c).as_str(), "" | "Default");
    let names = those(spec, bad);
    let all: Vec<String> = containers(spec).filter(|c| bad(c)).map(mount).collect::<BTreeSet<_>>().into_iter().collect();
    (!names.is_empty()).then(|| ("procMount", format!("{} must not set securityContext.procMount to {}", named("container", &names), quoted(&all))))
}

/// Who has users of his own sees no more of the host in an unmasked `/proc`.
fn proc_mount_of_own_users(pod: &Value) -> Found {
    if super::has_own_users(pod) { None } else { proc_mount(pod) }
}

fn se_linux<const TYPES: usize>(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let odd = |s: &Value| !SELINUX_TYPES.iter().take(TYPES).any(|kind| *kind == text(&s["seLinuxOptions"], "type"));
    let sets = |s: &Value, field: &str| !text(&s["seLinuxOptions"], field).is_empty();
    let bad = setters(spec, |s| odd(s) || sets(s, "user") || sets(s, "role"));
    if bad.is_empty() {
        return None;
    }
    let types = in_contexts(spec, |s| odd(s).then(|| text(&s["seLinuxOptions"], "type")));
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("type{} {}", plural(types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if !in_contexts(spec, |s| sets(s, field).then_some(field)).is_empty() {
            data.push(format!("{field} may not be set"));
        }
    }
    Some(("seLinuxOptions", format!("{} set forbidden securityContext.seLinuxOptions: {}", bad.join(" and "), data.join("; "))))
}

fn seccomp_annotations(pod: &Value) -> Found {
    let annotations = &pod["metadata"]["annotations"];
    let keys = containers(&pod["spec"]).map(|container| format!("{SECCOMP_CONTAINER_ANNOTATION}{}", text(container, "name")));
    let is_allowed = |profile: &str| matches!(profile, "runtime/default" | "docker/default") || profile.starts_with("localhost/");
    let bad: BTreeSet<String> = std::iter::once(SECCOMP_ANNOTATION.to_owned())
        .chain(keys)
        .filter_map(|key| annotations[&key].as_str().filter(|profile| !is_allowed(profile)).map(|profile| format!("{key}={}", Quoted(profile))))
        .collect();
    let told: Vec<String> = bad.into_iter().collect();
    (!told.is_empty()).then(|| ("seccompProfile", format!("forbidden annotation{} {}", plural(told.len()), told.join(", "))))
}

fn seccomp(pod: &Value) -> Found {
    let bad = setters(&pod["spec"], |s| text(&s["seccompProfile"], "type") == "Unconfined");
    let detail = format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", bad.join(" and "));
    (!bad.is_empty()).then_some(("seccompProfile", detail))
}

fn sysctls<const ALLOWED: usize>(pod: &Value) -> Found {
    let names = items(&pod["spec"]["securityContext"]["sysctls"]).iter().map(|s| text(s, "name"));
    let bad: Vec<&str> = names.filter(|n| !SYSCTLS.iter().take(ALLOWED).any(|allowed| allowed == n)).collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}
