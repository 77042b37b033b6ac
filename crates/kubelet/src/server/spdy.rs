//! SPDY/3.1 frames: what `kubectl exec`, `attach` and `port-forward` speak when they do not speak WebSocket.
//!
//! A small subset (draft-mbelshe-httpbis-spdy-00): control frames of version 3, header blocks in one zlib stream a direction
//! with the specification's dictionary (`spdy.dict`), data frames. Flow control is read and ignored, as the peers
//! (moby/spdystream) neither send nor obey it. Pure: bytes in, frames out; [`super::spdy_conn`] does the talking.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The dictionary of header compression, a constant of the specification.
pub(super) const DICTIONARY: &[u8] = include_bytes!("spdy.dict");
/// Longest data or header frame taken; peers send at most 64 KiB at a time.
const MAX_FRAME: usize = 1 << 20;
/// Longest header block after unpacking.
const MAX_HEADERS: usize = 64 << 10;
/// Most bytes sent in one data frame.
pub const MAX_DATA: usize = 32 << 10;
/// Flag of the last frame of a direction.
const FIN: u8 = 1;

/// Name and value, in order; names in lower case.
pub type Headers = Vec<(String, String)>;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    SynStream {
        /// Stream.
        id: u32,
        /// No data follows from the sender.
        fin: bool,
        /// Its headers.
        headers: Headers,
    },
    /// The answer to a new stream.
    SynReply {
        /// Stream.
        id: u32,
        /// No data follows from the sender.
        fin: bool,
        /// Its headers.
        headers: Headers,
    },
    /// The end of a stream in both directions.
    Reset {
        /// Stream.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Are you there.
    Ping {
        /// To be sent back.
        id: u32,
    },
    /// No more streams.
    GoAway {
        /// The last stream that was taken.
        last: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Stream.
        id: u32,
        /// Last frame of this direction.
        fin: bool,
    },
    /// Data.
    Data {
        /// Stream.
        id: u32,
        /// Last frame of this direction.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// Settings, window updates and what is not known: of no concern.
    Other,
}

/// Why the peer's bytes are no SPDY.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SPDY: {0}")]
pub struct SpdyError(pub String);

fn bad(why: &str) -> SpdyError {
    SpdyError(why.to_owned())
}

/// Reads frames; keeps the state of header compression.
pub struct Decoder {
    inflate: Decompress,
}

/// Writes frames; keeps the state of header compression.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // A fresh stream always takes a dictionary.
        let _ = deflate.set_dictionary(DICTIONARY);
        Self { deflate }
    }
}

impl Decoder {
    /// The next frame, if `from` holds one; its bytes are taken.
    pub fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        let Some(head) = from.get(..8) else { return Ok(None) };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let len = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if len > MAX_FRAME {
            return Err(bad("frame too long"));
        }
        if from.len() < 8 + len {
            return Ok(None);
        }
        from.advance(8);
        let body = from.split_to(len).freeze();
        let fin = flags & FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { id: first, fin, bytes: body }));
        }
        if first >> 16 & 0x7fff != 3 {
            return Err(bad("version is not 3"));
        }
        self.control(first & 0xffff, fin, body).map(Some)
    }

    fn control(&mut self, kind: u32, fin: bool, mut body: Bytes) -> Result<Frame, SpdyError> {
        let least = match kind {
            1 => 10,
            2 | 6 | 8 => 4,
            3 | 7 => 8,
            _ => 0,
        };
        if body.len() < least {
            return Err(bad("control frame too short"));
        }
        Ok(match kind {
            1 => {
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream { id, fin, headers: self.headers(&body)? }
            }
            2 => {
                let id = body.get_u32() & 0x7fff_ffff;
                Frame::SynReply { id, fin, headers: self.headers(&body)? }
            }
            3 => Frame::Reset { id: body.get_u32() & 0x7fff_ffff, status: body.get_u32() },
            6 => Frame::Ping { id: body.get_u32() },
            7 => Frame::GoAway { last: body.get_u32() & 0x7fff_ffff },
            8 => {
                let id = body.get_u32() & 0x7fff_ffff;
                self.headers(&body)?;
                Frame::Headers { id, fin }
            }
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let plain = self.unpack(packed)?;
        let mut at = plain.as_slice();
        let count = number(&mut at)?;
        let mut out = Headers::new();
        // A long name with a value of nothing but separators is the square of what was sent.
        let mut left = MAX_HEADERS;
        for _ in 0..count {
            let name = text(&mut at)?.to_ascii_lowercase();
            let value = text(&mut at)?;
            for part in value.split('\0') {
                left = left.checked_sub(name.len() + part.len()).ok_or_else(|| bad("headers too long"))?;
                out.push((name.clone(), part.to_owned()));
            }
        }
        Ok(out)
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(4096);
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            if out.len() == out.capacity() {
                out.reserve(4096);
            }
            let status = self.inflate.decompress_vec(packed, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - read).unwrap_or(0);
            packed = &packed[used.min(packed.len())..];
            match status {
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_| bad("header compression uses another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(bad("header block cannot be unpacked")),
                Ok(Status::StreamEnd) => return Err(bad("header compression ended")),
                Ok(_) => {}
            }
            if out.len() > MAX_HEADERS {
                return Err(bad("headers too long"));
            }
            let moved = used > 0 || self.inflate.total_out() > written;
            if !moved || (packed.is_empty() && out.len() < out.capacity()) {
                return Ok(out);
            }
        }
    }
}

fn number(at: &mut &[u8]) -> Result<u32, SpdyError> {
    let (head, rest) = at.split_at_checked(4).ok_or_else(|| bad("header block too short"))?;
    *at = rest;
    Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]))
}

