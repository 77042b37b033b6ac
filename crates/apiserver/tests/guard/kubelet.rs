//! Logs and streams through the served API to a kubelet that is played here.

use crate::support::{Cluster, admin, merged, pod, user};
use apiserver::{BoxError, Config};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use identity::pki::{ClusterNames, ClusterPki, Credential};
use rustls_pki_types::ServerName;
use serde_json::json;
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};
use tokio_util::sync::CancellationToken;

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An address of this machine that is none of its own alone, by which alone a node is proxied to; its loopback where it has no other.
fn own_address() -> IpAddr {
    // Nothing is sent: a route is looked for, to an address that is nobody's.
    let routed = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()));
    routed.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// A cluster that is served, with one node whose kubelet is [`play`].
pub struct World {
    pub cluster: Cluster,
    pub keys: ClusterPki,
    pub api: SocketAddr,
    /// Where the kubelet listens.
    kubelet: SocketAddr,
    /// Told when a log may go on.
    more: Arc<Notify>,
    stop: CancellationToken,
    _directory: Directory,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub async fn start(name: &str) -> World {
        World::with(name, Config::default()).await
    }

    pub async fn with(name: &str, config: Config) -> World {
        let directory = Directory(std::env::temp_dir().join(format!("apiserver-kubelet-{name}-{}", std::process::id())));
        let names = ClusterNames { domain: "cluster.local".into(), service_ip: [10, 96, 0, 1].into(), ips: vec![], names: vec![] };
        let keys = ClusterPki::load_or_create(&directory.0, &names).expect("keys");
        let node = keys.node("n1", &[own_address()]).expect("a node's keys");
        let listener = TcpListener::bind((own_address(), 0)).await.expect("a port");
        let kubelet = listener.local_addr().expect("an address");
        let more = Arc::new(Notify::new());
        tokio::spawn(play(listener, TlsAcceptor::from(keys.kubelet_server_config(&node).expect("TLS")), Arc::clone(&more)));

        let cluster = Cluster::with(config, keys.trust().expect("trust")).await;
        cluster.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await.expect(201);
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": kubelet.ip()}], "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}}}});
        cluster.patch("/api/v1/nodes/n1/status", status).await.expect(200);
        cluster.post("/api/v1/namespaces/default/pods", merged(pod("p"), json!({"spec": {"nodeName": "n1"}}))).await.expect(201);
        cluster.post("/api/v1/namespaces/default/pods", pod("waiting")).await.expect(201);

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let (server, tls, shutdown) = (cluster.api.clone(), keys.server_config().expect("TLS"), stop.clone());
        tokio::spawn(async move { server.serve(vec![listener], tls, shutdown).await });
        World { cluster, keys, api, kubelet, more, stop, _directory: directory }
    }

    /// A connection of the administrator, or of whoever shows no certificate.
    pub async fn connect(&self, as_admin: bool) -> TlsStream<TcpStream> {
        self.connect_by(as_admin, &[]).await
    }

    /// The same, for HTTP/2.
    pub async fn speak_two(&self, as_admin: bool) -> TlsStream<TcpStream> {
        self.connect_by(as_admin, &[b"h2"]).await
    }

    async fn connect_by(&self, as_admin: bool, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        self.connect_with(as_admin.then_some(&self.keys.admin), protocols).await
    }

    /// A connection of whoever shows this certificate.
    pub async fn connect_with(&self, shown: Option<&Credential>, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut config = self.keys.ca.client_config(shown).expect("TLS");
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let stream = TcpStream::connect(self.api).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS")
    }

    /// A WebSocket on a connection of the administrator.
    async fn socket(&self, path: &str, protocols: &str, accept: &str) -> Result<Socket, (u16, String)> {
        socket(self.connect(true).await, path, protocols, accept).await
    }

    /// Whether somebody who connects now is answered.
    pub async fn healthy(&self) -> bool {
        let config = self.keys.ca.client_config(None).expect("TLS");
        let Ok(stream) = TcpStream::connect(self.api).await else { return false };
        let name = ServerName::try_from("localhost").expect("a name");
        let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, stream).await else { return false };
        let mut byte = [0];
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() && stream.read(&mut byte).await.is_ok_and(|n| n > 0)
    }

    /// A connection of the administrator, with one request sent on it.
    pub async fn ask(&self, request: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect(true).await;
        let text = format!("{}\r\nHost: localhost\r\n\r\n", request.replace('\n', "\r\n"));
        stream.write_all(text.as_bytes()).await.expect("sent");
        stream
    }
}

