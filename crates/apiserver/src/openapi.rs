//! `/openapi/v2` and `/openapi/v3`: machinery's documents, made when first asked for and kept packed.
//!
//! A document is some megabytes of text, and gzip makes a tenth of it, so that is the form that is kept. Only version 2 leaves in it, as
//! upstream's handlers have it: those of version 3 do not compress, and who asks for a part of a document gets one. The hash in the index is that of what a document is made from (the
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
use sha2::{Digest, Sha512};
use std::{fmt::Write as _, io::Read as _, sync::Arc, time::SystemTime};

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
    let found = versions(rows).find(|version| version.path() == wanted);
    if found.is_none() && !roots(rows).any(|root| root == wanted) {
        return Some(reply::not_found_without_words());
    }
    let written = match accept.document(&V3_FORMS) {
        Written::NotAcceptable => return Some(not_acceptable()),
        // Of a header of which nothing can be made upstream's handler of version 3 makes nothing.
        Written::NoClause => return Some(reply::unwritten()),
        written => written,
    };
    let found = found.map(|version| (version.rows(rows), version));
    let hash = found.as_ref().map_or_else(|| hash(&[]), |(found, _)| hash(found));
    // The index names documents by their hash. One of another hash is looked for where it is now, and one of this never changes.
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("hash=")).filter(|asked| !asked.is_empty());
    let (suffix, media): (_, &'static str) = if written == Written::Packed { (".pb", V3_PACKED) } else { ("", negotiate::JSON) };
    if asked.is_some_and(|asked| asked != hash) {
        return Some(moved(&format!("/openapi/v3/{wanted}?hash={hash}"), &hash, media));
    }
    let document = || match &found {
        Some((found, _)) => with_served(found, |served| openapi::v3_document(served, release())),
        None => openapi::v3_root(wanted, release()).unwrap_or_default(),
    };
    let make = || if written == Written::Packed { openapi::v3_packed(&document()) } else { json(&document()) };
    let packed = match &found {
        Some((_, Version { served: Some(group), version, .. })) => group.documents.get(&format!("{version}{suffix}"), make),
        _ => rows.openapi().get(&format!("{wanted}{suffix}"), make),
    };
    let mut response = told(&packed, Some(&format!("\"{hash}\"")), media, headers, false);
    if asked.is_some() {
        let out = response.headers_mut();
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        // Clients that keep documents ask again for one that does not say until when it is good.
        if let Ok(expires) = conditions::in_a_year(SystemTime::now()).parse() {
            out.insert(header::EXPIRES, expires);
        }
    }
    Some(response)
}

