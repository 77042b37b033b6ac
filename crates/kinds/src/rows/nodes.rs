//! Nodes.

use super::{condition, text};
use crate::{print, tree};
use machinery::Value;
use std::{collections::BTreeSet, time::SystemTime};

pub(super) fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let status = &obj["status"];
    let info = &status["nodeInfo"];
    vec![
        print::name(obj),
        readiness(obj).into(),
        roles(obj).into(),
        print::age(obj, now),
        text(info, "kubeletVersion"),
        address(status, "InternalIP"),
        address(status, "ExternalIP"),
        print::or(&info["osImage"], print::UNKNOWN),
        kernel(info).into(),
        print::or(&info["containerRuntimeVersion"], print::UNKNOWN),
    ]
}

/// The kernel, and what machine it runs on.
fn kernel(info: &Value) -> String {
    let version = info["kernelVersion"].as_str().filter(|v| !v.is_empty()).unwrap_or(print::UNKNOWN);
    match tree::text(info, "architecture") {
        "" => version.to_owned(),
        machine => format!("{version} ({machine})"),
    }
}

fn readiness(obj: &Value) -> String {
    let ready = match condition(&obj["status"], "Ready") {
        None => "Unknown",
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let closed = obj["spec"]["unschedulable"] == true;
    if closed { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

/// The roles that labels give the node, sorted.
fn roles(obj: &Value) -> String {
    let roles: BTreeSet<&str> = tree::entries(&obj["metadata"], "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    print::joined(roles.into_iter().map(str::to_owned))
}

fn address(status: &Value, kind: &str) -> Value {
    let found = tree::list(status, "addresses").iter().find(|a| a["type"] == kind);
    found.map_or(print::NONE, |a| tree::text(a, "address")).into()
}
