//! Text between quotes as Go's `strconv.Quote` writes it: messages show what clients have sent, control characters among it.
//!
//! Go's strings hold whatever bytes a client has sent in an address. Those that are no text are here the last characters that there are,
//! which nobody writes ([`text_of`]): between quotes they are shown as the bytes, and elsewhere in an answer replaced ([`replace_bytes`]).

use crate::Value;
use std::fmt::{self, Write};

/// What is added to a byte from `0x80` on.
const BYTES: u32 = 0x10_ff00;

/// Bytes as text, those among them that are none as characters of their own.
pub fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let mut text = String::new();
        for chunk in error.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().filter_map(|byte| char::from_u32(BYTES + u32::from(*byte))));
        }
        text
    })
}

/// The bytes of what [`text_of`] gave.
pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

/// The byte that a character of [`text_of`] stands for.
fn byte_of(c: char) -> Option<u32> {
    u32::from(c).checked_sub(BYTES).filter(|byte| *byte >= 0x80)
}

/// Leaves of such characters in an answer what Go's JSON leaves of the bytes.
pub fn replace_bytes(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(|c: char| byte_of(c).is_some()) => {
            *text = text.chars().map(|c| if byte_of(c).is_some() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        }
        Value::Array(items) => items.iter_mut().for_each(replace_bytes),
        Value::Object(fields) => fields.values_mut().for_each(replace_bytes),
        _ => {}
    }
}

/// A text that is shown between double quotes.
pub struct Quoted<'t>(pub &'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.0.chars().try_for_each(|c| character(f, c, '"'))?;
        f.write_char('"')
    }
}

/// A character that is shown between single quotes.
pub struct QuotedChar(pub char);

impl fmt::Display for QuotedChar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('\'')?;
        character(f, self.0, '\'')?;
        f.write_char('\'')
    }
}

fn character(f: &mut fmt::Formatter<'_>, c: char, quote: char) -> fmt::Result {
    match c {
        '\u{7}' => f.write_str("\\a"),
        '\u{8}' => f.write_str("\\b"),
        '\u{c}' => f.write_str("\\f"),
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        '\u{b}' => f.write_str("\\v"),
        '\\' => f.write_str("\\\\"),
        c if c == quote => write!(f, "\\{c}"),
        c if c < ' ' || c == '\u{7f}' => write!(f, "\\x{:02x}", u32::from(c)),
        c if c.is_ascii() || is_shown(c) => f.write_char(c),
        c if u32::from(c) < 0x1_0000 => write!(f, "\\u{:04x}", u32::from(c)),
        c => match byte_of(c) {
            Some(byte) => write!(f, "\\x{byte:02x}"),
            None => write!(f, "\\U{:08x}", u32::from(c)),
        },
    }
}

/// Whether a character above ASCII stands for itself. One that joins the one before it is looked at behind another: Rust shows it so
/// there alone, Go everywhere.
fn is_shown(c: char) -> bool {
    let mut pair = [b'a', 0, 0, 0, 0];
    let end = 1 + c.encode_utf8(&mut pair[1..]).len();
    std::str::from_utf8(&pair[..end]).is_ok_and(|pair| pair.escape_debug().count() == 2) && !c.is_whitespace()
}

/// Whether Go calls a character printable: of blanks the plain one alone.
pub fn is_print(c: char) -> bool {
    c == ' ' || if c.is_ascii() { c.is_ascii_graphic() } else { is_shown(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_shown_as_bytes_and_replaced() {
        let text = text_of(b"a\xff\xe2\x82b\xe2\x82\xac".to_vec());
        assert_eq!(Quoted(&text).to_string(), r#""a\xff\xe2\x82b€""#);
        let mut told = serde_json::json!({"message": [text], "code": 404});
        replace_bytes(&mut told);
        assert_eq!(told, serde_json::json!({"message": ["a\u{fffd}\u{fffd}\u{fffd}b€"], "code": 404}));
    }

    #[test]
    fn as_go_quotes() {
        assert_eq!(Quoted("a\0\u{1}\u{7f}\t\n\"\\é€😀\u{a0}\u{2028}\u{feff}'").to_string(), r#""a\x00\x01\x7f\t\n\"\\é€😀\u00a0\u2028\ufeff'""#);
        assert_eq!(Quoted("❤\u{fe0f}e\u{301}\u{200d}").to_string(), "\"❤\u{fe0f}e\u{301}\\u200d\"", "marks are shown, joiners are not");
        assert!([' ', 'a', 'é', '\u{301}', '😀'].into_iter().all(is_print) && !['\n', '\u{7f}', '\u{a0}', '\u{200b}', '\u{2028}'].into_iter().any(is_print));
        assert_eq!([QuotedChar('"'), QuotedChar('\''), QuotedChar('\0'), QuotedChar('x')].map(|c| c.to_string()), ["'\"'", r"'\''", r"'\x00'", "'x'"]);
    }
}
