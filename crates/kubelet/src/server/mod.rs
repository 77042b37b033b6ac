//! The kubelet's own API: logs, exec, attach, port-forward, pods, statistics.
//!
//! Every request but `/healthz` is authenticated (a client certificate of the cluster's CA, or a bearer token by TokenReview)
//! and authorised (SubjectAccessReview on `nodes/…`), as upstream's server does. Streams are served over WebSocket and over
//! SPDY/3.1, whichever the client asks for.

// An answer is what refuses a request: it is moved once, and boxing it would help nobody.
#![allow(clippy::result_large_err)]

mod auth;
mod configz;
mod containers;
mod files;
#[cfg(test)]
mod fuzz;
mod health;
mod orphans;
mod port_forward;
mod remote;
mod spdy;
mod spdy_conn;
mod stats;
mod usage;
mod volumes;
mod websocket;
mod zpages;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dial::guests::{self, Busy, Door, Guest, Idle, Place, Places};
use dial::head;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::Error;
use crate::logs::directories::Directories;
use crate::pod::Context;
use crate::pod::manager::Pods;
use auth::{Auth, Identity, Peer};

/// Connections at the same time; each costs a few ten kilobytes. No more than this share of the descriptors that there are.
const MAX_CONNECTIONS: usize = 1024;
const SHARE: usize = 8;
/// Requests in flight on one HTTP/2 connection; Go's server allows as many.
const STREAMS_MAX: u32 = 250;
/// A client must finish its TLS handshake in this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent peer of HTTP/2 is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<Body>;

/// What the handlers share.
pub struct Server {
    cx: Arc<Context>,
    pods: Pods,
    auth: Auth,
    rates: stats::Rates,
    orphans: orphans::Orphans,
    health: health::Health,
    /// Of logs that are followed.
    logs: Directories,
}

/// A request taken apart.
pub struct Call {
    /// Path elements.
    parts: Vec<String>,
    /// Query in order.
    query: Vec<(String, String)>,
    request: Request<Incoming>,
}

impl Call {
    fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.param(name), Some("1" | "true"))
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.query.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }
}

/// A text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// JSON.
pub fn json(value: &impl serde::Serialize) -> Answer {
    let mut answer = text(StatusCode::OK, serde_json::to_vec(value).unwrap_or_default());
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}

/// A body that comes in parts.
pub fn streamed(parts: mpsc::Receiver<Bytes>) -> Answer {
    let stream = futures_util::stream::unfold(parts, |mut rx| async move {
        let part = rx.recv().await?;
        Some((Ok::<_, Infallible>(hyper::body::Frame::data(part)), rx))
    });
    let mut answer = Response::new(StreamBody::new(stream).boxed_unsync());
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// Starts serving; none if the configuration has no TLS.
pub async fn spawn(cx: Arc<Context>, pods: Pods, stop: CancellationToken) -> Result<Option<JoinHandle<()>>, Error> {
    let Some(tls) = cx.config.tls.clone() else { return Ok(None) };
    let address = cx.config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.server);
    let clients = tls.clients;
    let server = Arc::new(Server {
        auth: Auth::new(Arc::clone(&cx.api), &cx.config.node_name),
        cx,
        pods,
        rates: stats::Rates::default(),
        orphans: orphans::Orphans::default(),
        health: health::Health::default(),
        logs: Directories::default(),
    });
    Ok(Some(tokio::spawn(accept(listener, (acceptor, clients), server, stop))))
}

async fn accept(
    listener: TcpListener,
    (acceptor, clients): (tokio_rustls::TlsAcceptor, Arc<dyn ClientCertVerifier>),
    server: Arc<Server>,
    stop: CancellationToken,
) {
    let all = guests::at_most(MAX_CONNECTIONS, SHARE);
    let mut door = Door::new("kubelet API", listener, Places::new(all, all * 3 / 4));
    let strangers = Places::new(all / 2, all / 4);
    loop {
        let guest = tokio::select! {
            guest = door.next() => guest,
            () = stop.cancelled() => return,
        };
        let Some(stranger) = strangers.enter(guest.address().ip()) else { continue };
        let (acceptor, clients, server, stop) = (acceptor.clone(), Arc::clone(&clients), Arc::clone(&server), stop.clone());
        tokio::spawn(async move {
            let mut guest = guest;
            let handshake = async move { if guest.speaks_plainly().await? { Ok(None) } else { acceptor.accept(guest).await.map(Some) } };
            let Ok(Ok(Some(tls))) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await else { return };
            let peer = tls.get_ref().1.peer_certificates().and_then(|chain| Peer::shown(chain, clients));
            connection(tls, server, (peer.map(Arc::new), stranger), stop).await;
        });
    }
}

