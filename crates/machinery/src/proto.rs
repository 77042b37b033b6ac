//! `application/vnd.kubernetes.protobuf`: values to and from the wire, guided by the schema's tags.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message that names apiVersion and kind and holds the object's
//! own message (`raw`). Generated Go code writes every field that is no pointer, zeros included; a reader cannot tell an
//! absent one from a zero, so this encoder writes what the value holds and nothing else, and the decoder drops the zeros
//! that Go's JSON leaves out. Unknown tags are skipped, as newer clients may send them.
//!
//! Source: `staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf` and the published `generated.proto` files.

mod decode;
mod encode;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use crate::{
    Value,
    gvk::Gvk,
    schema::{self, TypeRef},
    status::Status,
};
use wire::{Reader, message_field, string_field};

/// What every enveloped body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Encodes an object with its envelope; the kind comes from the type.
pub fn encode(ty: TypeRef<'_>, value: &Value) -> Vec<u8> {
    let raw = encode_raw(ty, value);
    let (api_version, kind) = match ty.gvk() {
        Some(gvk) => (gvk.api_version(), gvk.kind.clone()),
        None => (text(value, "apiVersion"), text(value, "kind")),
    };
    envelope(&api_version, &kind, &raw)
}

/// Encodes an object's own message, without the envelope.
pub fn encode_raw(ty: TypeRef<'_>, value: &Value) -> Vec<u8> {
    // The wire is about half as long as the JSON; one page holds most objects.
    let mut out = Vec::with_capacity(1024);
    encode::message(ty, value, &mut out);
    out
}

/// Wraps an object's message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    message_field(&mut out, 1, |out| {
        string_field(out, 1, api_version.as_bytes());
        string_field(out, 2, kind.as_bytes());
    });
    string_field(&mut out, 2, raw);
    // Content encoding and type: none, as the original writes them.
    string_field(&mut out, 3, b"");
    string_field(&mut out, 4, b"");
    out
}

/// The parts of an enveloped body: apiVersion, kind, the object's message.
///
/// # Errors
/// 400 if it is none.
pub fn open_envelope(bytes: &[u8]) -> Result<(String, String, &[u8]), Status> {
    let Some(unknown) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return Err(Status::bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"));
    };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(unknown);
    while let Some((tag, field)) = reader.next().map_err(malformed)? {
        match tag {
            1 => {
                let mut meta = Reader::new(field.bytes().map_err(malformed)?);
                while let Some((tag, field)) = meta.next().map_err(malformed)? {
                    match tag {
                        1 => api_version = field.text().map_err(malformed)?.to_owned(),
                        2 => kind = field.text().map_err(malformed)?.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = field.bytes().map_err(malformed)?,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// Decodes an enveloped body of a built-in kind.
///
/// # Errors
/// 400 if the body is malformed or the kind unknown.
pub fn decode(bytes: &[u8]) -> Result<(Gvk, Value), Status> {
    decode_at(bytes, 0)
}

/// As [`decode`], inside `depth` other messages: a raw extension may hold an envelope again.
fn decode_at(bytes: &[u8], depth: usize) -> Result<(Gvk, Value), Status> {
    let (api_version, kind, raw) = open_envelope(bytes)?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let gvk = Gvk { group: group.to_owned(), version: version.to_owned(), kind: kind.clone() };
    let Some(ty) = schema::builtin().kind(&gvk) else {
        return Err(Status::bad_request(format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"knarr\"")));
    };
    let mut value = decode::message(ty, raw, depth).map_err(malformed)?;
    if let (Value::Object(map), Some(_)) = (&mut value, ty.field("kind")) {
        map.insert("apiVersion".into(), Value::String(api_version));
        map.insert("kind".into(), Value::String(kind));
    }
    Ok((gvk, value))
}

/// Decodes an object's own message; apiVersion and kind are the envelope's and not set.
///
/// # Errors
/// 400 if the message is malformed.
pub fn decode_raw(ty: TypeRef<'_>, bytes: &[u8]) -> Result<Value, Status> {
    decode::message(ty, bytes, 0).map_err(malformed)
}

/// Encodes a list from its items' messages, without decoding them.
pub fn list<'i>(list_gvk: &Gvk, list_meta: &Value, items: impl Iterator<Item = &'i [u8]>) -> Vec<u8> {
    let mut raw = Vec::with_capacity(4096);
    if let Some(ty) = schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
        message_field(&mut raw, 1, |out| encode::message(ty, list_meta, out));
    }
    for item in items {
        string_field(&mut raw, 2, item);
    }
    envelope(&list_gvk.api_version(), &list_gvk.kind, &raw)
}

/// Encodes a watch event. The event itself has no envelope on a stream, its object has one.
pub fn watch_event(kind: &str, object_with_envelope: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object_with_envelope.len() + 32);
    string_field(&mut out, 1, kind.as_bytes());
    message_field(&mut out, 2, |out| string_field(out, 1, object_with_envelope));
    out
}

/// Takes a watch event apart: its type and its object's envelope.
///
/// # Errors
/// 400 if the message is malformed.
pub fn open_watch_event(bytes: &[u8]) -> Result<(String, &[u8]), Status> {
    let (mut kind, mut object) = (String::new(), &[][..]);
    let mut reader = Reader::new(bytes);
    while let Some((tag, field)) = reader.next().map_err(malformed)? {
        match tag {
            1 => kind = field.text().map_err(malformed)?.to_owned(),
            2 => {
                let mut raw = Reader::new(field.bytes().map_err(malformed)?);
                while let Some((tag, field)) = raw.next().map_err(malformed)? {
                    if tag == 1 {
                        object = field.bytes().map_err(malformed)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok((kind, object))
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn malformed(error: wire::Malformed) -> Status {
    Status::bad_request(format!("proto: {error}"))
}
