//! Groups that other servers serve: what of a request reaches them, what of their answers comes back, when they are said to be
//! there, how they stand in discovery, and what it costs when they are wrong.

use crate::{
    extension::{API_SERVICES, Act, Extension, SERVICES, Seen, reply},
    hook::papers,
    kubelet::{World, until},
    support::{Cluster, PATIENCE, admin, merged, user},
};
use apiserver::Config;
use http::{Method, Request};
use http_body_util::BodyExt;
use identity::{
    Trust,
    pki::{Ca, Credential, Subject, Usage},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const ROOT: &str = "/apis/wardle.example.com/v1";
const FLUNDERS: &str = "/apis/wardle.example.com/v1/namespaces/default/flunders";
const AGGREGATED: (&str, &str) = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");

fn resources() -> Value {
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1", "resources": [
        {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"], "shortNames": ["fl"]},
        {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
    ]})
}

/// A server of the old kind, which has none but its own version's list.
fn plain(seen: &Seen) -> Act {
    match seen.path() {
        ROOT => reply(&resources()),
        "/apis" | "/openapi/v3" | "/openapi/v2" => Act::Reply(404, vec![], "404 page not found".into()),
        _ => reply(&json!({"kind": "Flunder", "apiVersion": "wardle.example.com/v1", "metadata": {"name": "f"}})),
    }
}

#[tokio::test]
async fn a_request_reaches_the_server_with_who_asks_and_nothing_that_he_says_of_it() {
    let cluster = Cluster::start().await;
    let server = Extension::start(|seen| match seen.method.as_str() {
        "POST" => Act::Reply(
            201,
            vec![
                ("content-type", "application/x"),
                ("access-control-allow-origin", "*"),
                ("x-own", "1"),
                ("cache-control", "max-age=1"),
                ("audit-id", "theirs"),
            ],
            "made".into(),
        ),
        _ => plain(seen),
    })
    .await;
    server.register(&cluster, "v1", "wardle.example.com").await;
    let mut jane = user("jane", &["system:masters", "a b"]);
    jane.uid = "7".into();
    jane.extra.insert("example.org/Scope".into(), vec!["x".into(), "y".into()]);
    let lies = [
        ("x-remote-user", "evil"),
        ("x-remote-group", "evil"),
        ("x-remote-extra-evil", "evil"),
        ("x-remote-uid", "evil"),
        ("authorization", "Bearer secret"),
        ("connection", "x-hop, x-remote-user, x-remote-group, x-remote-uid"),
        ("x-hop", "1"),
        ("x-kept", "1"),
    ];
    let mut request = Request::post(format!("{FLUNDERS}?b=2&a=%20&dryRun=All")).extension(Arc::new(jane));
    for (name, value) in lies {
        request = request.header(name, value);
    }
    let response = cluster.api.handle(request.body(apiserver::full("a body")).expect("a request")).await;
    let (parts, body) = response.into_parts();
    assert_eq!((parts.status.as_u16(), body.collect().await.expect("a body").to_bytes().as_ref()), (201, b"made".as_slice()));
    assert_eq!((&parts.headers["content-type"], &parts.headers["x-own"]), (&"application/x".parse().unwrap(), &"1".parse().unwrap()));
    assert!(!parts.headers.contains_key("access-control-allow-origin"));
    let cached: Vec<&[u8]> = parts.headers.get_all("cache-control").iter().map(|value| value.as_bytes()).collect();
    assert_eq!(cached, [b"no-cache, private".as_slice(), b"max-age=1"]);
    let named: Vec<&[u8]> = parts.headers.get_all("audit-id").iter().map(|value| value.as_bytes()).collect();
    let seen = &server.on(FLUNDERS)[0];
    assert_eq!((seen.method.as_str(), seen.uri.as_str(), seen.body.as_str()), ("POST", &*format!("{FLUNDERS}?a=+&b=2&dryRun=All"), "a body"));
    assert_eq!((seen.header("x-remote-user"), seen.header("x-remote-uid")), ("jane".into(), "7".into()));
    assert_eq!(seen.header("x-remote-group"), "system:masters|a b|system:authenticated");
    assert_eq!(seen.header("x-remote-extra-example.org%2fscope"), "x|y");
    assert_eq!((seen.header("x-forwarded-uri"), seen.header("x-forwarded-proto")), (FLUNDERS.into(), "https".into()));
    assert_eq!((seen.header("host"), seen.header("x-kept")), (format!("localhost:{}", server.port), "1".into()));
    let id = seen.header("audit-id");
    assert_eq!((named, id.len()), (vec![id.as_bytes(), b"theirs"], 36), "the server is told the name that the answer has");
    for absent in ["x-remote-extra-evil", "authorization", "x-hop"] {
        assert!(!seen.headers.contains_key(absent), "{absent}");
    }
    // Whoever may not is refused here.
    let refused = cluster.call(&user("joe", &[]), Method::GET, FLUNDERS, &[], Value::Null).await.refused(403);
    assert!(refused.starts_with("flunders.wardle.example.com is forbidden: User \"joe\" cannot list resource"), "{refused}");
    assert_eq!(server.on(FLUNDERS).len(), 1);
    // A connection is kept for the next.
    cluster.get(&format!("{FLUNDERS}/f")).await.expect(200);
    assert_eq!(cluster.get(ROOT).await.expect(200)["resources"][0]["name"], "flunders");
    // Other versions of the group are nobody's.
    cluster.get("/apis/wardle.example.com/v2/flunders").await.expect(404);
}

