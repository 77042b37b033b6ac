//! What a connection of HTTP/1 reads where a request is to begin: its head is remembered as it came, should it turn out to be none, and an
//! address that hyper would not read is written as it would.
//!
//! Clients send addresses as they have them (`?labelSelector=n>1`): Go's server reads any letter that is visible, hyper (the http crate's
//! `PathAndQuery`) does not, and takes what follows a `#` for nothing. The same letters escaped mean the same. A request is to begin at first,
//! and where an answer has begun, but not before the last one's body is at its end ([`Bodies`]): what its sender wrote there would else be
//! made longer than it said, and the rest be a request. What is read otherwise passes by.

use http_body::{Frame, SizeHint};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes in which a head is looked for.
const HEAD_BYTES: usize = 4096;
/// Letters of an address that Go takes and hyper does not.
const ESCAPED: &[u8] = b"\"#<>\\^`";

/// The heads of one connection.
pub(crate) struct Heads {
    /// A request is to begin.
    expected: bool,
    /// How the last one began, as it came.
    head: Vec<u8>,
    /// What is read before the rest of the stream.
    ahead: Vec<u8>,
    /// How many of these were read.
    taken: usize,
    bodies: Bodies,
}

impl Heads {
    /// Of a connection that has just come.
    pub(crate) fn new() -> Self {
        Self { expected: true, head: Vec::new(), ahead: Vec::new(), taken: 0, bodies: Bodies::default() }
    }

    /// How the last request began.
    pub(crate) fn last(&self) -> &[u8] {
        &self.head
    }

    /// What is told when a request has come.
    pub(crate) fn bodies(&self) -> Bodies {
        self.bodies.clone()
    }

    /// Bytes are written: behind an answer the next request is to begin. Behind one that only goes on, or that ends HTTP, none is.
    pub(crate) fn answered(&mut self, bytes: &[u8]) {
        if bytes.starts_with(b"HTTP/1.") {
            self.expected = !bytes.starts_with(b"HTTP/1.1 1");
        }
    }

    /// Reads on.
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.expected && self.taken == self.ahead.len() && !self.bodies.is_under_way() {
            let mut first = [0; HEAD_BYTES];
            let mut read = ReadBuf::new(&mut first);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            let came = read.filled();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.expected = false;
            self.head.clear();
            self.head.extend_from_slice(came);
            self.ahead.clear();
            self.taken = 0;
            escape(came, &mut self.ahead);
        }
        let rest = &self.ahead[self.taken..];
        if rest.is_empty() {
            return Pin::new(stream).poll_read(cx, buffer);
        }
        let taken = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..taken]);
        self.taken += taken;
        Poll::Ready(Ok(()))
    }
}

/// Whether the body of the last request of a connection is still on its way: a number for each request, which is odd until then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bodies(Arc<AtomicU64>);

impl Bodies {
    /// A request has come, of this body. One that is dropped before its end stays under way: what is left of it may still be read.
    pub(crate) fn begin<B: http_body::Body>(&self, body: B) -> Noted<B> {
        let number = (self.0.load(Ordering::SeqCst) | 1) + 1 + u64::from(!body.is_end_stream());
        self.0.store(number, Ordering::SeqCst);
        Noted { body, bodies: self.clone(), number }
    }

    fn is_under_way(&self) -> bool {
        self.0.load(Ordering::SeqCst) & 1 == 1
    }

