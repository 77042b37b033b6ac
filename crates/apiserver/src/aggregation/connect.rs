//! How an aggregated server is reached: by its Service's cluster IP (upstream's default without `--enable-aggregator-routing`; this
//! process sees the service network as every process of the host does), over TLS with the front proxy's certificate, and with
//! connections that are kept for the next request.
//!
//! HTTP/2 is spoken to a server that offers it, HTTP/1.1 otherwise, as client-go's transport does. A connection of HTTP/1.1 has one
//! request at a time; one of HTTP/2 has many, each with a window of its own below a window of the connection that no number of them
//! fills: a body that nobody reads holds up nobody else's. What upgrades has an own connection of HTTP/1.1. A request that a kept
//! connection did not take any more is sent once on another one: what was not sent at all always (also behind a GOAWAY), what may have
//! been sent only if it reads and has no body, as Go's transport does.

use crate::{
    Body, BoxError,
    hooks::{self, Services, connect, trust, words},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::pki::Credential;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep_until},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Idle connections that are kept to one backend, as client-go's transport does.
const IDLE_MAX: usize = 25;
/// How long a connection is kept idle, as Go's default transport does.
const IDLE_LIFE: Duration = Duration::from_secs(90);
/// How long a backend may take to greet (Go's `TLSHandshakeTimeout`).
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes of headers of an answer at most; Go's client takes 1 MiB.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// Requests at a time on a connection of HTTP/2; one more has another. Servers in Go take 250.
const STREAMS_MAX: usize = 100;
/// Bytes that are held of an answer that nobody reads, and of all on a connection (Go's: 4 MiB and 1 GiB).
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What a greeting names.
const ONE: &[u8] = b"http/1.1";
const TWO: &[u8] = b"h2";

/// Where a Service is now: host and port.
pub(crate) type Place = (String, u16);

/// A server behind a Service.
pub(crate) struct Backend {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) port: u16,
    name: String,
    /// Or why it cannot be spoken to at all.
    tls: Result<Arc<ClientConfig>, String>,
    idle: Mutex<Vec<Kept>>,
}

/// A connection for the next request: one of HTTP/1.1 that has none, or one of HTTP/2.
struct Kept {
    since: Instant,
    place: Place,
    link: Link,
}

/// A way for a request.
enum Link {
    One(http1::SendRequest<Body>),
    /// Whoever has a request on the connection holds the mark.
    Two(http2::SendRequest<Body>, Arc<()>),
}

impl Link {
    fn is_closed(&self) -> bool {
        match self {
            Link::One(sender) => sender.is_closed(),
            Link::Two(sender, _) => sender.is_closed(),
        }
    }

    /// The same connection for one more, if it takes more.
    fn shared(&self) -> Option<Link> {
        match self {
            Link::Two(sender, mark) if Arc::strong_count(mark) <= STREAMS_MAX => Some(Link::Two(sender.clone(), Arc::clone(mark))),
            _ => None,
        }
    }

    async fn is_ready(&mut self) -> bool {
        match self {
            Link::One(sender) => sender.ready().await.is_ok(),
            Link::Two(sender, _) => sender.ready().await.is_ok(),
        }
    }

    /// One request; what may be sent again is in the error.
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match self {
            Link::One(sender) => sender.try_send_request(request).await,
            Link::Two(sender, _) => sender.try_send_request(absolute(request)).await,
        }
    }

    /// Whether a request that reads may be sent again after an error.
    fn is_lost(&self, error: &hyper::Error) -> bool {
        match self {
            Link::One(_) => error.is_incomplete_message() || error.is_closed(),
            // The library does not tell a GOAWAY from a reset; a read may be sent twice.
            Link::Two(..) => !error.is_user(),
        }
    }
}