#[tokio::test]
async fn an_api_service_with_a_service_stands_before_what_is_served_here() {
    let cluster = Cluster::start().await;
    let server = Extension::start(|_| reply(&json!({"kind": "Theirs"}))).await;
    cluster.external("ext").await;
    let spec = json!({"spec": server.service("v1", "batch")["spec"]});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    assert_eq!(cluster.get(jobs).await.expect(200)["kind"], "JobList");
    cluster.patch(&format!("{API_SERVICES}/v1.batch"), spec).await.expect(200);
    // The condition is still that of a local one; then it is asked.
    cluster.condition("v1.batch", "Passed").await;
    assert_eq!(cluster.get(jobs).await.expect(200)["kind"], "Theirs");
    let none = json!({"spec": {"service": null, "caBundle": null}});
    cluster.patch(&format!("{API_SERVICES}/v1.batch"), none).await.expect(200);
    assert_eq!(cluster.get(jobs).await.expect(200)["kind"], "JobList");
    cluster.condition("v1.batch", "Local").await;
}

#[tokio::test]
async fn what_is_missing_is_told_and_news_of_it_are_heard() {
    let cluster = Cluster::start().await;
    let service = |port: u16| {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.g.example.com"}, "spec": {
            "group": "g.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
            "service": {"namespace": "default", "name": "s", "port": port}}})
    };
    cluster.post(API_SERVICES, service(1)).await.expect(201);
    let condition = async |reason| cluster.condition("v1.g.example.com", reason).await;
    assert_eq!(condition("ServiceNotFound").await, "service/s in \"default\" is not present");
    let reply = cluster.get("/apis/g.example.com/v1/things").await;
    assert_eq!((reply.code, reply.body), (503, "service unavailable\n".into()));
    let port = |port: u16| json!({"spec": {"ports": [{"name": "https", "port": port}]}});
    let made = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
    cluster.post(SERVICES, merged(made, port(444))).await.expect(201);
    assert_eq!(condition("ServicePortError").await, "service/s in \"default\" is not listening on port 1");
    cluster.patch(&format!("{SERVICES}/s"), port(1)).await.expect(200);
    assert_eq!(condition("EndpointsNotFound").await, "cannot find endpointslices for service/s in \"default\"");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": false}}], "ports": [{"name": "https", "port": 1}]});
    cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
    assert_eq!(condition("MissingEndpoints").await, "endpointslices for service/s in \"default\" have no addresses with port name \"https\"");
    cluster.delete(&format!("{SERVICES}/s")).await.expect(200);
    condition("ServiceNotFound").await;
    // Nobody is at the port, whatever else the machine serves.
    cluster.external("s").await;
    let url = "https://localhost:1/apis/g.example.com/v1";
    let refused = "dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(condition("FailedDiscoveryCheck").await, format!("failing or missing response from {url}: Get \"{url}\": {refused}"));
}

