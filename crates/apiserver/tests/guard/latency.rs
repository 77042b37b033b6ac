//! Who asks for little is answered soon, whatever others ask for.

use crate::kubelet::World;
use apiserver::BoxError;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::{Map, Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Body = Full<Bytes>;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CLIENTS: usize = 32;
/// How long the clients do their worst.
const WORST: Duration = Duration::from_secs(2);
/// How long they are waited for where the machine leaves them no time, being behind all others: each is to be answered once.
const WORST_MAX: Duration = Duration::from_secs(60);
/// Before who was turned away comes again.
const AGAIN: Duration = Duration::from_millis(20);
/// What a probe may take beside them: without the heavy threads it is seconds. A machine of two cores that compiles beside the tests
/// takes some of this for itself, and one that has less than a core is stopped for a tenth of a second at a time.
const PROBE_MAX: Duration = Duration::from_millis(500);
/// A machine that is busy with others is slow at rest as well: so many times its own reading is granted.
const SLOWER_MAX: u32 = 20;

/// What one of the clients asks for.
#[derive(Clone)]
struct Ask {
    method: Method,
    uri: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Bytes,
}

impl Ask {
    fn new(method: Method, uri: impl Into<String>, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Ask {
        Ask { method, uri: uri.into(), headers: headers.to_vec(), body: body.into() }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::builder().method(self.method.clone()).uri(format!("https://localhost{}", self.uri));
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(self.body.clone())).expect("a request")
    }
}

/// The worst of each decoder, list and selector.
fn worst() -> Vec<Ask> {
    let map = |name: &str, bytes: usize| {
        let data: Map<String, Value> = (0..bytes / 16).map(|n| (format!("k{n}"), Value::from("v"))).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
    };
    let json = ("content-type", "application/json");
    let yaml = ("content-type", "application/yaml");
    let dry = format!("{MAPS}?dryRun=All");
    let values: Vec<String> = (0..4000).map(|n| format!("v{n}")).collect();
    let selector = format!("{MAPS}?labelSelector=app+notin+({})", values.join(","));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "unknown": map("x", 1 << 20), "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    vec![
        Ask::new(Method::POST, dry.clone(), &[json], map("a", 900_000).to_string()),
        Ask::new(Method::POST, dry, &[yaml], map("b", 200_000).to_string()),
        Ask::new(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &[json], review.to_string()),
        Ask::new(Method::PATCH, format!("{MAPS}/large"), &[("content-type", "application/merge-patch+json")], r#"{"data": {"k0": "w"}}"#),
        Ask::new(
            Method::PATCH,
            format!("{MAPS}/large?fieldManager=me&force=true"),
            &[("content-type", "application/apply-patch+yaml")],
            map("large", 300_000).to_string(),
        ),
        Ask::new(Method::GET, MAPS, &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")], ""),
        Ask::new(Method::GET, format!("{MAPS}?pretty=1"), &[], ""),
        Ask::new(Method::GET, MAPS, &[("accept", "application/yaml")], ""),
        Ask::new(Method::GET, MAPS, &[("accept-encoding", "gzip")], ""),
        Ask::new(Method::GET, selector, &[], ""),
        Ask::new(Method::GET, "/openapi/v2", &[], ""),
    ]
}

/// Connections to the server, as many as one likes.
#[derive(Clone)]
struct Door {
    tls: TlsConnector,
    at: std::net::SocketAddr,
}

impl Door {
    async fn open(&self) -> Result<SendRequest<Body>, BoxError> {
        let stream = TcpStream::connect(self.at).await?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// What 95 of a hundred answers to a probe keep, a moment between each two; more are asked for until there is `enough`.
async fn probes(sender: &mut SendRequest<Body>, pause: Duration, enough: impl Fn() -> bool) -> Duration {
    let probe = Ask::new(Method::GET, "/readyz", &[], "");
    let mut took = Vec::new();
    let first = Instant::now();
    while took.len() < 100 || (!enough() && first.elapsed() < WORST_MAX) {
        let began = Instant::now();
        let answer = sender.send_request(probe.request()).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a body");
        took.push(began.elapsed());
        tokio::time::sleep(pause).await;
    }
    took.sort_unstable();
    took[took.len() * 95 / 100 - 1]
}

/// Clients that do their worst, each on a connection of its own, until they are told to stop.
fn clients(door: Door, stop: Arc<AtomicBool>, answered: Arc<[AtomicUsize]>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        // They stand for other machines: what they need of this one's cores is not the server's doing.
        rustix::process::setpriority_process(None, 10).expect("nice");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let asks = worst();
            let one = async |n: usize| {
                let mut sender = loop {
                    match door.open().await {
                        Ok(sender) => break sender,
                        // Who has asked nothing yet has a share of the few descriptors that a process may have: who is turned away comes again.
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                };
                for turn in 0.. {
                    let at = (n + turn) % asks.len();
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = sender.send_request(asks[at].request()).await.expect("an answer");
                    let code = answer.status();
                    assert!(code.is_success() || code == 409, "{} {}: {code}", asks[at].method, asks[at].uri);
                    let mut body = answer.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                    answered[at].fetch_add(1, Ordering::Relaxed);
                }
            };
            futures_util::future::join_all((0..CLIENTS).map(one)).await;
        });
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_does_not_wait_for_the_worst_of_others() {
    let world = World::start("latency").await;
    for n in 0..200 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}"), "labels": {"app": format!("a{n}")}}, "data": {"k": "v".repeat(4096)}});
        world.cluster.post(MAPS, map).await.expect(201);
    }
    let data: Map<String, Value> = (0..20_000).map(|n| (format!("k{n}"), Value::from("v"))).collect();
    world.cluster.post(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": data})).await.expect(201);
    let mut config = world.keys.ca.client_config(Some(&world.keys.admin)).expect("TLS");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let door = Door { tls: TlsConnector::from(Arc::new(config)), at: world.api };
    let mut sender = door.open().await.expect("a connection");
    let idle = probes(&mut sender, Duration::ZERO, || true).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<[AtomicUsize]> = worst().iter().map(|_| AtomicUsize::new(0)).collect();
    let clients = clients(door, Arc::clone(&stop), Arc::clone(&answered));
    let all = || answered.iter().map(|n| n.load(Ordering::Relaxed)).sum::<usize>() >= CLIENTS;
    let busy = probes(&mut sender, WORST / 100, all).await;
    stop.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || clients.join()).await.expect("joined").expect("every answer is good");
    let counts: Vec<usize> = answered.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    println!("a probe at rest {idle:?}, beside {counts:?} answers {busy:?}");
    assert!(counts.iter().sum::<usize>() >= CLIENTS, "they were busy: {counts:?}");
    assert!(busy < PROBE_MAX.max(idle * SLOWER_MAX), "a probe takes {busy:?} beside others, {idle:?} at rest");
}
