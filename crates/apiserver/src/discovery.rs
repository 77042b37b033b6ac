//! What is served, as clients discover it: `/api`, `/apis` and below, plain and aggregated (`apidiscovery.k8s.io`).
//!
//! What a group has in the aggregated documents is made once and kept with it; they are put together when a table of rows is
//! first asked for them, and carry an `ETag`.

pub(crate) mod told;

use crate::{
    Body, body,
    documents::{Aggregated, Document},
    negotiate::{self, Accept, Discovery, Encoding},
    reply,
    rows::{Group, Row, Rows, by_priority},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use machinery::{Value, status::Status};
use serde_json::json;
use sha2::{Digest, Sha256, Sha512};
use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

/// The path beside that of the groups: upstream's aggregator answers it with the same list, and does not have the aggregated form there.
pub(crate) const GROUPS_BESIDE: &str = "/apis/";

/// What a discovery path answers.
pub(crate) enum Found {
    /// A plain document, to be encoded as the client likes.
    Plain(Value),
    /// A finished answer.
    Whole(Response<Body>),
}

/// Answers `/api`, `/api/v1`, `/apis`, `/apis/G`, `/apis/G/V`; `None` if the path is none of them.
pub(crate) fn answer(rows: &Rows, path: &str, headers: &HeaderMap, accept: &Accept<'_>, address: &str) -> Option<Result<Found, Status>> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let documents = || rows.aggregated(Aggregated::new);
    Some(match parts.as_slice() {
        ["api"] => routed(accept).and_then(|()| either(headers, accept, || api_versions(address), || &documents().core)),
        ["apis"] if path == GROUPS_BESIDE => plain(accept, group_list(rows)),
        ["apis"] => either(headers, accept, || group_list(rows), || &documents().groups),
        ["api", version] => listed(rows, accept, "", version),
        ["apis", group] => one_group(rows, group).map_or_else(|| Ok(Found::Whole(reply::plain_not_found())), |value| plain(accept, value)),
        ["apis", group, version] => listed(rows, accept, group, version),
        _ => return None,
    })
}

/// The paths of the program, and of what definitions add; not those of other servers.
pub(crate) fn paths(rows: &Rows) -> Vec<String> {
    let is_added = |name: &str| !rows.is_builtin_group(name) || name == crate::consumption::GROUP;
    let added = rows.groups().iter().filter(|group| is_added(&group.name)).flat_map(|group| {
        let of_group = format!("/apis/{}", group.name);
        let versions: Vec<String> = group.versions().into_iter().map(|version| format!("{of_group}/{version}")).collect();
        std::iter::once(of_group).chain(versions)
    });
    let mut paths: Vec<String> = machinery::resources::roots().map(str::to_owned).chain(added).collect();
    paths.sort();
    paths
}

/// Whether a path is one of those that upstream serves by routes, which know methods; other handlers answer any.
pub(crate) fn is_routed(rows: &Rows, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["api", version] => rows.group("").is_some_and(|group| !group.of_version(version).is_empty()),
        ["api"] | ["version"] | [".well-known", "openid-configuration"] | ["openid", "v1", "jwks"] => true,
        ["apis", group, version] => rows.is_builtin_group(group) && rows.group(group).is_some_and(|group| !group.of_version(version).is_empty()),
        // Without a slash behind it, or with one, upstream's aggregator answers it by itself.
        ["apis", group] => {
            rows.is_builtin_group(group) && path.strip_prefix("/apis/").and_then(|rest| rest.strip_prefix(*group)).is_some_and(|rest| rest.len() > 1)
        }
        _ => false,
    }
}

/// What upstream's routes look at before any handler does; what its aggregator answers by itself has none.
fn routed(accept: &Accept<'_>) -> Result<(), Status> {
    accept.produces(&negotiate::ALL)
}

/// A document in a form that it has everywhere.
pub(crate) fn plain(accept: &Accept<'_>, value: Value) -> Result<Found, Status> {
    accept.discovery(false).map(|_| Found::Plain(value))
}

fn either<'d>(headers: &HeaderMap, accept: &Accept<'_>, plain: impl FnOnce() -> Value, document: impl FnOnce() -> &'d Document) -> Result<Found, Status> {
    Ok(match accept.discovery(true)? {
        Discovery::Plain(_) => Found::Plain(plain()),
        Discovery::Aggregated(encoding) => Found::Whole(aggregated(document(), encoding, headers)),
    })
}

