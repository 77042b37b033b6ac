//! A new connection to a target: its address, TCP, TLS, HTTP.
//!
//! A Service is reached at its cluster IP, as upstream's resolver does without aggregator routing: the API server's process sees
//! the service network as every process of the host does.

use super::{
    Services,
    answer::{self, Answer},
    line::{Line, Unanswered},
    words,
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use machinery::Value;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one address may take to accept (Go's dialer has 30 s, which no webhook's time exceeds).
const DIAL_MAX: Duration = Duration::from_secs(30);
/// Bytes of headers of an answer; Go's client takes 1 MiB, hyper's own bound is near it.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A name or an address.
    Host { host: String, port: u16 },
    /// A Service's port, found out when it is needed.
    Service { namespace: String, name: String, port: u16 },
}

/// A connection that takes calls.
pub(super) enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(Line),
}

impl Sender {
    pub(super) fn is_two(&self) -> bool {
        matches!(self, Sender::Two(..))
    }

    /// Another sender on the same connection, if it takes several calls at a time and there are no more than so many others, nor more
    /// than the server takes.
    pub(super) fn shared(&self, others_max: usize) -> Option<Sender> {
        match self {
            Sender::Two(line) => line.shared(others_max).map(Sender::Two),
            Sender::One(_) => None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(line) => line.is_closed(),
        }
    }

    /// Makes a call; `answered` is set when the head of its answer is there.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn call(&mut self, head: Request<()>, body: Bytes, answered: &Arc<AtomicBool>) -> Result<Answer, Unanswered> {
        let sender = match self {
            Sender::One(sender) => sender,
            Sender::Two(line) => return line.call(head, body, answered).await,
        };
        // One that was read to its end is ready a moment later; what is wrong with it is told by the call.
        let _ = sender.ready().await;
        let (head, body) = sender.try_send_request(head.map(|()| Full::new(body))).await.map_err(unanswered)?.into_parts();
        answered.store(true, Ordering::Relaxed);
        Ok((head, answer::read(body).await))
    }
}

fn unanswered(error: TrySendError<Request<Full<Bytes>>>) -> Unanswered {
    let is_unsent = error.message().is_some();
    let why = words::of_http(&error.into_error());
    if is_unsent { Unanswered::Unsent(why) } else { Unanswered::Failed(why) }
}

/// Host and port of a place.
pub(super) fn locate(place: &Place, services: &dyn Services) -> Result<(String, u16), String> {
    match place {
        Place::Host { host, port } => Ok((host.clone(), *port)),
        Place::Service { namespace, name, port } => resolve(services, namespace, name, *port),
    }
}

/// Connects; errors in Go's words.
pub(super) async fn connect(host: &str, port: u16, name: ServerName<'static>, tls: Arc<ClientConfig>) -> Result<Sender, String> {
    let stream = to_host(host, port).await?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| words::of_tls(&error))?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return Line::open(stream).await.map(Sender::Two);
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| words::of_http(&error))?;
    tokio::spawn(async move {
        // What went wrong is told to whoever waits for the answer as well.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a webhook ended");
        }
    });
    Ok(Sender::One(sender))
}

pub(crate) async fn to_host(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = dial::addresses(host, dial::ANSWER_MAX).await.map_err(|error| words::of_lookup(host, &error))?;
    let mut last = String::new();
    for ip in addresses {
        match to_address(ip, port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                // Go tells of the first address that it tried.
                if last.is_empty() {
                    last = words::of_dial(SocketAddr::new(ip, port), &error);
                }
            }
        }
    }
    Err(last)
}

async fn to_address(ip: IpAddr, port: u16) -> io::Result<TcpStream> {
    let dialled = tokio::time::timeout(DIAL_MAX, TcpStream::connect((ip, port))).await;
    let stream = dialled.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Host and port by which a Service is reached (upstream's `ResolveCluster`).
pub(crate) fn resolve(services: &dyn Services, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
    let service = services.service(namespace, name).ok_or_else(|| format!("service {name:?} not found"))?;
    let spec = &service["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let kind = text("type");
    match kind.as_str() {
        "ClusterIP" if text("clusterIP") == "None" => Err("cannot route to service with ClusterIP \"None\"".into()),
        "ClusterIP" | "NodePort" | "LoadBalancer" => {
            let ports = spec["ports"].as_array().into_iter().flatten();
            let known = { ports }.any(|known: &Value| known["port"].as_u64() == Some(u64::from(port)));
            if known { Ok((text("clusterIP"), port)) } else { Err(format!("no service port {port} found for service {name:?}")) }
        }
        "ExternalName" => Ok((text("externalName"), port)),
        other => Err(format!("unsupported service type {other:?}")),
    }
}
