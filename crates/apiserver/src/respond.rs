//! From an answer to a response: the one place where objects, lists and errors are encoded.
//!
//! A stored object that is asked for as JSON leaves as the bytes that lie in memory; a list is those bytes joined.
//! Everything else (YAML, protobuf, tables, metadata only, other versions) is made from the tree.

use crate::{
    Body, body,
    context::Context,
    gzip,
    negotiate::{self, Accepted, Encoding, Form},
    rows::Row,
    storage, table,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use machinery::{Map, Value, gvk::Gvk, proto, schema::TypeRef, status::Status};
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
pub(crate) fn answer(row: &Row, cx: &Context, accepted: Accepted, include: table::Include, answer: Answer) -> Response<Body> {
    let now = cx.now;
    match (answer, accepted.form) {
        (Answer::Whole(response), _) => response,
        (Answer::Other(code, value), Form::Table) if value["kind"] == "Scale" => {
            let table = table::scale(&value, include, now);
            encoded(code, accepted, storage::type_of(&table), &table)
        }
        (Answer::Other(code, value), _) => {
            let ty = storage::type_of(&value);
            encoded(code, accepted, ty, &value)
        }
        (Answer::Stored(code, entry), Form::Object) => match accepted.encoding {
            Encoding::Json if !accepted.pretty => respond(code, negotiate::JSON, storage::json(row, &entry)),
            Encoding::Protobuf => respond(code, negotiate::PROTOBUF, storage::protobuf(row, &entry)),
            _ => encoded(code, accepted, Some(row.ty()), &storage::value(row, &entry)),
        },
        (Answer::Object(code, value), Form::Object) => encoded(code, accepted, Some(row.ty()), &value),
        (Answer::List(list), Form::Object) => object_list(row, accepted, &list),
        (Answer::Computed(values), Form::Object) => computed_list(row, accepted, &values),
        (Answer::Computed(values), form) => {
            let values: Vec<Arc<Value>> = values.into_iter().map(Arc::new).collect();
            special(row, accepted, form, include, StatusCode::OK, &values, Some(Value::Object(Map::new())), now)
        }
        (Answer::Stored(code, entry), form) => special(row, accepted, form, include, code, &[storage::value(row, &entry)], None, now),
        (Answer::Object(code, value), form) => special(row, accepted, form, include, code, &[Arc::new(value)], None, now),
        (Answer::List(list), form) => {
            let values: Vec<Arc<Value>> = list.entries.iter().map(|e| storage::value(row, e)).collect();
            special(row, accepted, form, include, StatusCode::OK, &values, Some(list.metadata()), now)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "one call site a form; a struct would be named once")]
fn special(
    row: &Row,
    accepted: Accepted,
    form: Form,
    include: table::Include,
    code: StatusCode,
    values: &[Arc<Value>],
    list: Option<Value>,
    now: std::time::SystemTime,
) -> Response<Body> {
    let value = match form {
        Form::Table => {
            let metadata = list.unwrap_or_else(|| {
                let version = values.first().map(|v| v["metadata"]["resourceVersion"].clone()).unwrap_or_default();
                serde_json::json!({ "resourceVersion": version })
            });
            table::table(row, values.iter().map(AsRef::as_ref), metadata, include, true, now)
        }
        _ => match list {
            Some(metadata) => table::partial_list(values.iter().map(AsRef::as_ref), metadata),
            None => values.first().map(|v| table::partial(v)).unwrap_or_default(),
        },
    };
    encoded(code, accepted, storage::type_of(&value), &value)
}

fn object_list(row: &Row, accepted: Accepted, list: &List) -> Response<Body> {
    match accepted.encoding {
        Encoding::Json if !accepted.pretty => json_list(row, accepted, list),
        Encoding::Protobuf => {
            let messages: Vec<Bytes> = list.entries.iter().map(|e| storage::protobuf_raw(row, e)).collect();
            let items: Vec<_> = list.entries.iter().zip(&messages).map(|(entry, message)| gzip::Item::protobuf(entry, message.clone())).collect();
            let bytes = items.iter().map(gzip::Item::len).sum();
            if accepted.gzip && bytes >= gzip::MIN_BYTES && !row.converts {
                let frame = proto::ListFrame::new(&list_kind(row), &list.metadata(), bytes);
                if let Some(response) = joined(negotiate::PROTOBUF, &frame.head, &items, &frame.tail) {
                    return response;
                }
            }
            protobuf_list(row, &list.metadata(), &messages)
        }
        _ => tree_list(row, accepted, list.metadata(), list.entries.iter().map(|e| (*storage::value(row, e)).clone()).collect()),
    }
}

fn computed_list(row: &Row, accepted: Accepted, values: &[Value]) -> Response<Body> {
    let metadata = Value::Object(Map::new());
    match accepted.encoding {
        Encoding::Protobuf => {
            let messages: Vec<Bytes> = values.iter().map(|value| proto::encode_raw(row.ty(), value).into()).collect();
            protobuf_list(row, &metadata, &messages)
        }
        _ => tree_list(row, accepted, metadata, values.to_vec()),
    }
}

fn protobuf_list(row: &Row, metadata: &Value, items: &[Bytes]) -> Response<Body> {
    respond(StatusCode::OK, negotiate::PROTOBUF, proto::list(&list_kind(row), metadata, items.iter().map(AsRef::as_ref)))
}

fn list_kind(row: &Row) -> Gvk {
    Gvk { kind: row.list_kind(), ..row.resource.kind.clone() }
}

/// A large list, joined from what its objects keep compressed.
fn joined(media: &'static str, head: &[u8], items: &[gzip::Item<'_>], tail: &[u8]) -> Option<Response<Body>> {
    let packed = gzip::list(head, items, tail).ok()?;
    let mut response = respond(StatusCode::OK, media, Bytes::new());
    *response.body_mut() = body::full(packed);
    tell_gzip(&mut response);
    Some(response)
}

/// A list as JSON or YAML from the trees of its items.
fn tree_list(row: &Row, accepted: Accepted, metadata: Value, items: Vec<Value>) -> Response<Body> {
    let value = serde_json::json!({"kind": row.list_kind(), "apiVersion": row.api_version, "metadata": metadata, "items": items});
    encoded(StatusCode::OK, accepted, None, &value)
}

fn json_list(row: &Row, accepted: Accepted, list: &List) -> Response<Body> {
    let head = format!(r#"{{"kind":"{}","apiVersion":"{}","metadata":{},"items":["#, row.list_kind(), row.api_version, list.metadata());
    let tail = b"]}";
    let size: usize = list.entries.iter().map(|entry| entry.json.len() + 1).sum();
    if accepted.gzip && size >= gzip::MIN_BYTES && !row.converts {
        let items: Vec<_> = list.entries.iter().enumerate().map(|(at, entry)| gzip::Item::json(entry, at)).collect();
        if let Some(response) = joined(negotiate::JSON, head.as_bytes(), &items, tail) {
            return response;
        }
    }
    let mut out = Vec::with_capacity(head.len() + size + tail.len());
    out.extend_from_slice(head.as_bytes());
    for (at, entry) in list.entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&storage::json(row, entry));
    }
    out.extend_from_slice(tail);
    respond(StatusCode::OK, negotiate::JSON, out)
}

/// Encodes a tree; protobuf needs its type and falls back to JSON for what has none on the wire.
pub(crate) fn encoded(code: StatusCode, accepted: Accepted, ty: Option<TypeRef<'_>>, value: &Value) -> Response<Body> {
    match (accepted.encoding, ty) {
        (Encoding::Yaml, _) => respond(code, negotiate::YAML, machinery::yaml::encode(value)),
        (Encoding::Protobuf, Some(ty)) => respond(code, negotiate::PROTOBUF, proto::encode(ty, value)),
        _ if accepted.pretty => respond(code, negotiate::JSON, serde_json::to_vec_pretty(value).unwrap_or_default()),
        _ => respond(code, negotiate::JSON, machinery::json::encode(value)),
    }
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

fn tell_gzip(response: &mut Response<Body>) {
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
