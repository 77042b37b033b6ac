//! The version 3 documents as protobuf. The tags are those of gnostic's `OpenAPIv3.proto`.
//!
//! Where a thing may stand by itself or be referred to, a message of two chooses: 1 the thing, 2 the reference.

use super::{Message, additional, any, double, each, fields, flag, integer, map, message, requirement, text, texts};
use crate::{Value, proto::wire};

const DOCUMENT: Message = Message(
    &[
        ("openapi", 1, text),
        ("info", 2, |o, tag, v| message(o, tag, v, &INFO)),
        ("paths", 4, |o, tag, v| map(o, tag, v, |o, tag, v| message(o, tag, v, &PATH_ITEM))),
        ("components", 5, |o, tag, v| message(o, tag, v, &COMPONENTS)),
        ("security", 6, |o, tag, v| each(o, tag, v, requirement)),
    ],
    9,
);
const INFO: Message = Message(&[("title", 1, text), ("description", 2, text), ("version", 6, text)], 7);
const COMPONENTS: Message = Message(
    &[
        ("schemas", 1, |o, tag, v| map(o, tag, v, schema)),
        ("responses", 2, |o, tag, v| map(o, tag, v, response)),
        ("parameters", 3, |o, tag, v| map(o, tag, v, parameter)),
        ("requestBodies", 5, |o, tag, v| map(o, tag, v, body)),
        ("securitySchemes", 7, |o, tag, v| map(o, tag, v, |o, tag, v| chosen(o, tag, v, &SECURITY))),
    ],
    10,
);
const SECURITY: Message =
    Message(&[("type", 1, text), ("description", 2, text), ("name", 3, text), ("in", 4, text), ("scheme", 5, text), ("bearerFormat", 6, text)], 9);
const REFERENCE: Message = Message(&[("$ref", 1, text), ("summary", 2, text), ("description", 3, text)], 0);
const PATH_ITEM: Message = Message(
    &[
        ("$ref", 1, text),
        ("summary", 2, text),
        ("description", 3, text),
        ("get", 4, operation),
        ("put", 5, operation),
        ("post", 6, operation),
        ("delete", 7, operation),
        ("options", 8, operation),
        ("head", 9, operation),
        ("patch", 10, operation),
        ("trace", 11, operation),
        ("parameters", 13, |o, tag, v| each(o, tag, v, parameter)),
    ],
    14,
);
const OPERATION: Message = Message(
    &[
        ("tags", 1, texts),
        ("summary", 2, text),
        ("description", 3, text),
        ("operationId", 5, text),
        ("parameters", 6, |o, tag, v| each(o, tag, v, parameter)),
        ("requestBody", 7, body),
        ("responses", 8, responses),
        ("deprecated", 10, flag),
        ("security", 11, |o, tag, v| each(o, tag, v, requirement)),
    ],
    13,
);
const PARAMETER: Message = Message(
    &[
        ("name", 1, text),
        ("in", 2, text),
        ("description", 3, text),
        ("required", 4, flag),
        ("deprecated", 5, flag),
        ("allowEmptyValue", 6, flag),
        ("style", 7, text),
        ("explode", 8, flag),
        ("allowReserved", 9, flag),
        ("schema", 10, schema),
        ("content", 13, content),
    ],
    14,
);
const BODY: Message = Message(&[("description", 1, text), ("content", 2, content), ("required", 3, flag)], 4);
const RESPONSE: Message = Message(&[("description", 1, text), ("content", 3, content)], 5);
const MEDIA_TYPE: Message = Message(&[("schema", 1, schema), ("example", 2, any)], 5);
const SCHEMA: Message = Message(
    &[
        ("nullable", 1, flag),
        ("readOnly", 3, flag),
        ("writeOnly", 4, flag),
        ("externalDocs", 6, |o, tag, v| message(o, tag, v, &OUTSIDE)),
        ("example", 7, any),
        ("deprecated", 8, flag),
        ("title", 9, text),
        ("multipleOf", 10, double),
        ("maximum", 11, double),
        ("exclusiveMaximum", 12, flag),
        ("minimum", 13, double),
        ("exclusiveMinimum", 14, flag),
        ("maxLength", 15, integer),
        ("minLength", 16, integer),
        ("pattern", 17, text),
        ("maxItems", 18, integer),
        ("minItems", 19, integer),
        ("uniqueItems", 20, flag),
        ("maxProperties", 21, integer),
        ("minProperties", 22, integer),
        ("required", 23, texts),
        ("enum", 24, |o, tag, v| each(o, tag, v, any)),
        ("type", 25, text),
        ("allOf", 26, |o, tag, v| each(o, tag, v, schema)),
        ("oneOf", 27, |o, tag, v| each(o, tag, v, schema)),
        ("anyOf", 28, |o, tag, v| each(o, tag, v, schema)),
        ("not", 29, |o, tag, v| message(o, tag, v, &SCHEMA)),
        ("items", 30, |o, tag, v| wire::message_field(o, tag, |o| schema(o, 1, v))),
        ("properties", 31, |o, tag, v| map(o, tag, v, schema)),
        ("additionalProperties", 32, |o, tag, v| additional(o, tag, v, schema)),
        ("default", 33, scalar),
        ("description", 34, text),
        ("format", 35, text),
    ],
    36,
);
const OUTSIDE: Message = Message(&[("description", 1, text), ("url", 2, text)], 3);

/// A document ([`crate::openapi::v3_document`], [`crate::openapi::v3_root`]) as protobuf.
pub fn v3_packed(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    fields(&mut out, document, &DOCUMENT);
    out
}

/// The thing itself, or a reference to it.
fn chosen(out: &mut Vec<u8>, tag: u32, value: &Value, thing: &Message) {
    wire::message_field(out, tag, |out| if value.get("$ref").is_some() { message(out, 2, value, &REFERENCE) } else { message(out, 1, value, thing) });
}

fn schema(out: &mut Vec<u8>, tag: u32, value: &Value) {
    chosen(out, tag, value, &SCHEMA);
}

fn operation(out: &mut Vec<u8>, tag: u32, value: &Value) {
    message(out, tag, value, &OPERATION);
}

fn parameter(out: &mut Vec<u8>, tag: u32, value: &Value) {
    chosen(out, tag, value, &PARAMETER);
}

fn body(out: &mut Vec<u8>, tag: u32, value: &Value) {
    chosen(out, tag, value, &BODY);
}

fn response(out: &mut Vec<u8>, tag: u32, value: &Value) {
    chosen(out, tag, value, &RESPONSE);
}

/// By status; one may be for all others.
fn responses(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| {
        if let Some(other) = value.get("default") {
            response(out, 1, other);
        }
        let by_status = value.as_object().into_iter().flatten().filter(|(status, _)| *status != "default" && !status.starts_with("x-"));
        by_status.for_each(|(status, found)| super::name_and_value(out, 2, status, found, response));
    });
}

fn content(out: &mut Vec<u8>, tag: u32, value: &Value) {
    map(out, tag, value, |o, tag, v| message(o, tag, v, &MEDIA_TYPE));
}

/// A default is a number, a truth or a text; what is none of them leaves nothing but the field.
fn scalar(out: &mut Vec<u8>, tag: u32, value: &Value) {
    wire::message_field(out, tag, |out| match value {
        Value::Number(number) => wire::double_field(out, 1, number.as_f64().unwrap_or_default()),
        Value::Bool(truth) => wire::varint_field(out, 2, u64::from(*truth)),
        Value::String(text) => wire::string_field(out, 3, text.as_bytes()),
        _ => {}
    });
}
