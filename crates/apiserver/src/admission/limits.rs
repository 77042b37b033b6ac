//! LimitRanger: what the containers and claims of a namespace get by default, and may ask for at least and at most.

use super::{
    Plugin, World,
    amounts::{self, Amounts},
    creates, forbidden, is, items, joined, text,
};
use crate::{Operation, Write};
use machinery::{Value, quantity::Quantity, status::Status};
use serde_json::json;
use std::sync::Arc;

const RANGES: (&str, &str, &str) = ("", "v1", "limitranges");
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Beyond this, amounts are compared as whole numbers (upstream's `MaxMilliValue`).
const MAX_MILLI: i64 = i64::MAX / 1000;

pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !fits(write) || is_going(write) {
            return Ok(());
        }
        for range in world.list(RANGES, write.namespace) {
            fill(&range, object);
        }
        Ok(())
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let pod = fits(write);
        let claim = is(write, "", "persistentvolumeclaims") && write.operation != Operation::Delete && write.subresource.is_empty();
        if !(pod || claim) || is_going(write) {
            return Ok(());
        }
        let ranges: Vec<Arc<Value>> = world.list(RANGES, write.namespace);
        for range in &ranges {
            let mut errors = Vec::new();
            for limit in items(&range["spec"]["limits"]) {
                if pod { of_pod(limit, object, &mut errors) } else { of_claim(limit, object, &mut errors) }
            }
            if !errors.is_empty() {
                return Err(forbidden(write, object, joined(&errors)));
            }
        }
        Ok(())
    }
}

/// A pod that is made or resized: nothing else changes what its containers ask for.
fn fits(write: &Write<'_>) -> bool {
    creates(write, "", "pods") || is(write, "", "pods") && write.operation == Operation::Update && write.subresource == "resize"
}

fn is_going(write: &Write<'_>) -> bool {
    write.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null())
}

/// Gives containers the defaults of a range, and notes on the pod what was given.
fn fill(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (json!({}), json!({}));
    for limit in items(&range["spec"]["limits"]).iter().filter(|l| text(l, "type") == "Container") {
        for (to, from) in [(&mut requests, "defaultRequest"), (&mut limits, "default")] {
            for (name, amount) in limit[from].as_object().into_iter().flatten() {
                to[name.as_str()] = amount.clone();
            }
        }
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, "name").to_owned();
            for (key, defaults, word) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let given = give(container, key, defaults);
                if !given.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", given.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] = json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Adds what a container lacks; the names of it.
fn give(container: &mut Value, key: &str, defaults: &Value) -> Vec<String> {
    let entries = defaults.as_object().into_iter().flatten();
    let missing: Vec<(String, Value)> =
        entries.filter(|(name, _)| container["resources"][key][name.as_str()].is_null()).map(|(n, v)| (n.clone(), v.clone())).collect();
    for (name, amount) in &missing {
        container["resources"][key][name.as_str()] = amount.clone();
    }
    missing.into_iter().map(|(name, _)| name).collect()
}

fn of_pod(limit: &Value, pod: &Value, errors: &mut Vec<String>) {
    match text(limit, "type") {
        "Container" => {
            for container in ["containers", "initContainers"].iter().flat_map(|list| items(&pod["spec"][*list])) {
                let resources = &container["resources"];
                check(limit, &amounts::of(&resources["requests"]), &amounts::of(&resources["limits"]), errors);
            }
        }
        "Pod" => check(limit, &amounts::of_containers(pod, "requests"), &amounts::of_containers(pod, "limits"), errors),
        _ => {}
    }
}

fn of_claim(limit: &Value, claim: &Value, errors: &mut Vec<String>) {
    if text(limit, "type") != "PersistentVolumeClaim" {
        return;
    }
    let requests = amounts::of(&claim["spec"]["resources"]["requests"]);
    let bounds = |key: &str| amounts::of(&limit[key]);
    for (name, least) in bounds("min") {
        errors.extend(minimum("PersistentVolumeClaim", &name, least, requests.get(&name), None));
    }
    for (name, most) in bounds("max") {
        let about = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
        match requests.get(&name) {
            None => errors.push(format!("{about}.  No request is specified")),
            Some(asked) if exceeds(asked, &most) => errors.push(format!("{about}, but request is {asked}")),
            Some(_) => {}
        }
    }
}

/// Compares what is asked for and allowed with the bounds of one limit.
fn check(limit: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    let kind = text(limit, "type");
    for (name, least) in amounts::of(&limit["min"]) {
        errors.extend(minimum(kind, &name, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts::of(&limit["max"]) {
        let about = format!("maximum {name} usage per {kind} is {most}");
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => errors.push(format!("{about}.  No limit is specified")),
            (Some(limit), _) if exceeds(limit, &most) => errors.push(format!("{about}, but limit is {limit}")),
            (_, Some(asked)) if exceeds(asked, &most) => errors.push(format!("{about}, but request is {asked}")),
            _ => {}
        }
    }
    for (name, most) in amounts::of(&limit["maxLimitRequestRatio"]) {
        errors.extend(ratio(kind, &name, most, requests.get(&name), limits.get(&name)));
    }
}

fn minimum(kind: &str, name: &str, least: Quantity, asked: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let about = format!("minimum {name} usage per {kind} is {least}");
    match (asked, limit) {
        (None, _) => Some(format!("{about}.  No request is specified")),
        (Some(asked), _) if exceeds(&least, asked) => Some(format!("{about}, but request is {asked}")),
        (_, Some(limit)) if exceeds(&least, limit) => Some(format!("{about}, but limit is {limit}")),
        _ => None,
    }
}

/// Whether one amount is more than the other, by thousandths where they are not too large for that.
fn exceeds(one: &Quantity, other: &Quantity) -> bool {
    let fine = [one, other].iter().all(|q| q.value() <= MAX_MILLI);
    let number = |q: &Quantity| if fine { q.milli_value() } else { q.value() };
    number(one) > number(other)
}

fn ratio(kind: &str, name: &str, most: Quantity, asked: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let about = format!("{name} max limit to request ratio per {kind} is {most}, but");
    let Some(asked) = asked.filter(|q| !q.is_zero()) else { return Some(format!("{about} no request is specified or request is 0")) };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else { return Some(format!("{about} no limit is specified or limit is 0")) };
    let fine = [asked, limit].iter().all(|q| q.value() <= MAX_MILLI);
    let number = |q: &Quantity| if fine { q.milli_value() as f64 } else { q.value() as f64 };
    let told = number(limit) / number(asked);
    (told > most.as_f64()).then(|| format!("{about} provided ratio is {told:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_a_thousandth_is_one() {
        let limit = json!({"type": "Container", "min": {"cpu": "1m"}, "max": {"cpu": "1m"}});
        let told = |cpu: &str| {
            let mut errors = Vec::new();
            let amounts = amounts::of(&json!({"cpu": cpu}));
            check(&limit, &amounts, &amounts, &mut errors);
            errors
        };
        assert_eq!(told("100u"), [""; 0]);
        assert_eq!(told("1100u"), ["maximum cpu usage per Container is 1m, but limit is 1100u"]);
        assert_eq!(told("0"), ["minimum cpu usage per Container is 1m, but request is 0"]);
    }
}
