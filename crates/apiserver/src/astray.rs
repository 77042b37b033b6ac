//! Requests that lead nowhere: paths without a route, parts that are empty or hold a slash, names that would be steps of a path.
//! What the original answers depends on which of its servers is the last to be asked.

use crate::{ApiServer, Body, path::RequestInfo, reply, rows::Row};
use http::Response;
use machinery::status::Status;
use std::sync::Arc;

/// The answer where there is nothing. What no group of the program's own is asked for, upstream passes on to the end of all its
/// servers, which answers in plain text.
pub(crate) fn nowhere(server: &ApiServer, path: &str) -> Result<Response<Body>, Status> {
    let mut parts = path.split('/').skip(1);
    let own = match (parts.next(), parts.next(), parts.next()) {
        (Some("api"), ..) => true,
        (Some("apis"), Some(group), Some(_)) => !group.is_empty() && server.rows().is_builtin_group(group),
        (Some("version"), ..) => true,
        _ => false,
    };
    if own { Err(Status::no_such_path()) } else { Ok(reply::plain_not_found()) }
}

/// The answer to a path with a part that is empty or holds a slash.
pub(crate) fn no_route(server: &ApiServer, info: &RequestInfo, row: Option<&Arc<Row>>) -> Result<Response<Body>, Status> {
    let part = info.tail.trim_matches('/');
    let nameless = info.name.is_empty() && row.is_some_and(|row| row.resource.subresource(part).is_some());
    if nameless { Err(Status::bad_request("name must be provided")) } else { nowhere(server, &info.path) }
}

/// A name that would be a step in a path.
pub(crate) fn check_name(info: &RequestInfo) -> Result<(), Status> {
    let name = info.name.as_str();
    match name {
        // A list's comes from its selector.
        "." | ".." if !matches!(info.verb, "list" | "watch") => Err(Status::bad_request(format!("Name parameter invalid: {name:?}: may not be '{name}'"))),
        _ => Ok(()),
    }
}
