//! How an aggregated server is reached: by its Service's cluster IP (upstream's default without `--enable-aggregator-routing`; this
//! process sees the service network as every process of the host does), over TLS with the front proxy's certificate, and with
//! connections that are kept for the next request.
//!
//! HTTP/1.1 alone is spoken: each request has a connection, so that the end of a request is the end of what it holds behind it, and
//! no slow watch holds up its neighbours. A request that a kept connection did not take any more is sent once on another one:
//! what was not sent at all always, what may have been sent only if it reads and has no body, as Go's transport does.

use crate::{
    Body, BoxError,
    hooks::{Services, connect, trust, words},
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
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
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::TlsConnector;

/// Idle connections that are kept to one backend, as client-go's transport does.
const IDLE_MAX: usize = 25;
/// How long a connection is kept idle, as Go's default transport does.
const IDLE_LIFE: Duration = Duration::from_secs(90);
/// How long a backend may take to greet (Go's `TLSHandshakeTimeout`).
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes of headers of an answer at most; Go's client takes 1 MiB.
const HEAD_BYTES_MAX: usize = 1 << 20;

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

struct Kept {
    since: Instant,
    place: Place,
    sender: SendRequest<Body>,
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

    /// A new connection.
    ///
    /// # Errors
    /// It does not come about; in Go's words.
    pub(crate) async fn open(&self, (host, port): &Place) -> Result<SendRequest<Body>, String> {
        let tls = self.tls.clone()?;
        let name = ServerName::try_from(self.name.clone()).map_err(|error| error.to_string())?;
        let stream = connect::to_host(host, *port).await?;
        let greeting = TlsConnector::from(tls).connect(name, stream);
        let greeted = tokio::time::timeout(HANDSHAKE_MAX, greeting).await.map_err(|_| "net/http: TLS handshake timeout".to_owned())?;
        let stream = greeted.map_err(|error| words::of_tls(&error))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| words::of_http(&error))?;
        tokio::spawn(async move {
            // What went wrong is also told to whoever waits for the answer or reads its body.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an aggregated server ended");
            }
        });
        Ok(sender)
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
        while let Some(mut sender) = self.kept(place) {
            if sender.ready().await.is_err() {
                continue;
            }
            let again = reads.then(|| copy(&request));
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.carried(response, sender, place, until)),
                Err(mut error) => match (error.take_message(), again) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(copy)) if error.error().is_incomplete_message() || error.error().is_closed() => request = copy,
                    (None, _) => return Err(words::of_http(&error.into_error())),
                },
            }
        }
        let mut sender = self.open(place).await?;
        let response = sender.send_request(request).await.map_err(|error| words::of_http(&error))?;
        Ok(self.carried(response, sender, place, until))
    }

    fn carried(
        self: &Arc<Self>,
        response: Response<Incoming>,
        sender: SendRequest<Body>,
        place: &Place,
        until: Option<tokio::time::Instant>,
    ) -> Response<Body> {
        use http_body_util::BodyExt as _;
        let link = Some((Arc::clone(self), place.clone(), sender));
        response.map(|body| {
            let mut carried = Carried { body, link, end: until.map(|until| Box::pin(sleep_until(until))) };
            if carried.body.is_end_stream() {
                carried.give_back();
            }
            carried.boxed_unsync()
        })
    }

    fn kept(&self, place: &Place) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock();
        idle.retain(|kept| kept.place == *place && kept.since.elapsed() < IDLE_LIFE && !kept.sender.is_closed());
        idle.pop().map(|kept| kept.sender)
    }

    fn keep(&self, place: Place, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(Kept { since: Instant::now(), place, sender });
        }
    }
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
    let shown = shown.map(|shown| Ok::<_, String>((vec![shown.cert().map_err(|e| e.to_string())?], shown.key().map_err(|e| e.to_string())?)));
    let shown = shown.transpose()?;
    if !insecure {
        return trust::config(bundle, shown, false);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(dial::unverified(provider));
    match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string()),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// An answer's body: when it has been read to its end, its connection is kept for the next request; when it is dropped before
/// that, or its time is over, the connection ends.
struct Carried {
    body: Incoming,
    link: Option<(Arc<Backend>, Place, SendRequest<Body>)>,
    end: Option<Pin<Box<Sleep>>>,
}

impl Carried {
    fn give_back(&mut self) {
        if let Some((backend, place, sender)) = self.link.take() {
            backend.keep(place, sender);
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
