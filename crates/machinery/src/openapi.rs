//! The OpenAPI documents, version 3 (one per group version) and version 2 (one for all), from the rows and the schema.
//!
//! They are pure functions of what is served, made when somebody asks: the caller keeps the result until the rows change.
//! Descriptions lie compressed in the program and are unpacked for as long as a document is made.
//! `kubectl explain`, `kubectl apply` and `--dry-run=server` read them: kinds are found by the
//! `x-kubernetes-group-version-kind` of operations and schemas, support for a query parameter by the parameters of `PATCH`.

mod custom;
mod descriptions;
mod packed;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;

pub use packed::v2_packed;

use crate::{Map, Value, resources::Resource};
use descriptions::Descriptions;
use schemas::Schemas;
use serde_json::json;
use std::collections::BTreeMap;

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

/// The document of one group version.
pub fn v3_document(served: &[Served<'_>], git_version: &str) -> Value {
    let (paths, schemas) = content(served, Version::V3);
    // What definitions describe has a document that says so.
    if served.iter().all(|one| one.custom.is_some()) {
        return json!({"openapi": "3.0.0", "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"}, "paths": paths, "components": {"schemas": schemas}});
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": git_version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}},
        },
    })
}

/// The document of everything, in version 2.
pub fn v2_document(served: &[Served<'_>], git_version: &str) -> Value {
    let (paths, schemas) = content(served, Version::V2);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": git_version},
        "paths": paths,
        "definitions": schemas,
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

fn content(served: &[Served<'_>], version: Version) -> (Map<String, Value>, Map<String, Value>) {
    let mut schemas = Schemas::new(version, Descriptions::load());
    let mut out = Map::new();
    for one in served {
        paths::add(one, version, &mut schemas, &mut out);
    }
    let general: &[&str] = match served.iter().all(|one| one.custom.is_some()) {
        true => &["DeleteOptions", "Patch", "Status"],
        false => &["APIResourceList", "DeleteOptions", "Patch", "Status", "WatchEvent"],
    };
    for name in general {
        schemas.add(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    }
    (out, schemas.finish())
}
