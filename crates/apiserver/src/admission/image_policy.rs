//! ImagePolicyWebhook: a backend says whether a pod's images may be run.

use super::{World, forbidden, is, items};
use crate::{Operation, Write, offload};
use machinery::{Value, status::Status};
use serde_json::{Map, json};

pub(super) async fn review(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let Some(reviews) = &world.config().admission.image_reviews else { return Ok(()) };
    let Some(spec) = spec(write, object) else { return Ok(()) };
    let why = match offload::resting(Box::pin(reviews.ask(world, &spec, write.cx.time_left()))).await {
        Ok(verdict) if verdict.allowed => return Ok(()),
        Ok(verdict) if verdict.reason.is_empty() => "one or more images rejected by webhook backend".to_owned(),
        Ok(verdict) => format!("image policy webhook backend denied one or more images: {}", verdict.reason),
        Err(why) if reviews.is_open => {
            tracing::warn!(why, "nobody answers about images, which are let in as the settings say");
            return Ok(());
        }
        Err(why) => why,
    };
    Err(forbidden(write, object, why))
}

/// What is asked about a write: a pod's images, or those that a debugger brings.
fn spec(write: &Write<'_>, object: &Value) -> Option<Value> {
    let written = matches!(write.operation, Operation::Create | Operation::Update);
    if !written || !is(write, "", "pods") {
        return None;
    }
    let lists: &[&str] = match write.subresource {
        "" => &["containers", "initContainers", "ephemeralContainers"],
        "ephemeralcontainers" => &["ephemeralContainers"],
        _ => return None,
    };
    let containers = lists.iter().flat_map(|list| items(&object["spec"][*list]));
    let containers: Vec<Value> = containers.map(|container| json!({"image": container["image"]})).collect();
    let mut spec = Map::new();
    if !containers.is_empty() {
        spec.insert("containers".into(), containers.into());
    }
    let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
    let told: Map<String, Value> =
        annotations.filter(|(key, _)| key.contains(".image-policy.k8s.io/")).map(|(key, value)| (key.clone(), value.clone())).collect();
    if !told.is_empty() {
        spec.insert("annotations".into(), told.into());
    }
    spec.insert("namespace".into(), write.namespace.into());
    Some(spec.into())
}