#[tokio::test]
async fn a_server_that_is_not_who_it_must_be_is_not_there() {
    let cluster = Cluster::start().await;
    cluster.external("ext").await;
    let other = Extension::with(papers(&["other.default.svc"], |_| {}), plain).await;
    cluster.post(API_SERVICES, other.service("v1", "wardle.example.com")).await.expect(201);
    let told = cluster.condition("v1.wardle.example.com", "FailedDiscoveryCheck").await;
    assert!(told.ends_with("tls: failed to verify certificate: x509: certificate is valid for other.default.svc, not ext.default.svc"), "{told}");
    assert!(other.seen.lock().unwrap().is_empty(), "nothing was said to it");
    // Whoever does not care reaches it, and the front proxy shows nothing that it has not got.
    let insecure = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    cluster.patch(&format!("{API_SERVICES}/v1.wardle.example.com"), insecure).await.expect(200);
    cluster.condition("v1.wardle.example.com", "Passed").await;
    let check = &other.on(ROOT)[0];
    assert_eq!((check.header("x-remote-user").as_str(), check.header("x-remote-group").as_str()), ("system:kube-aggregator", "system:masters"));
    assert!(!check.certificate);
    // An authority that is none keeps everybody from it.
    let nonsense = json!({"spec": {"caBundle": "bm9uc2Vuc2U=", "insecureSkipTLSVerify": false}});
    cluster.patch(&format!("{API_SERVICES}/v1.wardle.example.com"), nonsense).await.expect(200);
    let reply = cluster.get(FLUNDERS).await;
    // Until the check has heard of it, the request itself fails by it.
    let text = if reply.code == 503 { "service unavailable\n" } else { "unable to load root certificates: unable to parse bytes as PEM block\n" };
    assert_eq!((matches!(reply.code, 500 | 503), reply.body), (true, text.into()));
}

#[tokio::test]
async fn what_a_server_does_wrong_costs_its_own_clients_alone() {
    let trust = Trust::default();
    let cluster = Cluster::with(Config { request_timeout: Duration::from_secs(2), ..Config::default() }, trust).await;
    let server = Extension::start(|seen| match seen.path() {
        "/apis/wardle.example.com/v1/redirect" => Act::Reply(302, vec![("location", "https://elsewhere.example/")], String::new()),
        "/apis/wardle.example.com/v1/created" => Act::Reply(201, vec![("location", "/there")], "made".into()),
        "/apis/wardle.example.com/v1/hang" => Act::Hang,
        "/apis/wardle.example.com/v1/flood" => Act::Flood,
        _ => plain(seen),
    })
    .await;
    server.register(&cluster, "v1", "wardle.example.com").await;
    let redirected = cluster.get(&format!("{ROOT}/redirect")).await;
    assert_eq!((redirected.code, redirected.body), (502, "the backend attempted to redirect this request, which is not permitted".into()));
    assert_eq!(cluster.get(&format!("{ROOT}/created")).await.expect(201), "made");
    assert_eq!(cluster.get(&format!("{ROOT}/hang")).await.refused(504), "Timeout: request did not complete within the allotted timeout");
    assert_eq!(server.gone.lock().await.recv().await.as_deref(), Some("/apis/wardle.example.com/v1/hang"), "nobody waits behind it");
    // An answer without end is cut at the same time, and is never held.
    let request = Request::get(format!("{ROOT}/flood")).extension(Arc::new(admin())).body(apiserver::empty()).expect("a request");
    let mut body = cluster.api.handle(request).await.into_body();
    let ended = timeout(PATIENCE, async { while let Some(Ok(_)) = body.frame().await {} });
    ended.await.expect("it ends");
    drop(body);
    assert_eq!(server.gone.lock().await.recv().await.as_deref(), Some("/apis/wardle.example.com/v1/flood"));
    drop(server);
    let reply = cluster.get(FLUNDERS).await;
    let text = reply.body.as_str().unwrap_or_default();
    assert!(reply.code == 503 && text.starts_with("error trying to reach service: "), "{} {text}", reply.code);
    cluster.get("/api/v1/namespaces").await.expect(200);
}