/// A WebSocket and the protocol that was chosen for it.
struct Socket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    protocol: String,
}

impl Socket {
    /// The next message; `None` at a proper end.
    async fn next(&mut self) -> Option<Message> {
        match self.stream.next().await.expect("no end without a close").expect("a message") {
            Message::Close(frame) => {
                assert_eq!(frame.expect("a code").code, CloseCode::Normal);
                None
            }
            message => Some(message),
        }
    }

    async fn rest(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        while let Some(message) = self.next().await {
            out.push(message);
        }
        out
    }
}

/// Opens a WebSocket; otherwise the answer's code and body.
async fn socket(stream: TlsStream<TcpStream>, path: &str, protocols: &str, accept: &str) -> Result<Socket, (u16, String)> {
    let mut request = format!("wss://localhost{path}").into_client_request().expect("a request");
    for (name, text) in [("sec-websocket-protocol", protocols), ("accept", accept), ("origin", "http://elsewhere.example")] {
        if !text.is_empty() {
            request.headers_mut().insert(name, HeaderValue::from_str(text).expect("a value"));
        }
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((stream, answer)) => {
            let protocol = answer.headers().get("sec-websocket-protocol").map(|v| v.to_str().expect("text").to_owned()).unwrap_or_default();
            Ok(Socket { stream, protocol })
        }
        Err(tungstenite::Error::Http(answer)) => {
            let body = answer.body().as_deref().map(|b| String::from_utf8_lossy(b).into_owned());
            Err((answer.status().as_u16(), body.unwrap_or_default()))
        }
        Err(other) => panic!("{path}: {other}"),
    }
}

/// Reads until a text has come; all that has come.
pub async fn until(stream: &mut TlsStream<TcpStream>, wanted: &str) -> String {
    let mut out = String::new();
    while !out.contains(wanted) {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.expect("read");
        assert!(count > 0, "ended after {out:?}");
        out.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    out
}

/// Plays a kubelet: shows what it was asked, follows a log, upgrades.
async fn play(listener: TcpListener, tls: TlsAcceptor, more: Arc<Notify>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (tls, more) = (tls.clone(), Arc::clone(&more));
        tokio::spawn(async move {
            let stream = tls.accept(stream).await.expect("TLS");
            let known = stream.get_ref().1.peer_certificates().is_some();
            let service = service_fn(move |request| answer(request, known, Arc::clone(&more)));
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = served.with_upgrades().await;
        });
    }
}

/// What a node uses that has half a core busy since 1970, its pod with half of that.
fn used() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now");
    let (busy_s, at_ms) = (now.as_millis() as f64 / 2000.0, now.as_millis());
    let pod = r#"{container="c",namespace="default",pod="p"}"#;
    format!(
        "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {busy_s} {at_ms}\nnode_memory_working_set_bytes 1.610612736e+09 {at_ms}\n\
         container_cpu_usage_seconds_total{pod} {} {at_ms}\ncontainer_memory_working_set_bytes{pod} 1.2582912e+07 {at_ms}\n\
         container_start_time_seconds{pod} 1.5\nresource_scrape_error 0\n",
        busy_s / 2.0,
    )
}

