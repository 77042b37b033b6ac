//! The APIService of each version that definitions serve: clients and aggregators find groups by them.
//!
//! Upstream has a controller that hears definitions and one that keeps what it asks for; here both are one step. They go by what
//! definitions say, whether or not their names are accepted and their webhooks can be asked, and all groups are followed again
//! once a minute: what somebody took away comes back. Only what bears the label of what is managed by itself is ever taken away,
//! and what somebody else made stays as it is. These writes pass no admission ([`own`]): nobody's webhook may hold up the
//! definitions of all others.

use crate::{
    own::{self, Owns},
    rows::Row,
    storage::{self, Scope},
    world::{Gvr, World},
};
use machinery::{Value, status::Status};
use serde_json::json;
use std::{collections::BTreeSet, time::SystemTime};
use store::{Entry, Event, Watch};

const API_SERVICES: Gvr<'static> = ("apiregistration.k8s.io", "v1", "apiservices");
/// Marks what is made and taken away as definitions come and go.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Upstream's place for groups of definitions, behind all of its own.
const GROUP_PRIORITY: u32 = 1000;
const VERSION_PRIORITY: u32 = 100;

/// Whether an APIService comes and goes with a definition.
fn is_managed(service: &Value) -> bool {
    service["metadata"]["labels"][MANAGED] == "true"
}

/// The group that an APIService is for: a version's name holds no dot, so what follows the first is the group.
fn group_of(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, group)| group)
}

fn name_of(entry: &Entry) -> &str {
    entry.key.rsplit('/').next().unwrap_or_default()
}

/// The names of the APIServices that are there for definitions; those of a group alone if one is named. The key tells the group,
/// so that of the others nothing is decoded.
fn present(world: &World, row: &Row, group: Option<&str>) -> Vec<String> {
    let Some(snapshot) = storage::snapshot(world.store(), row, None) else { return Vec::new() };
    let found = snapshot.range(&row.root_key, "").filter(|entry| group.is_none_or(|group| group_of(name_of(entry)) == group));
    found.filter(|entry| is_managed(&storage::value(row, entry))).map(|entry| name_of(entry).to_owned()).collect()
}

/// The groups that APIServices are there for.
pub(super) fn groups(world: &World) -> BTreeSet<String> {
    let Some(row) = world.row(API_SERVICES.0, API_SERVICES.1, API_SERVICES.2) else { return BTreeSet::new() };
    present(world, &row, None).iter().map(|name| group_of(name).to_owned()).collect()
}

/// The changes of APIServices from a revision on; none where they are not served.
pub(super) fn changes(world: &World, from: u64) -> Option<Watch> {
    let row = world.row(API_SERVICES.0, API_SERVICES.1, API_SERVICES.2)?;
    storage::watch(world.store(), &row, from, Scope::Bucket).ok()
}

/// The group whose APIServices are to be looked at after a change of one.
pub(super) fn concerned(event: &Event) -> Option<String> {
    event.new.as_ref().or(event.old.as_ref()).map(|entry| group_of(name_of(entry)).to_owned())
}

/// The name of an APIService.
fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Has the APIServices of a group be those of the versions that definitions are to serve. Those that the program serves itself are not
/// for definitions to name.
///
/// # Errors
/// One cannot be written.
pub(super) async fn follow(world: &World, group: &str, served: &BTreeSet<String>) -> Result<(), Status> {
    let Some(row) = world.row(API_SERVICES.0, API_SERVICES.1, API_SERVICES.2) else { return Ok(()) };
    let rows = world.rows();
    let mut wanted = BTreeSet::new();
    for version in served.iter().filter(|version| !rows.is_builtin_version(group, version)) {
        let name = name(group, version);
        wanted.insert(name.clone());
        let meant = api_service(group, version);
        let Some(present) = world.get(API_SERVICES, "", &name) else {
            // A name that was taken meanwhile is as good.
            own::create(world.store(), &row, SystemTime::now(), meant).await?;
            continue;
        };
        if is_managed(&present) && present["spec"] != meant["spec"] {
            let amended = own::amend(world.store(), &row, ("", &name), Owns::By(""), SystemTime::now(), |present| {
                let mut amended = present.clone();
                amended["spec"] = meant["spec"].clone();
                Ok((is_managed(present) && amended != *present).then_some(amended))
            });
            amended.await.map(drop).or_else(|error| if error.code == 404 { Ok(()) } else { Err(error) })?;
        }
    }
    for name in present(world, &row, Some(group)).into_iter().filter(|name| !wanted.contains(name)) {
        own::remove(world.store(), &row, &name, is_managed).await?;
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
