//! The APIService of each version that definitions serve: clients and aggregators find groups by them.
//!
//! Upstream has a controller that hears definitions and one that keeps what it asks for; here they follow the table of rows.
//! Only what bears the label of what is managed by itself is ever taken away, and what somebody else made stays as it is.

use crate::{
    world::{Gvr, World},
    writer::Writer,
};
use machinery::{Value, status::Status};
use serde_json::json;
use std::collections::BTreeSet;

const API_SERVICES: Gvr<'static> = ("apiregistration.k8s.io", "v1", "apiservices");
/// Marks what is made and taken away as definitions come and go.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Upstream's place for groups of definitions, behind all of its own.
const GROUP_PRIORITY: u32 = 1000;
const VERSION_PRIORITY: u32 = 100;

/// The names of the APIServices that are there for definitions.
pub(super) fn present(world: &World) -> BTreeSet<String> {
    let all = world.list(API_SERVICES, "");
    let managed = all.iter().filter(|service| service["metadata"]["labels"][MANAGED] == "true");
    managed.filter_map(|service| service["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// The name of an APIService.
fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Has the APIServices of a group be those of its versions. `present` are those that there are of all groups.
///
/// # Errors
/// One cannot be written.
pub(super) async fn follow(world: &World, group: &str, present: &mut BTreeSet<String>) -> Result<(), Status> {
    let rows = world.rows();
    let served = rows.group(group).map(|known| known.versions()).unwrap_or_default();
    let wanted: BTreeSet<String> = served.iter().filter(|version| !rows.is_builtin_version(group, version)).map(|version| name(group, version)).collect();
    for version in &served {
        let name = name(group, version);
        if wanted.contains(&name) && !present.contains(&name) {
            match Writer(world).create(API_SERVICES, "", api_service(group, version)).await {
                Err(error) if error.code != 409 => return Err(error),
                _ => drop(present.insert(name)),
            }
        }
    }
    // A version's name holds no dot, so what follows the first is the group.
    let of_group = |name: &String| name.split_once('.').is_some_and(|(_, of)| of == group);
    let stale: Vec<String> = present.iter().filter(|name| of_group(name) && !wanted.contains(*name)).cloned().collect();
    for name in stale {
        let managed = world.get(API_SERVICES, "", &name).is_some_and(|service| service["metadata"]["labels"][MANAGED] == "true");
        if managed {
            match Writer(world).delete(API_SERVICES, "", &name).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        present.remove(&name);
    }
    Ok(())
}

fn api_service(group: &str, version: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name(group, version), "labels": {MANAGED: "true"}},
        "spec": {"group": group, "version": version, "groupPriorityMinimum": GROUP_PRIORITY, "versionPriority": VERSION_PRIORITY},
    })
}
