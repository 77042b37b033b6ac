//! AlwaysPullImages: an image that lies on a node already may be run by those alone who may pull it.

use super::{Plugin, World, forbidden, is, items, text};
use crate::{Operation, Write};
use machinery::{
    Value,
    field::{Error, Path},
    status::Status,
};
use std::collections::HashSet;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const ALWAYS: &str = "Always";

pub(super) struct AlwaysPullImages;

impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn mutate(&self, _world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        if !concerns(write, object) {
            return Ok(());
        }
        for list in LISTS {
            for container in each(object, list) {
                container["imagePullPolicy"] = ALWAYS.into();
            }
        }
        for volume in each(object, "volumes").filter(|volume| volume["image"].is_object()) {
            volume["image"]["pullPolicy"] = ALWAYS.into();
        }
        Ok(())
    }

    fn validate(&self, _world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !concerns(write, object) {
            return Ok(());
        }
        let spec = Path::root("spec");
        let mut wrong = Vec::new();
        for list in LISTS {
            for (at, container) in items(&object["spec"][list]).iter().enumerate().filter(|(_, c)| text(c, "imagePullPolicy") != ALWAYS) {
                wrong.push((spec.child(list).index(at).child("imagePullPolicy"), text(container, "imagePullPolicy")));
            }
        }
        for (at, volume) in items(&object["spec"]["volumes"]).iter().enumerate() {
            let image = &volume["image"];
            if image.is_object() && text(image, "pullPolicy") != ALWAYS {
                wrong.push((spec.child("volumes").index(at).child("image").child("pullPolicy"), text(image, "pullPolicy")));
            }
        }
        let refused = wrong.into_iter().map(|(path, found)| forbidden(write, object, Error::not_supported(&path, found, &[ALWAYS])));
        let mut refused: Vec<Status> = refused.collect();
        match refused.len() {
            0 => Ok(()),
            1 => Err(refused.remove(0)),
            // Several errors are none of the API's: upstream answers them as an error of its own.
            _ => {
                let all: Vec<String> = refused.into_iter().map(|status| status.message).collect();
                Err(Status::new(500, "", format!("[{}]", all.join(", "))))
            }
        }
    }
}

/// The elements of a list of the spec, which stays away if it is not there.
fn each<'v>(object: &'v mut Value, list: &str) -> impl Iterator<Item = &'v mut Value> {
    let list = object.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Pods, unless an update names no image that was not there before.
fn concerns(write: &Write<'_>, object: &Value) -> bool {
    if !is(write, "", "pods") || !write.subresource.is_empty() || !matches!(write.operation, Operation::Create | Operation::Update) {
        return false;
    }
    let Some(old) = write.old else { return true };
    let images = |pod: &Value| -> HashSet<String> {
        LISTS.iter().flat_map(|list| items(&pod["spec"][*list])).map(|container| text(container, "image").to_owned()).collect()
    };
    !images(object).is_subset(&images(old))
}
