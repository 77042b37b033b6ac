//! Responses of bytes: headers, warnings, and compression of what is large.

use crate::{Body, body, gzip, negotiate};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// What upstream's mux answers for a path that nobody serves.
pub(crate) fn plain_not_found() -> Response<Body> {
    let mut response = Response::new(body::full("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// What Go's HTTP server answers to what is no request: its connection ends with it.
pub(crate) fn plain_bad_request() -> Response<Body> {
    let mut response = Response::new(body::full("400 Bad Request"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A 404 of which nothing is said.
pub(crate) fn not_found_without_words() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// A response of these bytes.
pub(crate) fn respond(code: StatusCode, media: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let bytes = bytes.into();
    let mut response = Response::new(body::empty());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if bytes.len() >= gzip::MIN_BYTES {
        response.extensions_mut().insert(Plain(bytes.clone()));
    }
    *response.body_mut() = body::full(bytes);
    response
}

/// The uncompressed bytes of a large response, until it is known whether the client takes gzip.
#[derive(Clone)]
struct Plain(Bytes);

/// Adds warnings, and compresses what is large if the client asked for it.
pub(crate) fn finish(response: &mut Response<Body>, request: &HeaderMap, warnings: Vec<String>) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(&warning))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    let Some(Plain(bytes)) = response.extensions_mut().remove::<Plain>() else { return };
    if negotiate::takes_gzip(request)
        && let Ok(packed) = gzip::whole(&bytes)
    {
        *response.body_mut() = body::full(packed);
        tell_gzip(response);
    }
}

pub(crate) fn tell_gzip(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A quoted string of HTTP: backslash and quote escaped, control characters dropped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
