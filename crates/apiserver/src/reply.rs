//! Responses of bytes: headers, warnings, and compression of what is large.

use crate::{Body, body, gzip, negotiate};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use machinery::quote::Quoted;

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

/// What Go's HTTP server answers to what is no request, and why if it says so: its connection ends with it.
pub(crate) fn plain_bad_request(why: &str) -> Response<Body> {
    let colon = if why.is_empty() { "" } else { ": " };
    let mut response = Response::new(body::full(format!("400 Bad Request{colon}{why}")));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What it answers to a body whose transfer encoding it does not know.
pub(crate) fn unsupported_encoding() -> Response<Body> {
    let mut response = plain_bad_request("");
    *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
    *response.body_mut() = body::full("Unsupported transfer encoding");
    response
}

/// What it answers to who expects something that no server does.
pub(crate) fn expectation_failed() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::EXPECTATION_FAILED;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What upstream answers to an address of which it cannot tell what is meant, before it looks at anything else of the request; so that
/// nobody takes it for a page.
pub(crate) fn no_request_info(uri: &Uri) -> Response<Body> {
    let asked = uri.path_and_query().map_or_else(|| uri.path(), |asked| asked.as_str());
    let why = format!("failed to create RequestInfo: unable to determine kind and namespace from url, {asked}");
    let text = format!("Internal Server Error: {}: {why}\n", Quoted(asked)).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut response = Response::new(body::full(text));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A 504 of a request that has taken longer than it may. Upstream's filter writes the status by itself, without saying what it is.
pub(crate) fn timed_out() -> Response<Body> {
    let why = r#"{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}"#;
    fated(Fate::Ended, respond(StatusCode::GATEWAY_TIMEOUT, "text/plain; charset=utf-8", format!("{why}\n")))
}

/// A 404 of which nothing is said.
pub(crate) fn not_found_without_words() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// An answer to which its handler has written nothing: upstream's filter of times then passes on none of the headers that were set behind it.
pub(crate) fn unwritten() -> Response<Body> {
    let mut response = Response::new(body::empty());
    response.extensions_mut().insert(Unwritten);
    response
}

/// Marks it.
#[derive(Debug, Clone, Copy)]
struct Unwritten;

/// Whether its handler has written something.
pub(crate) fn is_written(response: &Response<Body>) -> bool {
    response.extensions().get::<Unwritten>().is_none()
}

/// Marks an answer that upstream writes on the connection by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare;

/// Whether nothing is added to an answer that every other bears: it is written by itself, or its connection speaks otherwise from here on.
pub(crate) fn is_bare(response: &Response<Body>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS || response.extensions().get::<Bare>().is_some()
}

/// What upstream counts of an answer instead of that it was given, or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Who asks is nobody, or may not: those who answer have not heard of it.
    Unheard,
    /// It has taken too long, or there is too much to do.
    Ended,
}

/// Marks what becomes of a request.
pub(crate) fn fated(fate: Fate, mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(fate);
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

/// Adds warnings.
pub(crate) fn warn(response: &mut Response<Body>, warnings: Vec<String>) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(&warning))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Adds warnings, and compresses what is large if the client asked for it.
pub(crate) fn finish(response: &mut Response<Body>, request: &HeaderMap, warnings: Vec<String>) {
    warn(response, warnings);
    let Some(Plain(bytes)) = response.extensions_mut().remove::<Plain>() else { return };
    if negotiate::names_gzip(request)
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
