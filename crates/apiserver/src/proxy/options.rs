//! What a connection is opened with, as an object: what admission is asked about before anything is reached.

use crate::{Context, query::Query, rows::Row, world::World};
use machinery::Value;
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
            let path = info.tail.trim_start_matches('/');
            if !path.is_empty() {
                out["path"] = path.into();
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