#[tokio::test]
async fn watches_flow_and_end_with_their_client() {
    let cluster = Cluster::start().await;
    let server = Extension::start(|seen| if seen.uri.contains("watch=") { Act::Stream } else { plain(seen) }).await;
    server.register(&cluster, "v1", "wardle.example.com").await;
    let request = Request::get(format!("{FLUNDERS}?watch=true")).extension(Arc::new(admin())).body(apiserver::empty()).expect("a request");
    let mut body = cluster.api.handle(request).await.into_body();
    let next = async |body: &mut apiserver::Body| body.frame().await.expect("more").expect("no error").into_data().expect("data");
    assert_eq!(next(&mut body).await, "begun\n");
    server.more.send("more\n").expect("heard");
    assert_eq!(next(&mut body).await, "more\n");
    assert!(server.gone.lock().await.try_recv().is_err());
    drop(body);
    let gone = timeout(PATIENCE, async { server.gone.lock().await.recv().await }).await.expect("told");
    assert_eq!(gone.as_deref(), Some(FLUNDERS));
}

/// A server that speaks HTTP/2 has one connection; who hangs on it, or does not read, holds up nobody else, and what it does not take
/// any more goes to another.
#[tokio::test]
async fn many_requests_share_a_connection_of_http_2() {
    let cluster = Cluster::with(Config { request_timeout: Duration::from_secs(20), ..Config::default() }, Trust::default()).await;
    let server = Extension::of_two(|seen| match seen.path() {
        "/apis/wardle.example.com/v1/hang" => Act::Hang,
        "/apis/wardle.example.com/v1/flood" => Act::Flood,
        _ => plain(seen),
    })
    .await;
    server.register(&cluster, "v1", "wardle.example.com").await;
    let connections = || server.connections.load(std::sync::atomic::Ordering::Relaxed);
    cluster.get(&format!("{FLUNDERS}/f")).await.expect(200);
    let before = connections();
    let ask = |path: &str| Request::get(format!("{ROOT}/{path}")).extension(Arc::new(admin())).body(apiserver::empty()).expect("a request");
    let hung = {
        let api = cluster.api.clone();
        let request = ask("hang");
        tokio::spawn(async move { api.handle(request).await.status() })
    };
    // Nobody reads these.
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(cluster.api.handle(ask("flood")).await);
    }
    for _ in 0..20 {
        assert_eq!(cluster.get(&format!("{FLUNDERS}/f")).await.expect(200)["kind"], "Flunder");
    }
    let seen = server.on(&format!("{FLUNDERS}/f"));
    let seen = seen.last().expect("a request");
    assert_eq!((seen.header("host"), seen.header("x-remote-user")), (format!("localhost:{}", server.port), "admin".into()));
    assert_eq!(connections(), before, "all of it on what was there");
    hung.abort();
    let gone = timeout(PATIENCE, async { server.gone.lock().await.recv().await }).await.expect("told");
    assert_eq!(gone, Some(format!("{ROOT}/hang")), "the end of one request is that of its stream");
    // The server takes no more on it: the next has another, and nobody hears of that.
    server.goaway.notify_waiters();
    for _ in 0..5 {
        cluster.get(&format!("{FLUNDERS}/f")).await.expect(200);
    }
    assert!(connections() > before);
    drop(unread);
}

