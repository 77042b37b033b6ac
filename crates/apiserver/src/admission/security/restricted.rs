//! The checks that the restricted standard has beyond those of the baseline or in their place: good practice.

use super::{Check, Found, NEVER, baseline, containers, has_own_users, is_windows, items, named, quoted, text, those};
use machinery::Value;
use std::collections::BTreeSet;

/// In upstream's order: by the names of the checks; after those of the baseline.
pub(super) static CHECKS: [Check; 7] = [
    Check { rules: &[(8, privilege_escalation), (25, |pod| on_linux(pod, privilege_escalation))], replaced: NEVER },
    Check { rules: &[(22, capabilities), (25, |pod| on_linux(pod, capabilities))], replaced: NEVER },
    Check { rules: &[(35, baseline::proc_mount)], replaced: NEVER },
    Check { rules: &[(0, volumes)], replaced: NEVER },
    Check { rules: &[(0, run_as_non_root), (35, |pod| with_host_users(pod, run_as_non_root))], replaced: NEVER },
    Check { rules: &[(23, run_as_user), (35, |pod| with_host_users(pod, run_as_user))], replaced: NEVER },
    Check { rules: &[(19, seccomp), (25, |pod| on_linux(pod, seccomp))], replaced: NEVER },
];

/// Volumes that hold nothing of the host's.
const VOLUMES: [&str; 9] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

/// A pod of Windows cannot set what is asked for.
fn on_linux(pod: &Value, rule: fn(&Value) -> Found) -> Found {
    if is_windows(&pod["spec"]) { None } else { rule(pod) }
}

/// Root is nobody on the host where the pod has users of its own.
fn with_host_users(pod: &Value, rule: fn(&Value) -> Found) -> Found {
    if has_own_users(pod) { None } else { rule(pod) }
}

fn privilege_escalation(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let names = those(spec, |c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named("container", &names));
    (!names.is_empty()).then_some(("allowPrivilegeEscalation != false", detail))
}

fn capabilities(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let drops = |c: &Value| items(&c["securityContext"]["capabilities"]["drop"]).iter().any(|d| d == "ALL");
    let names = those(spec, |c| !drops(c));
    let missing = (!names.is_empty()).then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named("container", &names)));
    let details: Vec<String> = missing.into_iter().chain(baseline::added(spec, &["NET_BIND_SERVICE"])).collect();
    (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
}

fn volumes(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let kind = |v: &Value| v.as_object().into_iter().flatten().find(|(k, v)| k.as_str() != "name" && !v.is_null()).map(|(k, _)| k.clone()).unwrap_or_default();
    let bad: Vec<(&str, String)> =
        items(&spec["volumes"]).iter().map(|v| (text(v, "name"), kind(v))).filter(|(_, kind)| !kind.is_empty() && !VOLUMES.contains(&kind.as_str())).collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds: Vec<&String> = bad.iter().map(|(_, kind)| kind).collect::<BTreeSet<_>>().into_iter().collect();
    let (uses, plural) = (if names.len() == 1 { "uses" } else { "use" }, if kinds.len() == 1 { "" } else { "s" });
    let detail = format!("{} {uses} restricted volume type{plural} {}", named("volume", &names), quoted(&kinds));
    (!bad.is_empty()).then_some(("restricted volume types", detail))
}

fn run_as_non_root(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let own = &spec["securityContext"]["runAsNonRoot"];
    let mut bad: Vec<String> = (*own == false).then(|| "pod".to_owned()).into_iter().collect();
    let roots = those(spec, |c| c["securityContext"]["runAsNonRoot"] == false);
    if !roots.is_empty() {
        bad.push(named("container", &roots));
    }
    if !bad.is_empty() {
        return Some(("runAsNonRoot != true", format!("{} must not set securityContext.runAsNonRoot=false", bad.join(" and "))));
    }
    let silent = those(spec, |c| c["securityContext"]["runAsNonRoot"].is_null());
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", named("container", &silent));
    (*own != true && !silent.is_empty()).then_some(("runAsNonRoot != true", detail))
}

fn run_as_user(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let mut bad: Vec<String> = (spec["securityContext"]["runAsUser"] == 0).then(|| "pod".to_owned()).into_iter().collect();
    let names = those(spec, |c| c["securityContext"]["runAsUser"] == 0);
    if !names.is_empty() {
        bad.push(named("container", &names));
    }
    (!bad.is_empty()).then(|| ("runAsUser=0", format!("{} must not set runAsUser=0", bad.join(" and "))))
}

fn seccomp(pod: &Value) -> Found {
    let spec = &pod["spec"];
    let kind = |s: &Value| text(&s["seccompProfile"], "type").to_owned();
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let own = kind(&spec["securityContext"]);
    let mut bad: Vec<String> = (!own.is_empty() && !good(&own)).then(|| "pod".to_owned()).into_iter().collect();
    let odd = |c: &Value| {
        let kind = kind(&c["securityContext"]);
        !kind.is_empty() && !good(&kind)
    };
    let names = those(spec, odd);
    if !names.is_empty() {
        bad.push(named("container", &names));
    }
    if !bad.is_empty() {
        let all = std::iter::once(own).chain(containers(spec).map(|c| kind(&c["securityContext"])));
        let kinds: Vec<String> = all.filter(|k| !k.is_empty() && !good(k)).collect::<BTreeSet<_>>().into_iter().collect();
        return Some(("seccompProfile", format!("{} must not set securityContext.seccompProfile.type to {}", bad.join(" and "), quoted(&kinds))));
    }
    let silent = those(spec, |c| kind(&c["securityContext"]).is_empty());
    let detail = format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", named("container", &silent));
    (own.is_empty() && !silent.is_empty()).then_some(("seccompProfile", detail))
}