/// A request as HTTP/2 wants it: with the whole address and no `Host`.
fn absolute(mut request: Request<Body>) -> Request<Body> {
    let host = request.headers_mut().remove(header::HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Ok(uri) = format!("https://{host}{path}").parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("name", &self.name).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Backend {
    pub(super) fn new(namespace: &str, service: &str, port: u16, insecure: bool, bundle: &[u8], shown: Option<&Credential>) -> Backend {
        Backend {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port,
            name: format!("{service}.{namespace}.svc"),
            tls: tls(insecure, bundle, shown).map(Arc::new),
            idle: Mutex::default(),
        }
    }

    /// Why it cannot be spoken to at all, if so.
    pub(crate) fn unusable(&self) -> Option<&str> {
        self.tls.as_ref().err().map(String::as_str)
    }

    /// Where it is now.
    ///
    /// # Errors
    /// Its Service leads nowhere; in upstream's words.
    pub(crate) fn place(&self, services: &dyn Services) -> Result<Place, String> {
        connect::resolve(services, &self.namespace, &self.service, self.port)
    }

    /// A new connection of HTTP/1.1, for an upgrade.
    ///
    /// # Errors
    /// It does not come about; in Go's words.
    pub(crate) async fn open(&self, place: &Place) -> Result<http1::SendRequest<Body>, String> {
        let mut tls = ClientConfig::clone(&*self.tls.clone()?);
        tls.alpn_protocols = vec![ONE.to_vec()];
        one(self.greet(place, Arc::new(tls)).await?).await
    }

    /// A new connection, of the version that the server takes.
    async fn link(&self, place: &Place) -> Result<Link, String> {
        let stream = self.greet(place, self.tls.clone()?).await?;
        if stream.get_ref().1.alpn_protocol() != Some(TWO) {
            return one(stream).await.map(Link::One);
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(hooks::PING_AFTER).keep_alive_timeout(hooks::PING_MAX);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        builder.max_header_list_size(HEAD_BYTES_MAX as u32);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| words::of_http(&error))?;
        tokio::spawn(told(connection));
        let link = Link::Two(sender, Arc::default());
        if let Some(shared) = link.shared() {
            self.keep(place.clone(), shared);
        }
        Ok(link)
    }

    async fn greet(&self, (host, port): &Place, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(self.name.clone()).map_err(|error| error.to_string())?;
        let stream = connect::to_host(host, *port).await?;
        let greeting = TlsConnector::from(tls).connect(name, stream);
        let greeted = tokio::time::timeout(HANDSHAKE_MAX, greeting).await.map_err(|_| "net/http: TLS handshake timeout".to_owned())?;
        greeted.map_err(|error| words::of_tls(&error))
    }

    /// One exchange. The answer's body ends with an error at `until`, if that is given.
    ///
    /// # Errors
    /// There is no answer; in Go's words.
    pub(crate) async fn send(
        self: &Arc<Self>,
        place: &Place,
        mut request: Request<Body>,
        until: Option<tokio::time::Instant>,
    ) -> Result<Response<Body>, String> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && request.body().is_end_stream();
        while let Some(mut link) = self.kept(place) {
            if !link.is_ready().await {
                self.forget(&link);
                continue;
            }
            let again = reads.then(|| copy(&request));
            match link.send(request).await {
                Ok(response) => return Ok(self.carried(response, link, place, until)),
                Err(mut error) => match (error.take_message(), again) {
                    (Some(unsent), _) => {
                        self.forget(&link);
                        request = relative(unsent);
                    }
                    (None, Some(copy)) if link.is_lost(error.error()) => {
                        self.forget(&link);
                        request = copy;
                        // Once: what ends a request here may be the request itself.
                        break;
                    }
                    (None, _) => return Err(words::of_http(&error.into_error())),
                },
            }
        }
        let mut link = Box::pin(self.link(place)).await?;
        let response = link.send(request).await.map_err(|error| words::of_http(&error.into_error()))?;
        Ok(self.carried(response, link, place, until))
    }

    fn carried(self: &Arc<Self>, response: Response<Incoming>, link: Link, place: &Place, until: Option<tokio::time::Instant>) -> Response<Body> {
        use http_body_util::BodyExt as _;
        let link = Some((Arc::clone(self), place.clone(), link));
        response.map(|body| {
            let mut carried = Carried { body, link, end: until.map(|until| Box::pin(sleep_until(until))) };
            if carried.body.is_end_stream() {
                carried.give_back();
            }
            carried.boxed_unsync()
        })
    }

    fn kept(&self, place: &Place) -> Option<Link> {
        let mut idle = self.idle.lock();
        // A connection that several share is not idle while one of them is on it.
        let is_used = |kept: &Kept| matches!(&kept.link, Link::Two(_, mark) if Arc::strong_count(mark) > 1);
        idle.retain(|kept| kept.place == *place && (kept.since.elapsed() < IDLE_LIFE || is_used(kept)) && !kept.link.is_closed());
        if let Some((kept, shared)) = idle.iter_mut().find_map(|kept| kept.link.shared().map(|shared| (kept, shared))) {
            kept.since = Instant::now();
            return Some(shared);
        }
        let at = idle.iter().rposition(|kept| matches!(kept.link, Link::One(_)))?;
        Some(idle.swap_remove(at).link)
    }

    fn keep(&self, place: Place, link: Link) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !link.is_closed() {
            idle.push(Kept { since: Instant::now(), place, link });
        }
    }

    /// Has a connection that lost a request take no more.
    fn forget(&self, lost: &Link) {
        let Link::Two(_, lost) = lost else { return };
        self.idle.lock().retain(|kept| !matches!(&kept.link, Link::Two(_, mark) if Arc::ptr_eq(mark, lost)));
    }
}

async fn one(stream: TlsStream<TcpStream>) -> Result<http1::SendRequest<Body>, String> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| words::of_http(&error))?;
    tokio::spawn(told(connection.with_upgrades()));
    Ok(sender)
}

/// What went wrong is also told to whoever waits for the answer or reads its body.
async fn told(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to an aggregated server ended");
    }
}

/// A request as HTTP/1.1 wants it, of one that may have been made absolute.
fn relative(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().clone();
    if let (Some(host), Some(path)) = (uri.authority(), uri.path_and_query())
        && let (Ok(host), Ok(path)) = (HeaderValue::from_str(host.as_str()), path.as_str().parse())
    {
        request.headers_mut().insert(header::HOST, host);
        *request.uri_mut() = path;
    }
    request
}

/// A request without a body, once more.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(crate::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Whom to believe and who to be there.
fn tls(insecure: bool, bundle: &[u8], shown: Option<&Credential>) -> Result<ClientConfig, String> {
    let shown = shown.map(|shown| Ok::<_, String>((shown.chain().map_err(|e| e.to_string())?, shown.key().map_err(|e| e.to_string())?)));
    let shown = shown.transpose()?;
    if !insecure {
        return trust::config(bundle, shown, true);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(dial::unverified(provider));
    let mut config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![TWO.to_vec(), ONE.to_vec()];
    Ok(config)
}

/// An answer's body: when it has been read to its end, its connection is kept for the next request; when it is dropped before
/// that, or its time is over, the connection ends, or of one that several share this request alone.
struct Carried {
    body: Incoming,
    link: Option<(Arc<Backend>, Place, Link)>,
    end: Option<Pin<Box<Sleep>>>,
}

impl Carried {
    fn give_back(&mut self) {
        // What is shared is kept already.
        if let Some((backend, place, link @ Link::One(_))) = self.link.take() {
            backend.keep(place, link);
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // Who knows that there is no more does not ask for it.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

impl http_body::Body for Carried {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            self.link = None;
            return Poll::Ready(Some(Err("context deadline exceeded".into())));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map_err(Into::into))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
