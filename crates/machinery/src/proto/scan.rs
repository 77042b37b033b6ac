//! JSON as [`crate::json`] writes it, value by value where it lies. At anything else each step gives up (`None`).

use crate::json::DEPTH_MAX;
use std::{borrow::Cow, cmp::Ordering};

/// Text between quotes, and whether there are escapes in it.
pub(super) struct Raw<'j> {
    pub(super) text: &'j [u8],
    pub(super) escaped: bool,
}

impl<'j> Raw<'j> {
    /// Without escapes.
    pub(super) fn plain(&self) -> Option<Cow<'j, [u8]>> {
        if self.escaped { plain(self.text).map(Cow::Owned) } else { Some(Cow::Borrowed(self.text)) }
    }
}

/// A place in JSON.
pub(super) struct Scan<'j> {
    pub(super) json: &'j [u8],
    pub(super) at: usize,
    /// How many objects and lists are entered.
    depth: usize,
}

impl<'j> Scan<'j> {
    pub(super) fn new(json: &'j [u8]) -> Self {
        Scan { json, at: 0, depth: 0 }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.json.len()
    }

    pub(super) fn first(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    /// Steps into an object or a list that ends with `end`; whether there is anything in it.
    pub(super) fn enter(&mut self, end: u8) -> Option<bool> {
        self.depth += 1;
        if self.depth > DEPTH_MAX || self.first()? != end - 2 {
            return None;
        }
        self.at += 1;
        let empty = self.first()? == end;
        if empty {
            self.leave();
        }
        Some(!empty)
    }

    /// Steps behind a member; whether there is another.
    pub(super) fn next(&mut self, end: u8) -> Option<bool> {
        match self.first()? {
            b',' => {
                self.at += 1;
                Some(true)
            }
            byte if byte == end => {
                self.leave();
                Some(false)
            }
            _ => None,
        }
    }

    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// A member's key and its colon.
    pub(super) fn key(&mut self) -> Option<Raw<'j>> {
        let key = self.quoted()?;
        if self.first()? != b':' {
            return None;
        }
        self.at += 1;
        Some(key)
    }

    pub(super) fn quoted(&mut self) -> Option<Raw<'j>> {
        let (json, start) = (self.json, self.at + 1);
        if self.first()? != b'"' {
            return None;
        }
        let (mut at, mut escaped) = (start, false);
        loop {
            match json.get(at)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Some(Raw { text: json.get(start..at)?, escaped })
    }

    pub(super) fn word(&mut self, word: &[u8]) -> Option<()> {
        if !self.json.get(self.at..)?.starts_with(word) {
            return None;
        }
        self.at += word.len();
        Some(())
    }

    pub(super) fn bool(&mut self) -> Option<bool> {
        let bool = self.first()? == b't';
        self.word(if bool { b"true" } else { b"false" })?;
        Some(bool)
    }

    /// The text of a number.
    fn digits(&mut self) -> Option<&'j [u8]> {
        let rest = self.json.get(self.at..)?;
        let length = rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
        self.at += length;
        rest.get(..length)
    }

    pub(super) fn number(&mut self) -> Option<serde_json::Number> {
        serde_json::from_slice(self.digits()?).ok()
    }

    /// A whole number; 0 for what is none.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let (start, text) = (self.at, self.digits()?);
        // Of so many digits none overflows.
        if text.len() <= 18 && text.iter().all(u8::is_ascii_digit) {
            return Some(text.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')));
        }
        self.at = start;
        Some(self.number()?.as_i64().unwrap_or(0))
    }

    /// Steps over a value, however deep; its text.
    pub(super) fn skip(&mut self) -> Option<&'j [u8]> {
        let (start, mut depth) = (self.at, 0_usize);
        loop {
            match self.first()? {
                b'"' => {
                    self.quoted()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                b'-' | b'0'..=b'9' => {
                    self.digits()?;
                }
                _ => return None,
            }
            if depth == 0 {
                return self.json.get(start..self.at);
            }
        }
    }
}

/// Bytes of the longest escape.
const ESCAPE_BYTES: usize = 6;

/// The order of texts between quotes, which is that of their bytes; where they differ in an escape, they are read.
pub(super) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
    let around = at.saturating_sub(ESCAPE_BYTES)..=at;
    if !a[around.clone()].contains(&b'\\') && b[at] != b'\\' {
        return a[at].cmp(&b[at]);
    }
    match (plain(a), plain(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // Nobody's order: the caller gives up.
        _ => Ordering::Equal,
    }
}

/// A text between quotes without its escapes.
fn plain(raw: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(raw.len());
    unescape(raw, |piece| plain.extend_from_slice(piece)).map(|()| plain)
}

/// The pieces of a text between quotes. Halves of characters, which are never stored, are left to the parser.
pub(super) fn unescape(raw: &[u8], mut piece: impl FnMut(&[u8])) -> Option<()> {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        piece(&rest[..at]);
        let mut length = 2;
        match rest.get(at + 1)? {
            plain @ (b'"' | b'\\' | b'/') => piece(&[*plain]),
            b'n' => piece(b"\n"),
            b'r' => piece(b"\r"),
            b't' => piece(b"\t"),
            b'b' => piece(b"\x08"),
            b'f' => piece(b"\x0c"),
            b'u' => {
                length = ESCAPE_BYTES;
                let digits = rest.get(at + 2..at + length)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                let unit = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                piece(char::from_u32(unit)?.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
        rest = rest.get(at + length..)?;
    }
    piece(rest);
    Some(())
}
