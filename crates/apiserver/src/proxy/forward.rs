//! Carrying a request to a backend: as one exchange, or as a tunnel once both sides have upgraded.

use super::{
    dial::{self, Backend},
    html, sniff, tunnel,
};
use crate::{Body, BoxError, Context, hooks, websocket};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{self, Entry},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1::SendRequest, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use machinery::status::Status;

/// Bytes of an HTML page whose links are rewritten at most; a larger one is refused rather than held.
const PAGE_MAX: usize = 16 * 1024 * 1024;
/// Headers of one hop (RFC 9110, 7.6.1).
const HOP: [HeaderName; 7] =
    [header::CONNECTION, header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

/// An answer's body as ours.
pub(super) fn boxed(body: Incoming) -> Body {
    body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()
}

/// A whole body; an error if it is larger than this.
pub(super) async fn read(mut body: Incoming, max: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() else { continue };
        if out.len() + data.len() > max {
            return Err(format!("the answer is larger than {max} bytes"));
        }
        out.extend_from_slice(&data);
    }
    Ok(out)
}

/// Percent-encodes a value of a query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Removes what must not reach a backend: the caller's credentials, assumed identity, and what only a front proxy may say.
pub(crate) fn drop_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let standard = identity::RequestHeaders::none();
    let is_told = |k: &&HeaderName| k.as_str().starts_with("impersonate-") || standard.says(k.as_str());
    let assumed: Vec<HeaderName> = headers.keys().filter(is_told).cloned().collect();
    for name in assumed {
        headers.remove(name);
    }
}

