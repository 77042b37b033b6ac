//! Paths beside those of resources: discovery, and what the server tells of itself. Each but the lists of resources has a
//! document of its own in version 3, and all stand in version 2.

use super::{
    operations::{JSON, OBJECTS, Paths, Told},
    schemas::Schemas,
    words,
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Paths of documents in version 3 that are there whatever is served.
pub(super) const ALWAYS: [&str; 5] = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];

/// Adds the path of a root, which is that of its document; false if it is none.
pub(super) fn add(path: &str, schemas: &mut Schemas<'_>, paths: &mut Paths) -> bool {
    let discovery = |id: &str, tag, description, ty: &str| (id.to_owned(), tag, description, Some(format!("{META}.{ty}")), &OBJECTS[..], &OBJECTS[..]);
    let own_words = path.strip_prefix("apis/").map(words::of_group).unwrap_or_default();
    let (id, tag, description, ty, produces, consumes): (_, &str, _, _, &[&str], &[&str]) = match path {
        ".well-known/openid-configuration" => (
            "getServiceAccountIssuerOpenIDConfiguration".into(),
            "WellKnown",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            None,
            &[JSON],
            &[],
        ),
        "openid/v1/jwks" => (
            "getServiceAccountIssuerOpenIDKeyset".into(),
            "openid",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            None,
            &["application/jwk-set+json"],
            &[],
        ),
        "version" => {
            let ty = "io.k8s.apimachinery.pkg.version.Info".to_owned();
            ("getCodeVersion".into(), "version", "get the version information for this server", Some(ty), &[JSON], &[JSON])
        }
        "api" => discovery("getCoreAPIVersions", "core", "get available API versions", "APIVersions"),
        "apis" => discovery("getAPIVersions", "apis", "get available API versions", "APIGroupList"),
        _ if own_words.is_empty() => return false,
        _ => {
            let id = format!("get{}APIGroup", words::upper(&own_words));
            discovery(&id, &own_words, "get information of a group", "APIGroup")
        }
    };
    Told { path: format!("/{path}/"), tag, id, description, ty: ty.as_deref(), produces, consumes }.add(schemas, paths);
    true
}

/// Adds the path of a version's list of resources.
pub(super) fn add_version(path: &str, tag: &str, schemas: &mut Schemas<'_>, paths: &mut Paths) {
    let id = format!("get{}APIResources", words::joined(tag));
    let ty = format!("{META}.APIResourceList");
    let told = Told { path: format!("/{path}/"), tag, id, description: "get available resources", ty: Some(&ty), produces: &OBJECTS, consumes: &OBJECTS };
    told.add(schemas, paths);
}
