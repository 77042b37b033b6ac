//! NodeDeclaredFeatureValidator: a pod on a node is not changed into what its node does not say that it can do (KEP-5328).

use super::{Plugin, World, forbidden, is, text};
use crate::{Operation, Write, read::items};
use machinery::{Value, quantity::Quantity, status::Status};
use std::collections::BTreeMap;

/// Resources of the whole pod are changed.
const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling";
/// Resources of a container that runs before the others are changed.
const INIT_CONTAINERS: &str = "InPlacePodVerticalScalingInitContainers";

pub(super) struct NodeDeclaredFeatureValidator;

impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let Some(old) = write.old else { return Ok(()) };
        let node = text(&object["spec"], "nodeName");
        let concerned = is(write, "", "pods") && matches!(write.subresource, "" | "resize") && write.operation == Operation::Update;
        // The generation is what tells a change of the spec.
        if !concerned || node.is_empty() || old["metadata"]["generation"] == object["metadata"]["generation"] {
            return Ok(());
        }
        let required = required(&old["spec"], &object["spec"]);
        if required.is_empty() {
            return Ok(());
        }
        let Some(found) = world.get(("", "v1", "nodes"), "", node) else {
            return Err(forbidden(write, object, format!("node {node:?} not found")));
        };
        let declared = items(&found["status"]["declaredFeatures"]);
        let lacking: Vec<&str> = required.into_iter().filter(|feature| !declared.iter().any(|declared| declared == feature)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let why = format!("pod update requires features {} which are not available on node {node:?}", lacking.join(", "));
        Err(forbidden(write, object, why))
    }
}

/// What a node must be able to do for a change of a pod's spec, sorted.
fn required(old: &Value, new: &Value) -> Vec<&'static str> {
    let lists = items(&old["initContainers"]).iter().zip(items(&new["initContainers"]));
    let begins = { lists }.any(|(old, new)| old["restartPolicy"] != "Always" && amounts(&old["resources"]) != amounts(&new["resources"]));
    let whole = amounts(&old["resources"]) != amounts(&new["resources"]);
    [(whole, POD_LEVEL), (begins, INIT_CONTAINERS)].into_iter().filter(|(asked, _)| *asked).map(|(_, feature)| feature).collect()
}

/// Requests and limits by what they are worth, whatever their spelling.
fn amounts(resources: &Value) -> BTreeMap<(&str, &str), Option<Quantity>> {
    let of = |part: &'static str| resources[part].as_object().into_iter().flatten().map(move |(name, amount)| ((part, name.as_str()), amount));
    let read = |amount: &Value| amount.as_str().and_then(|text| text.parse().ok());
    of("requests").chain(of("limits")).map(|(key, amount)| (key, read(amount))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_that_are_not_every_nodes_are_told_apart() {
        let container = |restart: Value, cpu: &str| json!({"name": "i", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}});
        let spec = |whole: &str, init: Value| json!({"resources": {"limits": {"cpu": whole}}, "initContainers": [init]});
        let before = spec("1", container(Value::Null, "100m"));
        assert_eq!(required(&before, &spec("1000m", container(Value::Null, "0.1"))), [""; 0], "the same in other words");
        assert_eq!(required(&before, &spec("2", container(Value::Null, "200m"))), [POD_LEVEL, INIT_CONTAINERS]);
        let sidecar = |cpu: &str| spec("1", container("Always".into(), cpu));
        assert_eq!(required(&sidecar("100m"), &sidecar("200m")), [""; 0], "sidecars are changed as other containers are");
    }
}
