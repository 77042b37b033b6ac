//! The protobuf wire format: varints, lengths, tags.

use crate::quantity;
use std::borrow::Cow;
use thiserror::Error;

/// A message that breaks the wire format, in the words of Go's generated code.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    /// The wire type, and the field's name in Go.
    #[error("proto: wrong wireType = {0} for field {1}")]
    Mismatch(u8, String),
    #[error("proto: exceeded max depth")]
    Depth,
    /// The message, the tag, and the key that it is a part of.
    #[error("proto: {0}: illegal tag {1} (wire type {2})")]
    Tag(String, i32, u64),
    #[error("proto: {0}: wiretype end group for non-group")]
    EndGroup(String),
    #[error("proto: an embedded value cannot be decoded")]
    Embedded,
    /// A text that is no quantity, in the words of JSON.
    #[error("{0}")]
    Quantity(#[from] quantity::ParseError),
}

impl Malformed {
    /// The error of the field of a name, where it is not yet known whose it is.
    pub(super) fn of_field(self, name: impl FnOnce() -> String) -> Self {
        match self {
            Malformed::Mismatch(wire, known) if known.is_empty() => Malformed::Mismatch(wire, name()),
            other => other,
        }
    }
}

/// A field's payload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// A group, which nothing here uses: it is stepped over.
    Group,
}

impl<'a> Payload<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            other => Err(other.mismatch()),
        }
    }

    /// A text. Go takes what is no UTF-8 as it comes, and shows a replacement character for each byte of it.
    pub(super) fn text(self) -> Result<Cow<'a, str>, Malformed> {
        let bytes = self.bytes()?;
        Ok(std::str::from_utf8(bytes).map_or_else(|_| Cow::Owned(replaced(bytes)), Cow::Borrowed))
    }

    pub(super) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Payload::Varint(n) => Ok(n),
            other => Err(other.mismatch()),
        }
    }

    pub(super) fn double(self) -> Result<f64, Malformed> {
        match self {
            Payload::Fixed64(n) => Ok(f64::from_bits(n)),
            Payload::Fixed32(n) => Ok(f64::from(f32::from_bits(n))),
            other => Err(other.mismatch()),
        }
    }

    /// It is the payload of another field; whose, the caller knows.
    fn mismatch(self) -> Malformed {
        let wire = match self {
            Payload::Varint(_) => 0,
            Payload::Fixed64(_) => 1,
            Payload::Bytes(_) => 2,
            Payload::Group => 3,
            Payload::Fixed32(_) => 5,
        };
        Malformed::Mismatch(wire, String::new())
    }
}

fn replaced(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Walks the fields of a message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The message's name in Go.
    name: &'a str,
    /// A group has begun, which is stepped over when it has been asked whether it is a field's.
    in_group: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::of("", bytes)
    }

    /// As [`Reader::new`], of a message that errors name.
    pub(super) fn of(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, name, in_group: false }
    }

    /// The next field's tag and payload.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, Malformed> {
        if std::mem::take(&mut self.in_group) {
            self.skip_group()?;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        if key & 7 == 4 {
            return Err(Malformed::EndGroup(self.name.to_owned()));
        }
        // Go keeps the low half of what should be a tag.
        let tag = (key >> 3) as u32;
        if tag.cast_signed() <= 0 {
            return Err(Malformed::Tag(self.name.to_owned(), tag.cast_signed(), key));
        }
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => Payload::Bytes(self.delimited()?),
            3 => {
                self.in_group = true;
                Payload::Group
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.fixed()?)),
            other => return Err(Malformed::WireType(other)),
        };
        Ok(Some((tag, payload)))
    }

    /// Steps over a group that has begun, with those in it. Of what is in it nothing but the wire types counts.
    fn skip_group(&mut self) -> Result<(), Malformed> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.varint()? & 7 {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.take(8)?;
                }
                2 => {
                    self.delimited()?;
                }
                3 => depth += 1,
                4 => depth -= 1,
                5 => {
                    self.take(4)?;
                }
                other => return Err(Malformed::WireType(other)),
            }
        }
        Ok(())
    }

    fn delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Overflow)?;
        self.take(length)
    }

    /// A bare varint: the elements of packed lists.
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut n = 0u64;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            n |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(n);
            }
        }
        Err(if self.rest.len() < 10 { Malformed::Truncated } else { Malformed::Overflow })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// A number's bytes, on the stack.
pub(super) fn short_varint(mut n: u64) -> ([u8; 10], usize) {
    let (mut bytes, mut used) = ([0; 10], 0);
    while n >= 0x80 {
        bytes[used] = (n & 0x7f) as u8 | 0x80;
        n >>= 7;
        used += 1;
    }
    bytes[used] = n as u8;
    (bytes, used + 1)
}

pub(super) fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(crate) fn varint_field(out: &mut Vec<u8>, tag: u32, n: u64) {
    varint(out, u64::from(tag) << 3);
    varint(out, n);
}

pub(crate) fn double_field(out: &mut Vec<u8>, tag: u32, n: f64) {
    varint(out, u64::from(tag) << 3 | 1);
    out.extend_from_slice(&n.to_bits().to_le_bytes());
}

pub(crate) fn string_field(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    string_head(out, tag, bytes.len());
    out.extend_from_slice(bytes);
}

/// Tag and length of what has so many bytes.
pub(crate) fn string_head(out: &mut Vec<u8>, tag: u32, bytes: usize) {
    varint(out, u64::from(tag) << 3 | 2);
    varint(out, bytes as u64);
}

/// A nested message: one byte is kept for its length, and more are made if it turns out longer.
pub(crate) fn message_field(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(tag) << 3 | 2);
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return;
    }
    let (prefix, used) = short_varint(length as u64);
    out.splice(start..=start, prefix[..used].iter().copied());
}