/// The resources of a version. Of a group of the program's own all versions are its own to deny.
fn listed(rows: &Rows, accept: &Accept<'_>, group: &str, version: &str) -> Result<Found, Status> {
    match resource_list(rows, group, version) {
        // Where there is no route nobody asks what is accepted.
        Some(list) if rows.is_builtin_group(group) => routed(accept).and_then(|()| plain(accept, list)),
        Some(list) => plain(accept, list),
        None if rows.is_builtin_group(group) => Err(Status::no_such_path()),
        None => Ok(Found::Whole(reply::plain_not_found())),
    }
}

/// In which encoding the aggregated form is asked for, if it is.
pub(crate) fn aggregated_encoding(accept: &Accept<'_>) -> Option<Encoding> {
    match accept.discovery(true) {
        Ok(Discovery::Aggregated(encoding)) => Some(encoding),
        _ => None,
    }
}

/// An aggregated document.
pub(crate) fn aggregated(document: &Document, encoding: Encoding, headers: &HeaderMap) -> Response<Body> {
    let matches = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == document.etag.as_bytes());
    let whole = || match encoding {
        Encoding::Yaml => body::full(machinery::yaml::encode(&machinery::json::read(&document.v2).unwrap_or_default())),
        Encoding::Json => body::full(document.v2.clone()),
        Encoding::Protobuf => body::full(document.packed.get_or_init(|| told::packed(&document.v2)).clone()),
    };
    let media = match encoding {
        Encoding::Json => negotiate::JSON,
        Encoding::Yaml => negotiate::YAML,
        Encoding::Protobuf => negotiate::PROTOBUF,
    };
    let mut response = Response::new(if matches { body::empty() } else { whole() });
    if matches {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let media = (!matches).then(|| (header::CONTENT_TYPE, format!("{media};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")));
    for (name, value) in media.into_iter().chain([(header::ETAG, document.etag.clone()), (header::CACHE_CONTROL, "public".to_owned())]) {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Accept"));
    response
}

impl Aggregated {
    /// Puts the documents of a table together from the parts of its groups.
    pub(crate) fn new(rows: &Rows) -> Self {
        let document = |core: bool| {
            let parts: Vec<&[u8]> = rows.groups().iter().filter(|group| group.name.is_empty() == core).map(part).collect();
            self::document(&parts)
        };
        Aggregated { core: document(true), groups: document(false) }
    }
}

/// An aggregated document of the parts of its groups.
pub(crate) fn document(parts: &[&[u8]]) -> Document {
    let mut text = br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":["#.to_vec();
    text.extend_from_slice(&parts.join(&b','));
    text.extend_from_slice(b"]}\n");
    let v2 = Bytes::from(text);
    let mut etag = String::from("\"");
    for byte in Sha512::digest(&v2) {
        let _ = write!(etag, "{byte:02X}");
    }
    etag.push('"');
    Document { v2, etag, packed: OnceLock::new() }
}

/// A group's part of the aggregated documents, made when it is first asked for.
pub(crate) fn part(group: &Arc<Group>) -> &[u8] {
    group.discovery.get_or_init(|| told::in_order(&aggregated_group(group)))
}

pub(crate) fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions()
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> = group.of_version(version).into_iter().map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({});
    if !group.name.is_empty() {
        metadata["name"] = group.name.as_str().into();
    }
    json!({"metadata": metadata, "versions": versions})
}

/// The verbs that discovery tells: of a definition that goes, those that make nothing new.
fn verbs(row: &Row) -> Vec<&str> {
    let ends = row.custom.as_ref().is_some_and(|custom| custom.terminating);
    row.resource.verbs.iter().map(String::as_str).filter(|verb| !ends || !matches!(*verb, "create" | "patch" | "update")).collect()
}

/// A kind as it is told: of the program's own kinds what is as the path says it is left out.
fn kind_value(row: &Row, kind: &machinery::gvk::Gvk) -> Value {
    let said = row.is_builtin() && kind.group == row.resource.group && kind.version == row.resource.version;
    let (group, version) = if said { ("", "") } else { (kind.group.as_str(), kind.version.as_str()) };
    json!({"group": group, "version": version, "kind": kind.kind})
}