/// Where a document is now, which that is, and what it would be.
fn moved(location: &str, hash: &str, media: &'static str) -> Response<Body> {
    let mut response = reply::respond(StatusCode::MOVED_PERMANENTLY, media, Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    for (name, value) in [(header::LOCATION, location.to_owned()), (header::ETAG, format!("\"{hash}\""))] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    response
}

/// A document is not to be had as it is asked for; no words.
fn not_acceptable() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The document of version 2, of which there is one for all; both forms have one tag, as they differ by what is accepted.
pub(crate) fn second(kept: &Documents, hash: &str, document: impl Fn() -> machinery::Value, headers: &HeaderMap, accept: &Accept<'_>) -> Response<Body> {
    let (tag, gzip) = (format!("\"{hash}\""), negotiate::takes_gzip_in_any_letters(headers));
    let mut response = match accept.document(&V2_FORMS) {
        Written::Json => told(&kept.get("v2", || json(&document())), Some(&tag), negotiate::JSON, headers, gzip),
        Written::Packed => told(&kept.get("v2.pb", || openapi::v2_packed(&document())), Some(&tag), V2_PACKED, headers, gzip),
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
    let versions = versions(rows).map(|version| (version.path(), hash(&version.rows(rows))));
    let paths: Vec<(String, String)> = versions.chain(roots(rows).map(|root| (root, hash(&[])))).collect();
    openapi::v3_index(paths.iter().map(|(path, hash)| (path.as_str(), hash.as_str())))
}

/// Whether version 3 has a document of this path.
pub(crate) fn has(rows: &Rows, path: &str) -> bool {
    versions(rows).any(|version| version.path() == path) || roots(rows).any(|root| root == path)
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

/// A group and version that has a document of version 3.
struct Version<'r> {
    group: &'r str,
    version: &'r str,
    /// The group, if it serves the version. Whatever changes what the document is made from replaces it.
    served: Option<&'r Arc<Group>>,
}

impl<'r> Version<'r> {
    /// What the document is made from, in the order of the names: what is served, and what is no longer.
    fn rows(&self, rows: &'r Rows) -> Vec<&'r Arc<Row>> {
        let mut found = self.served.map(|group| group.of_version(self.version)).unwrap_or_default();
        found.extend(rows.past().iter().filter(|row| row.resource.group == self.group && row.resource.version == self.version));
        found.sort_by(|a, b| a.resource.resource.cmp(&b.resource.resource));
        found
    }

    /// The path of the document.
    fn path(&self) -> String {
        let Version { group, version, .. } = self;
        if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
    }
}

/// The groups and versions that have a document of version 3: those that are served, and those that definitions served before.
fn versions(rows: &Rows) -> impl Iterator<Item = Version<'_>> {
    let served = rows.groups().iter().flat_map(|group| {
        let versions = group.versions().into_iter();
        versions.map(move |version| Version { group: &group.name, version, served: Some(group) })
    });
    let past = rows.past().iter().map(|row| (row.resource.group.as_str(), row.resource.version.as_str()));
    let past: std::collections::BTreeSet<_> = past.filter(|(group, version)| !rows.has_version(group, version)).collect();
    served.chain(past.into_iter().map(|(group, version)| Version { group, version, served: None }))
}

/// The documents of version 3 beside them: those of the program's own groups, and of what is no group.
fn roots(rows: &Rows) -> impl Iterator<Item = String> {
    openapi::v3_roots(rows.groups().iter().map(|group| group.name.as_str()).filter(|name| rows.is_builtin_group(name))).into_iter()
}

/// A hash of what a document is made from.
fn hash(rows: &[&Arc<Row>]) -> String {
    let mut digest = Sha512::new();
    digest.update(git_version());
    for row in rows {
        digest.update(format!("{}/{};", row.api_version, row.resource.resource));
        digest.update(row.custom.as_ref().map_or("", |custom| custom.digest.text()));
    }
    let mut text = String::with_capacity(128);
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// The index, which has no tag and, as the original has it, no media type of its own; it is made for each who asks.
pub(crate) fn respond_index(packed: &Packed, headers: &HeaderMap) -> Response<Body> {
    let made = Packed { bytes: packed.bytes.clone(), made: SystemTime::now() };
    told(&made, None, "text/plain; charset=utf-8", headers, false)
}

/// A document, packed or not, or that it is as the sender knows it.
fn told(packed: &Packed, tag: Option<&str>, media_type: &'static str, headers: &HeaderMap, gzip: bool) -> Response<Body> {
    let state = conditions::check(headers, tag, packed.made);
    let whole = state == StatusCode::OK;
    if whole && !gzip && headers.contains_key(header::RANGE) {
        return part(unpack(&packed.bytes), packed, tag, media_type, headers);
    }
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
    // That a part could be had is said, as Go's `ServeContent` has it; who asks for one of what is packed gets the whole.
    if whole {
        out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
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

/// A part of a document, if one is asked for.
fn part(document: Bytes, packed: &Packed, tag: Option<&str>, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
    let length = document.len();
    let (state, bytes, place) = match conditions::range(headers, tag, packed.made, length) {
        Ok(None) => (StatusCode::OK, document, None),
        Ok(Some(range)) => {
            let place = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
            (StatusCode::PARTIAL_CONTENT, document.slice(range), Some(place))
        }
        Err(why) => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::from(format!("{why}\n")), Some(format!("bytes */{length}")).filter(|_| why.contains(':'))),
    };
    let refused = state == StatusCode::RANGE_NOT_SATISFIABLE;
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = state;
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(if refused { "text/plain; charset=utf-8" } else { media_type }));
    if tag.is_some() {
        out.insert(header::VARY, HeaderValue::from_static("Accept"));
    }
    if refused {
        out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    } else {
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let known = [(header::LAST_MODIFIED, Some(conditions::date(packed.made))), (header::ETAG, tag.map(str::to_owned))];
    let told = known.into_iter().filter(|_| !refused).chain([(header::CONTENT_RANGE, place)]);
    for (name, value) in told.filter_map(|(name, value)| Some((name, value?))) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_index_is_never_as_old_as_its_text() {
        let packed = Packed { made: SystemTime::UNIX_EPOCH, ..Packed::new(b"{}") };
        let since = conditions::date(SystemTime::now() - Duration::from_secs(3600)).parse().expect("a header");
        let headers = HeaderMap::from_iter([(header::IF_MODIFIED_SINCE, since)]);
        assert_eq!(respond_index(&packed, &headers).status(), StatusCode::OK);
        assert_eq!(told(&packed, Some("\"tag\""), negotiate::JSON, &headers, false).status(), StatusCode::NOT_MODIFIED);
    }
}
