//! What a connection is opened with, as an object: what admission is asked about before anything is reached.

use super::forward::encode;
use crate::{Context, query::Query, rows::Row, world::World};
use machinery::{Value, tree};
use serde_json::json;
use std::sync::Arc;

/// Subresources whose requests connect.
const CONNECTS: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// The resource and the options of a request that connects; none for one that does not.
pub(super) fn of(world: &World, cx: &Context, query: &Query<'_>) -> Option<(Arc<Row>, Value)> {
    let info = &cx.info;
    if !CONNECTS.contains(&info.subresource.as_str()) {
        return None;
    }
    let row = world.row(&info.group, &info.version, &info.resource)?;
    let kind = row.resource.subresource(&info.subresource)?.kind.kind.clone();
    let mut out = json!({"kind": kind, "apiVersion": "v1"});
    match info.subresource.as_str() {
        "proxy" => {
            if !info.tail.is_empty() {
                out["path"] = info.tail.as_str().into();
            }
        }
        "portforward" => {
            let ports: Vec<i64> = query.all("ports").flat_map(|ports| ports.split(',')).filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                out["ports"] = json!(ports);
            }
        }
        part => {
            for field in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|field| query.flag(field)) {
                out[field] = true.into();
            }
            if !query.text("container").is_empty() {
                out["container"] = query.text("container").into();
            }
            if part == "exec" {
                let command: Vec<&str> = query.all("command").collect();
                out["command"] = if command.is_empty() { Value::Null } else { json!(command) };
            }
        }
    }
    Some((row, out))
}

/// The options of exec, attach or port-forward as the query that asks for them: every stream is named, wanted or not.
pub(super) fn query(options: &Value) -> String {
    let flags = ["stdin", "stdout", "stderr", "tty"].map(|field| format!("{field}={}", options[field] == true));
    let container = options["container"].as_str().map(|container| format!("container={}", encode(container)));
    let command = tree::texts(&options["command"]).into_iter().map(|word| format!("command={}", encode(&word)));
    let ports = tree::items(&options["ports"]).iter().map(|port| format!("ports={port}"));
    flags.into_iter().chain(container).chain(command).chain(ports).collect::<Vec<_>>().join("&")
}

/// The path of the options of a proxy, as one is asked for.
pub(super) fn path(options: &Value) -> String {
    match options["path"].as_str() {
        None | Some("") => String::new(),
        Some(path) => format!("/{}", path.trim_start_matches('/')),
    }
}