fn aggregated_resource(row: &Arc<Row>) -> Value {
    let resource = &row.resource;
    let mut value = json!({
        "resource": resource.resource,
        "responseKind": kind_value(row, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(row),
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subresources = resource.subresources.iter();
        value["subresources"] = subresources.map(|s| json!({"subresource": s.name, "responseKind": kind_value(row, &s.kind), "verbs": s.verbs})).collect();
    }
    value
}

fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// A group, if there is one of the name, with the versions that nothing else is told of yet: upstream's aggregator lists what has an
/// APIService.
fn group_value(rows: &Rows, name: &str, group: Option<&Group>) -> Option<Value> {
    let mut versions = group.map(Group::versions).unwrap_or_default();
    for row in rows.untold().iter().filter(|row| row.resource.group == name) {
        let version = row.resource.version.as_str();
        if !versions.contains(&version) {
            // What is built in stands before.
            let is_after = |known: &&str| !rows.is_builtin_version(name, known) && by_priority(known, version).is_gt();
            let at = versions.iter().position(is_after).unwrap_or(versions.len());
            versions.insert(at, version);
        }
    }
    let versions: Vec<Value> = versions.into_iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "preferredVersion": preferred, "versions": versions}))
}

fn group_list(rows: &Rows) -> Value {
    let mut groups: Vec<(&str, Option<&Group>)> = rows.groups().iter().map(|group| (group.name.as_str(), Some(&**group))).collect();
    groups.retain(|(name, _)| !name.is_empty());
    for row in rows.untold() {
        let name = row.resource.group.as_str();
        if groups.iter().all(|(known, _)| *known != name) {
            let at = groups.iter().position(|(known, _)| !rows.is_builtin_group(known) && *known > name).unwrap_or(groups.len());
            groups.insert(at, (name, None));
        }
    }
    let groups: Vec<Value> = groups.into_iter().filter_map(|(name, group)| group_value(rows, name, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn one_group(rows: &Rows, group: &str) -> Option<Value> {
    if group.is_empty() {
        return None;
    }
    let mut value = group_value(rows, group, rows.group(group).map(|group| &**group))?;
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn resource_list(rows: &Rows, group: &str, version: &str) -> Option<Value> {
    let found = rows.group(group)?.of_version(version);
    if found.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resources: Vec<Value> = found.into_iter().flat_map(|row| api_resources(row)).collect();
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        // The original leaves it out for the group without a name, which is older than this kind.
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

fn api_resources(row: &Row) -> Vec<Value> {
    let resource = &row.resource;
    let mut own = json!({
        "name": resource.resource,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind.kind,
        "verbs": verbs(row),
    });
    if !resource.short_names.is_empty() {
        own["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        own["categories"] = json!(resource.categories);
    }
    // What is found out when it is asked for is not stored in any version.
    if resource.has_verb("list") && resource.has_verb("create") {
        own["storageVersionHash"] = storage_version_hash(&resource.storage).into();
    }
    if resource.kind.group != resource.group || resource.kind.version != resource.version {
        own["group"] = resource.kind.group.clone().into();
        own["version"] = resource.kind.version.clone().into();
    }
    let mut all = vec![own];
    for sub in &resource.subresources {
        let mut value = json!({
            "name": format!("{}/{}", resource.resource, sub.name),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": sub.kind.kind,
            "verbs": sub.verbs,
        });
        if sub.kind.group != resource.group || sub.kind.version != resource.version {
            value["group"] = sub.kind.group.clone().into();
            value["version"] = sub.kind.version.clone().into();
        }
        all.push(value);
    }
    all
}

/// Upstream's hash of the version in which objects are stored: clients notice by it that the version has changed.
fn storage_version_hash(kind: &machinery::gvk::Gvk) -> String {
    // Definitions are still stored in their first version there.
    let version = if kind.kind == "CustomResourceDefinition" && kind.group == "apiextensions.k8s.io" { "v1beta1" } else { &kind.version };
    let digest = Sha256::digest(format!("{}/{version}/{}", kind.group, kind.kind));
    STANDARD.encode(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_upstream() {
        let kind = machinery::gvk::Gvk { group: String::new(), version: "v1".into(), kind: "Pod".into() };
        assert_eq!(storage_version_hash(&kind), "xPOwRZ+Yhw8=");
    }
}
