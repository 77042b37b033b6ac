//! The body type of requests and responses, and reading a request's body within its bound.
//!
//! An answer may be there before the body is: the sender may not write, or sends too much. It is sent at once, and the rest
//! of the body is taken and thrown away for a while ([`drain`]): a client that is still sending when its connection or
//! stream is closed may never come to read the answer.

use bytes::Bytes;
use http::{Request, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use machinery::status::Status;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::runtime::Handle;

/// What may go wrong while a body flows.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body, both ways.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Bytes of a request body at most, as upstream's `MaxRequestBodyBytes`.
pub const REQUEST_BODY_MAX: usize = 3 * 1024 * 1024;

/// Bytes of an unwanted body that are taken and thrown away.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Of a body whose length is known, bytes that Go's server does not read for the sake of the connection: it says that it closes it.
const KEPT_BYTES: u64 = 256 * 1024;
/// How long an unwanted body is taken.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that holds something until it is sent or dropped. How long it is stays known.
pub struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T> Holding<T> {
    /// This body, and what it holds.
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that tells at its end how many bytes were sent of it.
pub struct Measured<F: FnOnce(u64)> {
    body: Body,
    bytes: u64,
    tell: Option<F>,
}

impl<F: FnOnce(u64)> Measured<F> {
    /// This body, and who is told.
    pub fn new(body: Body, tell: F) -> Self {
        Self { body, bytes: 0, tell: Some(tell) }
    }
}

impl<F: FnOnce(u64)> Drop for Measured<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(self.bytes);
        }
    }
}

impl<F: FnOnce(u64) + Unpin> http_body::Body for Measured<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that goes elsewhere. What is left of it when it is dropped is drained: who refuses it, or is answered before it has ended, does not
/// cost its sender the connection.
struct Passed(Option<Body>);

/// The body of a request that is passed on.
pub fn passed(body: Option<Body>) -> Body {
    body.map_or_else(empty, |body| Passed(Some(body)).boxed_unsync())
}

impl Drop for Passed {
    fn drop(&mut self) {
        if let Some(body) = self.0.take() {
            drain(body);
        }
    }
}

impl http_body::Body for Passed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        // Behind its end nothing is left to be drained; of some bodies only that tells of it.
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}

/// Reads a whole body; 413 in upstream's words beyond the bound, and what is beyond stays in the slot. A body in one frame
/// is not copied.
pub async fn read(slot: &mut Option<Body>) -> Result<Bytes, Status> {
    let Some(body) = slot else { return Ok(Bytes::new()) };
    if body.size_hint().lower() > REQUEST_BODY_MAX as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut more: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreadable(&*error))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + more.len() + data.len() > REQUEST_BODY_MAX {
            return Err(too_large());
        }
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(REQUEST_BODY_MAX);
                more.reserve(data.len() + expected);
            }
            more.extend_from_slice(&data);
        }
    }
    *slot = None;
    if more.is_empty() {
        return Ok(first);
    }
    let mut whole = Vec::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    Ok(whole.into())
}

/// Takes what is left of a body whose request is answered already, within bounds. What comes after them is cut off: over
/// HTTP/2 without an error, since the answer is out.
pub fn drain(mut body: Body) {
    if body.is_end_stream() {
        return;
    }
    // A program that ends has nobody left to take it.
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(tokio::time::timeout(DRAIN_MAX, async move {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > DRAIN_BYTES_MAX {
                break;
            }
        }
    }));
}

/// Whether the connection of HTTP/1 ends with the answer to a request of whose body this is left. `code` is the answer's.
pub fn ends_connection(rest: &Body, head: Ahead, code: StatusCode) -> bool {
    // What is too large has been read by the original as far as it may be.
    let read = if code == StatusCode::PAYLOAD_TOO_LARGE { REQUEST_BODY_MAX as u64 + 1 } else { 0 };
    head.is_one && !rest.is_end_stream() && (head.waits || rest.size_hint().lower().saturating_sub(read) >= KEPT_BYTES)
}

/// What a request's head says of its body.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    is_one: bool,
    /// The body comes when it is asked for.
    waits: bool,
}

impl Ahead {
    /// Of this request.
    pub fn of(request: &Request<Body>) -> Ahead {
        let expected = request.headers().get_all(header::EXPECT).iter().filter_map(|value| value.to_str().ok());
        let waits = expected.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("100-continue"));
        Ahead { is_one: request.version() == Version::HTTP_11, waits }
    }
}

/// A body that breaks off, or is no body, is told as Go's reader says it, as an error that upstream has no reason for.
fn unreadable(error: &(dyn std::error::Error + 'static)) -> Status {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let chunked = causes.any(|cause| cause.to_string().to_ascii_lowercase().contains("chunk"));
    Status::new(500, "", if chunked { "invalid byte in chunk length" } else { "unexpected EOF" })
}

fn too_large() -> Status {
    Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {REQUEST_BODY_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        },
    };

    #[tokio::test]
    async fn a_body_is_measured_by_what_was_sent_of_it() {
        let told = Arc::new(AtomicU64::new(0));
        let note = Arc::clone(&told);
        let body = Measured::new(full("twelve bytes"), move |bytes| note.store(bytes, Relaxed));
        let sent = body.collect().await.expect("a body").to_bytes();
        assert_eq!((sent.len() as u64, told.load(Relaxed)), (12, 12));
    }

    #[test]
    fn a_body_that_cannot_be_read_is_told_in_gos_words() {
        let told = |text: &str| unreadable(&io::Error::other(text)).message;
        assert_eq!(told("Invalid chunk size line: Invalid Size"), "invalid byte in chunk length");
        assert_eq!(told("connection closed before message completed"), "unexpected EOF");
    }

    /// A body that does not know of its end before it is asked for more; it counts who asks.
    struct Unknown(Arc<AtomicUsize>);

    impl http_body::Body for Unknown {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.fetch_add(1, Relaxed);
            Poll::Ready(None)
        }
    }

    #[tokio::test]
    async fn what_is_left_of_a_body_that_is_passed_on_is_drained_and_no_more() {
        for is_read in [true, false] {
            let polls = Arc::<AtomicUsize>::default();
            let mut body = passed(Some(Unknown(Arc::clone(&polls)).boxed_unsync()));
            if is_read {
                assert!(body.frame().await.is_none());
            }
            drop(body);
            tokio::task::yield_now().await;
            assert_eq!(polls.load(Relaxed), 1, "{is_read}");
        }
    }
}
