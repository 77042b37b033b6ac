//! Requests that lead nowhere: paths without a route, parts that are empty or hold a slash, names that cannot be part of a path.
//! What the original answers depends on which of its servers is the last to be asked.

use crate::{
    ApiServer, Body, discovery, errors,
    path::RequestInfo,
    reply,
    rows::{Row, Rows},
};
use http::Response;
use machinery::{names, quote::Quoted, status::Status};
use std::sync::Arc;

/// The answer where there is nothing. What no group of the program's own is asked for, upstream passes on to the end of all its
/// servers, which answers in plain text.
pub(crate) fn nowhere(server: &ApiServer, path: &str) -> Result<Response<Body>, Status> {
    let mut parts = path.split('/').skip(1);
    let own = match (parts.next(), parts.next(), parts.next()) {
        (Some("api"), ..) => true,
        (Some("apis"), Some(group), Some(_)) => !group.is_empty() && server.rows().is_builtin_group(group),
        (Some("version"), ..) | (Some(".well-known"), Some("openid-configuration"), _) | (Some("openid"), Some("v1"), Some("jwks")) => true,
        _ => false,
    };
    if own { Err(Status::no_such_path()) } else { Ok(reply::plain_not_found()) }
}

/// The answer to a path with a part that is empty or holds a slash.
pub(crate) fn no_route(server: &ApiServer, info: &RequestInfo, row: Option<&Arc<Row>>) -> Result<Response<Body>, Status> {
    // Of an object without a name. What begins with two slashes is no path of the API's.
    let nameless = row.filter(|_| info.name.is_empty() && !info.subresource.is_empty() && !info.path.starts_with("//"));
    match nameless {
        Some(row) if row.resource.subresource(&info.subresource).is_some() => Err(Status::bad_request("name must be provided")),
        Some(row) if row.custom.is_some() => Err(errors::not_found(row, "")),
        _ => nowhere(server, &info.path),
    }
}

/// A path without the slashes at its end: those of definitions' groups and those that have routes are read by their parts, and all others as
/// they are.
pub(crate) fn without_slashes_behind<'p>(rows: &Rows, path: &'p str) -> &'p str {
    let shorter = path.trim_end_matches('/');
    if shorter == "/api" {
        return shorter;
    }
    let group = shorter.strip_prefix("/apis/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let by_parts = !group.is_empty() && rows.group(group).is_some() && !rows.is_builtin_group(group);
    if by_parts || discovery::is_routed(rows, path) { shorter } else { path }
}

/// Refuses to look for what no part of a path can be called. Where there is a body it is read first; that of a list comes from its
/// selector; and the parts of the control plane are in no store.
pub(crate) fn check_name(info: &RequestInfo) -> Result<(), Status> {
    let is_component = info.resource == "componentstatuses" && info.group.is_empty();
    if info.verb == "get" && !is_component { check_segment(&info.name) } else { Ok(()) }
}

/// Refuses a name that no part of a path can have (upstream's `NamespaceKeyFunc`).
pub(crate) fn check_segment(name: &str) -> Result<(), Status> {
    match names::path_segment(name).as_slice() {
        [] => Ok(()),
        wrong => Err(Status::bad_request(format!("Name parameter invalid: {}: {}", Quoted(name), wrong.join(";")))),
    }
}

/// 500 where the namespace would be a step in a path (upstream's `PrepareKey`): of what is named in it, or of all that is in it.
pub(crate) fn check_key(row: &Row, namespace: &str, name: &str) -> Result<(), Status> {
    if !row.resource.namespaced || !matches!(namespace, "." | "..") {
        return Ok(());
    }
    let root = row.root_key.strip_prefix("/registry").unwrap_or(&row.root_key);
    let key = if name.is_empty() { format!("{root}{namespace}") } else { format!("{root}{namespace}/{name}") };
    Err(Status::new(500, "", format!("invalid key: {}", Quoted(&key))))
}
