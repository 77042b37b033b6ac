//! The ports of the scheduler and of the controllers, which serve what kube-scheduler (10259) and kube-controller-manager (10257) serve
//! there: health and metrics. Over TLS, and but for health only to whom the API server lets: it is asked who somebody is and
//! what he may ([`client::Delegated`]).
//!
//! A port costs a task that waits. What is told is worked out when somebody asks.

mod pages;
mod tls;
mod zpages;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use client::{Asker, Delegated};
use dial::guests::{self, Door, Guest, Idle, Places};
use dial::head;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use machinery::status::Status;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use pages::{Check, Pages};
pub use tls::{Files, fixed, of_server, own};
pub use zpages::{About, Flags, served};

/// Connections at the same time, and no more than this share of the descriptors that there are: a few who watch, now and then.
const CONNECTIONS_MAX: usize = 64;
const SHARE: usize = 32;
/// A client must finish its TLS handshake in this time.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// What anybody may ask for (the originals' `--authorization-always-allow-paths`).
const OPEN: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// A part's port.
pub struct Port {
    listener: TcpListener,
    /// May be replaced while it is served.
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    delegated: Delegated,
    pages: Pages,
}

/// Binds a part's port, or says who is in the way and by which flag another is chosen.
pub fn listen(part: &str, flag: &str, ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    let bound = std::net::TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
    match bound {
        Ok(listener) => TcpListener::from_std(listener).with_context(|| format!("the {part}'s port {address}")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("the {part}'s port {address} is in use by another program: end that one, or choose another with {flag} (0: none)")
        }
        Err(error) => bail!("the {part} cannot listen on {address}: {error}"),
    }
}

impl Port {
    /// Serves these pages there to whom `delegated` lets.
    pub fn new(listener: TcpListener, tls: watch::Receiver<Arc<rustls::ServerConfig>>, delegated: Delegated, pages: Pages) -> Self {
        Self { listener, tls, delegated, pages }
    }

    /// Serves until it is told to end.
    pub async fn serve(self, stop: CancellationToken) {
        let all = guests::at_most(CONNECTIONS_MAX, SHARE);
        let mut door = Door::new("metrics", self.listener, Places::new(all, all / 2));
        let shared = Arc::new((self.delegated, self.pages));
        loop {
            let guest = tokio::select! {
                guest = door.next() => guest,
                () = stop.cancelled() => return,
            };
            let (tls, shared, stop) = (TlsAcceptor::from(self.tls.borrow().clone()), shared.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = connection(guest, tls, shared) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

async fn connection(mut guest: Guest, tls: TlsAcceptor, shared: Arc<(Delegated, Pages)>) {
    let handshake = async move { if guest.speaks_plainly().await? { Ok(None) } else { tls.accept(guest).await.map(Some) } };
    let Ok(Ok(Some(io))) = tokio::time::timeout(HANDSHAKE_MAX, handshake).await else { return };
    let peer = io.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(Asker::of_certificate);
    let idle = Idle::new();
    let requests = idle.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (shared, peer, busy) = (shared.clone(), peer.clone(), requests.begin());
        async move {
            let _busy = busy;
            let answer = answer(&request, peer, &shared).await;
            Ok::<_, Infallible>(if head::is_alone(&request) { head::alone(answer, Full::default()) } else { answer })
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(guests::IDLE_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30)).max_concurrent_streams(16);
    tokio::select! {
        // How it ended is the client's business.
        _ = builder.serve_connection(TokioIo::new(io), service) => {}
        () = idle.too_long() => {}
    }
}

async fn answer(request: &Request<Incoming>, peer: Option<Asker>, shared: &Arc<(Delegated, Pages)>) -> Response<Full<Bytes>> {
    let (path, method, query) = (request.uri().path(), request.method(), request.uri().query().unwrap_or_default());
    if !OPEN.contains(&path) {
        let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
        if let Err(refused) = check(peer, token, &verb(method), path, &shared.0).await {
            return status(&refused);
        }
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return status(&Status::method_not_allowed());
    }
    if OPEN.contains(&path) {
        return shared.1.answer(path, query, "");
    }
    let accepted: Vec<&str> = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    // What is told of a hundred thousand pods holds nobody up.
    let (shared, path, query, accepted) = (shared.clone(), path.to_owned(), query.to_owned(), accepted.join(","));
    tokio::task::spawn_blocking(move || shared.1.answer(&path, &query, &accepted)).await.unwrap_or_else(|error| status(&Status::internal(error)))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The verb of a path that is no resource: the method's name.
fn verb(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}

/// Whether somebody may, in the originals' words if not.
async fn check(peer: Option<Asker>, token: Option<&str>, verb: &str, path: &str, delegated: &Delegated) -> Result<(), Status> {
    let who = match (peer, token) {
        (Some(peer), _) => peer,
        (None, Some(token)) => delegated.token(token).await.map_err(Status::internal)?.ok_or_else(Status::unauthorized)?,
        (None, None) => Asker::anonymous(),
    };
    if delegated.may(&who, verb, path).await.map_err(Status::internal)? {
        return Ok(());
    }
    Err(Status::forbidden("", "", "", format!("User {:?} cannot {verb} path {path:?}", who.name)))
}

fn status(status: &Status) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(status.to_value().to_string()));
    *answer.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod original;
#[cfg(test)]
mod tests;
