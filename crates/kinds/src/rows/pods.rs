//! Pods: their containers' states summed up in one word (`printPod`).

use super::{condition, holds};
use crate::{print, tree};
use machinery::{Value, time};
use std::time::SystemTime;

/// What the containers' states come to.
#[derive(Default)]
struct Summary {
    reason: String,
    restarts: i64,
    /// The sidecars' share of `restarts`.
    sidecar_restarts: i64,
    last_restart: Option<SystemTime>,
    last_sidecar_restart: Option<SystemTime>,
    ready: usize,
    total: usize,
}

pub(super) fn cells(pod: &Value, now: SystemTime) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, print::human_duration(print::seconds_between(at, now)))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = tree::list(status, "podIPs").first().map_or(&status["podIP"], |ip| &ip["ip"]);
    vec![
        print::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        print::age(pod, now),
        print::or(ip, print::NONE),
        print::or(&spec["nodeName"], print::NONE),
        print::or(&status["nominatedNodeName"], print::NONE),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = tree::list(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return print::NONE.to_owned();
    }
    let open = gates.iter().filter(|gate| holds(&pod["status"], tree::text(gate, "conditionType"))).count();
    format!("{open}/{}", gates.len())
}

fn finished(state: &Value) -> Option<SystemTime> {
    time::parse(tree::text(&state["terminated"], "finishedAt")).ok()
}

fn summarize(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut out = Summary { total: tree::list(spec, "containers").len(), ..Summary::default() };
    let phase = tree::text(status, "phase");
    out.reason = match tree::text(status, "reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    if condition(status, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut out.reason);
    }
    let initializing = inits(spec, status, &mut out);
    if !initializing || holds(status, "Initialized") {
        mains(status, &mut out);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if tree::text(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut out.reason);
        } else if !matches!(phase, "Failed" | "Succeeded") {
            "Terminating".clone_into(&mut out.reason);
        }
    }
    out
}

/// Counts init containers; whether one of them is still to end.
fn inits(spec: &Value, status: &Value, out: &mut Summary) -> bool {
    let list = tree::list(spec, "initContainers");
    let is_sidecar = |name: &str| list.iter().any(|c| c["name"] == name && c["restartPolicy"] == "Always");
    out.total += list.iter().filter(|c| c["restartPolicy"] == "Always").count();
    for (at, container) in tree::list(status, "initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar(tree::text(container, "name"));
        let restarts = container["restartCount"].as_i64().unwrap_or(0);
        out.restarts += restarts;
        out.last_restart = out.last_restart.max(finished(&container["lastState"]));
        if sidecar {
            out.sidecar_restarts += restarts;
            out.last_sidecar_restart = out.last_sidecar_restart.max(finished(&container["lastState"]));
        }
        let state = &container["state"];
        let (terminated, waiting) = (&state["terminated"], &state["waiting"]);
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            out.ready += usize::from(container["ready"] == true);
            continue;
        }
        out.reason = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !matches!(tree::text(waiting, "reason"), "" | "PodInitializing") {
            format!("Init:{}", tree::text(waiting, "reason"))
        } else {
            format!("Init:{at}/{}", list.len())
        };
        return true;
    }
    false
}

/// Why a container ended: its reason, else its signal or exit code.
fn ended(terminated: &Value) -> String {
    match (tree::text(terminated, "reason"), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn mains(status: &Value, out: &mut Summary) {
    out.restarts = out.sidecar_restarts;
    out.last_restart = out.last_sidecar_restart;
    let (mut running, mut failure) = (false, None);
    for container in tree::list(status, "containerStatuses").iter().rev() {
        out.restarts += container["restartCount"].as_i64().unwrap_or(0);
        out.last_restart = out.last_restart.max(finished(&container["lastState"]));
        let state = &container["state"];
        let (waiting, terminated) = (tree::text(&state["waiting"], "reason"), &state["terminated"]);
        if !waiting.is_empty() {
            waiting.clone_into(&mut out.reason);
        } else if terminated.is_object() {
            out.reason = ended(terminated);
            if terminated["exitCode"].as_i64().unwrap_or(0) != 0 {
                failure = Some(out.reason.clone());
            }
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
            out.ready += 1;
        }
    }
    // One of several containers that has ended does not end the pod.
    if out.reason == "Completed" {
        if running && holds(status, "Ready") {
            "Running".clone_into(&mut out.reason);
        } else if let Some(failure) = failure {
            out.reason = failure;
        } else if running {
            "NotReady".clone_into(&mut out.reason);
        }
    }
}
