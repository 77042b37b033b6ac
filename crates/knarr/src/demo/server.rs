//! The HTTP server that the parts of the shop and the database are: probes, draining, and an end that loses no request.
//!
//! Its life has three phases. *Serving*. *Draining*, from the preStop hook on: everything is answered as before, but each
//! answer asks the client to close its connection, so that kept-alive clients leave of their own accord while the cluster
//! still counts on this pod. *Terminating*, from SIGTERM on: the same, until nothing is in flight and nobody is connected.
//! An idle connection is never closed while draining: a client might be writing a request into it at that moment.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::backend::Backend;
use super::database::Database;
use super::me::{Answer, Me, port};
use super::web::Web;

/// Where the preStop hook knocks; only from the pod itself.
pub const DRAIN: &str = "/-/drain";
/// Connections at most; more are turned away.
const CONNECTIONS_MAX: usize = 2048;
/// A request's head that has not come by then will not; longer than clients keep idle connections.
const HEAD_MAX: Duration = Duration::from_secs(120);
/// How long idle connections may stay after SIGTERM.
const LINGER: Duration = Duration::from_secs(1);
/// How long requests in flight may take after SIGTERM; the kubelet's patience usually ends before.
const END_MAX: Duration = Duration::from_secs(60);

/// What is served.
pub enum Site {
    Web(Web),
    Backend(Backend),
    Database(Database),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Terminating,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Terminating => "terminating",
        }
    }
}

struct Server {
    me: Me,
    site: Site,
    phase: watch::Sender<Phase>,
    in_flight: AtomicUsize,
    connections: AtomicUsize,
    /// Told when a request or a connection ends.
    less: watch::Sender<()>,
}

/// Counts one up, and down again when it is dropped.
struct Counted<'a>(&'a AtomicUsize, &'a watch::Sender<()>);

impl<'a> Counted<'a> {
    fn new(number: &'a AtomicUsize, less: &'a watch::Sender<()>) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number, less)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.send_replace(());
    }
}

/// Serves a site until SIGTERM, and a little longer.
pub async fn run(site: impl FnOnce(Me) -> Site) -> Result<(), String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let listener = listen(port()).await.map_err(|e| format!("port {}: {e}", port()))?;
    let me = Me::from_env();
    say(&format!("{} {} serves on {}", me.pod, me.version, listener.local_addr().map_err(failed)?));
    let server = Arc::new(Server {
        site: site(me.clone()),
        me,
        phase: watch::Sender::new(Phase::Serving),
        in_flight: AtomicUsize::new(0),
        connections: AtomicUsize::new(0),
        less: watch::Sender::new(()),
    });
    tokio::select! {
        () = accept(&listener, &server) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let (requests, connections) = server.counts();
    say(&format!("SIGTERM; {requests} requests in flight, {connections} connections"));
    let before = server.phase.send_replace(Phase::Terminating);
    // Who has not heard of it yet may still come; without a preStop hook that is everybody.
    let stay = if before == Phase::Draining { Duration::ZERO } else { LINGER };
    tokio::select! {
        // First, so that nobody is left waiting at the door.
        biased;
        () = accept(&listener, &server) => {}
        () = server.end(stay) => {}
    }
    let (requests, _) = server.counts();
    say(&format!("ends; {requests} requests in flight"));
    Ok(())
}

