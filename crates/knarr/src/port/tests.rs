use super::*;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use instruments::Registry;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// An API server that knows the token `good` and lets its owner read `/metrics`.
fn delegated() -> Delegated {
    let server = |request: Request<Bytes>| -> BoxFuture<'static, client::Result<Response<client::Body>>> {
        let mut object: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let spec = object["spec"].clone();
        object["status"] = match request.uri().path().ends_with("/tokenreviews") {
            true => json!({"authenticated": spec["token"] == "good", "user": {"username": "ann"}}),
            false => json!({"allowed": spec["user"] == "ann" && spec["nonResourceAttributes"]["path"] == "/metrics"}),
        };
        let body = Full::new(Bytes::from(object.to_string())).map_err(|never| match never {}).boxed_unsync();
        Box::pin(async { Ok(Response::builder().status(201).header("content-type", "application/json").body(body).unwrap()) })
    };
    Delegated::new(client::Client::new(Arc::new(server)))
}

#[tokio::test]
async fn who_is_not_let_hears_it_in_the_originals_words() {
    let delegated = delegated();
    let ask = async |token, path| check(None, token, "get", path, &delegated).await.map_err(|status| (status.code, status.message));
    assert_eq!(ask(Some("good"), "/metrics").await, Ok(()));
    let refused = |user: &str, path: &str| Err((403, format!("forbidden: User \"{user}\" cannot get path \"{path}\"")));
    assert_eq!(ask(Some("good"), "/configz").await, refused("ann", "/configz"));
    assert_eq!(ask(None, "/metrics").await, refused("system:anonymous", "/metrics"));
    assert_eq!(ask(Some("bad"), "/metrics").await, Err((401, "Unauthorized".to_owned())));
    assert_eq!([bearer("Bearer a"), bearer("bearer  b "), bearer("Basic c"), bearer("d")], [Some("a"), Some("b"), None, None]);
}

