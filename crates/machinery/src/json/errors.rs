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
    let found = numbers(bytes).find(|token| token.parse::<i64>().is_err() && token.parse() == Ok(number));
    match found {
        Some(token) => message.replacen(&shown, &format!("number {token}"), 1),
        None => message,
    }
}

/// Whether a zero with a sign is spelled as no whole number is.
pub(super) fn has_float_zero(bytes: &[u8]) -> bool {
    numbers(bytes).any(|token| token.starts_with('-') && token != "-0" && token.parse() == Ok(0.0))
}

/// The numbers of a body as they are spelled.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            match bytes.get(at)? {
                b'"' => at = after_string(bytes, at),
                b'-' | b'0'..=b'9' => {
                    let length = bytes[at..].iter().take_while(|b| is_of_number(b)).count();
                    at += length;
                    return std::str::from_utf8(&bytes[at - length..at]).ok();
                }
                _ => at += 1,
            }
        }
    })
}

fn is_of_number(byte: &u8) -> bool {
    byte.is_ascii_digit() || b"+-.eE".contains(byte)
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
    unrecognized_as(kind, found, bytes)
}

/// What is read of an object before all else.
pub(crate) const TYPE_META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// As it, where the type is known.
pub(super) fn unrecognized_as(kind: Option<&Gvk>, found: &str, bytes: &[u8]) -> Status {
    unrecognized(kind, &format!("json: cannot unmarshal {found} into Go value of type {TYPE_META}"), bytes)
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
    let text = error.to_string();
    if error.classify() == Category::Eof {
        // Go's scanner is given a space at the end, which no half of a word and no half of a number takes.
        let place = if text.starts_with("EOF while parsing a value") { in_literal(bytes, bytes.len()).or_else(|| in_half_a_number(bytes)) } else { None };
        return place.map_or_else(|| "unexpected end of JSON input".to_owned(), |place| format!("invalid character ' ' {place}"));
    }
    let Some((at, found)) = offset(bytes, error.line(), error.column()).and_then(|at| Some((at, character(bytes, at)?))) else {
        return "unexpected end of JSON input".to_owned();
    };
    if text.starts_with("expected ident")
        && let Some(place) = in_literal(bytes, at)
    {
        return format!("invalid character {} {place}", QuotedChar(found));
    }
    let place = if text.starts_with("invalid escape") {
        "in string escape code"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("key must be a string") || text.starts_with("trailing comma") && found != ']' {
        "looking for beginning of object key string"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("control character") {
        "in string literal"
    } else if text.starts_with("invalid number") {
        in_number(bytes, at)
    } else {
        "looking for beginning of value"
    };
    format!("invalid character {} {place}", QuotedChar(found))
}

/// Where Go's scanner is within one of the three words.
fn in_literal(bytes: &[u8], at: usize) -> Option<String> {
    let begin = bytes[..at].iter().rposition(|byte| !byte.is_ascii_lowercase()).map_or(0, |before| before + 1);
    let begun = std::str::from_utf8(&bytes[begin..at]).ok().filter(|begun| !begun.is_empty())?;
    let word = ["true", "false", "null"].into_iter().find(|word| word.starts_with(begun) && word.len() > begun.len())?;
    let next = word.as_bytes().get(begun.len()).copied().map(char::from)?;
    Some(format!("in literal {word} (expecting '{next}')"))
}

/// Where Go's scanner is when bytes end within a number.
fn in_half_a_number(bytes: &[u8]) -> Option<String> {
    bytes.last().filter(|last| b"-+.eE".contains(last)).map(|_| in_number(bytes, bytes.len()).to_owned())
}

/// Where Go's scanner is when a number meets a character that it cannot have.
fn in_number(bytes: &[u8], at: usize) -> &'static str {
    let before = |n: usize| at.checked_sub(n).and_then(|at| bytes.get(at)).copied().unwrap_or_default();
    match (before(2), before(1)) {
        (_, b'.') => "after decimal point in numeric literal",
        (_, b'e' | b'E') | (b'e' | b'E', b'+' | b'-') => "in exponent of numeric literal",
        (_, b'-') => "in numeric literal",
        // A zero is a whole number: what follows it stands after a value.
        _ => match innermost(&bytes[..at]) {
            Some(b'{') => "after object key:value pair",
            Some(_) => "after array element",
            None => "after top-level value",
        },
    }
}

/// The bracket that is open at the end of these bytes.
fn innermost(bytes: &[u8]) -> Option<u8> {
    let (mut open, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = after_string(bytes, at);
                continue;
            }
            b'{' | b'[' => open.push(*byte),
            b'}' | b']' => drop(open.pop()),
            _ => {}
        }
        at += 1;
    }
    open.pop()
}

/// The body cannot be read: it is no JSON, or has a number that no float holds, at which Go's decoder gives up later.
pub(super) fn unreadable(kind: Option<&Gvk>, bytes: &[u8], error: &serde_json::Error) -> Status {
    match out_of_range(bytes, error) {
        Some(token) => cannot_be_handled(kind, &format!("json: cannot unmarshal number {token} into Go value of type float64")),
        None => unrecognized(kind, &syntax(bytes, error), bytes),
    }
}

/// The number that no float holds, if that is the error.
pub(super) fn out_of_range(bytes: &[u8], error: &serde_json::Error) -> Option<String> {
    let at = offset(bytes, error.line(), error.column()).filter(|_| error.to_string().starts_with("number out of range"))?;
    let from = at - bytes[..at].iter().rev().take_while(|b| is_of_number(b)).count();
    let token: Vec<u8> = bytes[from..].iter().copied().take_while(is_of_number).collect();
    Some(String::from_utf8_lossy(&token).into_owned())
}

/// The place that the parser means: lines from 1, columns in bytes from 1; column 0 is the end of the line before.
fn offset(bytes: &[u8], line: usize, column: usize) -> Option<usize> {
    let mut start = 0;
    for _ in 1..line {
        start += bytes.get(start..)?.iter().position(|b| *b == b'\n')? + 1;
    }
    (start + column).checked_sub(1)
}

/// Go's scanner goes by bytes: one that is no ASCII is told as the character of its number.
fn character(bytes: &[u8], at: usize) -> Option<char> {
    bytes.get(at).copied().map(char::from)
}