async fn connection(io: TlsStream<Guest>, server: Arc<Server>, (peer, stranger): (Option<Arc<Peer>>, Place), stop: CancellationToken) {
    let idle = Idle::new();
    let (requests, stranger) = (idle.clone(), Mutex::new(Some(stranger)));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (server, peer, busy) = (Arc::clone(&server), peer.clone(), requests.begin());
        drop(stranger.lock().take());
        async move {
            let alone = head::is_alone(&request);
            let answer = server.handle(request, peer.as_deref().and_then(Peer::known)).await;
            let answer = if alone { head::alone(answer, Full::default().boxed_unsync()) } else { answer };
            Ok::<_, Infallible>(answer.map(|body| under_way(body, busy)))
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(guests::IDLE_MAX);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(STREAMS_MAX);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::select! {
        done = serving => if let Err(e) = done {
            tracing::debug!(error = %e, "connection ended");
        },
        () = idle.too_long() => tracing::debug!("connection ended: nobody uses it"),
        () = stop.cancelled() => {}
    }
}

/// A body that counts as under way until it is gone.
fn under_way(body: Body, busy: Busy) -> Body {
    body.map_frame(move |frame| {
        let _under_way = &busy;
        frame
    })
    .boxed_unsync()
}

fn percent_decode(text: &str, plus: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => match text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok()) {
                Some(b) => {
                    out.push(b);
                    i += 2;
                }
                None => out.push(b'%'),
            },
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn take_apart(request: Request<Incoming>) -> Call {
    let path = request.uri().path();
    let parts = path.split('/').filter(|p| !p.is_empty()).map(|p| percent_decode(p, false)).collect();
    let query = request.uri().query().unwrap_or_default();
    let pair = |p: &str| {
        let (n, v) = p.split_once('=').unwrap_or((p, ""));
        (percent_decode(n, true), percent_decode(v, true))
    };
    let query = query.split('&').filter(|p| !p.is_empty()).map(pair).collect();
    Call { parts, query, request }
}

impl Server {
    async fn handle(&self, request: Request<Incoming>, peer: Option<&Identity>) -> Answer {
        let call = take_apart(request);
        let first = call.parts.first().map(String::as_str).unwrap_or_default().to_owned();
        if first == "healthz" {
            return self.health.answer(&call);
        }
        if let Err(refused) = self.auth.check(&call.request, peer, &first).await {
            return refused;
        }
        let method = call.request.method().clone();
        let (get, post) = (method == Method::GET, method == Method::POST);
        match first.as_str() {
            "pods" if get => self.pod_list(known),
            "runningpods" if get => self.pod_list(|pod| running(&pod)),
            "containerLogs" if get => containers::logs(self, call).await,
            "exec" if get || post => remote::exec(self, call).await,
            "attach" if get || post => remote::attach(self, call).await,
            "portForward" if get || post => port_forward::serve(self, call).await,
            "run" if post => remote::run(self, call).await,
            "checkpoint" if post => remote::checkpoint(self, &call),
            "logs" if get => {
                let relative = call.parts[1..].join("/");
                crate::util::blocking(move || files::logs(&relative)).await
            }
            "stats" if (get || post) && call.parts.get(1).is_none_or(|p| p != "summary") => text(StatusCode::NOT_FOUND, "404: Page Not Found"),
            "stats" if get || post => stats::summary(&self.cx, &self.pods, &self.rates, call.param("only_cpu_and_memory") == Some("true")).await,
            "metrics" if get => match call.parts.get(1).map(String::as_str) {
                None => stats::metrics(&self.cx, &self.pods, &volumes::metrics(&self.cx, &self.pods).await),
                Some("resource") => stats::resource_metrics(&self.cx, &self.pods).await,
                Some("cadvisor") => stats::cadvisor_metrics(&self.cx, &self.pods).await,
                Some("probes") => stats::probe_metrics(&self.cx),
                Some("slis") => stats::exposed(self.health.slis()),
                Some(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            },
            "configz" if get => json(&configz::answer(&self.cx.config)),
            "statusz" if get => zpages::status(&self.cx.config, self.cx.started, self.cx.now(), call.request.headers()),
            "flagz" if get => zpages::flags(&self.cx.config, call.request.headers()),
            "pods" | "runningpods" | "containerLogs" | "exec" | "attach" | "portForward" | "run" | "checkpoint" | "logs" | "stats" => {
                text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pod_list(&self, told: impl Fn(Pod) -> Option<serde_json::Value>) -> Answer {
        let items: Vec<serde_json::Value> = self.pods.all().iter().filter_map(|h| told(h.pod_with_status())).collect();
        json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

/// All that is known of a pod, as an item of a list: the list alone tells the kind.
fn known(pod: Pod) -> Option<serde_json::Value> {
    let mut told = serde_json::to_value(pod).ok()?;
    if let Some(fields) = told.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    Some(told)
}

/// What the runtime knows of a pod that has a sandbox: those of its containers that run.
fn running(pod: &Pod) -> Option<serde_json::Value> {
    let status = pod.status.as_ref()?;
    if status.pod_ip.is_none() || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).chain(&status.ephemeral_container_statuses).flatten();
    let running = all.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    let containers: Vec<_> = running.map(|c| serde_json::json!({"name": c.name, "image": c.image_id, "resources": {}})).collect();
    let containers = if containers.is_empty() { serde_json::Value::Null } else { containers.into() };
    let meta = &pod.metadata;
    let metadata = serde_json::json!({"name": meta.name, "namespace": meta.namespace, "uid": meta.uid});
    Some(serde_json::json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}))
}