async fn answer(mut request: Request<Incoming>, known: bool, more: Arc<Notify>) -> Result<Response<Body>, Infallible> {
    let asked = request.uri().to_string();
    let text = |code: u16, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(code).expect("a code");
        Ok(response)
    };
    if !known || request.headers().contains_key("authorization") {
        return text(401, "Unauthorized".into());
    }
    if asked == "/metrics/resource" {
        return text(200, used());
    }
    if asked.contains("follow=true") {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for line in ["one\n", "two\n"] {
                let _ = sender.send(line).await;
                more.notified().await;
            }
        });
        let lines = futures_util::stream::unfold(receiver, |mut r| async { r.recv().await.map(|l: &str| (Ok(Frame::data(Bytes::from(l.to_owned()))), r)) });
        return Ok(Response::new(StreamBody::new(lines).boxed_unsync()));
    }
    if asked.contains("tailLines=7") {
        return text(404, "no such container".into());
    }
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.map_err(BoxError::from).expect("upgraded"));
            stream.write_all(format!("{asked}\n").as_bytes()).await.expect("written");
            // Answers only once the other side has said all that it has to say.
            let mut all = String::new();
            stream.read_to_string(&mut all).await.expect("read");
            stream.write_all(format!("got {all}").as_bytes()).await.expect("written");
            stream.shutdown().await.expect("ended");
        });
        let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for name in ["upgrade", "connection", "x-stream-protocol-version"] {
            if let Some(value) = request.headers().get(name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        return Ok(response);
    }
    let mut response = text(200, asked)?;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/x-odd"));
    Ok(response)
}

#[tokio::test]
async fn a_log_is_asked_of_the_kubelet() {
    let world = World::start("log").await;
    let cluster = &world.cluster;
    let log = |query: &str| format!("/api/v1/namespaces/default/pods/p/log{query}");
    assert_eq!(cluster.get(&log("")).await.expect(200), "/containerLogs/default/p/c");
    let query = "?container=c&previous=true&tailLines=5&timestamps=1&sinceSeconds=10&limitBytes=100&follow=false";
    let told = "/containerLogs/default/p/c?limitBytes=100&previous=true&sinceSeconds=10&tailLines=5&timestamps=true";
    assert_eq!(cluster.get(&log(query)).await.expect(200), told);
    assert_eq!(cluster.get(&log("?container=x")).await.refused(400), "container x is not valid for pod p");
    let refused = cluster.get(&log("?tailLines=-1&limitBytes=0")).await.refused(422);
    assert_eq!(
        refused,
        "PodLogOptions \"p\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be greater than 0]"
    );
    assert_eq!(cluster.get(&log("?tailLines=7")).await.refused(404), "the server could not find the requested resource ( pods/log p)");
    assert_eq!(cluster.get("/api/v1/namespaces/default/pods/none/log").await.refused(404), "pods \"none\" not found");
    cluster.get("/api/v1/namespaces/default/pods/waiting/log").await.expect(204);
    let many = json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}], "initContainers": [{"name": "z", "image": "i"}]}});
    cluster.post("/api/v1/namespaces/default/pods", merged(pod("many"), many)).await.expect(201);
    let refused = cluster.get("/api/v1/namespaces/default/pods/many/log").await.refused(400);
    assert_eq!(refused, "a container name must be specified for pod many, choose one of: [z a b]");
    cluster.post(&log(""), json!({})).await.expect(405);
}

#[tokio::test]
async fn a_method_that_is_not_served_is_refused_before_its_query_is_read() {
    let world = World::start("methods").await;
    let cluster = &world.cluster;
    let forward = "/api/v1/namespaces/default/pods/p/portforward?ports=x";
    cluster.patch(forward, json!({})).await.expect(405);
    cluster.delete(forward).await.expect(405);
    assert!(cluster.post(forward, json!({})).await.refused(400).starts_with("cannot convert to []int32"));
}

#[tokio::test]
async fn a_log_flows_as_it_is_written() {
    let world = World::start("follow").await;
    let mut stream = world.ask("GET /api/v1/namespaces/default/pods/p/log?follow=true HTTP/1.1").await;
    let first = until(&mut stream, "one\n").await;
    assert!(first.starts_with("HTTP/1.1 200 OK") && first.to_lowercase().contains("content-type: text/plain") && !first.contains("two"), "{first}");
    world.more.notify_one();
    until(&mut stream, "two\n").await;
}

