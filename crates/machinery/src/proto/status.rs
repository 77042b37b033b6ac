//! The message of a `Status`, byte for byte as Go's generated code writes it: by tags, and what is no pointer also where it is
//! empty. It has no time and nothing drawn in it, so that people compare the bytes of two answers.
//!
//! Source: `apimachinery/pkg/apis/meta/v1/generated.proto`.

use super::wire::{message_field, string_field, varint_field};
use crate::{Value, schema::TypeRef};

/// Whether a type is that of a `Status`. None is ever stored.
pub(super) fn is_one(ty: TypeRef<'_>) -> bool {
    ty.gvk().is_some_and(|kind| kind.group.is_empty() && kind.kind == "Status")
}

/// The message of a `Status`.
pub(super) fn message(status: &Value, out: &mut Vec<u8>) {
    message_field(out, 1, |out| {
        let meta = &status["metadata"];
        texts(meta, &["selfLink", "resourceVersion", "continue"], 1, out);
        if let Some(count) = meta["remainingItemCount"].as_i64() {
            varint_field(out, 4, count.cast_unsigned());
        }
        if meta["shardInfo"].is_object() {
            message_field(out, 5, |out| texts(&meta["shardInfo"], &["selector"], 1, out));
        }
    });
    texts(status, &["status", "message", "reason"], 2, out);
    if status["details"].is_object() {
        message_field(out, 5, |out| details(&status["details"], out));
    }
    varint_field(out, 6, number(&status["code"]));
}

fn details(details: &Value, out: &mut Vec<u8>) {
    texts(details, &["name", "group", "kind"], 1, out);
    for cause in details["causes"].as_array().into_iter().flatten() {
        message_field(out, 4, |out| texts(cause, &["reason", "message", "field"], 1, out));
    }
    varint_field(out, 5, number(&details["retryAfterSeconds"]));
    texts(details, &["uid"], 6, out);
}

/// Texts whose tags follow one another.
fn texts(value: &Value, names: &[&str], first_tag: u32, out: &mut Vec<u8>) {
    for (tag, name) in (first_tag..).zip(names) {
        string_field(out, tag, value[*name].as_str().unwrap_or_default().as_bytes());
    }
}

fn number(value: &Value) -> u64 {
    value.as_i64().unwrap_or_default().cast_unsigned()
}
