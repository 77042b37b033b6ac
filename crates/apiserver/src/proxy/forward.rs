//! Carrying a request to a backend: as one exchange, or as a tunnel once both sides have upgraded.

use super::{
    dial::{self, Backend},
    html, sniff, tunnel,
};
use crate::{
    Body, BoxError, Context,
    aggregation::headers as shown,
    hooks::{self, words},
    query, websocket,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{self, Entry},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1::SendRequest, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use machinery::status::Status;

/// What is told of a backend that does not upgrade, and does not refuse to.
const NO_UPGRADE: &str = "invalid upgrade response";
/// Who sends what Go's library writes.
const AGENT: HeaderValue = HeaderValue::from_static("Go-http-client/1.1");
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
    let tail = admitted.unwrap_or(&cx.info.tail);
    let asked = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let own_path = request.uri().path().to_owned();
    // As upstream joins it: read, without what leads nowhere or back, and written again.
    let location = hooks::joined_whole(&by_bytes(tail));
    let path = shown::in_path(&bytes(&location));
    let uri: Uri = format!("{path}{asked}").parse().map_err(|_| Status::bad_request("the path is not one"))?;
    let host = host(&request);
    if websocket::upgrade_wanted(request.headers()) {
        let told = |error: String| if error.starts_with(NO_UPGRADE) { super::plain_error(error) } else { reach(error) };
        return upgrade(backend, uri, host, request).await.map_err(told);
    }
    if tail.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(to_root(&format!("{own_path}/{asked}")));
    }
    let own = by_bytes(&own_path);
    // What was asked for in another way is told whole.
    let prefix = String::from_utf8_lossy(&bytes(own.strip_suffix(&location).unwrap_or(&own))).into_owned();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    drop_credentials(headers);
    drop_hop_headers(headers);
    // Pages are rewritten, so they must come as text.
    headers.remove(header::ACCEPT_ENCODING);
    set(headers, header::HOST, host.as_deref().unwrap_or_default());
    set(headers, HeaderName::from_static("x-forwarded-uri"), &hooks::joined_whole(&format!("{prefix}{path}")));
    // As it stands in links: whoever asks says what may be in it.
    let source = html::Source { prefix: &shown::in_path(prefix.as_bytes()), backend: &backend.address.to_string(), host: host.as_deref().unwrap_or_default() };
    let mut sender = dial::connect(backend).await.map_err(reach)?;
    let answer = sender.send_request(request).await.map_err(|e| reach(words::of_http(&e)))?;
    let mut answer = rewrite(answer, &source).await.map_err(reach)?;
    shown::cached(answer.headers_mut());
    Ok(sniff::named(answer).await)
}

/// A path as it is read, each of its bytes a character: not every path is text.
fn by_bytes(path: &str) -> String {
    query::percent_bytes(path).into_iter().map(char::from).collect()
}

/// The bytes of what [`by_bytes`] gave.
fn bytes(path: &str) -> Vec<u8> {
    path.chars().filter_map(|byte| u8::try_from(byte).ok()).collect()
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

/// Adds what Go's `Request.Write` says of a request without a body, and of one whose sender does not say who he is.
fn complete<B>(outward: &mut Request<B>) {
    let may_have_body = matches!(*outward.method(), Method::POST | Method::PUT | Method::PATCH);
    let headers = outward.headers_mut();
    if may_have_body {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    match headers.get(header::USER_AGENT).map(HeaderValue::is_empty) {
        None => drop(headers.insert(header::USER_AGENT, AGENT)),
        Some(true) => drop(headers.remove(header::USER_AGENT)),
        Some(false) => {}
    }
}

/// Asks for an upgrade, and then carries bytes both ways ([`tunnel`]).
/// What is no upgrade is answered as the backend answers it.
pub(crate) async fn switch(mut sender: SendRequest<Body>, mut outward: Request<Body>, client: OnUpgrade) -> Result<Response<Body>, String> {
    complete(&mut outward);
    let mut answer = sender.send_request(outward).await.map_err(|e| words::of_http(&e))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        if answer.status().as_u16() < 400 {
            return Err(format!("{NO_UPGRADE}: status code {}", answer.status().as_u16()));
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
    fn paths_are_read_and_written_again() {
        let of = |tail: &str| shown::in_path(&bytes(&hooks::joined_whole(&by_bytes(tail))));
        for (tail, path) in [("", "/"), ("/a//b/", "/a/b/"), ("/a/%2e%2E/b", "/b"), ("/a%2Fb", "/a/b"), ("/a%20b/%41!", "/a%20b/A%21"), ("/../..", "/")] {
            assert_eq!(of(tail), path, "{tail}");
        }
        assert_eq!(of("/%ff/%C3%A4"), "/%FF/%C3%A4", "no text is made of what is none");
    }

    #[test]
    fn what_asks_for_an_upgrade_is_written_as_by_go() {
        let told = |method: Method, agent: Option<&'static str>| {
            let mut outward = Request::new(());
            *outward.method_mut() = method;
            outward.headers_mut().extend(agent.map(|agent| (header::USER_AGENT, HeaderValue::from_static(agent))));
            complete(&mut outward);
            let mut said: Vec<String> = outward.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
            said.sort();
            said.join(", ")
        };
        assert_eq!(told(Method::POST, None), "content-length: 0, user-agent: Go-http-client/1.1");
        assert_eq!((told(Method::GET, Some("kubectl")), told(Method::DELETE, Some(""))), ("user-agent: kubectl".to_owned(), String::new()));
    }

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