#[tokio::test]
async fn a_log_comes_over_a_websocket() {
    let world = World::start("socket").await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let told = "/containerLogs/default/p/c";
    for protocols in ["", "binary.k8s.io", "unknown, binary.k8s.io"] {
        let mut socket = world.socket(log, protocols, "").await.expect("a socket");
        assert_eq!(socket.protocol, if protocols.is_empty() { "" } else { "binary.k8s.io" });
        assert_eq!(socket.rest().await, [Message::binary(Bytes::new()), Message::binary(told)], "{protocols}");
    }
    let mut socket = world.socket(log, "base64.binary.k8s.io", "").await.expect("a socket");
    assert_eq!(socket.rest().await, [Message::text(""), Message::text(STANDARD.encode(told))]);

    let mut socket = world.socket(&format!("{log}?follow=true"), "binary.k8s.io", "").await.expect("a socket");
    assert_eq!(socket.next().await, Some(Message::binary(Bytes::new())));
    assert_eq!(socket.next().await, Some(Message::binary("one\n")));
    socket.stream.send(Message::Ping(Bytes::from_static(b"there?"))).await.expect("sent");
    assert_eq!(socket.next().await, Some(Message::Pong(Bytes::from_static(b"there?"))), "while nothing is written");
    world.more.notify_one();
    assert_eq!(socket.next().await, Some(Message::binary("two\n")));

    assert_eq!(world.socket(log, "v4.channel.k8s.io", "").await.err().map(|e| e.0), Some(403));
    let (code, body) = world.socket(&format!("{log}?container=x"), "", "").await.err().expect("refused");
    assert!(code == 400 && body.contains("container x is not valid for pod p"), "{code} {body}");
}

#[tokio::test]
async fn a_watch_comes_over_a_websocket() {
    let world = World::start("watch").await;
    let watch = "/api/v1/namespaces/default/configmaps?watch=true";
    // As long as a busy machine may need for what is between its begin and its events.
    let mut socket = world.socket(&format!("{watch}&timeoutSeconds=6"), "", "").await.expect("a socket");
    let mut binary = world.socket(watch, "own", "application/vnd.kubernetes.protobuf").await.expect("a socket");
    assert_eq!(binary.protocol, "own");
    for name in ["a", "b"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        world.cluster.post("/api/v1/namespaces/default/configmaps", map).await.expect(201);
    }
    for name in ["a", "b"] {
        let Some(Message::Text(text)) = socket.next().await else { panic!("no text") };
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(name)));
        let Some(Message::Binary(event)) = binary.next().await else { panic!("no bytes") };
        // Field 1 of a WatchEvent, as upstream sends it: nothing tells its length.
        assert!(event.starts_with(b"\x0a\x05ADDED"), "{event:?}");
    }
    // A watch that begins with what is there: several events at once, one a message.
    let mut again = world.socket(watch, "", "").await.expect("a socket");
    for _ in 0..2 {
        let Some(Message::Text(text)) = again.next().await else { panic!("no text") };
        serde_json::from_str::<serde_json::Value>(&text).expect("one event");
    }
    assert_eq!(socket.next().await, None, "the watch has ended");
    let (code, _) = world.socket("/api/v1/nothing?watch=true", "", "").await.err().expect("refused");
    assert_eq!(code, 404);
    // Without an origin, or with one that is none, upstream's handler refuses.
    let head = format!("GET {watch} HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
    for (origin, answer) in [("", "HTTP/1.1 403 "), ("\nOrigin: null", "HTTP/1.1 403 "), ("\nOrigin: http://localhost", "HTTP/1.1 101 ")] {
        let mut stream = world.ask(&format!("{head}{origin}")).await;
        let told = until(&mut stream, "\r\n\r\n").await;
        assert!(told.starts_with(answer), "{origin:?}: {told}");
    }
}

