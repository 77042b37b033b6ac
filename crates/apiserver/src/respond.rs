//! From an answer to a response: the one place where objects, lists and errors are encoded.
//!
//! A stored object that is asked for as JSON leaves as the bytes that lie in memory; lists are written as they are sent
//! ([`listing`]). Everything else (YAML, protobuf, tables, metadata only, other versions) is made from the tree.

use crate::{
    Body,
    context::Context,
    listing::{self, Asked, List},
    negotiate::{self, Accepted, Encoding, Form},
    reply::respond,
    rows::Row,
    storage, table,
    windows::{Indented, Yaml},
};
use http::{HeaderValue, Response, StatusCode, header};
use machinery::{Value, json, proto, schema::TypeRef, status::Status};
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

/// Encodes an answer of the API.
pub(crate) fn answer(row: &Arc<Row>, cx: &Context, accepted: Accepted, include: table::Include, answer: Answer) -> Response<Body> {
    let asked = Asked { accepted, include, now: cx.now };
    match (answer, accepted.form) {
        (Answer::Whole(response), _) => response,
        (Answer::Other(code, value), Form::Table(version)) if value["kind"] == "Scale" => {
            from_json(code, accepted, table::scale(row, &value, version, include, cx.now))
        }
        (Answer::Other(code, value), Form::Partial(version)) if has_metadata(&value) => {
            encoded(code, accepted, table::partial_type(), &table::partial(&value, version))
        }
        (Answer::Other(code, value), _) => {
            let ty = storage::type_of(&value);
            encoded(code, accepted, ty, &value)
        }
        (Answer::Stored(code, entry), Form::Object) => match accepted.encoding {
            Encoding::Json => from_json(code, accepted, storage::json(row, &entry).into()),
            Encoding::Protobuf => respond(code, negotiate::PROTOBUF, storage::protobuf(row, &entry)),
            Encoding::Yaml => encoded(code, accepted, row.written_ty(), &storage::value(row, &entry)),
        },
        (Answer::Object(code, value), Form::Object) => match (accepted.encoding, row.written_ty()) {
            (Encoding::Json, ty) => from_json(code, accepted, json::encode_spelled(ty, &value, &cx.texts())),
            (Encoding::Protobuf, Some(ty)) => respond(code, negotiate::PROTOBUF, proto::encode_spelled(ty, &value, &cx.texts())),
            (_, ty) => encoded(code, accepted, ty, &value),
        },
        // As long as no list is of such letters, none of its objects is made a tree for it.
        (Answer::List(list), _) if accepted.encoding == Encoding::Yaml && !list.entries.iter().all(|entry| is_readable_json(&entry.json)) => {
            status(&unreadable(), accepted)
        }
        (Answer::List(list), _) => listing::stored(row, asked, list),
        (Answer::Computed(values), _) => listing::computed(row, asked, values),
        (Answer::Stored(code, entry), _) => special(row, asked, code, &storage::value(row, &entry)),
        (Answer::Object(code, value), _) => special(row, asked, code, &value),
    }
}

/// Whether what is answered and not stored has metadata to show.
pub(crate) fn has_metadata(value: &Value) -> bool {
    value["kind"] == "Scale" || value["kind"] == "TokenRequest"
}

/// One object as a table or by its metadata.
fn special(row: &Row, asked: Asked, code: StatusCode, value: &Value) -> Response<Body> {
    let accepted = asked.accepted;
    if let Form::Table(version) = accepted.form {
        let metadata = serde_json::json!({ "resourceVersion": value["metadata"]["resourceVersion"] });
        return from_json(code, accepted, table::one(row, value, &table::Head { metadata: &metadata, version, with_columns: true }, asked.include, asked.now));
    }
    let partial = table::partial(value, version_of(accepted.form));
    encoded(code, accepted, table::partial_type(), &partial)
}

/// The version of a form that is not the object itself.
fn version_of(form: Form) -> &'static str {
    match form {
        Form::Table(version) | Form::Partial(version) => version,
        Form::Object => "",
    }
}

