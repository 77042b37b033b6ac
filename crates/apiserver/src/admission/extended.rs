//! ExtendedResourceToleration: a pod that asks for a special resource may run on the nodes that are kept for it.

use super::{Plugin, World, is, items, push, text};
use crate::{Operation, Write};
use machinery::{Value, extended::is_extended, status::Status};
use serde_json::json;
use std::collections::BTreeSet;

pub(super) struct ExtendedResourceToleration;

impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn mutate(&self, _world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !is(write, "", "pods") || !write.subresource.is_empty() || !matches!(write.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let containers = ["containers", "initContainers"].into_iter().flat_map(|list| items(&object["spec"][list]));
        let asked = containers.filter_map(|container| container["resources"]["requests"].as_object()).flat_map(|requests| requests.keys());
        let special: BTreeSet<String> = asked.filter(|name| is_extended(name)).cloned().collect();
        for name in special {
            let own = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
            // One for the same taint that says something else is made this one.
            let same = |other: &Value| {
                text(other, "key") == name && other["operator"] == "Exists" && other["effect"] == "NoSchedule" && text(other, "value").is_empty()
            };
            match object["spec"]["tolerations"].as_array_mut().and_then(|all| all.iter_mut().find(|other| same(other))) {
                Some(other) => *other = own,
                None => push(&mut object["spec"], "tolerations", own),
            }
        }
        Ok(())
    }
}
