//! Conditions of objects that upstream's controllers inside the API server say something of: of the bootstrap objects, which is true
//! here as soon as they are there, and of every flow schema, whether its priority level is there. What they say they apply, under
//! names of their own. Flow schemas are looked at when one or a level changes ([`follow`]); all of it at starts and each minute.

use super::{ATTEMPTS_MAX, Gvr, kubernetes};
use crate::{news::News, read::text, world::World, writer::Writer};
use futures_util::future::try_join_all;
use machinery::{Value, status::Status, time};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::SystemTime};
use store::{Event, Scope};

const API_SERVICES: Gvr = ("apiregistration.k8s.io", "v1", "apiservices");
const FLOW_SCHEMAS: Gvr = ("flowcontrol.apiserver.k8s.io", "v1", "flowschemas");
const PRIORITY_LEVELS: Gvr = ("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations");

/// Whom upstream has say what.
const FLOW_CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
const RANGES: &str = "kubernetes-service-cidr-controller";

/// Writes the conditions that are missing.
pub(super) async fn settle(world: &World) -> Result<(), Status> {
    settle_of(world, &[kubernetes::SERVICE_CIDRS, API_SERVICES, FLOW_SCHEMAS], |_| true).await
}

/// Says of flow schemas whether their levels are there, as they come and go. Runs until the server ends.
pub(crate) async fn follow(world: World) {
    // Where they are not served there is nothing to say of them.
    if [FLOW_SCHEMAS, PRIORITY_LEVELS].into_iter().any(|(group, version, plural)| world.row(group, version, plural).is_none()) {
        return;
    }
    let ending = world.ending().clone();
    let mut schemas = News::new(&world, FLOW_SCHEMAS, Scope::Bucket);
    let mut levels = News::new(&world, PRIORITY_LEVELS, Scope::Bucket);
    // All are looked at first, and where it is not known what changed; otherwise those that changed, and those of a level that did.
    let mut changed: Option<(BTreeSet<String>, BTreeSet<String>)> = None;
    loop {
        let concerned = |schema: &Value| {
            let level = &schema["spec"]["priorityLevelConfiguration"];
            changed.as_ref().is_none_or(|(names, levels)| names.contains(text(&schema["metadata"], "name")) || levels.contains(text(level, "name")))
        };
        let settled = settle_of(&world, &[FLOW_SCHEMAS], concerned).await;
        if let Err(error) = &settled {
            tracing::warn!(%error, "what is said of flow schemas could not be written");
        }
        // What failed is said with the next change of any, or each minute.
        let (mut names, mut of_levels, mut all) = (BTreeSet::new(), BTreeSet::new(), settled.is_err());
        tokio::select! {
            () = ending.cancelled() => return,
            event = schemas.next() => all |= note(event, &mut names),
            event = levels.next() => all |= note(event, &mut of_levels),
        }
        while let Some(event) = schemas.waiting() {
            all |= note(event, &mut names);
        }
        while let Some(event) = levels.waiting() {
            all |= note(event, &mut of_levels);
        }
        changed = (!all).then_some((names, of_levels));
    }
}

/// Notes whose change it is; whether that is not known.
fn note(event: Option<Arc<Event>>, names: &mut BTreeSet<String>) -> bool {
    let entry = event.as_ref().and_then(|event| event.new.as_ref().or(event.old.as_ref()));
    entry.map(|entry| names.insert(entry.key.rsplit('/').next().unwrap_or_default().to_owned())).is_none()
}

async fn settle_of(world: &World, resources: &[Gvr], concerned: impl Fn(&Value) -> bool) -> Result<(), Status> {
    let now = SystemTime::now();
    let mut missing: Vec<(Gvr, String, Value)> = Vec::new();
    for resource in resources.iter().copied() {
        for object in world.list(resource, "").into_iter().filter(|object| concerned(object)) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let Some(mut condition) = condition(world, resource, &object, name) else { continue };
            condition["lastTransitionTime"] = time::rfc3339(now).into();
            if !is_said(&object, &condition) {
                missing.push((resource, name.to_owned(), condition));
            }
        }
    }
    try_join_all(missing.iter().map(|(resource, name, condition)| write(world, resource, name, condition))).await.map(drop)
}

/// Whether an object says so already, whenever it was said. That a range is ready its controller says as well, in words of its own.
fn is_said(object: &Value, condition: &Value) -> bool {
    let have = object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == condition["type"]);
    let fields: &[&str] = if condition["type"] == "Ready" { &["status"] } else { &["status", "reason", "message"] };
    have.is_some_and(|have| fields.iter().all(|field| text(have, field) == text(condition, field)))
}

/// What is to be said of an object, if anything.
fn condition(world: &World, resource: Gvr, object: &Value, name: &str) -> Option<Value> {
    match resource {
        kubernetes::SERVICE_CIDRS if name == kubernetes::NAME && object["metadata"]["deletionTimestamp"].is_null() => {
            Some(json!({"type": "Ready", "status": "True", "message": "Kubernetes default Service CIDR is ready"}))
        }
        API_SERVICES if object["spec"]["service"].is_null() => {
            Some(json!({"type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available"}))
        }
        FLOW_SCHEMAS => {
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
            let found = world.get(PRIORITY_LEVELS, "", level).is_some();
            let (status, reason, word) = if found { ("False", "Found", "and it exists") } else { ("True", "NotFound", "but there is no such object") };
            let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {word}");
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
        // Both those who look at a change and those who look each minute say it.
        if world.get(*resource, "", name).is_none_or(|object| is_said(&object, condition)) {
            return Ok(());
        }
        let outcome = async {
            if *resource == API_SERVICES {
                return Writer::new(world).change(&row, ("", name), "status", |old| Ok(with(old, condition))).await;
            }
            let manager = if *resource == FLOW_SCHEMAS { FLOW_CONSUMER } else { RANGES };
            let (api_version, kind) = (&row.api_version, &row.resource.kind.kind);
            let configuration = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "status": {"conditions": [condition]}});
            Writer::known_as(world, manager).apply(&row, name, "status", &configuration).await
        };
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

/// An object with this condition.
fn with(old: Option<&Value>, condition: &Value) -> Value {
    let mut value = old.cloned().unwrap_or_default();
    let conditions = value["status"]["conditions"].as_array().into_iter().flatten();
    let mut kept: Vec<Value> = conditions.filter(|c| c["type"] != condition["type"]).cloned().collect();
    kept.push(condition.clone());
    value["status"]["conditions"] = kept.into();
    value
}
