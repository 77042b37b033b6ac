//! Priorities, leases, runtime classes, and the devices of `resource.k8s.io`.

use super::{Cells, text};
use crate::{print, tree};
use machinery::Value;
use std::time::SystemTime;

pub(super) fn find(kind: &str) -> Option<Cells> {
    Some(match kind {
        "PriorityClass" => priority_class,
        "Lease" => lease,
        "RuntimeClass" => runtime_class,
        "DeviceClass" | "ResourceClaimTemplate" => aged,
        "ResourceClaim" => claim,
        "ResourceSlice" => slice,
        "DeviceTaintRule" => taint,
        _ => return None,
    })
}

fn aged(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), print::age(obj, now)]
}

fn priority_class(obj: &Value, now: SystemTime) -> Vec<Value> {
    let global = obj["globalDefault"] == true;
    vec![print::name(obj), print::number(&obj["value"]), global.into(), print::age(obj, now), text(obj, "preemptionPolicy")]
}

fn lease(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), text(&obj["spec"], "holderIdentity"), print::age(obj, now)]
}

fn runtime_class(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![print::name(obj), text(obj, "handler"), print::age(obj, now)]
}

fn claim(obj: &Value, now: SystemTime) -> Vec<Value> {
    let deleted = !obj["metadata"]["deletionTimestamp"].is_null();
    let allocated = obj["status"]["allocation"].is_object();
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (allocated && !tree::list(&obj["status"], "reservedFor").is_empty(), "reserved"),
    ];
    let states: Vec<&str> = states.into_iter().filter(|(holds, _)| *holds).map(|(_, state)| state).collect();
    vec![print::name(obj), states.join(",").into(), print::age(obj, now)]
}

fn slice(obj: &Value, now: SystemTime) -> Vec<Value> {
    let spec = &obj["spec"];
    vec![print::name(obj), text(spec, "nodeName"), text(spec, "driver"), text(&spec["pool"], "name"), print::age(obj, now)]
}

fn taint(obj: &Value, now: SystemTime) -> Vec<Value> {
    let taint = &obj["spec"]["taint"];
    let added = if taint["timeAdded"].is_null() { String::new() } else { print::since(&taint["timeAdded"], now) };
    vec![print::name(obj), text(taint, "key"), text(taint, "value"), text(taint, "effect"), added.into(), print::age(obj, now)]
}
