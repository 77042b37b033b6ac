//! `metrics.k8s.io`: what nodes and pods use, measured by their kubelets and found out when it is asked for; none is stored.
//!
//! The original leaves the group to an add-on (metrics-server), a process that an APIService leads to. Here it is rows like all others
//! (discovery, documents, authorisation, tables), whose objects are made of what kubelets say, in the add-on's words. There is
//! no APIService of it: an APIService of that name which names a Service stands before what is served here, as before everything else
//! ([`crate::aggregation`]), so the add-on takes the group by its own manifest and gives it back when that is deleted; and
//! an object of ours would keep Helm from installing it, which takes over nothing that it did not make.
//!
//! The parts: [`meter`] when kubelets are asked · [`scrape`] how · [`exposition`] what they answer · [`samples`] what is made of it.

mod exposition;
mod meter;
mod samples;
mod scrape;

pub(crate) use meter::Meter;

use crate::{
    offload,
    registry::{Call, Selectors},
    respond::Answer,
    rows::Row,
    storage,
    world::World,
};
use http::StatusCode;
use machinery::{
    Value,
    quantity::{Format, Quantity},
    status::Status,
};
use samples::{Consumed, Samples};
use serde_json::{Map, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use store::Entry;

/// The group.
pub(crate) const GROUP: &str = "metrics.k8s.io";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";
const PODS: (&str, &str, &str) = ("", "v1", "pods");
const NODES: (&str, &str, &str) = ("", "v1", "nodes");

/// Whether objects of a row are found out here.
pub(crate) fn is_its(row: &Row) -> bool {
    row.resource.group == GROUP && row.is_builtin()
}

/// All of those that are selected, by the labels and names of the pods or nodes that they tell of.
pub(crate) async fn list(call: &Call<'_>) -> Result<Answer, Status> {
    let selectors = Selectors::of(call.query, call.row)?;
    let of_pods = call.row.resource.namespaced;
    let row = call.world.expect_row(if of_pods { PODS } else { NODES })?;
    call.world.meter().ready(call.world).await;
    let (world, namespace, now) = (call.world.clone(), call.namespace().to_owned(), call.cx.now);
    let heavy = storage::count(world.store(), &row) >= offload::INLINE_OBJECTS_MAX;
    let work = move || {
        let prefix = if of_pods && !namespace.is_empty() { format!("{}{namespace}/", row.root_key) } else { row.root_key.clone() };
        let Some(snapshot) = storage::snapshot(world.store(), &row, None) else { return Vec::new() };
        let wanted = snapshot.range(&prefix, "").filter(|entry| selectors.matches(&row, entry));
        // Held for one at a time: who stores a measure waits on a worker.
        wanted.filter_map(|entry| told(&world.meter().samples(), &row, entry, now)).collect()
    };
    Ok(Answer::Computed(if heavy { offload::call(work).await } else { work() }))
}

/// The one that the path names.
pub(crate) async fn get(call: &Call<'_>) -> Result<Answer, Status> {
    let (namespace, name, of_pods) = (call.namespace(), call.name(), call.row.resource.namespaced);
    let row = call.world.expect_row(if of_pods { PODS } else { NODES })?;
    let key = row.resource.key(namespace, name);
    // Both are the add-on's words: what it looks in calls its objects so.
    let absent = || Status::not_found("", if of_pods { "pods" } else { "node" }, name);
    let entry = storage::get(call.world.store(), &row, &key).ok_or_else(absent)?;
    call.world.meter().ready(call.world).await;
    let found = told(&call.world.meter().samples(), &row, &entry, call.cx.now);
    let unmeasured = || match of_pods {
        true => Status::not_found(GROUP, "podmetrics", &format!("{namespace}/{name}")),
        false => Status::not_found(GROUP, "nodemetrics", name),
    };
    found.map(|value| Answer::Object(StatusCode::OK, value)).ok_or_else(unmeasured)
}

/// What is told of a pod or a node; none if it is not measured yet.
fn told(samples: &Samples, row: &Row, entry: &Arc<Entry>, now: SystemTime) -> Option<Value> {
    let path = storage::key(entry).strip_prefix(row.root_key.as_str())?;
    let mut metadata = Map::new();
    let (kind, name, figures) = match path.split_once('/') {
        Some((namespace, name)) => {
            let pod = samples.of_pod(namespace, name)?;
            metadata.insert("namespace".into(), namespace.into());
            let containers: Vec<Value> = pod.containers.iter().map(|(name, used)| json!({"name": name, "usage": usage(used)})).collect();
            ("PodMetrics", name, (pod.at_ns, pod.window_ns, ("containers", containers.into())))
        }
        None => {
            let used = samples.of_node(path)?;
            ("NodeMetrics", path, (used.at_ns, used.window_ns, ("usage", usage(&used))))
        }
    };
    metadata.insert("name".into(), name.into());
    metadata.insert("creationTimestamp".into(), machinery::time::rfc3339(now).into());
    let attributes = entry.attributes(|value| row.fields()(value));
    let labels: Map<String, Value> = attributes.labels().map(|(key, value)| (key.to_owned(), value.into())).collect();
    if !labels.is_empty() {
        metadata.insert("labels".into(), labels.into());
    }
    let (at_ns, window_ns, (field, part)) = figures;
    let at = machinery::time::rfc3339(UNIX_EPOCH + Duration::from_nanos(at_ns));
    let window = machinery::time::go_duration(Duration::from_nanos(window_ns));
    Some(json!({"kind": kind, "apiVersion": API_VERSION, "metadata": metadata, "timestamp": at, "window": window, field: part}))
}

fn usage(used: &Consumed) -> Value {
    let cpu = format!("{}n", used.cpu_nanocores).parse().map_or_else(|_| "0".to_owned(), |amount: Quantity| amount.to_string());
    let memory = Quantity::from_value(i64::try_from(used.memory_bytes).unwrap_or(i64::MAX), Format::Binary);
    json!({"cpu": cpu, "memory": memory.to_string()})
}

/// The names of all nodes.
fn nodes(world: &World) -> Vec<String> {
    let Some(row) = world.row(NODES.0, NODES.1, NODES.2) else { return Vec::new() };
    let Some(snapshot) = storage::snapshot(world.store(), &row, None) else { return Vec::new() };
    let name = |entry: &Arc<Entry>| storage::key(entry).strip_prefix(row.root_key.as_str()).map(str::to_owned);
    snapshot.range(&row.root_key, "").filter_map(name).collect()
}