#[tokio::test]
async fn a_websocket_may_bring_its_token_among_the_protocols() {
    let world = World::start("token").await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = world.cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await.expect(201);
    let token = made["status"]["token"].as_str().expect("a token");
    let watch = "/api/v1/namespaces/default/configmaps?watch=true";
    let offer = |token: &str| format!("base64url.bearer.authorization.k8s.io.{}, own", URL_SAFE_NO_PAD.encode(token));
    let (code, body) = socket(world.connect(false).await, watch, &offer(token), "").await.err().expect("refused");
    assert!(code == 403 && body.contains("system:serviceaccount:default:default"), "{code} {body}");
    let (code, _) = socket(world.connect(false).await, watch, &offer("x"), "").await.err().expect("refused");
    assert_eq!(code, 401);
}

#[tokio::test]
async fn a_stream_is_tunnelled_and_each_side_ends_for_itself() {
    let world = World::start("exec").await;
    let exec = "POST /api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=false HTTP/1.1";
    let mut stream = world.ask(&format!("{exec}\nConnection: Upgrade\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io")).await;
    let head = until(&mut stream, "\n/exec").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("upgrade: spdy/3.1") && head.to_lowercase().contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    let rest = if head.contains("output=1") { String::new() } else { until(&mut stream, "output=1").await };
    assert!(format!("{head}{rest}").contains("/exec/default/p/c?command=sh&command=-c&command=a+b&input=1&output=1"), "{head}{rest}");
    stream.write_all(b"hello").await.expect("sent");
    stream.shutdown().await.expect("our side has ended");
    until(&mut stream, "got hello").await;
}

#[tokio::test]
async fn ports_are_forwarded() {
    let world = World::start("ports").await;
    let mut stream =
        world.ask("GET /api/v1/namespaces/default/pods/p/portforward?ports=80 HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: x").await;
    let head = until(&mut stream, "/portForward/default/p?port=80\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn streams_have_their_conditions() {
    let world = World::start("conditions").await;
    let exec = "/api/v1/namespaces/default/pods/p/exec?command=sh";
    assert_eq!(world.cluster.post(exec, serde_json::Value::Null).await.refused(400), "Upgrade request required");
    let waiting = "/api/v1/namespaces/default/pods/waiting/exec?command=sh";
    assert_eq!(world.cluster.post(waiting, serde_json::Value::Null).await.refused(400), "pod waiting does not have a host assigned");
    // To look is not to run.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "look"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "look"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "look"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]});
    world.cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await.expect(201);
    world.cluster.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.expect(201);
    let refused = world.cluster.call(&user("eve", &[]), http::Method::GET, exec, &[], serde_json::Value::Null).await.refused(403);
    assert_eq!(refused, "pods \"p\" is forbidden: ", "the authoriser has given no reason");
    let bearer = [("authorization", "Bearer x")];
    let metrics = world.cluster.call(&admin(), http::Method::GET, "/api/v1/nodes/n1/proxy/metrics?x=1", &bearer, serde_json::Value::Null).await;
    if world.kubelet.ip().is_loopback() {
        assert_eq!(metrics.refused(400), "address not allowed");
    } else {
        assert_eq!(metrics.expect(200), "/metrics?x=1");
    }
    // Nobody is led to this host's own by a node's status, be it by the kubelet's port.
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    world.cluster.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}})).await.expect(201);
    world.cluster.patch("/api/v1/nodes/n2/status", status).await.expect(200);
    for node in ["n2", "n2:10250", "n2:99", "https:n2:"] {
        assert_eq!(world.cluster.get(&format!("/api/v1/nodes/{node}/proxy/")).await.refused(400), "address not allowed", "{node}");
    }
    assert_eq!(world.cluster.get("/api/v1/namespaces/default/pods/p/proxy/").await.refused(400), "address not allowed");
    assert_eq!(world.cluster.get("/api/v1/namespaces/default/pods/ftp:p:1/proxy/").await.refused(400), "invalid pod request \"ftp:p:1\"");
    assert_eq!(
        world.cluster.get("/api/v1/namespaces/default/services/kubernetes:https/proxy/").await.refused(503),
        "no endpoints available for service \"kubernetes\""
    );
    assert_eq!(
        world.cluster.get("/api/v1/namespaces/default/services/kubernetes:444/proxy/").await.refused(503),
        "no service port 444 found for service \"kubernetes\""
    );
}
