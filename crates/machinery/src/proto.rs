//! `application/vnd.kubernetes.protobuf`: values to and from the wire, guided by the schema's tags.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message that names apiVersion and kind and holds the object's
//! own message (`raw`). Generated Go code writes every field that is no pointer, zeros included; a reader cannot tell an
//! absent one from a zero, so this encoder writes what the value holds and nothing else, and the decoder drops the zeros
//! that Go's JSON leaves out. Unknown tags are skipped, as newer clients may send them. A `Status` alone has the original's bytes.
//!
//! Source: `staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf` and the published `generated.proto` files.

mod decode;
mod encode;
mod scan;
mod status;
mod stored;
#[cfg(test)]
mod tests;
mod texts;
pub(crate) mod wire;

use crate::{
    Value,
    gvk::Gvk,
    json::Texts,
    quote::Quoted,
    schema::{self, TypeRef},
    status::Status,
};
use wire::{Reader, message_field, short_varint, string_field, string_head};

/// What every enveloped body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Encodes an object with its envelope; the kind comes from the type.
pub fn encode(ty: TypeRef<'_>, value: &Value) -> Vec<u8> {
    encode_spelled(ty, value, Texts::NONE)
}

/// As [`encode`], with free-form values in their texts.
pub fn encode_spelled(ty: TypeRef<'_>, value: &Value, texts: &Texts) -> Vec<u8> {
    let raw = encode_raw_spelled(ty, value, texts);
    // The same message may be a kind of more than one version.
    let (api_version, kind) = match (ty.gvk(), text(value, "apiVersion")) {
        (Some(gvk), own) if own.is_empty() => (gvk.api_version(), gvk.kind.clone()),
        (Some(gvk), own) => (own, gvk.kind.clone()),
        (None, own) => (own, text(value, "kind")),
    };
    envelope(&api_version, &kind, &raw)
}

/// As [`encode`], under the version and kind that the object itself says, even if it says none.
pub fn encode_said(ty: TypeRef<'_>, value: &Value) -> Vec<u8> {
    envelope(&text(value, "apiVersion"), &text(value, "kind"), &encode_raw(ty, value))
}

/// Encodes an object's own message, without the envelope.
pub fn encode_raw(ty: TypeRef<'_>, value: &Value) -> Vec<u8> {
    encode_raw_spelled(ty, value, Texts::NONE)
}

/// As [`encode_raw`], with free-form values in their texts.
pub fn encode_raw_spelled(ty: TypeRef<'_>, value: &Value, texts: &Texts) -> Vec<u8> {
    // The wire is about half as long as the JSON; one page holds most objects.
    let mut out = Vec::with_capacity(1024);
    if status::is_one(ty) {
        status::message(value, &mut out);
    } else {
        encode::message(ty, value, texts, &mut out);
    }
    out
}

/// Encodes the own message of an object from its JSON as it is stored ([`crate::json::encode_with_hole`]), behind what is in
/// `out`; gives `None` for JSON that is not as it would be written, which is to be encoded by its tree. Both are the same bytes.
pub fn encode_stored(ty: TypeRef<'_>, json: &[u8], out: &mut Vec<u8>) -> Option<()> {
    stored::message(ty, json, out)
}

/// The bytes of what [`encode_stored`] writes, without writing it.
pub fn stored_len(ty: TypeRef<'_>, json: &[u8]) -> Option<usize> {
    stored::length(ty, json)
}

/// The texts of the free-form values in an enveloped body.
pub fn texts(ty: TypeRef<'_>, bytes: &[u8]) -> Texts {
    let mut found = Texts::default();
    if Texts::are_kept(ty)
        && let Ok((_, _, raw)) = open_envelope(bytes)
    {
        // What is malformed has been refused before.
        let _ = texts::walk(ty, raw, &mut found);
    }
    found
}

/// Wraps an object's message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 32);
    envelope_head(&mut out, api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(&ENVELOPE_TAIL);
    out
}

/// What stands before a message of so many bytes in its envelope.
fn envelope_head(out: &mut Vec<u8>, api_version: &str, kind: &str, raw_bytes: usize) {
    out.extend_from_slice(MAGIC);
    message_field(out, 1, |out| {
        string_field(out, 1, api_version.as_bytes());
        string_field(out, 2, kind.as_bytes());
    });
    string_head(out, 2, raw_bytes);
}