    /// The body of a request is at its end; that of a later one may be under way.
    fn end(&self, number: u64) {
        if number & 1 == 1 {
            let _ = self.0.compare_exchange(number, number + 1, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

/// A body of which it is noted that it is at its end.
pub(crate) struct Noted<B> {
    body: B,
    bodies: Bodies,
    number: u64,
}

impl<B: http_body::Body + Unpin> http_body::Body for Noted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.bodies.end(self.number);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Writes what came, with the address of a request as hyper reads it.
fn escape(came: &[u8], out: &mut Vec<u8>) {
    let Some((start, end)) = address(came).filter(|(start, end)| came[*start..*end].iter().any(|byte| ESCAPED.contains(byte))) else {
        out.extend_from_slice(came);
        return;
    };
    out.extend_from_slice(&came[..start]);
    for byte in &came[start..end] {
        if ESCAPED.contains(byte) {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(*byte);
        }
    }
    out.extend_from_slice(&came[end..]);
}

/// Where the address stands in bytes that begin with the line of a request.
fn address(came: &[u8]) -> Option<(usize, usize)> {
    let line = &came[..came.iter().position(|byte| *byte == b'\n')?];
    let start = line.iter().position(|byte| *byte == b' ')? + 1;
    let end = line.iter().rposition(|byte| *byte == b' ').filter(|end| *end > start)?;
    let is_request = line[..start - 1].iter().all(u8::is_ascii_uppercase) && line[start] == b'/' && line[end + 1..].starts_with(b"HTTP/1.");
    is_request.then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt as _;

    fn escaped(came: &str) -> String {
        let mut out = Vec::new();
        escape(came.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        assert_eq!(escaped("GET /a?labelSelector=n>1 HTTP/1.1\r\nHost: <a>\r\n\r\n"), "GET /a?labelSelector=n%3E1 HTTP/1.1\r\nHost: <a>\r\n\r\n");
        assert_eq!(escaped("GET /a#b\"c HTTP/1.1\r\n"), "GET /a%23b%22c HTTP/1.1\r\n");
        for other in ["GET /a%3E HTTP/1.1\r\n", "GET /a>", "{\"a\": \"<b>\"}\n", "PRI * HTTP/2.0\r\n\r\n", "GET > HTTP/1.1\r\n", " / HTTP/1.1\n", ""] {
            assert_eq!(escaped(other), other);
        }
    }

    /// What is read in pieces of seven bytes, of what was sent so far.
    async fn read(heads: &mut Heads, stream: &mut tokio::io::DuplexStream, bytes: usize) -> String {
        let mut out = Vec::new();
        while out.len() < bytes {
            let mut piece = [0; 7];
            let mut buffer = ReadBuf::new(&mut piece);
            poll_fn(|cx| heads.poll_read(stream, cx, &mut buffer)).await.unwrap();
            out.extend_from_slice(buffer.filled());
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_request_begins_behind_an_answer_alone() {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let mut heads = Heads::new();
        let (came, meant) = ("GET /a>b HTTP/1.1\r\n\r\n", "GET /a%3Eb HTTP/1.1\r\n\r\n");
        far.write_all(came.as_bytes()).await.unwrap();
        assert_eq!(read(&mut heads, &mut near, meant.len()).await, meant);
        assert_eq!(heads.last(), came.as_bytes());
        heads.answered(b"HTTP/1.1 100 Continue\r\n\r\n");
        far.write_all(came.as_bytes()).await.unwrap();
        assert_eq!(read(&mut heads, &mut near, came.len()).await, came, "a body");
        heads.answered(b"HTTP/1.1 200 OK\r\n");
        far.write_all(came.as_bytes()).await.unwrap();
        assert_eq!(read(&mut heads, &mut near, meant.len()).await, meant);
    }

    #[tokio::test]
    async fn what_comes_of_a_body_behind_its_answer_is_no_head() {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let mut heads = Heads::new();
        let (came, meant) = ("GET /a>b HTTP/1.1\r\n\r\n", "GET /a%3Eb HTTP/1.1\r\n\r\n");
        far.write_all(came.as_bytes()).await.unwrap();
        assert_eq!(read(&mut heads, &mut near, meant.len()).await, meant);
        let mut body = heads.bodies().begin(crate::full("x"));
        heads.answered(b"HTTP/1.1 403 Forbidden\r\n");
        far.write_all(came.as_bytes()).await.unwrap();
        assert_eq!(read(&mut heads, &mut near, came.len()).await, came, "its body");
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        assert!(body.frame().await.is_none());
        far.write_all(came.as_bytes()).await.unwrap();
        assert_eq!(read(&mut heads, &mut near, meant.len()).await, meant);
        drop(heads.bodies().begin(crate::full("x")));
        body.bodies.end(body.number);
        assert!(heads.bodies().is_under_way(), "what is left of the second may come");
        drop(heads.bodies().begin(crate::empty()));
        assert!(!heads.bodies().is_under_way());
    }
}