/// A line of log, with the time.
fn say(text: &str) {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    println!("{}.{:03} {text}", since.as_secs(), since.subsec_millis());
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        // A host without IPv6.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

/// Takes connections for ever.
async fn accept(listener: &TcpListener, server: &Arc<Server>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if server.counts().1 < CONNECTIONS_MAX => {
                // Counted here, not in its task: the end must not come between the two.
                server.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(server.clone().connection(stream, peer));
            }
            Ok(_) => {}
            // Out of descriptors, most likely: others end soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Server {
    fn counts(&self) -> (usize, usize) {
        (self.in_flight.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed))
    }

    /// Waits until nothing is in flight and nobody is connected, or those who are do nothing; `stay` at least.
    async fn end(&self, stay: Duration) {
        let mut less = self.less.subscribe();
        let began = tokio::time::Instant::now();
        loop {
            let (requests, connections) = self.counts();
            let waited = began.elapsed();
            if waited >= END_MAX || requests == 0 && (connections == 0 && waited >= stay || waited >= LINGER) {
                return;
            }
            let until = match (requests, connections) {
                (0, 0) => stay,
                (0, _) => LINGER,
                _ => END_MAX,
            };
            // Either way the loop looks again.
            let _ = tokio::time::timeout_at(began + until, less.changed()).await;
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let _counted = Counted(&self.connections, &self.less);
        // Small answers, sent at once; if that cannot be set they are only later.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.answer(request, peer.ip()));
        let connection =
            hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).serve_connection(TokioIo::new(stream), service);
        // Clients go as they please.
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Result<Response<Full<Bytes>>, Infallible> {
        let _counted = Counted::new(&self.in_flight, &self.less);
        let (code, kind, body) = self.page(request, peer).await;
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = code;
        let phase = *self.phase.borrow();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in [("x-shop-version", &self.me.version), ("x-shop-pod", &self.me.pod)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        headers.insert("x-shop-state", HeaderValue::from_static(phase.name()));
        if phase != Phase::Serving {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn page(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let text = |code, text: &str| (code, "text/plain; charset=utf-8", format!("{text}\n"));
        let (head, body) = request.into_parts();
        match (&head.method, head.uri.path()) {
            (&Method::POST, DRAIN) if peer.to_canonical().is_loopback() => {
                say("preStop: draining");
                self.phase.send_if_modified(|p| std::mem::replace(p, Phase::Draining.max_of(*p)) != *p);
                text(StatusCode::OK, "draining")
            }
            (_, DRAIN) => text(StatusCode::FORBIDDEN, "only from within the pod"),
            (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok"),
            (&Method::GET | &Method::HEAD, "/readyz") => match *self.phase.borrow() {
                Phase::Serving => text(StatusCode::OK, "ok"),
                other => text(StatusCode::SERVICE_UNAVAILABLE, other.name()),
            },
            (&Method::GET | &Method::HEAD, "/whoami") => text(StatusCode::OK, &format!("{} {}", self.me.version, self.me.pod)),
            (&Method::GET, "/slow") => {
                let time = head.uri.query().and_then(|q| q.strip_prefix("ms=")).and_then(|ms| ms.parse().ok()).unwrap_or(1000);
                tokio::time::sleep(Duration::from_millis(time).min(END_MAX)).await;
                text(StatusCode::OK, &format!("{} {} took its time", self.me.version, self.me.pod))
            }
            (&Method::GET | &Method::HEAD, path) => {
                let page = match &self.site {
                    Site::Web(web) => web.page(path, &head.headers).await,
                    Site::Backend(backend) => backend.page(path),
                    Site::Database(database) => database.page(path).await,
                };
                page.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "there is nothing here"))
            }
            (&Method::POST, path) if let Site::Database(database) = &self.site => {
                database.post(path, body).await.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "there is nothing here"))
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "GET it is"),
        }
    }
}

impl Phase {
    /// The later of two: nothing leads back.
    fn max_of(self, other: Self) -> Self {
        if other == Self::Terminating { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn server() -> Arc<Server> {
        let me = Me { version: "v1".into(), pod: "web-1".into(), namespace: "shop".into(), node: "n".into(), ip: String::new() };
        Arc::new(Server {
            site: Site::Backend(Backend::new(me.clone())),
            me,
            phase: watch::Sender::new(Phase::Serving),
            in_flight: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            less: watch::Sender::new(()),
        })
    }

    async fn start() -> (Arc<Server>, SocketAddr) {
        let (server, listener) = (server(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let it = server.clone();
        tokio::spawn(async move { accept(&listener, &it).await });
        (server, address)
    }

    /// Sends a request on a connection and reads one answer with its body.
    async fn ask(stream: &mut TcpStream, method: &str, path: &str) -> String {
        stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        loop {
            let length = stream.read(&mut buffer).await.unwrap();
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let expected: usize = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap();
            if body.len() >= expected || length == 0 {
                return text;
            }
        }
    }

    #[tokio::test]
    async fn a_kept_connection_survives_draining_until_its_next_answer() {
        let (server, address) = start().await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        let first = ask(&mut kept, "GET", "/whoami").await;
        assert!(first.contains("v1 web-1") && !first.contains("connection: close"), "{first}");
        let mut hook = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut hook, "POST", DRAIN).await.starts_with("HTTP/1.1 200"));
        assert_eq!(*server.phase.borrow(), Phase::Draining);
        let next = ask(&mut kept, "GET", "/whoami").await;
        assert!(next.starts_with("HTTP/1.1 200") && next.contains("connection: close") && next.contains("x-shop-state: draining"), "{next}");
        assert_eq!(kept.read(&mut [0; 8]).await.unwrap(), 0, "closed after the answer");
        let mut fresh = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut fresh, "GET", "/readyz").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_in_flight() {
        let (server, address) = start().await;
        let slow = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream, "GET", "/slow?ms=300").await
        });
        let mut less = server.less.subscribe();
        while server.counts().0 == 0 {
            tokio::task::yield_now().await;
        }
        less.mark_unchanged();
        server.phase.send_replace(Phase::Terminating);
        server.end(Duration::ZERO).await;
        assert!(slow.await.unwrap().contains("took its time"));
        assert_eq!(server.counts().0, 0);
    }

    #[tokio::test]
    async fn only_the_pod_itself_drains() {
        let server = server();
        assert_eq!(Phase::Draining.max_of(Phase::Terminating), Phase::Terminating);
        assert_eq!(Phase::Draining.max_of(Phase::Serving), Phase::Draining);
        assert_eq!(*server.phase.borrow(), Phase::Serving);
    }
}
