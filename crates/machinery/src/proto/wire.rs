//! The protobuf wire format: varints, lengths, tags.

use thiserror::Error;

/// A message that breaks the wire format.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("unexpected EOF")]
    Truncated,
    #[error("integer overflow")]
    Overflow,
    #[error("illegal wireType {0}")]
    WireType(u8),
    #[error("wrong wireType for a field")]
    Mismatch,
    #[error("string field contains invalid UTF-8")]
    Utf8,
    #[error("exceeded max depth")]
    Depth,
    #[error("illegal tag")]
    Tag,
    #[error("an embedded value cannot be decoded")]
    Embedded,
}

/// A field's payload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::Mismatch),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }

    pub(super) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Payload::Varint(n) => Ok(n),
            _ => Err(Malformed::Mismatch),
        }
    }

    pub(super) fn double(self) -> Result<f64, Malformed> {
        match self {
            Payload::Fixed64(n) => Ok(f64::from_bits(n)),
            Payload::Fixed32(n) => Ok(f64::from(f32::from_bits(n))),
            _ => Err(Malformed::Mismatch),
        }
    }
}

/// Walks the fields of a message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field's tag and payload. Groups, which nothing here uses, are malformed.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| Malformed::Tag)?;
        if tag == 0 {
            return Err(Malformed::Tag);
        }
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Overflow)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.fixed()?)),
            other => return Err(Malformed::WireType(u8::try_from(other).unwrap_or(7))),
        };
        Ok(Some((tag, payload)))
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
