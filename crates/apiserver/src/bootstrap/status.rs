//! Conditions of the bootstrap objects: what upstream's controllers inside the API server say of them, which is true here as
//! soon as they are there.

use super::{ATTEMPTS_MAX, Gvr, kubernetes};
use crate::{world::World, writer::Writer};
use futures_util::future::try_join_all;
use machinery::{Value, status::Status, time};
use serde_json::json;
use std::time::SystemTime;

const API_SERVICES: Gvr = ("apiregistration.k8s.io", "v1", "apiservices");
const FLOW_SCHEMAS: Gvr = ("flowcontrol.apiserver.k8s.io", "v1", "flowschemas");
const PRIORITY_LEVELS: Gvr = ("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations");

/// Writes the conditions that are missing.
pub(super) async fn settle(world: &World) -> Result<(), Status> {
    let now = SystemTime::now();
    let mut missing: Vec<(Gvr, String, Value)> = Vec::new();
    for resource in [kubernetes::SERVICE_CIDRS, API_SERVICES, FLOW_SCHEMAS] {
        for object in world.list(resource, "") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let Some(mut condition) = condition(world, resource, &object, name) else { continue };
            condition["lastTransitionTime"] = time::rfc3339(now).into();
            if find(&object, &condition).is_none_or(|have| have["status"] != condition["status"]) {
                missing.push((resource, name.to_owned(), condition));
            }
        }
    }
    try_join_all(missing.iter().map(|(resource, name, condition)| write(world, resource, name, condition))).await.map(drop)
}

fn find<'a>(object: &'a Value, condition: &Value) -> Option<&'a Value> {
    object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == condition["type"])
}

/// What is to be said of an object, if anything.
fn condition(world: &World, resource: Gvr, object: &Value, name: &str) -> Option<Value> {
    match resource {
        kubernetes::SERVICE_CIDRS if name == kubernetes::NAME && object["metadata"]["deletionTimestamp"].is_null() => {
            Some(json!({"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready"}))
        }
        API_SERVICES if object["spec"]["service"].is_null() => {
            Some(json!({"type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available"}))
        }
        FLOW_SCHEMAS => {
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
            let found = world.get(PRIORITY_LEVELS, "", level).is_some();
            let (status, reason, word) = if found { ("False", "Found", "it exists") } else { ("True", "NotFound", "there is no such object") };
            let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and {word}");
            Some(json!({"type": "Dangling", "status": status, "reason": reason, "message": message}))
        }
        _ => None,
    }
}

async fn write(world: &World, resource: &Gvr, name: &str, condition: &Value) -> Result<(), Status> {
    let (group, version, plural) = *resource;
    let Some(row) = world.row(group, version, plural) else { return Ok(()) };
    let mut last = Ok(());
    for _ in 0..ATTEMPTS_MAX {
        let writer = Writer(world);
        let outcome = writer.change(&row, ("", name), "status", |old| {
            let mut value = old.cloned().unwrap_or_default();
            let conditions = value["status"]["conditions"].as_array().into_iter().flatten();
            let mut kept: Vec<Value> = conditions.filter(|c| c["type"] != condition["type"]).cloned().collect();
            kept.push(condition.clone());
            value["status"]["conditions"] = kept.into();
            Ok(value)
        });
        match outcome.await {
            Ok(_) => return Ok(()),
            Err(error) if error.code == 404 => return Ok(()),
            Err(error) if error.code == 409 => last = Err(error),
            Err(error) if error.code == 422 => {
                tracing::error!(resource = plural, name, %error, "a condition of the cluster's own object is refused");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    last
}