#[tokio::test]
async fn an_upgraded_connection_is_carried_both_ways_and_the_front_proxy_proves_itself() {
    let world = World::start("aggregation").await;
    let upgrades = |seen: &Seen| seen.headers.contains_key("upgrade") && !seen.uri.ends_with("/none");
    let server = Extension::start(move |seen| if upgrades(seen) { Act::Upgrade } else { plain(seen) }).await;
    server.register(&world.cluster, "v1", "wardle.example.com").await;
    assert!(server.on(ROOT)[0].certificate, "the front proxy's");
    let mut stream = world.ask(&format!("GET {FLUNDERS}/f/exec?x=1 HTTP/1.1\nConnection: Upgrade\nUpgrade: twice\nX-Remote-User: evil")).await;
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("upgrade: twice"), "{head}");
    stream.write_all(b"ab").await.expect("written");
    assert_eq!(until(&mut stream, "abab").await, "abab");
    let seen = &server.on(&format!("{FLUNDERS}/f/exec"))[0];
    assert_eq!((seen.header("x-remote-user"), seen.header("x-forwarded-for")), ("kubernetes-admin".into(), "127.0.0.1".into()));
    drop(stream);
    let gone = timeout(PATIENCE, async { server.gone.lock().await.recv().await }).await.expect("told");
    assert_eq!(gone, Some(format!("{FLUNDERS}/f/exec")));
    let mut stream = world.ask(&format!("GET {FLUNDERS}/none HTTP/1.1\nConnection: Upgrade\nUpgrade: twice")).await;
    let head = until(&mut stream, "\r\n\r\n").await.to_lowercase();
    let id = server.on(&format!("{FLUNDERS}/none"))[0].header("audit-id");
    assert!(head.starts_with("http/1.1 503") && head.contains(&format!("audit-id: {id}\r\n")), "the server was told {id}: {head}");
}

