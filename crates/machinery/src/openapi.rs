//! The OpenAPI documents, version 3 (one per group version) and version 2 (one for all), from the rows and the schema.
//!
//! They are pure functions of what is served, made when somebody asks: the caller keeps the result until the rows change.
//! Descriptions lie compressed in the program and are unpacked for as long as a document is made.
//! `kubectl explain`, `kubectl apply` and `--dry-run=server` read them: kinds are found by the
//! `x-kubernetes-group-version-kind` of operations and schemas, support for a query parameter by the parameters of `PATCH`.

mod custom;
mod descriptions;
mod known;
mod operations;
mod packed;
mod parameters;
mod paths;
mod roots;
mod schemas;
#[cfg(test)]
mod tests;
mod words;

pub use packed::{v2_packed, v3_packed};

use crate::{Map, Value, resources::Resource};
use descriptions::Descriptions;
use known::Scope;
use operations::Paths;
use schemas::Schemas;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Which version of OpenAPI a document is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

/// A resource that is served, with its own schema if it is a custom one.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The row.
    pub resource: &'a Resource,
    /// What a definition says of it; `None` for built-in kinds.
    pub custom: Option<Custom<'a>>,
}

/// A version of a custom kind.
#[derive(Debug, Clone, Copy)]
pub struct Custom<'a> {
    /// The version as its definition has it.
    pub described: &'a Value,
    /// The kind of its lists.
    pub list_kind: &'a str,
}

/// The documents of OpenAPI v3 by their path: `api/v1`, `apis/apps/v1`, ….
pub fn v3_groups<'a>(served: &[Served<'a>]) -> BTreeMap<String, Vec<Served<'a>>> {
    let mut groups = BTreeMap::<String, Vec<Served<'a>>>::new();
    for one in served {
        groups.entry(group_path(one.resource)).or_default().push(*one);
    }
    groups
}

/// `api/v1`, `apis/apps/v1`.
fn group_path(resource: &Resource) -> String {
    let prefix = if resource.group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", resource.api_version())
}

/// The same as a path.
fn base_path(resource: &Resource) -> String {
    format!("/{}", group_path(resource))
}

/// What fields of a type mean, in the published words; empty where nothing is said.
pub fn descriptions<const N: usize>(ty: &str, fields: [&str; N]) -> [String; N] {
    let all = Descriptions::load();
    fields.map(|field| all.of(ty, field).unwrap_or_default().to_owned())
}

/// The index at `/openapi/v3`, from the paths and the hashes of their documents.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let paths: Map<String, Value> =
        documents.into_iter().map(|(path, hash)| (path.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))).collect();
    json!({"paths": paths})
}

/// The document of one group version. `version` is the server's, as `1.37`.
pub fn v3_document(served: &[Served<'_>], version: &str) -> Value {
    let custom = served.iter().all(|one| one.custom.is_some());
    let scope = match served.first() {
        Some(one) if !custom => Scope::Version(&one.resource.group, &one.resource.version),
        _ => Scope::Custom,
    };
    let (schemas, paths) = content(served, Version::V3, scope);
    // What definitions describe has a document that says so.
    if custom {
        let schemas = schemas.finish();
        return json!({"openapi": "3.0.0", "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"}, "paths": paths.out, "components": {"schemas": schemas}});
    }
    v3_of(schemas, paths, version)
}

/// The paths of documents of version 3 that no row is in, of a server with these built-in groups.
pub fn v3_roots<'a>(groups: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let always = roots::ALWAYS.iter().map(|path| (*path).to_owned());
    always.chain(groups.into_iter().filter(|group| !group.is_empty()).map(|group| format!("apis/{group}"))).collect()
}

/// The document of one of them; the caller knows that the group is there.
pub fn v3_root(path: &str, version: &str) -> Option<Value> {
    let mut schemas = Schemas::new(Version::V3, Scope::All, Descriptions::load());
    let mut paths = Paths { version: Version::V3, out: Map::new(), parameters: Map::new() };
    roots::add(path, &mut schemas, &mut paths).then(|| v3_of(schemas, paths, version))
}

fn v3_of(schemas: Schemas<'_>, paths: Paths, version: &str) -> Value {
    let schemas = schemas.finish();
    let mut components = json!({"securitySchemes": {"BearerToken": security()}});
    if !schemas.is_empty() {
        components["schemas"] = Value::Object(schemas);
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": version}, "paths": paths.out, "components": components})
}

fn security() -> Value {
    json!({"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"})
}

/// The document of everything, in version 2.
pub fn v2_document(served: &[Served<'_>], version: &str) -> Value {
    let (mut schemas, mut paths) = content(served, Version::V2, Scope::All);
    let groups: BTreeSet<&str> = served.iter().filter(|one| one.custom.is_none()).map(|one| one.resource.group.as_str()).collect();
    for path in v3_roots(groups) {
        roots::add(&path, &mut schemas, &mut paths);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths.out,
        "definitions": schemas.finish(),
        "parameters": paths.parameters,
        "securityDefinitions": {"BearerToken": security()},
        "security": [{"BearerToken": []}],
    })
}

fn content<'a>(served: &[Served<'_>], version: Version, scope: Scope<'a>) -> (Schemas<'a>, Paths) {
    let mut schemas = Schemas::new(version, scope, Descriptions::load());
    let mut paths = Paths { version, out: Map::new(), parameters: Map::new() };
    let mut versions = BTreeMap::new();
    for one in served {
        paths::add(one, &mut schemas, &mut paths);
        if one.custom.is_none() {
            versions.entry(group_path(one.resource)).or_insert_with(|| paths::tag(&one.resource.group, &one.resource.version));
        }
    }
    for (path, tag) in versions {
        roots::add_version(&path, &tag, &mut schemas, &mut paths);
    }
    (schemas, paths)
}