fn text(at: &mut &[u8]) -> Result<String, SpdyError> {
    let len = usize::try_from(number(at)?).map_err(|_| bad("header too long"))?;
    let (head, rest) = at.split_at_checked(len).ok_or_else(|| bad("header block too short"))?;
    *at = rest;
    String::from_utf8(head.to_vec()).map_err(|_| bad("header is not UTF-8"))
}

impl Encoder {
    /// Appends a frame to `to`.
    pub fn encode(&mut self, frame: &Frame, to: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let block = self.pack(headers);
                control(to, 1, *fin, 10 + block.len());
                to.put_u32(*id);
                to.put_u32(0);
                to.put_u16(0);
                to.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => {
                let block = self.pack(headers);
                control(to, 2, *fin, 4 + block.len());
                to.put_u32(*id);
                to.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(to, 3, false, 8);
                to.put_u32(*id);
                to.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(to, 6, false, 4);
                to.put_u32(*id);
            }
            Frame::GoAway { last } => {
                control(to, 7, false, 8);
                to.put_u32(*last);
                to.put_u32(0);
            }
            Frame::Data { id, fin, bytes } => {
                to.put_u32(*id);
                put_length(to, *fin, bytes.len());
                to.put_slice(bytes);
            }
            Frame::Headers { .. } | Frame::Other => {}
        }
    }

    fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = BytesMut::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for (name, value) in headers {
            for part in [name, value] {
                plain.put_u32(u32::try_from(part.len()).unwrap_or(0));
                plain.put_slice(part.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            let before = self.deflate.total_in();
            if self.deflate.compress_vec(rest, &mut out, FlushCompress::Sync).is_err() {
                return out;
            }
            let used = usize::try_from(self.deflate.total_in() - before).unwrap_or(0);
            rest = &rest[used.min(rest.len())..];
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

fn control(to: &mut BytesMut, kind: u16, fin: bool, len: usize) {
    to.put_u16(0x8003);
    to.put_u16(kind);
    put_length(to, fin, len);
}

fn put_length(to: &mut BytesMut, fin: bool, len: usize) {
    let len = u32::try_from(len).unwrap_or(0) & 0x00ff_ffff;
    to.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(n: &str, v: &str) -> (String, String) {
        (n.to_owned(), v.to_owned())
    }

    #[test]
    fn frames_survive_the_wire_and_share_one_compression_stream() {
        let frames = [
            Frame::SynStream { id: 1, fin: false, headers: vec![header("streamtype", "error")] },
            Frame::SynStream { id: 3, fin: false, headers: vec![header("streamtype", "data"), header("port", "80"), header("requestid", "0")] },
            Frame::SynReply { id: 1, fin: true, headers: vec![] },
            Frame::Data { id: 3, fin: false, bytes: Bytes::from_static(b"hello") },
            Frame::Data { id: 3, fin: true, bytes: Bytes::new() },
            Frame::Ping { id: 7 },
            Frame::Reset { id: 3, status: 5 },
            Frame::GoAway { last: 3 },
        ];
        let (mut encoder, mut decoder, mut wire) = (Encoder::default(), Decoder::default(), BytesMut::new());
        for f in &frames {
            encoder.encode(f, &mut wire);
        }
        // Byte by byte: a frame is only seen whole.
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for b in wire {
            buffer.put_u8(b);
            seen.extend(decoder.decode(&mut buffer).unwrap());
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for bytes in [
            b"\x80\x02\0\x01\0\0\0\x0a0123456789".as_slice(),
            b"\x80\x03\0\x01\0\0\0\x0c0123456789ab",
            b"\x80\x03\0\x01\0\0\0\x01x",
            b"\0\0\0\x01\0\xff\xff\xff",
        ] {
            assert!(Decoder::default().decode(&mut BytesMut::from(bytes)).is_err());
        }
    }

    #[test]
    fn headers_are_no_longer_than_what_was_sent() {
        let of = |value: String| {
            let mut wire = BytesMut::new();
            Encoder::default().encode(&Frame::SynReply { id: 1, fin: false, headers: vec![("n".repeat(20_000), value)] }, &mut wire);
            Decoder::default().decode(&mut wire)
        };
        assert!(matches!(of("a\0b".to_owned()), Ok(Some(Frame::SynReply { headers, .. })) if headers.len() == 2));
        assert_eq!(of("\0".repeat(20_000)), Err(bad("headers too long")));
    }

    #[test]
    fn the_first_block_is_readable_with_the_specifications_dictionary() {
        assert_eq!(DICTIONARY.len(), 1423);
        let mut wire = BytesMut::new();
        Encoder::default().encode(&Frame::SynReply { id: 1, fin: false, headers: vec![header("a", "b")] }, &mut wire);
        // zlib header with FDICT set, then the dictionary's Adler-32.
        assert_eq!(wire[13] & 0x20, 0x20);
        assert_eq!(wire[14..18], [0xe3, 0xc6, 0xa7, 0xc2]);
    }
}
