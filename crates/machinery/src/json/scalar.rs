//! Scalars with a form of their own: quantities, times, bytes. Canonical ones, nearly all of them, are recognised without
//! being parsed.

use crate::{
    Map, Value, quantity,
    schema::{Type, TypeRef},
    time::layout,
};
use base64::{
    Engine, alphabet,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
};

/// The canonical spelling of a quantity, as Go keeps it.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    let text = text.trim();
    if is_canonical_quantity(text) {
        return Ok(text.to_owned());
    }
    quantity::canonical(text).map_err(|e| e.to_string())
}

/// Up to three digits without a leading zero, and a common suffix: always canonical.
fn is_canonical_quantity(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    number == "0" && suffix.is_empty()
        || (1..=3).contains(&digits) && !number.starts_with('0') && matches!(suffix, "" | "m" | "k" | "M" | "G" | "Ki" | "Mi" | "Gi" | "Ti")
}

/// A time in UTC, in whole seconds or in microseconds.
pub(super) fn time(text: &str, micro: bool) -> Result<String, String> {
    if is_canonical_time(text.as_bytes(), micro) {
        return Ok(text.to_owned());
    }
    let (seconds, nanos) = layout::parse(text, micro)?;
    crate::unix::format(seconds, micro.then_some(nanos)).ok_or_else(|| layout::unfit(text, micro))
}

/// Whether a value of a type is the time that is none to Go: it is written as `null`.
pub(super) fn is_no_time(ty: Option<TypeRef<'_>>, text: &str) -> bool {
    matches!(text, "0001-01-01T00:00:00Z" | "0001-01-01T00:00:00.000000Z")
        && ty.is_some_and(|ty| !ty.schema.is_lenient() && matches!(ty.get(), Type::Time | Type::MicroTime))
}

fn is_canonical_time(text: &[u8], micro: bool) -> bool {
    const SECONDS: &[u8] = b"0000-00-00T00:00:00Z";
    const MICROS: &[u8] = b"0000-00-00T00:00:00.000000Z";
    let form = if micro { MICROS } else { SECONDS };
    let digits = |a: usize, highest: u8| (text[a] - b'0') * 10 + (text[a + 1] - b'0') <= highest;
    text.len() == form.len()
        && form.iter().zip(text).all(|(f, c)| if *f == b'0' { c.is_ascii_digit() } else { f == c })
        && digits(5, 12)
        && digits(8, 28)
        && &text[5..7] != b"00"
        && &text[8..10] != b"00"
        && digits(11, 23)
        && digits(14, 59)
        && digits(17, 59)
}

/// What Go reads as base64: the bits of the last symbol that no byte needs may be any.
const LOOSE: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Base64 text, checked, as Go writes it again: without line breaks.
pub(super) fn bytes(text: &str) -> Result<String, String> {
    let bytes = base64(text)?;
    let plain = plain(text);
    // Without filling there are no other bits.
    Ok(if plain.ends_with('=') { in_base64(&bytes) } else { plain })
}

/// Bytes as Go writes them.
pub fn in_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What a base64 text stands for.
///
/// # Errors
/// It is none, in Go's words.
pub fn base64(text: &str) -> Result<Vec<u8>, String> {
    LOOSE.decode(plain(text)).map_err(|_| format!("illegal base64 data at input byte {}", corrupt(text.as_bytes())))
}

/// Where Go's decoder gives up in what is no base64: it reads four symbols at a time and steps over line breaks among them.
fn corrupt(text: &[u8]) -> usize {
    let breaks = |from: usize| text[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let (mut at, mut symbols) = (0, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'\r' | b'\n' => {}
            b'=' if symbols < 2 => return at,
            b'=' => {
                let next = at + 1 + breaks(at + 1);
                return match text.get(next) {
                    // Of two there is one.
                    None if symbols == 2 => text.len(),
                    Some(b'=') if symbols == 2 => next + 1 + breaks(next + 1),
                    Some(_) if symbols == 2 => next - 1,
                    _ => next,
                };
            }
            b'+' | b'/' => symbols = (symbols + 1) % 4,
            byte if byte.is_ascii_alphanumeric() => symbols = (symbols + 1) % 4,
            _ => return at,
        }
        at += 1;
    }
    at - symbols
}

