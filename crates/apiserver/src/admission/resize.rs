//! PodResizeValidator: a running pod does not grow beyond its node.

use super::{Plugin, World, amounts, forbidden, is, text};
use crate::{Operation, Write};
use machinery::{Value, quantity::Quantity, status::Status};

pub(super) struct PodResizeValidator;

impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let Some(old) = write.old else { return Ok(()) };
        let node = text(&object["spec"], "nodeName");
        let concerned = is(write, "", "pods") && write.subresource == "resize" && write.operation == Operation::Update;
        if !concerned || node.is_empty() || old["metadata"]["generation"] == object["metadata"]["generation"] {
            return Ok(());
        }
        let Some(found) = world.get(("", "v1", "nodes"), "", node) else {
            return Err(forbidden(write, object, format!("node {node:?} not found")));
        };
        match found["metadata"]["labels"]["kubernetes.io/os"].as_str() {
            None | Some("linux") => {}
            Some(other) => {
                let why = format!("pod resize is only supported on linux nodes, node {node:?} is {other:?}");
                return Err(forbidden(write, object, why).cause("UnsupportedPlatform", "", ""));
            }
        }
        let asked = amounts::of_pod(object, "requests");
        let room = amounts::of(&found["status"]["allocatable"]);
        let more = |name: &str, count: fn(Quantity) -> i64| {
            let (asked, room) = (asked.get(name).copied().unwrap_or_default(), room.get(name).copied().unwrap_or_default());
            (asked > room).then(|| format!("{name}, requested: {}, allocatable: {}", count(asked), count(room)))
        };
        let over: Vec<String> = [more("cpu", Quantity::milli_value), more("memory", Quantity::value)].into_iter().flatten().collect();
        if over.is_empty() {
            return Ok(());
        }
        let why = format!("node didn't have enough allocatable resources: {}", over.join("; "));
        Err(forbidden(write, object, why).cause("NodeCapacity", "", ""))
    }
}
