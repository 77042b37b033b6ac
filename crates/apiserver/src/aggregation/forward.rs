//! A request that is another server's: passed on as it is, but for who asks, and its answer passed back.
//!
//! It has been authenticated and authorised here; the other server believes the front proxy's certificate and asks for the rights
//! by itself. Bodies flow both ways as they come, and no more of them is held than what a connection's windows hold. The end of
//! the client's request drops what is here, which ends the connection behind it. Errors are plain text, as upstream's are.

use super::{connect::Place, headers, remote::Remote};
use crate::{Body, Context, body, proxy, server::ClientAddress, websocket, world::World};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What a server says it serves must be there at once (upstream's `aggregatedDiscoveryTimeout`).
const DISCOVERY_MAX: Duration = Duration::from_secs(5);
const UNAVAILABLE: &str = "service unavailable";

/// A request on its way.
pub(crate) struct Passed<'a> {
    cx: &'a Context,
    parts: Parts,
    client: Option<IpAddr>,
    /// When it must be over, body and all; none for what lasts.
    until: Option<Instant>,
}

impl<'a> Passed<'a> {
    pub(crate) fn new(cx: &'a Context, parts: Parts, until: Option<Instant>) -> Passed<'a> {
        let client = parts.extensions.get::<ClientAddress>().map(|client| client.0);
        Passed { cx, parts, client, until }
    }
}

/// An error as Go's `http.Error` writes it.
fn error(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = plain(code, format!("{text}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn plain(code: StatusCode, text: String) -> Response<Body> {
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(body::full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers::cached(response.headers_mut());
    response
}

fn unreached(why: &str) -> Response<Body> {
    error(StatusCode::SERVICE_UNAVAILABLE, &format!("error trying to reach service: {why}"))
}

/// Answers a request that is a remote's. The body is taken when it is known that it will be sent.
pub(crate) async fn answer(world: &World, remote: &Arc<Remote>, passed: Passed<'_>, body: &mut Option<Body>) -> Response<Body> {
    if !remote.available {
        return error(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE);
    }
    if let Some(why) = remote.backend.unusable() {
        return error(StatusCode::INTERNAL_SERVER_ERROR, why);
    }
    let place = match remote.backend.place(world) {
        Ok(place) => place,
        Err(why) => {
            tracing::debug!(name = remote.name, why, "an aggregated server's Service leads nowhere");
            return error(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE);
        }
    };
    let mut parts = passed.parts;
    let upgrades = websocket::upgrade_wanted(&parts.headers);
    let id = headers::identify(&mut parts.headers);
    proxy::drop_credentials(&mut parts.headers);
    if !upgrades {
        // Before the user is told: what the client's `Connection` names is never ours.
        proxy::drop_hop_headers(&mut parts.headers);
    }
    headers::tell(&mut parts.headers, &world.identity().authenticator.trust().request_headers, &passed.cx.user);
    if upgrades {
        let failed = |why: String| headers::identified(error(StatusCode::SERVICE_UNAVAILABLE, &why), id);
        return upgrade(remote, &place, parts, passed.client).await.unwrap_or_else(failed);
    }
    let Ok(request) = rewritten(&place, parts, passed.client, body::passed(body.take())) else {
        return error(StatusCode::BAD_REQUEST, "the path is not one");
    };
    let sent = remote.backend.send(&place, request, passed.until);
    let sent = if is_discovery(passed.cx) {
        let late = |_| Err("context deadline exceeded".to_owned());
        tokio::time::timeout(DISCOVERY_MAX, sent).await.unwrap_or_else(late)
    } else {
        sent.await
    };
    let response = match sent {
        Ok(response) => proxy::named(returned(response)).await,
        Err(why) => unreached(&why),
    };
    headers::identified(response, id)
}

/// `/apis/GROUP/VERSION`.
fn is_discovery(cx: &Context) -> bool {
    !cx.info.is_resource && cx.info.path.trim_matches('/').split('/').count() == 3
}

fn rewritten(place: &Place, mut parts: Parts, client: Option<IpAddr>, body: Body) -> Result<Request<Body>, http::Error> {
    let (host, target) = (headers::joined(place), headers::target(&parts.uri));
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut request = Request::builder().method(parts.method).uri(target).body(body)?;
    headers::forwarded(&mut parts.headers, client, &host, &path);
    parts.headers.insert(header::HOST, HeaderValue::from_str(&host)?);
    *request.headers_mut() = parts.headers;
    Ok(request)
}

/// The other server's answer as ours.
fn returned(response: Response<Body>) -> Response<Body> {
    if response.status().is_redirection() && response.headers().get(header::LOCATION).is_some_and(|location| !location.is_empty()) {
        // Who followed it would show what he has for this server to another.
        return plain(StatusCode::BAD_GATEWAY, "the backend attempted to redirect this request, which is not permitted".into());
    }
    let (mut parts, body) = response.into_parts();
    parts.version = http::Version::default();
    proxy::drop_hop_headers(&mut parts.headers);
    for name in ["allow-credentials", "allow-headers", "allow-methods", "allow-origin", "expose-headers", "max-age"] {
        parts.headers.remove(format!("access-control-{name}"));
    }
    headers::cached(&mut parts.headers);
    Response::from_parts(parts, body)
}

/// Has the other server upgrade as the client asks; from then on bytes are carried.
async fn upgrade(remote: &Remote, place: &Place, mut parts: Parts, client: Option<IpAddr>) -> Result<Response<Body>, String> {
    let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or("request connection cannot be hijacked")?;
    let host = headers::joined(place);
    headers::came_from(&mut parts.headers, client);
    let sender = remote.backend.open(place).await.map_err(|why| format!("error dialing backend: {why}"))?;
    let mut request = Request::new(body::empty());
    *request.method_mut() = parts.method;
    *request.uri_mut() = headers::target(&parts.uri).parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    *request.headers_mut() = upgrading(parts.headers, &host);
    proxy::switch(sender, request, upgrade).await
}

fn upgrading(mut headers: HeaderMap, host: &str) -> HeaderMap {
    headers.remove(header::CONTENT_LENGTH);
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    headers
}
