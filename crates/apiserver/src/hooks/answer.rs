//! What an answer of HTTP says: its body within a bound, and whether it is an error (client-go's `transformResponse`).

use super::{ANSWER_BYTES_MAX, Failure, words};
use crate::{Body, offload};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, StatusCode, header, response::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use machinery::{
    Value,
    quote::Quoted,
    status::{Details, Status},
};
use std::io::{ErrorKind, Read as _};

/// Bytes of a text that an error repeats at most.
const TEXT_BYTES_MAX: usize = 2048;

/// The head of an answer, and its body, or why that did not come to its end.
pub(super) type Answer = (Parts, Result<Bytes, String>);

/// What is told of a body beyond the bound.
pub(super) const TOO_LARGE: &str = "http: response body too large";

/// A whole body of HTTP/1.1.
pub(super) async fn read(body: Incoming) -> Result<Bytes, String> {
    whole(body, |error| unexpected(words::of_http(&error))).await
}

/// A whole body of the server's own.
pub(super) async fn read_own(body: Body) -> Result<Bytes, String> {
    whole(body, |error| error.to_string()).await
}

async fn whole<B: http_body::Body<Data = Bytes> + Unpin>(mut body: B, told: impl Fn(B::Error) -> String) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(&told)?.into_data() else { continue };
        if all.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(TOO_LARGE.into());
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// Go tells an end before the announced one so.
fn unexpected(why: String) -> String {
    if why == words::EOF { words::EARLY_EOF.into() } else { why }
}

/// A body as it was before its server packed it, which may do that where it is told so.
pub(super) async fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, String> {
    let is_packed = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"gzip"));
    // Some bytes may become a thousand times as many.
    if is_packed && !body.is_empty() { offload::call(move || unpack(&body)).await } else { Ok(body) }
}

fn unpack(packed: &[u8]) -> Result<Bytes, String> {
    let mut all = Vec::new();
    let read = MultiGzDecoder::new(packed).take(ANSWER_BYTES_MAX as u64 + 1).read_to_end(&mut all);
    read.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => words::EARLY_EOF.to_owned(),
        _ if error.to_string().contains("header") => "gzip: invalid header".to_owned(),
        _ if error.to_string().contains("checksum") => "gzip: invalid checksum".to_owned(),
        _ => "flate: corrupt input".to_owned(),
    })?;
    if all.len() > ANSWER_BYTES_MAX { Err(TOO_LARGE.into()) } else { Ok(all.into()) }
}

/// The body of a good answer, or the error that it tells.
pub(super) fn judge(parts: &Parts, body: Bytes) -> Result<Bytes, Failure> {
    let (text, json) = media(&parts.headers).map_err(|why| Failure::Answer(Box::new(Status::internal(why))))?;
    if !(200..=206).contains(&parts.status.as_u16()) {
        let told = if json { told_status(&body) } else { None };
        return Err(Failure::Answer(Box::new(told.unwrap_or_else(|| generic(parts.status, text, &body)))));
    }
    if !json {
        let media = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        return Err(Failure::Transport(format!("serializer for {media} doesn't exist")));
    }
    if body.is_empty() {
        let media = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
        return Err(Failure::Transport(format!("0-length response with status code: {} and content type: {media}", parts.status.as_u16())));
    }
    Ok(body)
}

/// Whether the answer is text, and whether it can be read. Client-go reads whatever is sent with the one serialiser that it
/// has for hooks, and only what is no media type at all is refused.
fn media(headers: &HeaderMap) -> Result<(bool, bool), String> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok((true, true)) };
    let value = String::from_utf8_lossy(value.as_bytes());
    let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "" => Err("mime: no media type".into()),
        media if media.split('/').any(str::is_empty) || media.contains(char::is_whitespace) => Err("mime: expected token after slash".into()),
        media => Ok((media.starts_with("text/"), true)),
    }
}

/// A Status that the body holds.
fn told_status(body: &[u8]) -> Option<Status> {
    let value: Value = machinery::json::read(body).ok()?;
    let is_status = value["kind"] == "Status" && matches!(value["apiVersion"].as_str(), None | Some("" | "v1"));
    (is_status && value["status"] != "Success").then(|| Status::from_value(&value))
}

/// The error that stands for a status code (upstream's `NewGenericServerResponse`).
fn generic(code: StatusCode, text: bool, body: &[u8]) -> Status {
    let cut = body.get(..TEXT_BYTES_MAX).unwrap_or(body);
    let said = if text { String::from_utf8_lossy(cut).trim().to_owned() } else { "unknown".to_owned() };
    let number = code.as_u16();
    let (reason, message) = match number {
        409 => ("AlreadyExists", "the server reported a conflict".to_owned()),
        404 => ("NotFound", "the server could not find the requested resource".to_owned()),
        400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
        403 => ("Forbidden", said.clone()),
        406 if said.is_empty() || said == "unknown" => {
            ("NotAcceptable", "the server was unable to respond with a content type that the client supports".to_owned())
        }
        406 => ("NotAcceptable", said.clone()),
        415 => ("UnsupportedMediaType", said.clone()),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned()),
        422 => ("Invalid", "the server rejected our request due to an error in our request".to_owned()),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
        504 => ("Timeout", "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned()),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later".to_owned()),
        500.. => ("InternalError", format!("an error on the server ({}) has prevented the request from succeeding", Quoted(&said))),
        _ => ("", format!("the server responded with the status code {number} but did not return more information")),
    };
    let mut status = Status::new(number, reason, message);
    status.details = Some(Box::<Details>::default());
    status.cause("UnexpectedServerResponse", said, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_packed_is_unpacked_within_the_bound() {
        let packed = |bytes: &[u8]| crate::gzip::whole(bytes).expect("packed");
        let unpacked = async |coding: &'static str, body: Vec<u8>| {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, header::HeaderValue::from_static(coding))]);
            unpacked(&headers, body.into()).await.map(|body| body.len())
        };
        assert_eq!(unpacked("GZIP", [packed(b"one"), packed(b"two")].concat()).await, Ok(6), "one behind the other");
        assert_eq!((unpacked("gzip", Vec::new()).await, unpacked("br", vec![1, 2]).await), (Ok(0), Ok(2)));
        assert_eq!(unpacked("gzip", b"plain text".to_vec()).await, Err("gzip: invalid header".to_owned()));
        let mut cut = packed(b"one");
        cut.truncate(cut.len() - 1);
        assert_eq!(unpacked("gzip", cut).await, Err(words::EARLY_EOF.to_owned()));
        let mut wrong = packed(b"one");
        let sum = wrong.len() - 8;
        wrong[sum] ^= 1;
        assert_eq!(unpacked("gzip", wrong).await, Err("gzip: invalid checksum".to_owned()));
        assert_eq!(unpacked("gzip", packed(&vec![b' '; ANSWER_BYTES_MAX + 1])).await, Err(TOO_LARGE.to_owned()));
    }
}
