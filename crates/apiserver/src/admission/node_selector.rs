//! PodNodeSelector: on which nodes the pods of a namespace run, by an annotation of the namespace or the plug-in's settings.

use super::{Plugin, World, creates, text};
use crate::Write;
use machinery::{Value, names, status::Status};
use std::collections::BTreeMap;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const CLUSTER: &str = "clusterDefaultNodeSelector";

pub(super) struct PodNodeSelector;

impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn mutate(&self, world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !creates(write, "", "pods") {
            return Ok(());
        }
        let wanted = of_namespace(world, write, object)?;
        for (key, value) in wanted {
            object["spec"]["nodeSelector"][key] = value.into();
        }
        self.validate(world, write, object)
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !creates(write, "", "pods") {
            return Ok(());
        }
        of_namespace(world, write, object)?;
        let allowed = world.config().admission.node_selectors.get(write.namespace).map_or("", String::as_str);
        let allowed = labels(allowed)?;
        let own = object["spec"]["nodeSelector"].as_object();
        let fits = allowed.is_empty() || own.into_iter().flatten().all(|(key, value)| allowed.get(key).is_some_and(|known| value == known.as_str()));
        if fits {
            return Ok(());
        }
        Err(refused(object, "pod node label selector labels conflict with its namespace whitelist"))
    }
}

fn refused(pod: &Value, why: &str) -> Status {
    Status::forbidden("", "pods", text(&pod["metadata"], "name"), why)
}

/// What the namespace asks for; an error if the pod asks for something else.
fn of_namespace(world: &World, write: &Write<'_>, pod: &Value) -> Result<BTreeMap<String, String>, Status> {
    let namespace = world.read(("", "v1", "namespaces"), "", write.namespace)?;
    let told = namespace["metadata"]["annotations"][ANNOTATION].as_str();
    let wanted = labels(told.or_else(|| world.config().admission.node_selectors.get(CLUSTER).map(String::as_str)).unwrap_or_default())?;
    let own = &pod["spec"]["nodeSelector"];
    if wanted.iter().any(|(key, value)| own[key.as_str()].as_str().is_some_and(|own| own != value)) {
        return Err(refused(pod, "pod node label selector conflicts with its namespace node label selector"));
    }
    Ok(wanted)
}

/// `a=b,c=d`.
fn labels(selector: &str) -> Result<BTreeMap<String, String>, Status> {
    let mut out = BTreeMap::new();
    for pair in selector.split(',').filter(|_| !selector.is_empty()) {
        let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            return Err(Status::new(500, "", format!("invalid selector: [{}]", pair.replace('=', " "))));
        };
        let (key, value) = (key.trim(), value.trim());
        let told = |place: String, found: &str, problems: Vec<String>| match problems.as_slice() {
            [] => Ok(()),
            some => Err(Status::new(500, "", format!("{place}: Invalid value: {found:?}: {}", some.join("; ")))),
        };
        told("<nil>".into(), key, names::qualified_name(key))?;
        told(format!("[{key}]"), value, names::label_value(value))?;
        out.insert(key.to_owned(), value.to_owned());
    }
    Ok(out)
}
