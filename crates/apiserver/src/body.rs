//! The body type of requests and responses, and reading a request's body within its bound.
//!
//! An answer may be there before the body is: the sender may not write, or sends too much. It is sent at once, and the rest
//! of the body is taken and thrown away for a while ([`drain`]): a client that is still sending when its connection or
//! stream is closed may never come to read the answer.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use machinery::status::Status;
use std::time::Duration;

/// What may go wrong while a body flows.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body, both ways.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Bytes of a request body at most, as upstream's `MaxRequestBodyBytes`.
pub const REQUEST_BODY_MAX: usize = 3 * 1024 * 1024;

/// Bytes of an unwanted body that are taken and thrown away.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
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
        let frame = frame.map_err(|e| Status::bad_request(format!("unable to read the body: {e}")))?;
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
    tokio::spawn(tokio::time::timeout(DRAIN_MAX, async move {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > DRAIN_BYTES_MAX {
                break;
            }
        }
    }));
}

fn too_large() -> Status {
    Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {REQUEST_BODY_MAX}"))
}
