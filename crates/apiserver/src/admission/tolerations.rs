//! PodTolerationRestriction: which taints the pods of a namespace bear by themselves, and which they may bear at all.

use super::{Plugin, World, is, items, text};
use crate::{Operation, Write};
use machinery::{Value, json, status::Status, tree::json_type};
use serde_json::json;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

pub(super) struct PodTolerationRestriction;

impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !concerns(write) {
            return Ok(());
        }
        let mut extra = Vec::new();
        if write.operation == Operation::Create {
            extra = of_namespace(world, write, DEFAULTS)?.unwrap_or_else(|| world.config().admission.tolerations.0.clone());
        }
        if kinds::qos_class(&object["spec"]) != "BestEffort" {
            extra.push(json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}));
        }
        if !extra.is_empty() {
            object["spec"]["tolerations"] = merged(items(&object["spec"]["tolerations"]).iter().cloned().chain(extra).collect()).into();
        }
        self.validate(world, write, object)
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let own = items(&object["spec"]["tolerations"]);
        if !concerns(write) || own.is_empty() {
            return Ok(());
        }
        let (allowed, scope) = match of_namespace(world, write, ALLOWED)? {
            Some(allowed) => (allowed, "namespace"),
            None => (world.config().admission.tolerations.1.clone(), "cluster"),
        };
        if allowed.is_empty() || own.iter().all(|toleration| allowed.iter().any(|wider| covers(wider, toleration))) {
            return Ok(());
        }
        let why = format!("pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist");
        Err(Status::new(500, "", why))
    }
}

fn concerns(write: &Write<'_>) -> bool {
    is(write, "", "pods") && write.subresource.is_empty() && matches!(write.operation, Operation::Create | Operation::Update)
}

/// The tolerations of an annotation of the namespace; none if it has none.
fn of_namespace(world: &World, write: &Write<'_>, annotation: &str) -> Result<Option<Vec<Value>>, Status> {
    let namespace = world.read(("", "v1", "namespaces"), "", write.namespace)?;
    let Some(told) = namespace["metadata"]["annotations"][annotation].as_str() else { return Ok(None) };
    read(told).map(Some).map_err(|why| Status::new(500, "", why))
}

/// The tolerations that a text lists; what is wrong with it is told in the words of Go's decoder.
fn read(told: &str) -> Result<Vec<Value>, String> {
    if told.is_empty() {
        return Ok(Vec::new());
    }
    let list = json::read(told.as_bytes()).map_err(|error| json::syntax_error(told.as_bytes()).unwrap_or_else(|| error.to_string()))?;
    match list {
        Value::Array(list) => Ok(list),
        Value::Null => Ok(Vec::new()),
        other => Err(format!("json: cannot unmarshal {} into Go value of type []core.Toleration", json_type(&other))),
    }
}

/// Whether one toleration bears all that another does.
fn covers(wider: &Value, toleration: &Value) -> bool {
    let same = |field: &str| text(wider, field) == text(toleration, field);
    let (wider_s, own_s) = (wider["tolerationSeconds"].as_i64(), toleration["tolerationSeconds"].as_i64());
    if ["key", "operator", "value", "effect"].into_iter().all(same) && wider_s == own_s {
        return true;
    }
    let all_keys = text(wider, "key").is_empty() && text(wider, "operator") == "Exists";
    if !same("key") && !all_keys || !same("effect") && !text(wider, "effect").is_empty() {
        return false;
    }
    if text(wider, "effect") == "NoExecute" && wider_s.is_some_and(|wider| own_s.is_none_or(|own| own > wider)) {
        return false;
    }
    match text(wider, "operator") {
        "Equal" | "" => text(toleration, "operator") == "Equal" && same("value"),
        "Exists" => true,
        _ => false,
    }
}

/// More than these are left as they are: each is held against all others.
const MERGED_MAX: usize = 256;

/// All of them without those that another one covers.
pub(super) fn merged(all: Vec<Value>) -> Vec<Value> {
    if all.len() > MERGED_MAX {
        return all;
    }
    let mut out: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let later = all.iter().skip(at + 1).any(|other| other != toleration && covers(other, toleration));
        if !later && !out.iter().any(|other| covers(other, toleration)) {
            out.push(toleration.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_that_is_none_is_told_as_go_tells_it() {
        assert_eq!(read(""), Ok(Vec::new()));
        assert_eq!(read("not json"), Err("invalid character 'o' in literal null (expecting 'u')".into()));
        assert_eq!(read("[{"), Err("unexpected end of JSON input".into()));
        assert_eq!(read("{}"), Err("json: cannot unmarshal object into Go value of type []core.Toleration".into()));
    }

    #[test]
    fn what_another_covers_goes_where_there_are_not_too_many() {
        let all = |count: usize| vec![json!({"key": "a", "operator": "Exists"}); count];
        assert_eq!(merged(all(MERGED_MAX)), all(1));
        assert_eq!(merged(all(MERGED_MAX + 1)), all(MERGED_MAX + 1));
    }
}
