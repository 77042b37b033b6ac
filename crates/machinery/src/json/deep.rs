//! JSON that is nested deeper than the parser reads: [`super::DEPTH_MAX`] levels, as the original's decoders take.
//!
//! `serde_json` counts levels and stops at 127, since each is a few frames of the stack. What lies below is rare, so the
//! common path stays with it, and only a body at whose depth it has given up is read here: first it is looked through
//! without recursion (how deep it is, whether it is JSON at all), then it is read by [`Reader`], which knows brackets
//! alone and leaves every scalar to `serde_json`. It reads trees alone: a type's decoder is a thousand functions for each
//! source that it reads from.
//!
//! What is as deep as that is walked, compared, written and dropped by recursion, here and in every crate that holds a
//! [`crate::Value`]. So a thread that may hold one has [`super::STACK_BYTES`] of stack.

#[cfg(test)]
mod tests;

use super::{DEPTH_MAX, bounds::AROUND_MAX};
use crate::Value;
use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, error::Category};
use std::ops::Range;

/// What is wrong with a body.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// It is no JSON.
    Syntax(Error),
    /// The bracket that opens a level too many.
    Depth(char),
}

/// Whether the parser gave up because of the depth alone.
pub(crate) fn is_too_deep(error: &Error) -> bool {
    error.classify() == Category::Syntax && error.to_string().starts_with("recursion limit")
}

/// A reader of what was looked through and has no more than so many levels.
pub(crate) fn reader(bytes: &[u8], levels: usize) -> Result<Reader<'_>, Wrong> {
    let is_json = |bytes| serde_json::from_slice::<IgnoredAny>(bytes);
    match level_too_many(bytes, levels) {
        None => match is_json(bytes) {
            Ok(_) => Ok(Reader { bytes, at: 0 }),
            Err(error) => Err(Wrong::Syntax(error)),
        },
        // What comes first is told.
        Some(at) => match is_json(&bytes[..at]) {
            Err(error) if error.classify() != Category::Eof => Err(Wrong::Syntax(error)),
            _ => Err(Wrong::Depth(char::from(bytes[at]))),
        },
    }
}

/// Reads a value, however deep, with what an answer puts around it.
pub(super) fn read(bytes: &[u8]) -> Result<Value, Error> {
    match reader(bytes, DEPTH_MAX + AROUND_MAX) {
        Ok(mut reader) => Value::deserialize(&mut reader),
        Err(Wrong::Syntax(error)) => Err(error),
        Err(Wrong::Depth(_)) => Err(Error::custom("exceeded max depth")),
    }
}

