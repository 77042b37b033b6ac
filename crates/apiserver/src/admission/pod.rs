//! What a cluster adds to pods: Priority, DefaultTolerationSeconds, RuntimeClass, PodTopologyLabels.

use super::{Plugin, World, amounts, creates, forbidden, is, items, push, text, tolerations::merged};
use crate::{Operation, Write};
use machinery::{Value, status::Status};
use serde_json::json;
use std::sync::Arc;

/// How long a pod stays on a node that is not ready or not reachable, unless it says otherwise.
const TOLERATION_SECONDS: i64 = 300;
const CLASSES: (&str, &str, &str) = ("scheduling.k8s.io", "v1", "priorityclasses");

pub(super) struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !is(write, "", "pods") || !write.subresource.is_empty() {
            return Ok(());
        }
        if let Some(old) = write.old {
            // The priority of a pod never changes.
            for field in ["priority", "preemptionPolicy"] {
                if object["spec"][field].is_null() && !old["spec"][field].is_null() {
                    object["spec"][field] = old["spec"][field].clone();
                }
            }
            return Ok(());
        }
        let mut name = text(&object["spec"], "priorityClassName").to_owned();
        let class = if name.is_empty() {
            let classes = world.list(CLASSES, "");
            classes.into_iter().filter(|c| c["globalDefault"] == true).min_by_key(|c| c["value"].as_i64())
        } else {
            let found = world.get(CLASSES, "", &name);
            if found.is_none() {
                return Err(forbidden(write, object, format!("no PriorityClass with name {name} was found")));
            }
            found
        };
        let (mut priority, mut policy) = (0, "PreemptLowerPriority".to_owned());
        if let Some(class) = class {
            text(&class["metadata"], "name").clone_into(&mut name);
            priority = class["value"].as_i64().unwrap_or(0);
            if let Some(own) = class["preemptionPolicy"].as_str() {
                own.clone_into(&mut policy);
            }
            object["spec"]["priorityClassName"] = json!(name);
        }
        if let Some(given) = object["spec"]["priority"].as_i64().filter(|p| *p != priority) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            );
            return Err(forbidden(write, object, why));
        }
        if let Some(given) = object["spec"]["preemptionPolicy"].as_str().filter(|p| *p != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(write, object, why));
        }
        object["spec"]["priority"] = json!(priority);
        object["spec"]["preemptionPolicy"] = json!(policy);
        Ok(())
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if write.operation == Operation::Delete || !is(write, "scheduling.k8s.io", "priorityclasses") || object["globalDefault"] != true {
            return Ok(());
        }
        let other = world.list(CLASSES, "").into_iter().find(|c| c["globalDefault"] == true && c["metadata"]["name"] != object["metadata"]["name"]);
        match other {
            Some(other) => {
                let why = format!("PriorityClass {} is already marked as default. Only one default can exist", text(&other["metadata"], "name"));
                Err(forbidden(write, object, why))
            }
            None => Ok(()),
        }
    }
}

pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate(&self, _world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        // An update that replaces the tolerations must not lose them.
        if !is(write, "", "pods") || !write.subresource.is_empty() || !matches!(write.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = items(&object["spec"]["tolerations"])
                .iter()
                .any(|t| matches!(text(t, "key"), k if k == key || k.is_empty()) && matches!(text(t, "effect"), "NoExecute" | ""));
            if !tolerated {
                let own = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS});
                push(&mut object["spec"], "tolerations", own);
            }
        }
        Ok(())
    }
}

pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !creates(write, "", "pods") {
            return Ok(());
        }
        let Some(class) = class_of(world, write, object)? else { return Ok(()) };
        let fixed = &class["overhead"]["podFixed"];
        if class["overhead"].is_object() {
            let own = amounts::of(&object["spec"]["overhead"]);
            if !own.is_empty() && own != amounts::of(fixed) {
                return Err(forbidden(write, object, OTHER_OVERHEAD));
            }
            if !fixed.is_null() {
                object["spec"]["overhead"] = fixed.clone();
            }
        }
        for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
            let (own, wanted) = (&mut object["spec"]["nodeSelector"][key.as_str()], text(&class["scheduling"]["nodeSelector"], key));
            if let Some(own) = own.as_str().filter(|own| *own != wanted) {
                let why = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}");
                return Err(forbidden(write, object, why));
            }
            *own = value.clone();
        }
        if class["scheduling"].is_object() {
            let all = items(&object["spec"]["tolerations"]).iter().chain(items(&class["scheduling"]["tolerations"])).cloned();
            let merged = merged(all.collect());
            if !merged.is_empty() {
                object["spec"]["tolerations"] = merged.into();
            }
        }
        Ok(())
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !creates(write, "", "pods") {
            return Ok(());
        }
        let own = &object["spec"]["overhead"];
        match class_of(world, write, object)?.filter(|class| class["overhead"].is_object()) {
            Some(class) if amounts::of(own) != amounts::of(&class["overhead"]["podFixed"]) => Err(forbidden(write, object, OTHER_OVERHEAD)),
            None if !own.is_null() => Err(forbidden(write, object, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
            _ => Ok(()),
        }
    }
}

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// The class that a pod names, if it names one.
fn class_of(world: &World, write: &Write<'_>, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    if name.is_empty() {
        // Upstream asks for it, and a client asks for nothing without a name.
        return Err(Status::new(500, "", "resource name may not be empty"));
    }
    match world.get(("node.k8s.io", "v1", "runtimeclasses"), "", name) {
        None => Err(forbidden(write, pod, format!("pod rejected: RuntimeClass {name:?} not found"))),
        class => Ok(class),
    }
}

pub(super) struct PodTopologyLabels;

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    // A pod that is bound, or made for a node, learns where that stands.
    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        let binding = (is(write, "", "pods") && write.subresource == "binding") || is(write, "", "bindings");
        let name = match binding {
            true if object["target"]["kind"] == "Node" => text(&object["target"], "name"),
            false if creates(write, "", "pods") => text(&object["spec"], "nodeName"),
            _ => "",
        };
        if name.is_empty() {
            return Ok(());
        }
        let Some(node) = world.get(("", "v1", "nodes"), "", name) else { return Ok(()) };
        for label in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
            if let Some(value) = node["metadata"]["labels"][label].as_str() {
                object["metadata"]["labels"][label] = json!(value);
            }
        }
        Ok(())
    }
}
