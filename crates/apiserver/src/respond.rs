//! From an answer to a response: the one place where objects, lists and errors are encoded.
//!
//! A stored object that is asked for as JSON leaves as the bytes that lie in memory; lists are written as they are sent
//! ([`listing`]). Everything else (YAML, protobuf, tables, metadata only, other versions) is made from the tree.

use crate::{
    Body, body,
    context::Context,
    gzip,
    listing::{self, Asked},
    negotiate::{self, Accepted, Encoding, Form},
    rows::Row,
    storage, table,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use machinery::{Map, Value, proto, schema::TypeRef, status::Status};
use std::sync::Arc;
use store::Entry;

/// What a request is answered with.
pub(crate) enum Answer {
    /// A stored object.
    Stored(StatusCode, Arc<Entry>),
    /// An object of the row's kind that is not (any more, or yet) stored as it is.
    Object(StatusCode, Value),
    /// An object of another kind, named by its apiVersion and kind.
    Other(StatusCode, Value),
    /// A list of stored objects.
    List(List),
    /// A list of objects of the row's kind that are found out when they are asked for.
    Computed(Vec<Value>),
    /// A finished response: a watch, a stream, a proxied answer.
    Whole(Response<Body>),
}

impl Answer {
    /// The object that is answered, for the server's own calls; null for what is none.
    pub(crate) fn into_value(self, row: &Row) -> Value {
        match self {
            Answer::Stored(_, entry) => (*storage::value(row, &entry)).clone(),
            Answer::Object(_, value) | Answer::Other(_, value) => value,
            Answer::List(_) | Answer::Computed(_) | Answer::Whole(_) => Value::Null,
        }
    }
}

/// A list of stored objects.
pub(crate) struct List {
    /// The objects, in the order of their keys.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The revision of the snapshot.
    pub(crate) revision: u64,
    /// Token of the next page; empty on the last.
    pub(crate) next: String,
    /// Objects beyond this page, where it is known.
    pub(crate) remaining: Option<u64>,
}

impl List {
    /// The list's metadata.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = Map::new();
        if !self.next.is_empty() {
            metadata.insert("continue".into(), self.next.clone().into());
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        metadata.insert("resourceVersion".into(), self.revision.to_string().into());
        Value::Object(metadata)
    }
}

/// Encodes an answer of the API.
pub(crate) fn answer(row: &Arc<Row>, cx: &Context, accepted: Accepted, include: table::Include, answer: Answer) -> Response<Body> {
    let asked = Asked { accepted, include, now: cx.now };
    match (answer, accepted.form) {
        (Answer::Whole(response), _) => response,
        (Answer::Other(code, value), Form::Table) if value["kind"] == "Scale" => from_json(code, accepted, table::scale(&value, include, cx.now)),
        (Answer::Other(code, value), _) => {
            let ty = storage::type_of(&value);
            encoded(code, accepted, ty, &value)
        }
        (Answer::Stored(code, entry), Form::Object) => match accepted.encoding {
            Encoding::Json => from_json(code, accepted, storage::json(row, &entry).into()),
            Encoding::Protobuf => respond(code, negotiate::PROTOBUF, storage::protobuf(row, &entry)),
            Encoding::Yaml => encoded(code, accepted, Some(row.ty()), &storage::value(row, &entry)),
        },
        (Answer::Object(code, value), Form::Object) => encoded(code, accepted, Some(row.ty()), &value),
        (Answer::List(list), _) => listing::stored(row, asked, list),
        (Answer::Computed(values), _) => listing::computed(row, asked, values),
        (Answer::Stored(code, entry), _) => special(row, asked, code, &storage::value(row, &entry)),
        (Answer::Object(code, value), _) => special(row, asked, code, &value),
    }
}

/// One object as a table or by its metadata.
fn special(row: &Row, asked: Asked, code: StatusCode, value: &Value) -> Response<Body> {
    let accepted = asked.accepted;
    if accepted.form == Form::Table {
        let metadata = serde_json::json!({ "resourceVersion": value["metadata"]["resourceVersion"] });
        return from_json(code, accepted, table::one(row, Some(value), &metadata, asked.include, true, asked.now));
    }
    let partial = table::partial(value);
    encoded(code, accepted, storage::type_of(&partial), &partial)
}

/// Encodes a tree; protobuf needs its type and falls back to JSON for what has none on the wire.
pub(crate) fn encoded(code: StatusCode, accepted: Accepted, ty: Option<TypeRef<'_>>, value: &Value) -> Response<Body> {
    match (accepted.encoding, ty) {
        (Encoding::Yaml, _) => respond(code, negotiate::YAML, machinery::yaml::encode(value)),
        (Encoding::Protobuf, Some(ty)) => respond(code, negotiate::PROTOBUF, proto::encode(ty, value)),
        _ => from_json(code, accepted, machinery::json::encode_as(ty, value)),
    }
}

/// From compact JSON to what was asked for. The original ends what it does not indent with a line's end.
pub(crate) fn from_json(code: StatusCode, accepted: Accepted, mut compact: Vec<u8>) -> Response<Body> {
    if accepted.encoding == Encoding::Yaml {
        let value: Value = serde_json::from_slice(&compact).unwrap_or_default();
        return respond(code, negotiate::YAML, machinery::yaml::encode(&value));
    }
    if accepted.pretty {
        return respond(code, negotiate::JSON, machinery::json::indented(&compact));
    }
    compact.push(b'\n');
    respond(code, negotiate::JSON, compact)
}

/// An error as a response; the only place where one becomes such.
pub(crate) fn status(status: &Status, accepted: Accepted) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_value();
    let mut response = encoded(code, accepted, storage::type_of(&value), &value);
    if let Some(seconds) = value["details"]["retryAfterSeconds"].as_i64() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What upstream's mux answers for a path that nobody serves.
pub(crate) fn plain_not_found() -> Response<Body> {
    let mut response = Response::new(body::full("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A response of these bytes.
pub(crate) fn respond(code: StatusCode, media: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let bytes = bytes.into();
    let mut response = Response::new(body::empty());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if bytes.len() >= gzip::MIN_BYTES {
        response.extensions_mut().insert(Plain(bytes.clone()));
    }
    *response.body_mut() = body::full(bytes);
    response
}

/// The uncompressed bytes of a large response, until it is known whether the client takes gzip.
#[derive(Clone)]
struct Plain(Bytes);

/// Adds warnings, and compresses what is large if the client asked for it.
pub(crate) fn finish(response: &mut Response<Body>, request: &HeaderMap, warnings: Vec<String>) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(&warning))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    let Some(Plain(bytes)) = response.extensions_mut().remove::<Plain>() else { return };
    if negotiate::takes_gzip(request)
        && let Ok(packed) = gzip::whole(&bytes)
    {
        *response.body_mut() = body::full(packed);
        tell_gzip(response);
    }
}

pub(crate) fn tell_gzip(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A quoted string of HTTP: backslash and quote escaped, control characters dropped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