/// Encodes a tree; protobuf needs its type and falls back to JSON for what has none on the wire.
pub(crate) fn encoded(code: StatusCode, accepted: Accepted, ty: Option<TypeRef<'_>>, value: &Value) -> Response<Body> {
    match (accepted.encoding, ty) {
        (Encoding::Yaml, _) => yaml(code, accepted, value),
        (Encoding::Protobuf, Some(ty)) => respond(code, negotiate::PROTOBUF, proto::encode(ty, value)),
        _ => from_json(code, accepted, machinery::json::encode_as(ty, value)),
    }
}

/// Encodes a tree as YAML. Upstream reads its JSON as YAML for it, where some letters may not stand that JSON does not escape.
fn yaml(code: StatusCode, accepted: Accepted, value: &Value) -> Response<Body> {
    match is_readable(value) {
        true => listing::answer(code, accepted, Box::new(Yaml::of(value))),
        false => status(&unreadable(), accepted),
    }
}

fn unreadable() -> Status {
    Status::new(500, "", "yaml: control characters are not allowed")
}

/// Whether go-yaml would read it as it lies in the store.
fn is_readable_json(json: &[u8]) -> bool {
    std::str::from_utf8(json).is_ok_and(is_text)
}

/// Whether there is none of the letters that stand in JSON as they are and in no YAML.
fn is_text(text: &str) -> bool {
    !text.contains(|letter: char| matches!(letter, '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}'))
}

/// Whether go-yaml would read all of its texts.
fn is_readable(value: &Value) -> bool {
    match value {
        Value::String(text) => is_text(text),
        Value::Array(items) => items.iter().all(is_readable),
        Value::Object(fields) => fields.iter().all(|(name, value)| is_text(name) && is_readable(value)),
        _ => true,
    }
}

/// A document of discovery: of those that are older than its kinds it is not said in which version they are.
pub(crate) fn said(accepted: Accepted, ty: Option<TypeRef<'_>>, value: &Value) -> Response<Body> {
    match (accepted.encoding, ty) {
        (Encoding::Protobuf, Some(ty)) => respond(StatusCode::OK, negotiate::PROTOBUF, proto::encode_said(ty, value)),
        _ => encoded(StatusCode::OK, accepted, ty, value),
    }
}

/// From compact JSON to what was asked for. The original ends what it does not indent with a line's end.
pub(crate) fn from_json(code: StatusCode, accepted: Accepted, mut compact: Vec<u8>) -> Response<Body> {
    if accepted.encoding == Encoding::Yaml {
        let value: Value = machinery::json::read(&compact).unwrap_or_default();
        return yaml(code, accepted, &value);
    }
    if accepted.pretty {
        return listing::answer(code, accepted, Box::new(Indented::of(compact)));
    }
    compact.push(b'\n');
    respond(code, negotiate::JSON, compact)
}

/// An error as a response; the only place where one becomes such.
pub(crate) fn status(status: &Status, accepted: Accepted) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_value();
    let ty = storage::type_of(&value);
    let mut response = match accepted.raw {
        true => respond(code, negotiate::JSON, json::indented(&json::encode_as(ty, &value))),
        false => encoded(code, accepted, ty, &value),
    };
    if let Some(seconds) = value["details"]["retryAfterSeconds"].as_i64() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_go_yaml_does_not_read_is_no_yaml() {
        assert!(is_readable(&json!({"a": ["\u{85}\u{a0}\u{1f600}\n\t\u{1}", 1, null]})), "JSON escapes what stands before a space");
        for value in [json!("a\u{7f}"), json!({"a": {"b": ["\u{9f}"]}}), json!({"\u{ffff}": 1})] {
            assert!(!is_readable(&value), "{value}");
        }
        let told = yaml(StatusCode::OK, Accepted { encoding: Encoding::Yaml, ..Accepted::default() }, &json!({"a": "\u{80}"}));
        assert_eq!(told.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
