//! TLS and HTTP before the path: the accept loop, one task a connection, and the end of both.
//!
//! The requests of an HTTP/2 connection are polled by the connection's own task ([`Local`]): most are answered in some
//! tens of microseconds.
//!
//! What a client may hold follows upstream's server (`secure_serving.go`, `UnauthenticatedHTTP2DOSMitigation`): the times for
//! a head and between two requests, streams of a connection, and an HTTP/2 connection on which nobody in particular asks ends
//! with that request. Beside that each address has a share of the connections, and those who have not asked anything yet a
//! smaller one, so that nobody shuts out the others.

use crate::{
    ApiServer, Body, BoxError,
    body::Holding,
    gather::gather,
    local::{Local, Tasks},
    malformed, meta, reply,
    turns::turns,
};
use dial::{
    guests::{self, Door, Guest, Idle, Place, Places, Told},
    head,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use identity::{Authenticator, Owner};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use std::{
    convert::Infallible,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A TLS handshake may last this long.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Requests in flight on one HTTP/2 connection, as upstream's default.
const STREAMS_MAX: u32 = 100;
/// Bytes that a client may send ahead on one stream; upstream's buffers hold one frame of 256 KiB.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes that a client may send ahead on a connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes that are buffered for a slow reader of one stream.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Connections that are open at once, but no more than half of the descriptors: the others are the store's and the node's.
const CONNECTIONS_MAX: usize = 16_384;
/// By what name a request is found again in what is told of it elsewhere, as upstream gives it to each.
pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// What is left to say may take so long when a connection has ended.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// How long requests in flight may go on after the end was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Where a request came from, put into its extensions by the TLS layer.
#[derive(Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// The client's certificate, put into a request's extensions by the TLS layer; its user is found once a connection, as long as no
/// certificate begins or ends.
#[derive(Clone)]
pub struct PeerCertificate(pub(crate) Arc<Peer>);

/// The certificate and, once asked for, whose it is.
pub(crate) struct Peer {
    der: CertificateDer<'static>,
    /// Those between it and its authority, as they were shown.
    between: Vec<CertificateDer<'static>>,
    owner: Mutex<Option<Arc<Owner>>>,
}

impl Peer {
    /// Whose the certificate is; a connection may outlive it.
    pub(crate) fn owner(&self, authenticator: &Authenticator, now: SystemTime) -> Arc<Owner> {
        let mut known = self.owner.lock();
        if let Some(owner) = known.as_ref().filter(|owner| owner.holds(now)) {
            return Arc::clone(owner);
        }
        let owner = Arc::new(authenticator.owner(&self.der, &self.between, now));
        *known = Some(Arc::clone(&owner));
        owner
    }
}

impl PeerCertificate {
    /// A certificate whose key the client has, by its handshake.
    pub fn new(der: CertificateDer<'static>) -> Self {
        PeerCertificate(Arc::new(Peer { der, between: Vec::new(), owner: Mutex::default() }))
    }

    /// The certificates that a client has shown in a handshake, its own first.
    fn shown(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (der, between) = chain.split_first()?;
        let between = between.iter().map(|der| der.clone().into_owned()).collect();
        Some(PeerCertificate(Arc::new(Peer { der: der.clone().into_owned(), between, owner: Mutex::default() })))
    }
}

/// The places for clients of all listeners together.
#[derive(Clone)]
pub(crate) struct Clients {
    all: Places,
    strangers: Places,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let all = guests::at_most(CONNECTIONS_MAX, 2);
        let strangers = all / 8;
        Self { all: Places::new(all, all / 4), strangers: Places::new(strangers, strangers / 4) }
    }
}

/// Serves until `shutdown`, then lets requests in flight end.
pub(crate) async fn serve(server: ApiServer, listener: TcpListener, tls: Arc<rustls::ServerConfig>, clients: Clients, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(with_alpn(tls));
    let connections = TaskTracker::new();
    let mut door = Door::new("API", listener, clients.all);
    let mut full = Told::default();
    loop {
        let guest = tokio::select! {
            () = shutdown.cancelled() => break,
            guest = door.next() => guest,
        };
        // Whoever has asked nothing yet is nobody: of them there are fewer.
        let Some(stranger) = clients.strangers.enter(guest.address().ip()) else {
            if full.due() {
                tracing::warn!(client = %guest.address().ip(), "too many connections that have asked nothing yet; one is turned away");
            }
            continue;
        };
        let (server, acceptor, shutdown) = (server.clone(), acceptor.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Err(error) = connection(server, acceptor, (guest, stranger), shutdown).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    server.world().ending().cancel();
    connections.close();
    if tokio::time::timeout(DRAIN_MAX, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections were cut at the end of the drain");
    }
}

fn with_alpn(tls: Arc<rustls::ServerConfig>) -> Arc<rustls::ServerConfig> {
    if !tls.alpn_protocols.is_empty() {
        return tls;
    }
    let mut own = (*tls).clone();
    own.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(own)
}

async fn connection(server: ApiServer, acceptor: TlsAcceptor, (mut guest, stranger): (Guest, Place), shutdown: CancellationToken) -> Result<(), BoxError> {
    let address = guest.address().ip();
    let handshake = async move {
        if guest.speaks_plainly().await? {
            return Ok(None);
        }
        acceptor.accept(guest).await.map(Some)
    };
    let shaken = tokio::time::timeout(HANDSHAKE_MAX, handshake).await.map_err(BoxError::from);
    let stream = match shaken.and_then(|shaken| shaken.map_err(BoxError::from)) {
        Ok(Some(stream)) => stream,
        Ok(None) => return Ok(()),
        Err(error) => {
            server.world().metrics().stages().handshake_failed();
            return Err(error);
        }
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(PeerCertificate::shown);
    let gathers = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let (stream, rest) = gather(stream, gathers);
    let (client, bodies) = (ClientAddress(address), rest.bodies());
    let (idle, leave) = (Idle::new(), CancellationToken::new());
    let (requests, last, stranger) = (idle.clone(), leave.clone(), Mutex::new(Some(stranger)));
    let service = service_fn(move |mut request: Request<Incoming>| {
        drop(stranger.lock().take());
        let (busy, server, last) = (requests.begin(), server.clone(), last.clone());
        let refused = malformed::refusal(&request);
        let named = request.headers().get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
        let two = request.version() == http::Version::HTTP_2;
        let alone = head::is_alone(&request);
        let nobody = two && peer.is_none() && !request.headers().contains_key(header::AUTHORIZATION);
        request.extensions_mut().insert(client);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        // Before anything more is read.
        let request = request.map(|body| bodies.begin(body).map_err(|e| Box::new(e) as BoxError).boxed_unsync());
        async move {
            let response: Response<Body> = match refused {
                Some(response) => response,
                None => identified(server.handle(request).await, named),
            };
            if nobody || two && response.status() == StatusCode::UNAUTHORIZED {
                last.cancel();
            }
            let response = if alone { head::alone(response, crate::empty()) } else { response };
            Ok::<_, Infallible>(response.map(|body| Holding::new(body, busy)))
        }
    });
    let local = Local::default();
    let builder = builder(&local);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut tasks = Tasks::default();
    let mut ending = pin!(async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = leave.cancelled() => {}
            () = idle.too_long() => {}
        }
    });
    let mut over = pin!(idle.farewell());
    let mut told = false;
    let look = |cx: &mut Context<'_>| {
        if !told && ending.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        let done = connection.as_mut().poll(cx);
        local.poll(&mut tasks, cx);
        // Who does not hear the farewell, or never said a word, is cut.
        if done.is_pending() && told && over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        done
    };
    // A task may have made the connection ready, or the connection new tasks: what all of them write leaves at the end of the turn.
    let settle = |cx: &mut Context<'_>| match rest.poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        _ => Poll::Pending,
    };
    let ended = turns(&Arc::default(), look, settle).await;
    // What nobody could read is told so, in the words of Go's server; who does not hear it is cut.
    let _ = tokio::time::timeout(FAREWELL_MAX, rest.end(ended.as_ref().err().and_then(|error| malformed::unread(error, &rest.head())))).await;
    ended
}

/// An answer with the name of its request: the one that its sender gave it, or one of its own. Who answers for this server has named it.
fn identified(mut response: Response<Body>, named: Option<HeaderValue>) -> Response<Body> {
    if !reply::is_bare(&response) && !response.headers().contains_key(AUDIT_ID) {
        let id = named.or_else(|| HeaderValue::from_str(&meta::uuid()).ok());
        response.headers_mut().extend(id.map(|id| (AUDIT_ID, id)));
    }
    response
}

fn builder(local: &Local) -> auto::Builder<Local> {
    let mut builder = auto::Builder::new(local.clone());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(guests::IDLE_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(64 * 1024);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_bears_the_name_of_its_request() {
        let id = |response: &Response<Body>| response.headers().get(AUDIT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let answer = || Response::new(crate::empty());
        assert_eq!(id(&identified(answer(), Some(HeaderValue::from_static("mine")))).as_deref(), Some("mine"));
        assert_eq!(id(&identified(answer(), None)).map(|id| id.len()), Some(36));
        let mut forwarded = answer();
        forwarded.headers_mut().insert(AUDIT_ID, HeaderValue::from_static("theirs"));
        assert_eq!(id(&identified(forwarded, None)).as_deref(), Some("theirs"));
    }
}
