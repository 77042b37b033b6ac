//! What a connection is opened with, as an object: what admission is asked about before anything is reached.

use super::forward::encode;
use crate::{Context, query::Query, rows::Row, world::World};
use machinery::{Value, quote::Quoted, status::Status, tree};
use serde_json::json;
use std::sync::Arc;

/// Subresources whose requests connect.
const CONNECTS: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// The resource and the options of a request that connects; none for one that does not.
///
/// # Errors
/// The query cannot be read as them.
pub(super) fn of(world: &World, cx: &Context, query: &Query<'_>) -> Result<Option<(Arc<Row>, Value)>, Status> {
    let info = &cx.info;
    if !CONNECTS.contains(&info.subresource.as_str()) {
        return Ok(None);
    }
    let Some(row) = world.row(&info.group, &info.version, &info.resource) else { return Ok(None) };
    let Some(kind) = row.resource.subresource(&info.subresource).map(|part| part.kind.kind.clone()) else { return Ok(None) };
    let mut out = json!({"kind": kind, "apiVersion": "v1"});
    match info.subresource.as_str() {
        "proxy" => {
            if !info.tail.is_empty() {
                out["path"] = info.tail.as_str().into();
            }
        }
        "portforward" => {
            let ports = query.all("ports").flat_map(|ports| ports.split(',')).map(port).collect::<Result<Vec<u16>, Status>>()?;
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
    Ok(Some((row, out)))
}

/// A port, as Go's `ParseUint` reads it.
fn port(text: &str) -> Result<u16, Status> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let why = if digits { "value out of range" } else { "invalid syntax" };
    let read = if digits { text.parse().ok() } else { None };
    read.ok_or_else(|| Status::bad_request(format!("cannot convert to []int32: strconv.ParseUint: parsing {}: {why}", Quoted(text))))
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

#[cfg(test)]
mod tests {
    use super::port;

    #[test]
    fn ports_are_read_as_by_go() {
        let told = |text: &str| port(text).map_err(|status| status.message);
        assert_eq!((told("80"), told("0"), told("65535")), (Ok(80), Ok(0), Ok(65535)));
        let wrong = |text: &str, why: &str| Err(format!("cannot convert to []int32: strconv.ParseUint: parsing \"{text}\": {why}"));
        assert_eq!(told("65536"), wrong("65536", "value out of range"));
        for text in ["", "x", "-1", "+1"] {
            assert_eq!(told(text), wrong(text, "invalid syntax"));
        }
    }
}
