//! A new connection to a target: its address, TCP, TLS, HTTP.
//!
//! A Service is reached at its cluster IP, as upstream's resolver does without aggregator routing: the API server's process sees
//! the service network as every process of the host does.

use super::{Services, words};
use crate::{
    BoxError,
    gather::{Rest, gather},
    local::{Local, Tasks},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use machinery::Value;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    fmt::Display,
    future::poll_fn,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_rustls::TlsConnector;

/// Times of client-go: a connection of HTTP/2 that was silent so long is asked for a sign of life, and has so long to give it.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(30);
pub(crate) const PING_MAX: Duration = Duration::from_secs(15);
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

/// A connection that takes requests.
pub(super) enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    /// With what counts those who have it, and how many requests the server takes at a time.
    Two(http2::SendRequest<Full<Bytes>>, Arc<()>, Arc<AtomicUsize>),
}

/// Why a request has no answer, with the request if not a byte of it was sent.
pub(super) struct Unanswered(Box<TrySendError<Request<Full<Bytes>>>>);

impl Unanswered {
    pub(super) fn is_unsent(&self) -> bool {
        self.0.message().is_some()
    }

    pub(super) fn into_error(self) -> hyper::Error {
        self.0.into_error()
    }
}

impl Sender {
    pub(super) fn is_two(&self) -> bool {
        matches!(self, Sender::Two(..))
    }

    /// Another sender on the same connection, if it takes several requests at a time and there are no more than so many others, nor more
    /// than the server takes.
    pub(super) fn shared(&self, others_max: usize) -> Option<Sender> {
        match self {
            Sender::Two(sender, holders, room) if Arc::strong_count(holders) <= others_max.min(room.load(Ordering::Relaxed)) => {
                Some(Sender::Two(sender.clone(), Arc::clone(holders), Arc::clone(room)))
            }
            _ => None,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender, ..) => sender.is_closed(),
        }
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        let sent = match self {
            Sender::One(sender) => {
                // One that was read to its end is ready a moment later.
                if sender.ready().await.is_err() {
                    return sender.try_send_request(request).await.map_err(|error| Unanswered(Box::new(error)));
                }
                sender.try_send_request(request).await
            }
            Sender::Two(sender, ..) => sender.try_send_request(request).await,
        };
        sent.map_err(|error| Unanswered(Box::new(error)))
    }
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
        let (local, (stream, rest)) = (Local::default(), gather(stream, true));
        let mut builder = http2::Builder::new(local.clone());
        // All calls to that server share it: one that is silent is found out, in client-go's times.
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_AFTER).keep_alive_timeout(PING_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| words::of_http(&error))?;
        let room = Arc::new(AtomicUsize::new(usize::MAX));
        let told_of = Arc::clone(&room);
        tokio::spawn(told(driven(connection, local, rest, move |connection| told_of.store(connection.current_max_send_streams(), Ordering::Relaxed))));
        return Ok(Sender::Two(sender, Arc::default(), room));
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| words::of_http(&error))?;
    tokio::spawn(told(connection));
    Ok(Sender::One(sender))
}

/// What went wrong is told to whoever waits for the answer as well.
async fn told<E: Display>(connection: impl Future<Output = Result<(), E>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to a webhook ended");
    }
}

/// A connection of HTTP/2 with the tasks of its streams, in one task; it is looked at after each turn.
async fn driven<S, F>(connection: F, local: Local, rest: Rest<S>, look: impl Fn(&F)) -> Result<(), BoxError>
where
    S: AsyncWrite + Unpin,
    F: Future<Output = hyper::Result<()>>,
{
    let (mut asked, mut tasks, mut over) = (Some(Box::pin(connection)), Tasks::default(), None);
    poll_fn(|cx| {
        loop {
            if let Some(asking) = &mut asked
                && let Poll::Ready(result) = asking.as_mut().poll(cx)
            {
                over = Some(result);
                // That nobody asks any more is heard by the others when this is gone.
                asked = None;
            }
            local.poll(&mut tasks, cx);
            if let Some(asked) = &asked {
                look(asked);
            }
            if !local.is_idle() {
                continue;
            }
            if let Poll::Ready(Err(error)) = rest.poll(cx) {
                return Poll::Ready(Err(error.into()));
            }
            // What is under way, the farewell among it, comes to its end.
            return match over.take_if(|_| tasks.is_empty()) {
                Some(result) => Poll::Ready(result.map_err(Into::into)),
                None => Poll::Pending,
            };
        }
    })
    .await
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use http_body_util::BodyExt as _;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;

    /// Bodies far beyond what is held and what the stream takes go both ways, and the connection ends with the last who could ask.
    #[tokio::test]
    async fn one_task_does_all_of_a_connection_and_ends_with_those_who_ask() {
        let (near, far) = tokio::io::duplex(10_000);
        let echo = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response::new(Full::new(body)))
        });
        let served = tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), echo));
        let (local, (stream, rest)) = (Local::default(), gather(near, true));
        let (sender, connection) = http2::Builder::new(local.clone()).handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        let driven = tokio::spawn(driven(connection, local, rest, |_| {}));
        let ask = async |n: u8| {
            let request = Request::post("https://a/").body(Full::new(Bytes::from(vec![n; 100_000]))).expect("a request");
            let answer = sender.clone().try_send_request(request).await.map_err(TrySendError::into_error).expect("an answer");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert!(body.len() == 100_000 && body.iter().all(|byte| *byte == n));
        };
        join_all((0..50).map(ask)).await;
        assert!(!driven.is_finished());
        drop(sender);
        driven.await.expect("no panic").expect("it ends well");
        served.await.expect("no panic").expect("it ends well on the other side, too");
    }
}