/// Content encoding and type after the message: none, as the original writes them.
const ENVELOPE_TAIL: [u8; 4] = [3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// The parts of an enveloped body: apiVersion, kind, the object's message.
///
/// # Errors
/// 400 if it is none.
pub fn open_envelope(bytes: &[u8]) -> Result<(String, String, &[u8]), Status> {
    let Some(unknown) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return Err(Status::bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"));
    };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::of("Unknown", unknown);
    while let Some((tag, field)) = reader.next().map_err(malformed)? {
        match tag {
            1 => {
                let mut meta = Reader::of("TypeMeta", field.bytes().map_err(|why| malformed(why.of_field(|| "TypeMeta".to_owned())))?);
                while let Some((tag, field)) = meta.next().map_err(malformed)? {
                    match tag {
                        1 => api_version = field.text().map_err(malformed)?.into_owned(),
                        2 => kind = field.text().map_err(malformed)?.into_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = field.bytes().map_err(|why| malformed(why.of_field(|| "Raw".to_owned())))?,
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
    let (gvk, value) = decode_at(bytes, 0)?;
    // Messages and the JSON in them may each be as deep. A level takes a byte at least, so most bodies need no look.
    if bytes.len() <= crate::json::DEPTH_MAX || crate::json::is_readable(&value) { Ok((gvk, value)) } else { Err(malformed(wire::Malformed::Depth)) }
}

/// As [`decode`], inside `depth` other messages: a raw extension may hold an envelope again.
fn decode_at(bytes: &[u8], depth: usize) -> Result<(Gvk, Value), Status> {
    let (api_version, kind, raw) = open_envelope(bytes)?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let gvk = Gvk { group: group.to_owned(), version: version.to_owned(), kind: kind.clone() };
    let Some(ty) = schema::builtin().kind(&gvk) else {
        return Err(Status::bad_request(format!("no kind {} is registered for version {} in scheme \"knarr\"", Quoted(&kind), Quoted(&api_version))));
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

/// As [`decode_raw`], of somebody's body, which is no deeper than it can be read again.
///
/// # Errors
/// 400 if the message is malformed or too deep.
pub fn decode_body(ty: TypeRef<'_>, bytes: &[u8]) -> Result<Value, Status> {
    let value = decode_raw(ty, bytes)?;
    // A level takes a byte at least, so most bodies need no look.
    if bytes.len() <= crate::json::DEPTH_MAX || crate::json::is_readable(&value) { Ok(value) } else { Err(malformed(wire::Malformed::Depth)) }
}

/// What stands around the items of an encoded list.
pub struct ListFrame {
    /// Before the first.
    pub head: Vec<u8>,
    /// After the last.
    pub tail: [u8; 4],
}

impl ListFrame {
    /// For items whose messages, each after its [`ItemHead`], have so many bytes.
    pub fn new(list_gvk: &Gvk, list_meta: &Value, items_bytes: usize) -> ListFrame {
        let mut meta = Vec::with_capacity(64);
        if let Some(ty) = schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
            message_field(&mut meta, 1, |out| encode::message(ty, list_meta, Texts::NONE, out));
        }
        let mut head = Vec::with_capacity(meta.len() + 64);
        envelope_head(&mut head, &list_gvk.api_version(), &list_gvk.kind, meta.len() + items_bytes);
        head.extend_from_slice(&meta);
        ListFrame { head, tail: ENVELOPE_TAIL }
    }
}

/// What stands before an item of a list: its tag and its length.
#[derive(Debug, Clone, Copy)]
pub struct ItemHead {
    bytes: [u8; 11],
    used: usize,
}

impl ItemHead {
    /// For a message of so many bytes.
    pub fn new(message_bytes: usize) -> ItemHead {
        let (length, used) = short_varint(message_bytes as u64);
        let mut bytes = [2 << 3 | 2; 11];
        bytes[1..].copy_from_slice(&length);
        ItemHead { bytes, used: used + 1 }
    }
}

impl AsRef<[u8]> for ItemHead {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

/// Encodes a list from its items' messages, without decoding them.
pub fn list<'i>(list_gvk: &Gvk, list_meta: &Value, items: impl Iterator<Item = &'i [u8]> + Clone) -> Vec<u8> {
    let bytes = items.clone().map(|item| ItemHead::new(item.len()).as_ref().len() + item.len()).sum();
    let ListFrame { head: mut out, tail } = ListFrame::new(list_gvk, list_meta, bytes);
    out.reserve(bytes + tail.len());
    for item in items {
        out.extend_from_slice(ItemHead::new(item.len()).as_ref());
        out.extend_from_slice(item);
    }
    out.extend_from_slice(&tail);
    out
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
            1 => kind = field.text().map_err(malformed)?.into_owned(),
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

#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn malformed(error: wire::Malformed) -> Status {
    Status::bad_request(error.to_string())
}
