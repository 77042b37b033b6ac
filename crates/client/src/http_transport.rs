//! Requests over the network: TLS, HTTP/2 on one kept connection that is made anew when it breaks (and on a second where the
//! first has as many requests as a server takes: watches stay, and a lease would wait for their end), HTTP/1.1 where the
//! server speaks nothing better (a connection a request then, so that watches do not hold up reads).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::error::{Error, Result};
use crate::kubeconfig::Endpoint;
use crate::tls;
use crate::transport::{Body, Transport};

/// A connection that is not there by then will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is asked for a sign of life. client-go waits for 30 s; but the original's kubelet gives up all its connections at the
/// second heartbeat that fails, 20 s after a server has gone without a word, and a node is taken for dead after 50 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Without that sign it is given up.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// Window of a stream in bytes: large lists do not wait for acknowledgements.
const STREAM_WINDOW: u32 = 1 << 20;
/// Requests under way on one connection: what servers allow (the original's `http2-max-streams-per-connection`).
const STREAMS_MAX: usize = 100;
/// A token file is read again after this long; tokens are renewed long before they expire.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

type Sender2 = http2::SendRequest<Full<Bytes>>;

/// A transport over the network.
pub struct HttpTransport {
    inner: Arc<Inner>,
}

struct Inner {
    base: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<HeaderValue>,
    token_file: Option<std::path::PathBuf>,
    file_token: Mutex<Option<(Instant, HeaderValue)>>,
    /// The kept connections; the lock is held while one is made, so that many requests make one.
    connections: tokio::sync::Mutex<Vec<Kept>>,
}

/// A connection that is kept.
struct Kept {
    sender: Sender2,
    /// Held by each request under way, until its answer's body is gone.
    under_way: Arc<()>,
}

/// What a new connection speaks.
enum Sender {
    Two(Sender2, Arc<()>),
    One(http1::SendRequest<Full<Bytes>>),
}

impl HttpTransport {
    /// A transport to this endpoint. Connects when the first request is sent.
    ///
    /// # Errors
    /// The address or the certificates cannot be used.
    pub fn new(mut endpoint: Endpoint) -> Result<Self> {
        let base: Uri = endpoint.server.parse().map_err(|e| Error::Config(format!("server {:?}: {e}", endpoint.server)))?;
        let host = base.host().ok_or_else(|| Error::Config(format!("server {:?} names no host", endpoint.server)))?.to_owned();
        let secure = base.scheme_str() != Some("http");
        let port = base.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure {
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = endpoint.server_name.clone().unwrap_or(bare);
            let name = ServerName::try_from(name).map_err(|e| Error::Config(format!("server {:?}: {e}", endpoint.server)))?;
            Some((TlsConnector::from(Arc::new(tls::config(&mut endpoint)?)), name))
        } else {
            None
        };
        let token = endpoint.credentials.token.as_deref().map(bearer).transpose()?;
        let inner = Inner {
            base,
            host,
            port,
            tls,
            token,
            token_file: endpoint.credentials.token_file,
            file_token: Mutex::default(),
            connections: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.send(request).await })
    }
}

fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| Error::Config("the bearer token is not text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn transport(error: impl std::fmt::Display) -> Error {
    Error::Transport(error.to_string())
}

