//! The version 2 document as protobuf, the form in which client-go and kubectl ask for it. The tags are those of gnostic's
//! `OpenAPIv2.proto`.

use super::{Message, additional, any, double, each, fields, flag, integer, map, message, named, requirement, text, texts};
use crate::{Value, proto::wire};

const DOCUMENT: Message = Message(
    &[
        ("swagger", 1, text),
        ("info", 2, info),
        ("paths", 8, paths),
        ("definitions", 9, |o, tag, v| map(o, tag, v, schema)),
        ("parameters", 10, |o, tag, v| map(o, tag, v, parameter)),
        ("security", 12, |o, tag, v| each(o, tag, v, requirement)),
        ("securityDefinitions", 13, |o, tag, v| map(o, tag, v, security)),
    ],
    16,
);
const INFO: Message = Message(&[("title", 1, text), ("version", 2, text), ("description", 3, text)], 7);
const PATH_ITEM: Message = Message(
    &[
        ("get", 2, operation),
        ("put", 3, operation),
        ("post", 4, operation),
        ("delete", 5, operation),
        ("options", 6, operation),
        ("head", 7, operation),
        ("patch", 8, operation),
        ("parameters", 9, parameters),
    ],
    10,
);
const OPERATION: Message = Message(
    &[
        ("tags", 1, texts),
        ("summary", 2, text),
        ("description", 3, text),
        ("operationId", 5, text),
        ("produces", 6, texts),
        ("consumes", 7, texts),
        ("parameters", 8, parameters),
        ("responses", 9, |o, tag, v| map(o, tag, v, response)),
        ("schemes", 10, texts),
        ("deprecated", 11, flag),
    ],
    13,
);
const RESPONSE: Message = Message(&[("description", 1, text), ("schema", 2, |o, tag, v| wire::message_field(o, tag, |o| schema(o, 1, v)))], 5);
const BODY: Message = Message(&[("description", 1, text), ("name", 2, text), ("in", 3, text), ("required", 4, flag), ("schema", 5, schema)], 6);
const QUERY: Message = Message(
    &[("required", 1, flag), ("in", 2, text), ("description", 3, text), ("name", 4, text), ("type", 6, text), ("format", 7, text), ("uniqueItems", 20, flag)],
    23,
);
/// Also of headers.
const PATH: Message = Message(
    &[("required", 1, flag), ("in", 2, text), ("description", 3, text), ("name", 4, text), ("type", 5, text), ("format", 6, text), ("uniqueItems", 19, flag)],
    22,
);
const REFERENCE: Message = Message(&[("$ref", 1, text), ("description", 2, text)], 0);
const API_KEY: Message = Message(&[("type", 1, text), ("name", 2, text), ("in", 3, text), ("description", 4, text)], 5);
const SCHEMA: Message = Message(
    &[
        ("$ref", 1, text),
        ("format", 2, text),
        ("title", 3, text),
        ("description", 4, text),
        ("default", 5, any),
        ("multipleOf", 6, double),
        ("maximum", 7, double),
        ("exclusiveMaximum", 8, flag),
        ("minimum", 9, double),
        ("exclusiveMinimum", 10, flag),
        ("maxLength", 11, integer),
        ("minLength", 12, integer),
        ("pattern", 13, text),
        ("maxItems", 14, integer),
        ("minItems", 15, integer),
        ("uniqueItems", 16, flag),
        ("maxProperties", 17, integer),
        ("minProperties", 18, integer),
        ("required", 19, texts),
        ("enum", 20, |o, tag, v| each(o, tag, v, any)),
        ("additionalProperties", 21, |o, tag, v| additional(o, tag, v, schema)),
        ("type", 22, |o, tag, v| wire::message_field(o, tag, |o| if v.is_array() { texts(o, 1, v) } else { text(o, 1, v) })),
        ("items", 23, |o, tag, v| wire::message_field(o, tag, |o| schema(o, 1, v))),
        ("allOf", 24, |o, tag, v| each(o, tag, v, schema)),
        ("properties", 25, |o, tag, v| map(o, tag, v, schema)),
        ("readOnly", 27, flag),
        ("example", 30, any),
    ],
    31,
);

/// The document ([`crate::openapi::v2_document`]) as protobuf.
pub fn v2_packed(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    fields(&mut out, document, &DOCUMENT);
    out
}

fn info(out: &mut Vec<u8>, tag: u32, value: &Value) {
    message(out, tag, value, &INFO);
}

fn schema(out: &mut Vec<u8>, tag: u32, value: &Value) {
    message(out, tag, value, &SCHEMA);
}

fn operation(out: &mut Vec<u8>, tag: u32, value: &Value) {
    message(out, tag, value, &OPERATION);
}

fn paths(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| named(out, 2, value, |o, tag, v| message(o, tag, v, &PATH_ITEM)));
}

fn response(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| message(out, 1, value, &RESPONSE));
}

/// Each is one that stands here, or a reference to one that stands with the document.
fn parameters(out: &mut Vec<u8>, tag: u32, value: &Value) {
    each(out, tag, value, |out, tag, value| {
        wire::message_field(out, tag, |out| if value.get("$ref").is_some() { message(out, 2, value, &REFERENCE) } else { parameter(out, 1, value) });
    });
}

/// Is a body or one of four others, by where it stands.
fn parameter(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| match value["in"].as_str() {
        Some("body") => message(out, 1, value, &BODY),
        Some("header") => wire::message_field(out, 2, |out| message(out, 1, value, &PATH)),
        Some("path") => wire::message_field(out, 2, |out| message(out, 4, value, &PATH)),
        _ => wire::message_field(out, 2, |out| message(out, 3, value, &QUERY)),
    });
}

fn security(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| message(out, 2, value, &API_KEY));
}
