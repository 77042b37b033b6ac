//! LimitPodHardAntiAffinityTopology: a pod keeps others from its node, and not from a whole zone.

use super::{Plugin, World, is, items, text};
use crate::{Operation, Write};
use machinery::{Value, status::Status};

const HOST: &str = "kubernetes.io/hostname";

pub(super) struct LimitPodHardAntiAffinityTopology;

impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn validate(&self, _world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !is(write, "", "pods") || !write.subresource.is_empty() || !matches!(write.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let terms = items(&object["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]);
        let Some(wrong) = terms.iter().map(|term| text(term, "topologyKey")).find(|key| *key != HOST) else { return Ok(()) };
        let why = format!("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {wrong} but only key {HOST} is allowed");
        Err(Status::forbidden("", "pods", text(&object["metadata"], "name"), why))
    }
}