/// What a part that is nothing knows of itself.
fn about() -> About {
    let flags = served(std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    About { component: "kube-part", paths: &["/configz", "/metrics"], config: ("componentconfig", json!({"a": 1})), flags, started: std::time::UNIX_EPOCH }
}

async fn shown(pages: &Pages, path: &str, query: &str) -> (u16, String) {
    let answer = pages.answer(path, query, "");
    let code = answer.status().as_u16();
    (code, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn health_is_told_as_the_originals_tell_it() {
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_ready = ready.clone();
    let check = Check::of_readiness("sched-handler-sync", move || is_ready.load(std::sync::atomic::Ordering::Relaxed));
    let pages = Pages::new(Registry::default(), vec![check], about());
    let ask = async |path, query| shown(&pages, path, query).await;
    let told = |code: u16, text: &str| (code, text.to_owned());
    assert_eq!(ask("/healthz", "").await, told(200, "ok"));
    assert_eq!(ask("/livez", "verbose").await, told(200, "[+]ping ok\nlivez check passed\n"));
    assert_eq!(ask("/readyz", "").await, told(500, "[+]ping ok\n[-]sched-handler-sync failed: reason withheld\nreadyz check failed\n"));
    assert_eq!(ask("/readyz", "exclude=sched-handler-sync").await, told(200, "ok"));
    ready.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        ask("/readyz", "verbose&exclude=x").await.1,
        "[+]ping ok\n[+]sched-handler-sync ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nreadyz check passed\n"
    );
    assert_eq!(ask("/readyz/sched-handler-sync", "").await, told(200, "ok"));
    assert_eq!(ask("/healthz/sched-handler-sync", "").await.0, 404);
    assert_eq!(ask("/metrics/resources", "").await.0, 404, "the scheduler alone has it");
    let slis = ask("/metrics/slis", "").await.1;
    for line in [
        r#"kubernetes_healthcheck{name="sched-handler-sync",type="readyz"} 1"#,
        r#"kubernetes_healthchecks_total{name="sched-handler-sync",status="error",type="readyz"} 1"#,
        r#"kubernetes_healthchecks_total{name="ping",status="success",type="livez"} 1"#,
    ] {
        assert!(slis.lines().any(|l| l == line), "{line} in\n{slis}");
    }
}

#[tokio::test]
async fn a_part_tells_what_it_is() {
    let pages = Pages::new(Registry::default(), Vec::new(), about());
    let ask = async |path| shown(&pages, path, "").await;
    assert_eq!(ask("/configz").await, (200, r#"{"componentconfig":{"a":1}}"#.to_owned()));
    let (code, text) = ask("/statusz").await;
    assert!(code == 200 && text.starts_with("\nkube-part statusz\nWarning: ") && text.contains("\nStarted: Thu Jan  1 00:00:00 UTC 1970\n"), "{text}");
    assert!(text.ends_with("\nPaths: /configz /metrics\n"), "{text}");
    let (code, text) = ask("/flagz").await;
    assert!(code == 200 && text.ends_with("\nbind-address=127.0.0.1\nsecure-port=1\n"), "{text}");
    let answer = pages.answer("/flagz", "", "application/json;g=config.k8s.io;v=v1beta1;as=Flagz");
    assert_eq!(answer.headers()["content-type"], "application/json;g=config.k8s.io;v=v1beta1;as=Flagz");
    assert_eq!(pages.answer("/flagz", "", "application/json").status().as_u16(), 406);
}

#[tokio::test]
async fn a_port_is_served_over_tls_and_one_in_use_is_told_with_what_to_do() {
    let registry = Registry::default();
    const A: instruments::Family = instruments::Family::new("a_total", instruments::Kind::Counter, "A.");
    let counter = registry.counters(&A, ["of"]);
    counter.with(["x"]).inc();
    let listener = listen("scheduler", "--secure-port", Ipv4Addr::LOCALHOST.into(), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let why = listen("scheduler", "--secure-port", address.ip(), address.port()).unwrap_err().to_string();
    assert!(why.contains(&format!("scheduler's port {address} is in use")) && why.contains("--secure-port"), "{why}");
    let stop = CancellationToken::new();
    let pages = Pages::new(registry, Vec::new(), about());
    let port = Port::new(listener, fixed(own(&Files::default(), address.ip(), None).unwrap()), delegated(), pages);
    let serving = tokio::spawn(port.serve(stop.clone()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusting = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let trusting = Arc::new(trusting.dangerous().with_custom_certificate_verifier(dial::unverified(provider)).with_no_client_auth());
    let get = async |path: &str, token: &str| {
        let io = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let io = tokio_rustls::TlsConnector::from(trusting.clone()).connect(name, io).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").header("authorization", token).body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let code = answer.status().as_u16();
        (code, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    assert_eq!(get("/readyz", "").await, (200, "ok".to_owned()));
    let (code, text) = get("/metrics", "Bearer good").await;
    assert!(code == 200 && text.contains("a_total{of=\"x\"} 1") && text.contains("process_start_time_seconds "), "{code} {text}");
    let (code, text) = get("/metrics", "").await;
    assert!(code == 403 && text.contains(r#""reason":"Forbidden""#), "{code} {text}");
    assert_eq!(get("/metrics", "Bearer bad").await.0, 401);
    stop.cancel();
    serving.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn clients_of_each_authority_of_a_file_are_known() {
    let folders = ["a", "b"].map(|name| std::env::temp_dir().join(format!("knarr-port-{name}-{}", std::process::id())));
    let authorities = folders.each_ref().map(|folder| identity::pki::Ca::load_or_create(folder).unwrap());
    let both: String = authorities.iter().map(identity::pki::Ca::cert_pem).collect();
    let server = own(&Files::default(), Ipv4Addr::LOCALHOST.into(), Some(&both)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let groups = |known: Option<Asker>| known.map(|asker| asker.groups.join(" "));
    for (authority, name, wanted) in [
        (&authorities[0], "ann", Some("system:authenticated")),
        (&authorities[1], "ann", Some("system:authenticated")),
        (&authorities[0], "system:anonymous", Some("")),
        (&authorities[0], "", None),
    ] {
        let shown = authority.client_cert("client", name, &[]).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let client = client.dangerous().with_custom_certificate_verifier(dial::unverified(provider.clone()));
        let client = Arc::new(client.with_client_auth_cert(shown.chain().unwrap(), shown.key().unwrap()).unwrap());
        let host = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let (here, there) = tokio::io::duplex(1 << 16);
        let (accepted, connected) = tokio::join!(TlsAcceptor::from(server.clone()).accept(there), tokio_rustls::TlsConnector::from(client).connect(host, here));
        let (accepted, _connected) = (accepted.unwrap(), connected.unwrap());
        let peer = accepted.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(Asker::of_certificate);
        assert_eq!(peer.as_ref().map_or("", |peer| peer.name.as_str()), name);
        assert_eq!(groups(peer).as_deref(), wanted);
    }
    for folder in folders {
        std::fs::remove_dir_all(folder).unwrap();
    }
}
