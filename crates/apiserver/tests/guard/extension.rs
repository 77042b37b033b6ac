//! An aggregated server that is played here: TLS with certificates of its own, answers as a test says, and a memory of what it
//! was asked.

use crate::{
    hook::{Papers, papers},
    support::{Cluster, PATIENCE},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the server does with a request.
pub enum Act {
    /// It answers with this code, these headers and this body.
    Reply(u16, Vec<(&'static str, &'static str)>, String),
    /// It begins an answer and says more when it is told to; it tells when its client is gone.
    Stream,
    /// It never answers; it tells when its client is gone.
    Hang,
    /// It answers without end.
    Flood,
    /// It switches to a protocol of its own, in which it says everything twice.
    Upgrade,
}

pub fn reply(value: &Value) -> Act {
    Act::Reply(200, vec![("content-type", "application/json")], value.to_string())
}

/// What it was asked.
#[derive(Clone)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: String,
    /// A certificate was shown.
    pub certificate: bool,
}

impl Seen {
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> String {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect::<Vec<_>>().join("|")
    }
}

type Answer = dyn Fn(&Seen) -> Act + Send + Sync;

pub struct Extension {
    pub port: u16,
    pub ca: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// More for those who stream.
    pub more: tokio::sync::broadcast::Sender<&'static str>,
    /// The paths of those whose client was gone before they ended.
    pub gone: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
    /// How many connections there have been.
    pub connections: Arc<AtomicUsize>,
    /// Has each connection of HTTP/2 take no more requests.
    pub goaway: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Shared {
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Seen>>>,
    more: tokio::sync::broadcast::Sender<&'static str>,
    gone: mpsc::UnboundedSender<String>,
}

impl Extension {
    /// One whose certificate is good for the Service `ext` in `default`.
    pub async fn start(answer: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Extension {
        Extension::with(papers(&["ext.default.svc"], |_| {}), answer).await
    }

    /// The same that speaks HTTP/2.
    pub async fn of_two(answer: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Extension {
        Extension::speaking(papers(&["ext.default.svc"], |_| {}), &[b"h2", b"http/1.1"], answer).await
    }

    pub async fn with(papers: Papers, answer: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Extension {
        Extension::speaking(papers, &[], answer).await
    }

    async fn speaking(papers: Papers, protocols: &[&[u8]], answer: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Extension {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let ca = papers.ca.clone();
        let mut tls = papers.server_config();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (gone, gone_rx) = mpsc::unbounded_channel();
        let shared = Shared { answer: Arc::new(answer), seen: Arc::default(), more: tokio::sync::broadcast::channel(16).0, gone };
        let (seen, more) = (Arc::clone(&shared.seen), shared.more.clone());
        let connections = Arc::new(AtomicUsize::new(0));
        let goaway = Arc::new(Notify::new());
        let (counted, told) = (Arc::clone(&connections), Arc::clone(&goaway));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared, told) = (acceptor.clone(), shared.clone(), Arc::clone(&told));
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certificate = stream.get_ref().1.peer_certificates().is_some();
                    let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let service = service_fn(move |request| exchange(request, certificate, shared.clone()));
                    if is_two {
                        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                        let mut connection = std::pin::pin!(connection);
                        loop {
                            tokio::select! {
                                _ = connection.as_mut() => return,
                                () = told.notified() => connection.as_mut().graceful_shutdown(),
                            }
                        }
                    }
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        Extension { port, ca, seen, more, gone: gone_rx.into(), connections, goaway, task }
    }

    /// The requests on a path.
    pub fn on(&self, path: &str) -> Vec<Seen> {
        self.seen.lock().expect("no panic").iter().filter(|seen| seen.path() == path).cloned().collect()
    }

    /// An APIService that names this server.
    pub fn service(&self, version: &str, group: &str) -> Value {
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": format!("{version}.{group}")},
            "spec": {
                "group": group, "version": version, "groupPriorityMinimum": 2000, "versionPriority": 200,
                "service": {"namespace": "default", "name": "ext", "port": self.port},
                "caBundle": STANDARD.encode(&self.ca),
            },
        })
    }

    /// Registers the server for a version, and waits until it is said to be there.
    pub async fn register(&self, cluster: &Cluster, version: &str, group: &str) {
        cluster.external("ext").await;
        cluster.post(API_SERVICES, self.service(version, group)).await.expect(201);
        cluster.condition(&format!("{version}.{group}"), "Passed").await;
    }
}

struct Gone(String, mpsc::UnboundedSender<String>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.1.send(std::mem::take(&mut self.0));
    }
}

async fn exchange(mut request: Request<Incoming>, certificate: bool, shared: Shared) -> Result<Response<Body>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let body = if parts.headers.contains_key("upgrade") { Bytes::new() } else { body.collect().await.map(|body| body.to_bytes()).unwrap_or_default() };
    let mut headers = parts.headers;
    // HTTP/2 has no such header.
    if let Some(host) = parts.uri.authority().and_then(|host| host.as_str().parse().ok()) {
        headers.insert("host", host);
    }
    let seen = Seen {
        method: parts.method.to_string(),
        uri: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        certificate,
    };
    shared.seen.lock().expect("no panic").push(seen.clone());
    let gone = Gone(seen.path().to_owned(), shared.gone.clone());
    Ok(match (shared.answer)(&seen) {
        Act::Reply(code, headers, text) => {
            std::mem::forget(gone);
            let mut response = Response::builder().status(code);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Full::new(Bytes::from(text)).boxed_unsync()).expect("a response")
        }
        Act::Stream => {
            let more = shared.more.subscribe();
            let stream = futures_util::stream::unfold((more, gone, true), |(mut more, gone, first)| async move {
                let text = if first { "begun\n" } else { more.recv().await.ok()? };
                Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), (more, gone, false)))
            });
            Response::new(StreamBody::new(stream).boxed_unsync())
        }
        Act::Hang => {
            sleep(Duration::from_secs(3600)).await;
            drop(gone);
            Response::new(Full::default().boxed_unsync())
        }
        Act::Flood => {
            let chunk = Bytes::from(vec![b' '; 1 << 20]);
            let stream = futures_util::stream::unfold(gone, move |gone| std::future::ready(Some((Ok(Frame::data(chunk.clone())), gone))));
            Response::new(StreamBody::new(stream).boxed_unsync())
        }
        Act::Upgrade => {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&[&buffer[..count], &buffer[..count]].concat()).await.expect("written");
                }
                drop(gone);
            });
            let response = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "twice");
            response.body(Full::default().boxed_unsync()).expect("a response")
        }
    })
}

impl Cluster {
    /// A Service that leads to this host.
    pub async fn external(&self, name: &str) {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
        let made = self.post(SERVICES, service).await;
        assert!(matches!(made.code, 201 | 409), "{}", made.body);
    }

    /// Waits until an APIService's condition has a reason; gives its message.
    pub async fn condition(&self, name: &str, reason: &str) -> String {
        let mut last = Value::Null;
        let found = async {
            loop {
                let object = self.get(&format!("{API_SERVICES}/{name}")).await.body;
                last = object.pointer("/status/conditions/0").cloned().unwrap_or_default();
                if last["reason"] == reason {
                    let (status, wanted) = (&last["status"], if matches!(reason, "Passed" | "Local") { "True" } else { "False" });
                    assert_eq!((status.as_str(), last["type"].as_str()), (Some(wanted), Some("Available")));
                    return last["message"].as_str().unwrap_or_default().to_owned();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let found = timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{name} does not become {reason}: {last}"))
    }
}