impl Inner {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        parts.uri = self.absolute(&parts.uri)?;
        if let Some(token) = self.bearer().await? {
            parts.headers.insert(header::AUTHORIZATION, token);
        }
        // A kept connection may turn out to be closed just now: hyper then gives the request back, unsent, and the
        // next connection is new.
        loop {
            let (sender, kept) = self.sender().await?;
            let mut request = Request::from_parts(parts.clone(), Full::new(body.clone()));
            match sender {
                Sender::Two(mut sender, under_way) => match sender.try_send_request(request).await {
                    Ok(response) => return Ok(response.map(|body| held(body, under_way))),
                    Err(mut error) => {
                        if kept && error.take_message().is_some() {
                            continue;
                        }
                        return Err(transport(error.into_error()));
                    }
                },
                Sender::One(mut sender) => {
                    if let Ok(host) = HeaderValue::from_str(parts.uri.authority().map_or("", |a| a.as_str())) {
                        request.headers_mut().insert(header::HOST, host);
                    }
                    let origin = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
                    *request.uri_mut() = origin.into();
                    let response = sender.send_request(request).await.map_err(transport)?;
                    return Ok(response.map(|b| b.map_err(Into::into).boxed_unsync()));
                }
            }
        }
    }

    /// The request's URI at this server.
    fn absolute(&self, uri: &Uri) -> Result<Uri> {
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let prefix = self.base.path().trim_end_matches('/');
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let authority = format!("{}:{}", self.host, self.port);
        let built = Uri::builder().scheme(scheme).authority(authority).path_and_query(format!("{prefix}{path}"));
        built.build().map_err(|e| Error::Config(e.to_string()))
    }

    /// A kept connection (true), or a new one.
    async fn sender(&self) -> Result<(Sender, bool)> {
        let mut kept = self.connections.lock().await;
        kept.retain(|k| !k.sender.is_closed());
        // Its own is one of the count.
        if let Some(kept) = kept.iter().find(|k| Arc::strong_count(&k.under_way) <= STREAMS_MAX) {
            return Ok((Sender::Two(kept.sender.clone(), Arc::clone(&kept.under_way)), true));
        }
        let sender = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let sender = sender.map_err(|_| Error::Transport(format!("connecting to {}:{} took longer than {CONNECT_TIMEOUT:?}", self.host, self.port)))??;
        if let Sender::Two(sender, under_way) = &sender {
            kept.push(Kept { sender: sender.clone(), under_way: Arc::clone(under_way) });
        }
        Ok((sender, false))
    }

    async fn connect(&self) -> Result<Sender> {
        let mut last = Error::Transport(format!("{} has no address", self.host));
        for address in dial::addresses(&self.host, dial::ANSWER_MAX).await.map_err(transport)? {
            match TcpStream::connect((address, self.port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(transport)?;
                    return self.handshake(stream).await;
                }
                Err(error) => last = Error::Transport(format!("{address}:{}: {error}", self.port)),
            }
        }
        Err(last)
    }

    async fn handshake(&self, stream: TcpStream) -> Result<Sender> {
        let Some((connector, name)) = &self.tls else { return one(stream).await };
        let stream = connector.connect(name.clone(), stream).await.map_err(transport)?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") { two(stream).await } else { one(stream).await }
    }

    /// The `Authorization` header, if tokens are used.
    async fn bearer(&self) -> Result<Option<HeaderValue>> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        let known = self.file_token.lock().clone();
        if let Some((_, value)) = known.as_ref().filter(|(read, _)| read.elapsed() < TOKEN_LIFETIME) {
            return Ok(Some(value.clone()));
        }
        match tokio::fs::read_to_string(file).await {
            Ok(text) => {
                let value = bearer(&text)?;
                *self.file_token.lock() = Some((Instant::now(), value.clone()));
                Ok(Some(value))
            }
            // A token that was good a minute ago is better than none.
            Err(error) => match known {
                Some((_, value)) => Ok(Some(value)),
                None => Err(Error::Config(format!("{}: {error}", file.display()))),
            },
        }
    }
}

async fn two(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 16)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(transport)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the API server ended");
        }
    });
    Ok(Sender::Two(sender, Arc::new(())))
}

/// A body that counts as under way until it is gone.
fn held(body: hyper::body::Incoming, under_way: Arc<()>) -> Body {
    body.map_err(Into::into)
        .map_frame(move |frame| {
            let _under_way = &under_way;
            frame
        })
        .boxed_unsync()
}

async fn one(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(transport)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the API server ended");
        }
    });
    Ok(Sender::One(sender))
}
