//! Constants: the values of number, string and bytes tokens.

use std::sync::Arc;

use crate::ast::Literal;

/// A whole number, decimal or hexadecimal.
pub(super) fn int(text: &str, negative: bool) -> Result<Literal, &'static str> {
    let (digits, radix) = radix(text);
    let signed = if negative { format!("-{digits}") } else { digits.to_string() };
    i64::from_str_radix(&signed, radix).map(Literal::Int).map_err(|_| "invalid int literal")
}

/// A whole number with its `u`.
pub(super) fn uint(text: &str) -> Result<Literal, &'static str> {
    let (digits, radix) = radix(&text[..text.len() - 1]);
    u64::from_str_radix(digits, radix).map(Literal::Uint).map_err(|_| "invalid uint literal")
}

fn radix(text: &str) -> (&str, u32) {
    text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16))
}

/// A number with a point or an exponent; one beyond all numbers is none.
pub(super) fn double(text: &str, negative: bool) -> Result<Literal, &'static str> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Literal::Double(if negative { -number } else { number })),
        _ => Err("invalid double literal"),
    }
}

/// A string token's text.
pub(super) fn string(token: &str) -> Result<Literal, &'static str> {
    let bytes = unescape(token, false)?;
    String::from_utf8(bytes).map(|text| Literal::String(text.into())).map_err(|_| "unable to unescape string")
}

/// A bytes token's bytes.
pub(super) fn bytes(token: &str) -> Result<Literal, &'static str> {
    Ok(Literal::Bytes(Arc::from(unescape(&token[1..], true)?)))
}

/// What stands between the quotes. All ends of lines are one character.
fn unescape(token: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let text = token.replace("\r\n", "\n").replace('\r', "\n");
    let (raw, text) = text.strip_prefix(['r', 'R']).map_or((false, text.as_str()), |text| (true, text));
    let quotes = if text.len() >= 6 && (text.starts_with("\"\"\"") || text.starts_with("'''")) { 3 } else { 1 };
    let inside = &text[quotes..text.len() - quotes];
    if raw || !inside.contains('\\') {
        return Ok(inside.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut parts = inside.split('\\');
    out.extend(parts.next().unwrap_or_default().as_bytes());
    while let Some(part) = parts.next() {
        if part.is_empty() {
            // A backslash that was escaped: what follows up to the next one is text.
            out.push(b'\\');
            out.extend(parts.next().unwrap_or_default().as_bytes());
            continue;
        }
        out.extend(one(part, is_bytes)?);
    }
    Ok(out)
}

/// One escape and the text behind it.
fn one(part: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let code = part.as_bytes()[0];
    let simple = match code {
        b'a' => Some(7),
        b'b' => Some(8),
        b'f' => Some(12),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(11),
        b'\'' | b'"' | b'`' | b'?' => Some(code),
        _ => None,
    };
    if let Some(byte) = simple {
        return Ok([&[byte], &part.as_bytes()[1..]].concat());
    }
    let (from, length, radix) = match code {
        b'x' | b'X' => (1, 2, 16),
        b'u' if !is_bytes => (1, 4, 16),
        b'U' if !is_bytes => (1, 8, 16),
        b'0'..=b'3' => (0, 3, 8),
        _ => return Err("unable to unescape string"),
    };
    let digits = part.get(from..from + length).ok_or("unable to unescape string")?;
    let number = u32::from_str_radix(digits, radix).map_err(|_| "unable to unescape string")?;
    let rest = &part.as_bytes()[from + length..];
    if is_bytes {
        return Ok([&[number as u8], rest].concat());
    }
    let char = char::from_u32(number).ok_or("invalid unicode code point")?;
    Ok([char.encode_utf8(&mut [0; 4]).as_bytes(), rest].concat())
}