fn plain(text: &str) -> String {
    if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "") } else { text.to_owned() }
}

/// What Go makes of a `null` among list elements or map values.
pub(super) fn zero(ty: TypeRef<'_>) -> Value {
    match ty.get() {
        Type::Object(_) => Value::Object(Map::new()),
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => Value::String("0".into()),
        _ => Value::Null,
    }
}

/// Why upstream's converter from maps does not make a plain type of a JSON value; `None` for types that decode themselves. `named`: what
/// Go calls the type, where it is one of its own.
pub(super) fn unconverted(ty: TypeRef<'_>, named: &str, found: &str) -> Option<String> {
    let wanted = match ty.get() {
        Type::Int32 | Type::Int64 | Type::Double | Type::Bool => go_type(ty),
        Type::String => "string".to_owned(),
        Type::Object(_) => return Some(format!("cannot restore struct from: {}", kind_of(found))),
        Type::List { .. } | Type::Bytes => return Some(format!("cannot restore slice from {}", kind_of(found))),
        Type::Map { .. } => return Some(format!("cannot restore map from {}", kind_of(found))),
        _ => return None,
    };
    let number = found.starts_with("number");
    // Go converts between numbers, and a whole one to a text, and this converter refuses it; to all else nothing leads.
    match (number, ty.get()) {
        (true, Type::Int32 | Type::Int64) => Some(format!("cannot convert float64 to {wanted}")),
        (true, Type::String) if kind_of(found) == "int64" => {
            Some(format!("cannot convert int64 to {}", if matches!(named, "" | "-") { "string" } else { named }))
        }
        _ => Some(format!("unrecognized type: {wanted}")),
    }
}

/// A number as Go writes it.
pub(super) fn go_number(number: &str) -> String {
    number
        .parse::<serde_json::Number>()
        .map_or_else(|_| number.to_owned(), |number| String::from_utf8_lossy(&super::encode(&Value::Number(number))).into_owned())
}

/// Go's name of the kind of a JSON value.
fn kind_of(found: &str) -> &'static str {
    match found {
        "array" => "slice",
        "object" => "map",
        "bool" => "bool",
        "string" => "string",
        number if number.trim_start_matches("number ").parse::<i64>().is_ok() => "int64",
        _ => "float64",
    }
}

/// The Go spelling of a type that the facts do not name.
pub(super) fn go_type(ty: TypeRef<'_>) -> String {
    match ty.get() {
        Type::Object(object) => {
            let mut parts = object.name.rsplit('.');
            let name = parts.next().unwrap_or_default();
            format!("{}.{name}", parts.next().unwrap_or_default())
        }
        Type::List { elem, .. } => format!("[]{}", go_type(ty.to(*elem))),
        Type::Map { elem, .. } => format!("map[string]{}", go_type(ty.to(*elem))),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Fields => "v1.FieldsV1".into(),
        Type::RawExtension => "runtime.RawExtension".into(),
        // Scalars that decode themselves from text.
        _ => "string".into(),
    }
}

/// What Go has after it has read a value into what it had read before: maps and structs say what either says, and so do the elements of a
/// list, as many as the later one has.
pub(super) fn read_into(ty: TypeRef<'_>, old: Value, new: Value) -> Value {
    match (ty.get(), old, new) {
        (Type::Map { .. }, Value::Object(mut old), Value::Object(new)) => {
            old.extend(new);
            Value::Object(old)
        }
        (Type::Object(object), Value::Object(mut old), Value::Object(new)) => {
            for (name, value) in new {
                let value = match (object.field(&name), old.remove(&name)) {
                    (Some(field), Some(before)) => read_into(ty.to(field.ty), before, value),
                    _ => value,
                };
                old.insert(name, value);
            }
            Value::Object(old)
        }
        (Type::List { elem, .. }, Value::Array(old), Value::Array(new)) => {
            let mut old = old.into_iter();
            let read = |value| match old.next() {
                Some(before) => read_into(ty.to(*elem), before, value),
                None => value,
            };
            new.into_iter().map(read).collect()
        }
        (_, _, new) => new,
    }
}
