//! Decoding errors in upstream's words: Go's JSON decoder's, and the API handlers' around them.

use super::after_string;
use crate::{gvk::Gvk, quote::QuotedChar, status::Status};
use serde_json::error::Category;

/// How much of a body that makes no sense is shown, in bytes, as upstream does.
const SUMMARY_LIMIT: usize = 30;

/// The body is of the kind, but cannot be decoded.
pub(super) fn cannot_be_handled(kind: Option<&Gvk>, message: &str) -> Status {
    match kind {
        Some(Gvk { version, kind, .. }) => Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {message}")),
        None => Status::bad_request(message),
    }
}

/// The message with a number in it as the body spells it; the parser has only told its value.
pub(super) fn as_spelled(message: String, number: Option<f64>, bytes: &[u8]) -> String {
    let Some(number) = number else { return message };
    let shown = format!("number {number:?}");
    if !message.contains(&shown) {
        return message;
    }
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = after_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..].iter().take_while(|b| b.is_ascii_digit() || b"+-.eE".contains(b)).count();
                let token = std::str::from_utf8(&bytes[at..at + length]).unwrap_or_default();
                if token.parse::<i64>().is_err() && token.parse() == Ok(number) {
                    return message.replacen(&shown, &format!("number {token}"), 1);
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    message
}

/// The body is not even JSON.
pub(super) fn unrecognized(kind: Option<&Gvk>, message: &str, bytes: &[u8]) -> Status {
    no_object(kind, &format!("couldn't get version/kind; json parse error: {message}"), bytes)
}

/// The body is JSON and no object.
pub(super) fn unrecognized_type(kind: Option<&Gvk>, bytes: &[u8]) -> Status {
    let found = match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        _ => "number",
    };
    let go_type = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    unrecognized(kind, &format!("json: cannot unmarshal {found} into Go value of type {go_type}"), bytes)
}

/// The body is no object at all.
pub(super) fn no_object(kind: Option<&Gvk>, message: &str, bytes: &[u8]) -> Status {
    let kind = kind.map_or("", |k| k.kind.as_str());
    let summary = summary(bytes);
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {message} ({summary})"))
}

fn summary(bytes: &[u8]) -> String {
    let (shown, more) = if bytes.len() > SUMMARY_LIMIT { (&bytes[..SUMMARY_LIMIT], " ...") } else { (bytes, "") };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// A bracket that opens a level too many.
pub(super) fn too_deep(bracket: char) -> String {
    format!("invalid character '{bracket}' exceeded max depth")
}

/// A syntax error as Go's decoder says it.
pub(super) fn syntax(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.classify() == Category::Eof {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let place = if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("key must be a string") || text.starts_with("trailing comma") {
        "looking for beginning of object key string"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("control character") {
        "in string literal"
    } else {
        "looking for beginning of value"
    };
    match character(bytes, error.line(), error.column()) {
        Some(c) => format!("invalid character {} {place}", QuotedChar(c)),
        None => "unexpected end of JSON input".to_owned(),
    }
}

/// The character at a position as the parser counts it: lines from 1, columns in bytes from 1.
fn character(bytes: &[u8], line: usize, column: usize) -> Option<char> {
    let line = bytes.split(|b| *b == b'\n').nth(line.checked_sub(1)?)?;
    let rest = line.get(column.saturating_sub(1)..)?;
    let shown = &rest[..rest.len().min(4)];
    String::from_utf8_lossy(shown).chars().next()
}