/// The place of the first bracket that opens more levels than are read.
pub(crate) fn level_too_many(bytes: &[u8], levels: usize) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = after_string(bytes, at) - 1,
            b'[' | b'{' => {
                depth += 1;
                if depth > levels {
                    return Some(at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The place behind a string that begins at a place.
pub(crate) fn after_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The place behind a value of well-formed JSON, however deep it is.
pub(super) fn after_value(json: &[u8], start: usize) -> usize {
    let mut reader = Reader { bytes: json, at: start };
    reader.skip();
    reader.at
}

/// The members of an object or the elements of a list, each with its text. Of what is neither, or broken off, there is no more.
pub(crate) fn members(json: &[u8]) -> Vec<(Option<String>, &[u8])> {
    let mut reader = Reader { bytes: json, at: 0 };
    let keyed = match reader.peek() {
        Some(b'{') => true,
        Some(b'[') => false,
        _ => return Vec::new(),
    };
    let mut members = Vec::new();
    loop {
        reader.at += 1;
        let key = match (keyed, reader.peek()) {
            (true, Some(b'"')) => serde_json::from_slice(reader.scalar()).ok(),
            (true, _) | (false, Some(b']') | None) => return members,
            (false, _) => None,
        };
        if keyed && reader.peek() == Some(b':') {
            reader.at += 1;
        }
        reader.peek();
        let start = reader.at;
        reader.skip();
        members.extend(json.get(start..reader.at).filter(|text| !text.is_empty()).map(|text| (key, text)));
        if reader.peek() != Some(b',') {
            return members;
        }
    }
}

/// Where values stand in well-formed JSON: those at the end of a path, and those on the way to them, each behind what stands in it. `*`
/// is each element of a list. Told with each is how far down the path it stands; what is looked through is read once.
pub fn spans(json: &[u8], path: &[&str]) -> Vec<(usize, Range<usize>)> {
    let mut found = Vec::new();
    Reader { bytes: json, at: 0 }.follow(path, 0, &mut found);
    found
}

/// Reads well-formed JSON.
pub(crate) struct Reader<'de> {
    bytes: &'de [u8],
    at: usize,
}

impl<'de> Reader<'de> {
    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.bytes.get(self.at..)?;
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')).count();
        self.bytes.get(self.at).copied()
    }

    /// The next scalar.
    fn scalar(&mut self) -> &'de [u8] {
        let start = self.at;
        self.at = match self.peek() {
            Some(b'"') => after_string(self.bytes, start),
            _ => start + self.bytes[start..].iter().take_while(|b| !matches!(b, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t')).count(),
        };
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Steps over a value.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                None => return,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                Some(b',' | b':') => self.at += 1,
                Some(_) => drop(self.scalar()),
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Steps over a value, and notes where it stands and what is down a path of it.
    fn follow(&mut self, path: &[&str], depth: usize, found: &mut Vec<(usize, Range<usize>)>) {
        let (bracket, start) = (self.peek(), self.at);
        match (path.split_first(), bracket) {
            (Some((key, rest)), Some(bracket @ (b'{' | b'['))) => {
                loop {
                    self.at += 1;
                    let wanted = match (bracket, self.peek()) {
                        (b'{', Some(b'"')) => self.scalar().strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")) == Some(key.as_bytes()),
                        (b'{', _) | (_, Some(b']') | None) => break,
                        _ => *key == "*",
                    };
                    if bracket == b'{' && self.peek() == Some(b':') {
                        self.at += 1;
                    }
                    match wanted {
                        true => self.follow(rest, depth + 1, found),
                        false => self.skip(),
                    }
                    if self.peek() != Some(b',') {
                        break;
                    }
                }
                self.at += 1;
            }
            _ => self.skip(),
        }
        let end = self.at.min(self.bytes.len());
        found.push((depth, start.min(end)..end));
    }

    /// Reads what stands between brackets; a visitor that leaves the rest unread has refused it.
    fn within<T>(&mut self, visit: impl FnOnce(Within<'_, 'de>) -> Result<T, Error>) -> Result<T, Error> {
        self.at += 1;
        let mut closed = false;
        let value = visit(Within { reader: self, begun: false, closed: &mut closed })?;
        if closed { Ok(value) } else { Err(Error::custom("trailing elements")) }
    }
}

/// The members of an object, or the elements of a list.
struct Within<'r, 'de> {
    reader: &'r mut Reader<'de>,
    begun: bool,
    closed: &'r mut bool,
}

impl Within<'_, '_> {
    /// Goes to the next; false behind the last.
    fn next(&mut self) -> bool {
        if self.begun && self.reader.peek() == Some(b',') {
            self.reader.at += 1;
        }
        self.begun = true;
        if !*self.closed && matches!(self.reader.peek(), Some(b'}' | b']') | None) {
            self.reader.at += 1;
            *self.closed = true;
        }
        !*self.closed
    }
}

impl<'de> MapAccess<'de> for Within<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if self.next() { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        if self.reader.peek() == Some(b':') {
            self.reader.at += 1;
        }
        seed.deserialize(&mut *self.reader)
    }
}

impl<'de> SeqAccess<'de> for Within<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.next() { seed.deserialize(&mut *self.reader).map(Some) } else { Ok(None) }
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek() {
            Some(b'{') => self.within(|members| visitor.visit_map(members)),
            Some(b'[') => self.within(|elements| visitor.visit_seq(elements)),
            _ => serde_json::Deserializer::from_slice(self.scalar()).deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip();
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option newtype_struct enum unit unit_struct seq tuple tuple_struct map struct identifier
    }
}
