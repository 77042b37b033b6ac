//! `/openapi/v2` and `/openapi/v3`: machinery's documents, made when first asked for and kept packed.
//!
//! A document is some megabytes of text, and gzip makes a tenth of it; nearly every client takes gzip, so it is the form
//! that is kept, and the others get it unpacked. The hash in the index is that of what a document is made from (the
//! rows), so that the index costs no documents.

use crate::{
    Body, body, negotiate, reply,
    rows::{Group, Row, Rows},
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use machinery::openapi::{self, Served};
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, io::Read as _, sync::Arc};

/// What every spelling of the protobuf media type has (`.v1.0` and `@v1.0` follow).
pub(crate) const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2";
/// The spelling that is answered.
pub(crate) const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers an OpenAPI path; `None` if it is none.
pub(crate) fn answer(rows: &Rows, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let path = path.strip_prefix("/openapi/")?;
    if path == "v3" {
        return Some(reply::respond(StatusCode::OK, negotiate::JSON, index(rows).to_string()));
    }
    if path == "v2" {
        if !is_taken(headers) {
            return Some(not_acceptable());
        }
        let (hash, document) = (hash_of_all(rows), || whole(rows));
        // client-go asks for protobuf alone and reads nothing else; everybody else gets JSON.
        if headers.get_all(header::ACCEPT).iter().any(|v| v.to_str().is_ok_and(|v| v.contains(PROTOBUF_ASKED))) {
            let packed = rows.openapi().get("v2.pb", || openapi::v2_packed(&document()));
            return Some(respond(packed, &format!("{hash}.pb"), PROTOBUF, headers));
        }
        let packed = rows.openapi().get("v2", || json(&document()));
        return Some(respond(packed, &hash, negotiate::JSON, headers));
    }
    let wanted = path.strip_prefix("v3/")?;
    let Some((group, version)) = versions(rows).find(|(group, version)| path_of(group, version) == wanted) else {
        return Some(reply::not_found_without_words());
    };
    if !is_taken(headers) {
        return Some(not_acceptable());
    }
    let found = group.of_version(version);
    let packed = group.documents.get(version, || json(&with_served(&found, |served| openapi::v3_document(served, git_version()))));
    Some(respond(packed, &hash(&found), negotiate::JSON, headers))
}

/// A document is not to be had as it is asked for; no words.
fn not_acceptable() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

/// Whether a document is accepted as JSON, or as protobuf in any of its spellings.
fn is_taken(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).filter(|accept| !accept.is_empty()) else { return true };
    accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim()).any(|media| {
        let (kind, form) = media.split_once('/').unwrap_or((media, ""));
        matches!(kind, "*" | "application") && (matches!(form, "*" | "json") || form.starts_with("com.github.proto-openapi.spec."))
    })
}

/// The index of version 3.
pub(crate) fn index(rows: &Rows) -> machinery::Value {
    let paths: Vec<(String, String)> = versions(rows).map(|(group, version)| (path_of(group, version), hash(&group.of_version(version)))).collect();
    openapi::v3_index(paths.iter().map(|(path, hash)| (path.as_str(), hash.as_str())))
}

/// Whether version 3 has a document of this path.
pub(crate) fn has(rows: &Rows, path: &str) -> bool {
    versions(rows).any(|(group, version)| path_of(group, version) == path)
}

/// The document of version 2.
pub(crate) fn whole(rows: &Rows) -> machinery::Value {
    with_served(&rows.iter().collect::<Vec<_>>(), |served| openapi::v2_document(served, git_version()))
}

/// A hash of what it is made from.
pub(crate) fn hash_of_all(rows: &Rows) -> String {
    hash(&rows.iter().collect::<Vec<_>>())
}

fn json(document: &machinery::Value) -> Vec<u8> {
    machinery::json::encode(document)
}

fn git_version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| machinery::resources::version()["gitVersion"].as_str().unwrap_or_default().to_owned());
    &VERSION
}

/// What is made of rows. What definitions say of theirs is read for as long as that takes.
fn with_served<T>(rows: &[&Arc<Row>], make: impl FnOnce(&[Served<'_>]) -> T) -> T {
    let described: Vec<_> = rows.iter().map(|row| row.custom.as_ref().map(|custom| custom.described.tree())).collect();
    let served = rows.iter().zip(&described).map(|(row, described)| {
        let custom = described.as_ref().map(|described| openapi::Custom { described, list_kind: &row.list_kind });
        Served { resource: &row.resource, custom }
    });
    make(&served.collect::<Vec<_>>())
}

/// The groups and versions that have a document of version 3.
fn versions(rows: &Rows) -> impl Iterator<Item = (&Arc<Group>, &str)> {
    rows.groups().iter().flat_map(|group| group.versions().into_iter().map(move |version| (group, version)))
}

/// The path of such a document.
fn path_of(group: &Group, version: &str) -> String {
    if group.name.is_empty() { format!("api/{version}") } else { format!("apis/{}/{version}", group.name) }
}

/// A hash of what a document is made from.
fn hash(rows: &[&Arc<Row>]) -> String {
    let mut digest = Sha256::new();
    digest.update(git_version());
    for row in rows {
        digest.update(format!("{}/{};", row.api_version, row.resource.resource));
        digest.update(row.custom.as_ref().map_or("", |custom| &custom.digest));
    }
    let mut text = String::with_capacity(64);
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

pub(crate) fn respond(packed: Bytes, hash: &str, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let gzip = negotiate::takes_gzip(headers);
    let bytes = if gzip { packed } else { unpack(&packed) };
    let mut response = Response::new(body::full(bytes));
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    out.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    if gzip {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = tag.parse() {
        out.insert(header::ETAG, tag);
    }
    response
}

fn unpack(packed: &[u8]) -> Bytes {
    let mut plain = Vec::with_capacity(packed.len() * 10);
    // What was packed here unpacks.
    let _ = GzDecoder::new(packed).read_to_end(&mut plain);
    plain.into()
}