pub(crate) fn drop_hop_headers(headers: &mut HeaderMap) {
    let takes = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers")));
    let trailers = headers.get_all(header::TE).iter().any(takes);
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let named: Vec<HeaderName> = values.flat_map(|v| v.split(',')).filter_map(|n| n.trim().parse().ok()).collect();
    for name in named.into_iter().chain(HOP).chain([HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")]) {
        headers.remove(name);
    }
    // Of this hop too, but what the other side may send goes all the way (Go's `ReverseProxy`).
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Answers a proxy request. `admitted` is the path that admission has left, if it is another than the one that was asked for.
pub(super) async fn answer(cx: &Context, backend: &Backend, admitted: Option<&str>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
    let reach = |error: String| Status::service_unavailable(format!("error trying to reach service: {error}"));
    let (asked, tail) = (cx.info.tail.as_str(), admitted.unwrap_or(&cx.info.tail));
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let own_path = request.uri().path().to_owned();
    let path = if tail.is_empty() { "/" } else { tail };
    let uri: Uri = format!("{path}{query}").parse().map_err(|_| Status::bad_request("the path is not one"))?;
    let host = host(&request);
    if websocket::upgrade_wanted(request.headers()) {
        return upgrade(backend, uri, host, request).await.map_err(reach);
    }
    if tail.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(to_root(&format!("{own_path}/{query}")));
    }
    let prefix = own_path.strip_suffix(asked).unwrap_or(&own_path).to_owned();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    drop_credentials(headers);
    drop_hop_headers(headers);
    // Pages are rewritten, so they must come as text.
    headers.remove(header::ACCEPT_ENCODING);
    set(headers, header::HOST, host.as_deref().unwrap_or_default());
    set(headers, HeaderName::from_static("x-forwarded-uri"), &hooks::joined_whole(&format!("{prefix}{path}")));
    let source = html::Source { prefix: &prefix, backend: &backend.address.to_string(), host: host.as_deref().unwrap_or_default() };
    let mut sender = dial::connect(backend).await.map_err(reach)?;
    let answer = sender.send_request(request).await.map_err(|e| reach(told(&e)))?;
    let answer = rewrite(answer, &source).await.map_err(reach)?;
    Ok(sniff::named(answer).await)
}

fn told(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() { "EOF".into() } else { error.to_string() }
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match (text.is_empty(), HeaderValue::from_str(text)) {
        (false, Ok(value)) => {
            headers.insert(name, value);
        }
        _ => {
            headers.remove(name);
        }
    }
}

/// The host that the client has asked.
fn host(request: &Request<Body>) -> Option<String> {
    let told = request.headers().get(header::HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
    told.or_else(|| request.uri().authority().map(ToString::to_string))
}

/// A path without its closing slash would make a page's relative links wrong.
fn to_root(location: &str) -> Response<Body> {
    let mut response = Response::new(crate::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    set(response.headers_mut(), header::LOCATION, location);
    response
}

/// The backend's answer with its links made to lead through the proxy again.
async fn rewrite(answer: Response<Incoming>, source: &html::Source<'_>) -> Result<Response<Body>, String> {
    let (mut parts, body) = answer.into_parts();
    parts.version = http::Version::default();
    drop_hop_headers(&mut parts.headers);
    for name in ["allow-credentials", "allow-headers", "allow-methods", "allow-origin", "expose-headers", "max-age"] {
        parts.headers.remove(format!("access-control-{name}"));
    }
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) {
        let location = source.link(location);
        set(&mut parts.headers, header::LOCATION, &location);
        return Ok(Response::from_parts(parts, boxed(body)));
    }
    let media = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_page = media.split(';').next().is_some_and(|m| m.trim().eq_ignore_ascii_case("text/html"));
    if !is_page || parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(Response::from_parts(parts, boxed(body)));
    }
    let page = read(body, PAGE_MAX).await?;
    let page = html::rewrite(&page, source);
    if let Entry::Occupied(mut length) = parts.headers.entry(header::CONTENT_LENGTH) {
        length.insert(HeaderValue::from(page.len()));
    }
    Ok(Response::from_parts(parts, crate::full(page)))
}

/// Has the backend upgrade its connection as the client asks ([`switch`]).
pub(super) async fn upgrade(backend: &Backend, uri: Uri, host: Option<String>, mut request: Request<Body>) -> Result<Response<Body>, String> {
    let client = request.extensions_mut().remove::<OnUpgrade>().ok_or("this connection cannot be upgraded")?;
    let mut outward = Request::new(crate::empty());
    *outward.method_mut() = request.method().clone();
    *outward.uri_mut() = uri;
    *outward.headers_mut() = std::mem::take(request.headers_mut());
    drop_credentials(outward.headers_mut());
    outward.headers_mut().remove(header::CONTENT_LENGTH);
    set(outward.headers_mut(), header::HOST, host.as_deref().unwrap_or_default());
    switch(dial::connect(backend).await?, outward, client).await
}

/// Asks for an upgrade, and then carries bytes both ways ([`tunnel`]).
/// What is no upgrade is answered as the backend answers it.
pub(crate) async fn switch(mut sender: SendRequest<Body>, outward: Request<Body>, client: OnUpgrade) -> Result<Response<Body>, String> {
    let mut answer = sender.send_request(outward).await.map_err(|e| told(&e))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        if answer.status().as_u16() < 400 {
            return Err(format!("invalid upgrade response: status code {}", answer.status().as_u16()));
        }
        let (mut parts, body) = answer.into_parts();
        drop_hop_headers(&mut parts.headers);
        return Ok(Response::from_parts(parts, boxed(body)));
    }
    let server = hyper::upgrade::on(&mut answer);
    let mut response = Response::new(crate::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    tokio::spawn(async move {
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
        };
        if let Err(error) = tunnel::carry(TokioIo::new(client), TokioIo::new(server)).await {
            tracing::debug!(%error, "a tunnel was cut");
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_told_no_identity_by_the_caller() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "impersonate-user", "x-remote-user", "x-remote-extra-scopes", "x-kept"] {
            headers.insert(HeaderName::from_static(name), header::HeaderValue::from_static("x"));
        }
        drop_credentials(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }
}