#[tokio::test]
async fn whom_the_front_proxy_names_is_believed_and_nobody_else_s_word_is() {
    let world = World::start("front-proxy").await;
    let review = r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;
    let ask = async |shown, headers: &str| {
        let mut stream = world.connect_with(shown, &[]).await;
        let length = review.len();
        let text = format!(
            "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{review}"
        );
        stream.write_all(text.as_bytes()).await.expect("sent");
        until(&mut stream, "}\n").await
    };
    let jane = "X-Remote-User: jane\r\nX-Remote-Group: devs\r\nX-Remote-Uid: 7\r\nX-Remote-Extra-Example.org%2Fscopes: a\r\n";
    let front = &world.keys.front_proxy_client;
    let told = ask(Some(front), jane).await;
    for part in [r#""username":"jane""#, r#""uid":"7""#, r#""groups":["devs","system:authenticated"]"#, r#""example.org/scopes":["a"]"#] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let nobody = ask(Some(front), "").await;
    assert!(nobody.starts_with("HTTP/1.1 401"), "who names nobody is nobody: {nobody}");
    let stranger = world.keys.front_proxy_ca.client_cert("somebody", "somebody", &["system:masters"]).expect("a certificate");
    for headers in [jane, ""] {
        let refused = ask(Some(&stranger), headers).await;
        assert!(refused.starts_with("HTTP/1.1 401"), "another name is not the front proxy's, nor a user's: {refused}");
    }
    let own = ask(Some(&world.keys.admin), jane).await;
    assert!(own.contains(r#""username":"kubernetes-admin""#) && !own.contains("devs"), "{own}");
    // Whom it names anonymous is not known for that, nor in the group of those who are not.
    let anonymous = ask(Some(front), "X-Remote-User: system:anonymous\r\n").await;
    assert!(anonymous.starts_with("HTTP/1.1 403"), "{anonymous}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_by_an_answer() {
    let world = World::start("strange-certificates").await;
    let ask = async |shown: &Credential, path: &str, headers: &str| {
        let mut stream = world.connect_with(Some(shown), &[]).await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // How the connection ends is not what is asked.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let (ca, now) = (&world.keys.ca, SystemTime::now());
    let subject = |name: &str, usage| Subject { common_name: name.into(), organizations: vec!["system:masters".into()], names: vec![], ips: vec![], usage };
    let other = Ca::load_or_create(&std::env::temp_dir().join(format!("apiserver-strange-{}", std::process::id()))).expect("another authority");
    let issue = |ca: &Ca, name: &str, usage, now| ca.issue(&subject(name, usage), now).expect("a certificate");
    let year = Duration::from_secs(365 * 24 * 3600);
    let bad = [
        ("another authority's", issue(&other, "eve", Usage::Client, now)),
        ("ended", issue(ca, "eve", Usage::Client, now - 2 * year)),
        ("not begun", issue(ca, "eve", Usage::Client, now + year)),
        ("a server's", issue(ca, "eve", Usage::Server, now)),
        ("without a name", issue(ca, "", Usage::Client, now)),
        ("the front proxy's authority's", issue(&world.keys.front_proxy_ca, "eve", Usage::Client, now)),
    ];
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = world.cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await.expect(201);
    let token = format!("Authorization: Bearer {}\r\n", made["status"]["token"].as_str().expect("a token"));
    for (what, shown) in &bad {
        for (path, headers) in [("/api/v1/namespaces", ""), ("/livez", ""), ("/livez", "X-Remote-User: jane\r\n"), ("/livez", "Authorization: Bearer no\r\n")] {
            let answer = ask(shown, path, headers).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{what}, {path}, {headers}: {answer}");
        }
        let answer = ask(shown, "/api/v1/namespaces", &token).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("system:serviceaccount:default:default"), "{what}, but a token: {answer}");
    }
    let good = issue(ca, "jane", Usage::Client, now);
    assert!(ask(&good, "/api/v1/namespaces", "").await.starts_with("HTTP/1.1 200"));
    let answer = ask(&good, "/api/v1/namespaces", &token).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "a certificate counts before a token: {answer}");
    let _ = std::fs::remove_dir_all(std::env::temp_dir().join(format!("apiserver-strange-{}", std::process::id())));
}

async fn groups(cluster: &Cluster) -> Vec<String> {
    let list = cluster.get("/apis").await.expect(200);
    list["groups"].as_array().expect("groups").iter().map(|group| group["name"].as_str().expect("a name").to_owned()).collect()
}

/// Waits until aggregated discovery has a version as a test wants it.
async fn version(cluster: &Cluster, group: &str, version: &str, is: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let list = cluster.call(&admin(), Method::GET, "/apis", &[AGGREGATED], Value::Null).await.expect(200);
            let all = list["items"].as_array().expect("items").iter().filter(|item| item["metadata"]["name"] == group);
            let all = all.flat_map(|item| item["versions"].as_array().expect("versions").clone());
            if let Some(found) = { all }.find(|found| found["version"] == version && is(found)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, found).await.expect("it comes")
}

#[tokio::test]
async fn discovery_has_what_servers_say_and_marks_those_that_do_not() {
    let cluster = Cluster::start().await;
    let before = groups(&cluster).await;
    let old = Extension::start(plain).await;
    old.register(&cluster, "v1", "wardle.example.com").await;
    let kind = json!({"group": "", "version": "", "kind": "Flunder"});
    let entry = version(&cluster, "wardle.example.com", "v1", |entry| entry["freshness"] == "Current").await;
    let resource = json!({
        "resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder", "verbs": ["get", "list"], "shortNames": ["fl"],
        "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get"]}],
    });
    assert_eq!(entry, json!({"version": "v1", "resources": [resource], "freshness": "Current"}));
    let with = groups(&cluster).await;
    assert_eq!((with.last().map(String::as_str), &with[..before.len()]), (Some("wardle.example.com"), before.as_slice()), "after all of higher priority");
    // The path beside it has no aggregated form and tells the same to whoever would rather have that.
    let rather = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json");
    let beside = cluster.call(&admin(), Method::GET, "/apis/", &[rather], Value::Null).await.expect(200);
    assert_eq!(beside, cluster.get("/apis").await.expect(200));
    let group = cluster.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"], json!({"groupVersion": "wardle.example.com/v1", "version": "v1"}));

    // One that tells all at once, some of it wrong, in a group that is served here too; and one that is never there.
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [{"metadata": {"name": "batch"}, "versions": [
        {"version": "v9", "freshness": "Whatever", "evil": 1, "resources": [{"resource": "jots", "scope": "Cluster", "singularResource": "jot", "verbs": ["get"], "evil": 1}]},
        {"version": "v8", "resources": "none"},
    ]}]});
    let new = Extension::start(move |seen| match seen.path() {
        "/apis" if seen.header("if-none-match") == "\"tag\"" => Act::Reply(304, vec![], String::new()),
        "/apis" => Act::Reply(
            200,
            vec![("content-type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), ("etag", "\"tag\"")],
            list.to_string(),
        ),
        _ => plain(seen),
    })
    .await;
    new.register(&cluster, "v9", "batch").await;
    cluster.post(API_SERVICES, new.service("v8", "batch")).await.expect(201);
    let nowhere = merged(new.service("v1", "nowhere.example.com"), json!({"spec": {"groupPriorityMinimum": 17_790, "service": {"name": "nowhere"}}}));
    cluster.post(API_SERVICES, nowhere).await.expect(201);
    let entry = version(&cluster, "batch", "v9", |entry| entry["resources"].is_array()).await;
    let kind = json!({"group": "", "version": "", "kind": ""});
    let resource = json!({"resource": "jots", "responseKind": kind, "scope": "Cluster", "singularResource": "jot", "verbs": ["get"]});
    assert_eq!(entry, json!({"version": "v9", "resources": [resource], "freshness": "Current"}));
    for (group, name) in [("batch", "v8"), ("nowhere.example.com", "v1")] {
        assert_eq!(version(&cluster, group, name, |_| true).await, json!({"version": name, "freshness": "Stale"}));
    }
    let batch = cluster.get("/apis/batch").await.expect(200);
    let versions: Vec<&str> = batch["versions"].as_array().unwrap().iter().map(|version| version["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["v9", "v8", "v1"], "by priority, then by name");
    version(&cluster, "batch", "v1", |entry| entry["freshness"] == "Current" && entry["resources"][0]["resource"] == "cronjobs").await;
    let all = groups(&cluster).await;
    let at = |name: &str| all.iter().position(|group| group == name).expect("listed");
    assert!(at("apps") < at("nowhere.example.com") && at("nowhere.example.com") < at("events.k8s.io"), "{all:?}");

    for name in ["v9.batch", "v8.batch", "v1.nowhere.example.com", "v1.wardle.example.com"] {
        cluster.delete(&format!("{API_SERVICES}/{name}")).await.expect(200);
    }
    assert_eq!(groups(&cluster).await, before);
    let gone = async {
        while cluster.call(&admin(), Method::GET, "/apis", &[AGGREGATED], Value::Null).await.body.to_string().contains("flunders") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("forgotten");
}

#[tokio::test]
async fn descriptions_stand_beside_ours() {
    let cluster = Cluster::start().await;
    let two = json!({
        "swagger": "2.0",
        "paths": {"/apis/wardle.example.com/v1/flunders": {"get": {"schema": {"$ref": "#/definitions/Flunder"}}}, "/version/": {}},
        "definitions": {"Flunder": {"type": "object", "properties": {"m": {"$ref": "#/definitions/io.k8s.api.core.v1.Pod"}}}, "io.k8s.api.core.v1.Pod": {"type": "string"}, "Unused": {}},
    });
    let server = Extension::start(move |seen| match seen.path() {
        "/openapi/v3" => reply(&json!({"paths": {
            "apis/wardle.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=ABC"},
            "apis/batch/v1": {"serverRelativeURL": "/openapi/v3/apis/batch/v1?hash=LIE"},
        }})),
        "/openapi/v3/apis/wardle.example.com/v1" => Act::Reply(200, vec![("etag", "\"ABC\"")], format!("document for {}", seen.header("x-remote-user"))),
        "/openapi/v2" => reply(&two),
        _ => plain(seen),
    })
    .await;
    server.register(&cluster, "v1", "wardle.example.com").await;
    let described = async {
        while cluster.get("/openapi/v3").await.body["paths"]["apis/wardle.example.com/v1"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, described).await.expect("described");
    let index = cluster.get("/openapi/v3").await.expect(200);
    assert_eq!(index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"], "/openapi/v3/apis/wardle.example.com/v1?hash=ABC");
    assert!(!index["paths"]["apis/batch/v1"]["serverRelativeURL"].as_str().unwrap().contains("LIE"), "what is ours we describe");
    assert_eq!(cluster.get("/openapi/v3/apis/wardle.example.com/v1?hash=ABC").await.expect(200), "document for admin");
    assert!(cluster.get("/openapi/v3/apis/batch/v1").await.expect(200)["paths"].is_object());
    cluster.get("/openapi/v3/").await.expect(404);
    let whole = cluster.get("/openapi/v2").await.expect(200);
    assert!(whole["paths"]["/apis/wardle.example.com/v1/flunders"].is_object() && whole["paths"]["/api/v1/pods"].is_object());
    assert_eq!(whole["definitions"]["Flunder"]["properties"]["m"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod_v2");
    // What no path of theirs ever used stays, as in the original (`FilterSpecByPathsWithoutSideEffects`).
    assert_eq!((&whole["definitions"]["io.k8s.api.core.v1.Pod_v2"], &whole["definitions"]["Unused"]), (&json!({"type": "string"}), &json!({})));
}

#[tokio::test]
async fn a_name_that_is_used_again_is_another_server_s() {
    let cluster = Cluster::start().await;
    let who = |name: &'static str| move |seen: &Seen| if seen.path() == ROOT { plain(seen) } else { reply(&json!({"by": name})) };
    let (one, two) = (Extension::start(who("one")).await, Extension::start(who("two")).await);
    one.register(&cluster, "v1", "wardle.example.com").await;
    assert_eq!(cluster.get(FLUNDERS).await.expect(200)["by"], "one");
    cluster.delete(&format!("{API_SERVICES}/v1.wardle.example.com")).await.expect(200);
    let made = cluster.post(API_SERVICES, two.service("v1", "wardle.example.com")).await.expect(201);
    assert!(made["status"]["conditions"].is_null(), "what was said of the old one is not said of this");
    let early = cluster.get(FLUNDERS).await;
    assert!(early.code == 503 || early.body["by"] == "two", "{} {}", early.code, early.body);
    cluster.condition("v1.wardle.example.com", "Passed").await;
    let asked = one.seen.lock().unwrap().len();
    assert_eq!(cluster.get(FLUNDERS).await.expect(200)["by"], "two");
    assert_eq!(one.seen.lock().unwrap().len(), asked);
    // The same object with another port.
    cluster.patch(&format!("{API_SERVICES}/v1.wardle.example.com"), json!({"spec": one.service("v1", "wardle.example.com")["spec"]})).await.expect(200);
    assert_eq!(cluster.get(FLUNDERS).await.expect(200)["by"], "one");
}

#[tokio::test]
async fn what_a_definition_serves_has_an_api_service_for_as_long() {
    let cluster = Cluster::start().await;
    let versions = |second: bool| {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        json!([{"name": "v1", "served": true, "storage": true, "schema": schema}, {"name": "v2", "served": second, "storage": false, "schema": schema}])
    };
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"}, "versions": versions(true)},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.post(definitions, definition).await.expect(201);
    for name in ["v1.example.com", "v2.example.com"] {
        cluster.condition(name, "Local").await;
        let service = cluster.get(&format!("{API_SERVICES}/{name}")).await.expect(200);
        assert_eq!(service["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
        assert_eq!((&service["spec"]["groupPriorityMinimum"], &service["spec"]["versionPriority"]), (&json!(1000), &json!(100)));
    }
    let gone = async |name: &str| {
        let gone = async {
            while cluster.get(&format!("{API_SERVICES}/{name}")).await.code != 404 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("gone");
    };
    cluster.patch(&format!("{definitions}/things.example.com"), json!({"spec": {"versions": versions(false)}})).await.expect(200);
    gone("v2.example.com").await;
    cluster.delete(&format!("{definitions}/things.example.com")).await.expect(200);
    gone("v1.example.com").await;
}
