//! `/openapi/v2` and `/openapi/v3`: machinery's documents, made when first asked for and kept packed.
//!
//! A document is some megabytes of text, and gzip makes a tenth of it; nearly every client takes gzip, so it is the form
//! that is kept, and the others get it unpacked. The hash in the index is that of what a document is made from (the
//! rows), so that the index costs no documents.

use crate::{
    Body, body, conditions,
    documents::{Documents, Packed},
    negotiate::{self, Accept, Written},
    reply,
    rows::{Group, Row, Rows},
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use machinery::openapi::{self, Served};
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, io::Read as _, sync::Arc};

/// The message of version 2, as it is answered.
const V2_PACKED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V3_PACKED: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
/// As messages are asked for: the second spelling is the older one.
const V2_FORMS: [&str; 2] = ["com.github.proto-openapi.spec.v2.v1.0+protobuf", "com.github.proto-openapi.spec.v2@v1.0+protobuf"];
const V3_FORMS: [&str; 2] = ["com.github.proto-openapi.spec.v3.v1.0+protobuf", "com.github.proto-openapi.spec.v3@v1.0+protobuf"];

/// Answers an OpenAPI path; `None` if it is none.
pub(crate) fn answer(rows: &Rows, path: &str, query: &str, headers: &HeaderMap, accept: &Accept<'_>) -> Option<Response<Body>> {
    let path = path.strip_prefix("/openapi/")?;
    if path == "v3" {
        let packed = rows.openapi().get("v3", || index(rows).to_string().into_bytes());
        return Some(respond_index(&packed, headers));
    }
    if path == "v2" {
        return Some(second(rows.openapi(), &hash_of_all(rows), || whole(rows), headers, accept));
    }
    let wanted = path.strip_prefix("v3/")?;
    let found = versions(rows).find(|(group, version)| path_of(group, version) == wanted);
    if found.is_none() && !roots(rows).any(|root| root == wanted) {
        return Some(reply::not_found_without_words());
    }
    let written = match accept.document(&V3_FORMS) {
        Written::NotAcceptable => return Some(not_acceptable()),
        Written::NoClause => return Some(of_no_clause()),
        written => written,
    };
    let found = found.map(|(group, version)| (group, version, group.of_version(version)));
    let hash = found.as_ref().map_or_else(|| hash(&[]), |(.., found)| hash(found));
    // The index names documents by their hash. One of another hash is looked for where it is now, and one of this never changes.
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("hash=")).filter(|asked| !asked.is_empty());
    if asked.is_some_and(|asked| asked != hash) {
        return Some(moved(&format!("/openapi/v3/{wanted}?hash={hash}")));
    }
    let document = || match &found {
        Some((.., found)) => with_served(found, |served| openapi::v3_document(served, release())),
        None => openapi::v3_root(wanted, release()).unwrap_or_default(),
    };
    let (suffix, media): (_, &'static str) = if written == Written::Packed { (".pb", V3_PACKED) } else { ("", negotiate::JSON) };
    let make = || if written == Written::Packed { openapi::v3_packed(&document()) } else { json(&document()) };
    let packed = match &found {
        Some((group, version, _)) => group.documents.get(&format!("{version}{suffix}"), make),
        None => rows.openapi().get(&format!("{wanted}{suffix}"), make),
    };
    let mut response = respond(&packed, &hash, media, headers);
    if asked.is_some() {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Some(response)
}

/// Where a document is now.
fn moved(location: &str) -> Response<Body> {
    let mut response = reply::respond(StatusCode::MOVED_PERMANENTLY, negotiate::JSON, Bytes::new());
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A document is not to be had as it is asked for; no words.
fn not_acceptable() -> Response<Body> {
    let mut response = of_no_clause();
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

/// What is answered to a header of which nothing can be made: nothing, as upstream's handler of version 3 has it.
fn of_no_clause() -> Response<Body> {
    let mut response = Response::new(body::empty());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The document of version 2, of which there is one for all; both forms have one tag, as they differ by what is accepted.
pub(crate) fn second(kept: &Documents, hash: &str, document: impl Fn() -> machinery::Value, headers: &HeaderMap, accept: &Accept<'_>) -> Response<Body> {
    let mut response = match accept.document(&V2_FORMS) {
        Written::Json => respond(&kept.get("v2", || json(&document())), hash, negotiate::JSON, headers),
        Written::Packed => respond(&kept.get("v2.pb", || openapi::v2_packed(&document())), hash, V2_PACKED, headers),
        Written::NotAcceptable | Written::NoClause => not_acceptable(),
    };
    // Upstream's handler of this version alone compresses, and says so of all that it answers.
    let out = response.headers_mut();
    out.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    out.append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The index of version 3.
pub(crate) fn index(rows: &Rows) -> machinery::Value {
    let versions = versions(rows).map(|(group, version)| (path_of(group, version), hash(&group.of_version(version))));
    let paths: Vec<(String, String)> = versions.chain(roots(rows).map(|root| (root, hash(&[])))).collect();
    openapi::v3_index(paths.iter().map(|(path, hash)| (path.as_str(), hash.as_str())))
}

/// Whether version 3 has a document of this path.
pub(crate) fn has(rows: &Rows, path: &str) -> bool {
    versions(rows).any(|(group, version)| path_of(group, version) == path) || roots(rows).any(|root| root == path)
}

/// The document of version 2.
pub(crate) fn whole(rows: &Rows) -> machinery::Value {
    with_served(&rows.iter().collect::<Vec<_>>(), |served| openapi::v2_document(served, release()))
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

/// As documents name the server's version: `1.37`.
fn release() -> &'static str {
    static RELEASE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let version = machinery::resources::version();
        format!("{}.{}", version["major"].as_str().unwrap_or_default(), version["minor"].as_str().unwrap_or_default())
    });
    &RELEASE
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

/// The documents of version 3 beside them: those of the program's own groups, and of what is no group.
fn roots(rows: &Rows) -> impl Iterator<Item = String> {
    openapi::v3_roots(rows.groups().iter().map(|group| group.name.as_str()).filter(|name| rows.is_builtin_group(name))).into_iter()
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
        digest.update(row.custom.as_ref().map_or("", |custom| custom.digest.text()));
    }
    let mut text = String::with_capacity(64);
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// A document, or that it is as the sender knows it.
pub(crate) fn respond(packed: &Packed, hash: &str, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    told(packed, Some(&format!("\"{hash}\"")), media_type, headers)
}

/// The index, which has no tag and, as the original has it, no media type of its own.
pub(crate) fn respond_index(packed: &Packed, headers: &HeaderMap) -> Response<Body> {
    told(packed, None, "text/plain; charset=utf-8", headers)
}

fn told(packed: &Packed, tag: Option<&str>, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let state = conditions::check(headers, tag, packed.made);
    let gzip = negotiate::takes_gzip(headers);
    let whole = state == StatusCode::OK;
    let mut response = Response::new(match whole {
        true if gzip => body::full(packed.bytes.clone()),
        true => body::full(unpack(&packed.bytes)),
        false => body::empty(),
    });
    *response.status_mut() = state;
    let out = response.headers_mut();
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    // A document has the type that its handler gave it; that of the index is found out by looking at what is sent.
    if whole || (tag.is_some() && state != StatusCode::NOT_MODIFIED) {
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    if tag.is_some() {
        out.append(header::VARY, HeaderValue::from_static("Accept"));
    }
    if whole && gzip {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        out.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    let modified = (tag.is_none() || state != StatusCode::NOT_MODIFIED).then(|| (header::LAST_MODIFIED, conditions::date(packed.made)));
    for (name, value) in modified.into_iter().chain(tag.map(|tag| (header::ETAG, tag.to_owned()))) {
        if let Ok(value) = value.parse() {
            out.insert(name, value);
        }
    }
    response
}

fn unpack(packed: &[u8]) -> Bytes {
    let mut plain = Vec::with_capacity(packed.len() * 10);
    // What was packed here unpacks.
    let _ = GzDecoder::new(packed).read_to_end(&mut plain);
    plain.into()
}
