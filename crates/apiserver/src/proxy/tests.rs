use super::{
    dial::Backend,
    forward,
    html::{self, Source},
    location, log,
};
use crate::{Body, Context, path::RequestInfo, query::Query};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::SystemTime};
use tokio::net::TcpListener;

const PREFIX: &str = "/api/v1/namespaces/default/services/web/proxy";

fn source() -> Source<'static> {
    Source { prefix: PREFIX, backend: "10.1.2.3:80", host: "api:6443" }
}

#[test]
fn who_names_no_container_hears_of_all() {
    let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    let pod = |own: &[&str]| json!({"metadata": {"name": "p"}, "spec": {"containers": named(own), "initContainers": named(&["i"]), "ephemeralContainers": named(&["e"])}});
    let told = |own: &[&str], name: &str| log::container(&pod(own), name).map_err(|status| status.message);
    assert_eq!(told(&["c"], ""), Ok("c".into()));
    assert_eq!(told(&["c", "d"], "e"), Ok("e".into()));
    assert_eq!(told(&["c", "d"], ""), Err("a container name must be specified for pod p, choose one of: [i c d e]".into()));
    assert_eq!(told(&["c"], "x"), Err("container x is not valid for pod p".into()));
}

#[test]
fn links_lead_through_the_proxy_again() {
    let cases = [
        ("/x", format!("{PREFIX}/x")),
        ("/", format!("{PREFIX}/")),
        ("/x?a=/b#c", format!("{PREFIX}/x?a=/b#c")),
        ("http://10.1.2.3:80/x", format!("{PREFIX}/x")),
        ("https://api:6443/x", format!("https://api:6443{PREFIX}/x")),
        ("x/y", "x/y".into()),
        ("#top", "#top".into()),
        ("http://example.com/x", "http://example.com/x".into()),
        ("//example.com/x", "//example.com/x".into()),
        ("mailto:a@b", "mailto:a@b".into()),
        ("javascript:void(0)", "javascript:void(0)".into()),
        ("", String::new()),
    ];
    for (link, wanted) in cases {
        assert_eq!(source().link(link), wanted, "{link}");
    }
    let own = format!("{PREFIX}/x");
    assert_eq!(source().link(&own), own, "what leads there already stays");
}

#[test]
fn pages_change_in_their_links_alone() {
    let cases = [
        ("<a href=\"/x\">/x</a>", format!("<a href=\"{PREFIX}/x\">/x</a>")),
        ("<IMG class=b SRC='/i.png' alt=\"/no\">", format!("<IMG class=b SRC='{PREFIX}/i.png' alt=\"/no\">")),
        ("<a href=/x>y</a><br/>", format!("<a href={PREFIX}/x>y</a><br/>")),
        ("<!-- <a href=\"/x\"> --><p title=\"<a href='/x'>\">", "<!-- <a href=\"/x\"> --><p title=\"<a href='/x'>\">".into()),
        ("a < b <", "a < b <".into()),
        ("<a href", "<a href".into()),
        ("<a href=", "<a href=".into()),
        ("<a href=\"/x", "<a href=\"/x".into()),
        ("<form action = \"/go\" method=post>", format!("<form action = \"{PREFIX}/go\" method=post>")),
    ];
    for (page, wanted) in cases {
        assert_eq!(String::from_utf8(html::rewrite(page.as_bytes(), &source())).expect("text"), wanted);
    }
    let odd = b"<a \xff href=\"\xfe\">=<a ==\">";
    assert_eq!(html::rewrite(odd, &source()), odd);
}

#[test]
fn names_have_a_scheme_and_a_port() {
    assert_eq!(location::split("web"), Some(("", "web", "")));
    assert_eq!(location::split("web:80"), Some(("", "web", "80")));
    assert_eq!(location::split("https:web:https"), Some(("https", "web", "https")));
    assert_eq!(location::split("http:web:"), Some(("http", "web", "")));
    for bad in ["", ":80", "ftp:web:1", "a:b:c:d"] {
        assert_eq!(location::split(bad), None, "{bad}");
    }
}

#[test]
fn no_dress_of_an_address_leads_to_this_host() {
    for own in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "169.254.1.1",
        "fe80::1",
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        assert!(location::proxyable(own.parse().expect("an address")).is_err(), "{own}");
    }
    for (pod, reached) in [("10.244.0.7", "10.244.0.7"), ("::ffff:10.244.0.7", "10.244.0.7"), ("fd00::7", "fd00::7")] {
        assert_eq!(location::proxyable(pod.parse().expect("an address")).ok(), reached.parse().ok(), "{pod}");
    }
}

#[test]
fn queries_are_encoded() {
    assert_eq!(forward::encode("a b&c=ä/"), "a+b%26c%3D%C3%A4%2F");
}

/// A backend that shows what it was asked, redirects, or shows a page.
async fn backend() -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(play)));
        }
    });
    Backend { address: address.into(), tls: None }
}

async fn play(request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let text = |text: String| Full::new(bytes::Bytes::from(text));
    let response = Response::builder().header("access-control-allow-origin", "*").header("x-own", "1");
    Ok(match request.uri().path() {
        "/redirect" => response.status(302).header("location", "/there").body(text(String::new())),
        "/page" | "/a/%22%3E" => response.header("content-type", "text/html; charset=utf-8").body(text("<a href=\"/rewriteme\">test</a>".into())),
        _ => {
            let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
            let asked =
                format!("{} {} host={} auth={} uri={}", request.method(), request.uri(), header("host"), header("authorization"), header("x-forwarded-uri"));
            let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            response.body(text(format!("{asked} {}", String::from_utf8_lossy(&body))))
        }
    }
    .expect("a response"))
}

async fn ask(backend: &Backend, method: Method, path: &str, body: &'static str) -> (u16, Response<()>, String) {
    let uri = format!("{PREFIX}{path}");
    let (raw_path, query) = uri.split_once('?').unwrap_or((&uri, ""));
    let info = RequestInfo::parse(&method, raw_path, &Query::parse(query));
    let cx = Context::new(Arc::default(), info, String::new(), SystemTime::now());
    let request = Request::builder().method(method).uri(&uri).header("host", "api:6443").header("authorization", "Bearer x").header("accept-encoding", "gzip");
    let request: Request<Body> = request.body(crate::full(body)).expect("a request");
    let response = forward::answer(&cx, backend, None, request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (parts.status.as_u16(), Response::from_parts(parts, ()), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_request_reaches_the_backend_without_its_credentials() {
    let backend = backend().await;
    let (code, response, body) = ask(&backend, Method::POST, "/a%20b/?x=1", "hello").await;
    assert_eq!((code, body.as_str()), (200, format!("POST /a%20b/?x=1 host=api:6443 auth=- uri={PREFIX}/a%20b/ hello").as_str()));
    assert!(response.headers().contains_key("x-own") && !response.headers().contains_key("access-control-allow-origin"));
    let (code, response, _) = ask(&backend, Method::GET, "?x=1", "").await;
    assert_eq!((code, response.headers()["location"].to_str().expect("text")), (301, format!("{PREFIX}/?x=1").as_str()));
    let (_, _, body) = ask(&backend, Method::DELETE, "", "").await;
    assert!(body.starts_with("DELETE / "), "{body}");
}

#[tokio::test]
async fn a_backend_s_redirects_and_pages_are_rewritten() {
    let backend = backend().await;
    let (code, response, _) = ask(&backend, Method::GET, "/redirect", "").await;
    assert_eq!((code, response.headers()["location"].to_str().expect("text")), (302, format!("{PREFIX}/there").as_str()));
    let (_, response, body) = ask(&backend, Method::GET, "/page", "").await;
    assert_eq!(body, format!("<a href=\"{PREFIX}/rewriteme\">test</a>"));
    assert_eq!(response.headers()["content-length"].to_str().expect("text"), body.len().to_string());
    let (_, _, body) = ask(&backend, Method::GET, "/a//%22%3E", "").await;
    assert_eq!(body, format!("<a href=\"{PREFIX}/a//%22%3E/rewriteme\">test</a>"), "what was asked for ends no attribute");
}

#[tokio::test]
async fn nobody_there_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let info = RequestInfo { tail: "/x".into(), ..RequestInfo::default() };
    let cx = Context::new(Arc::default(), info, String::new(), SystemTime::now());
    let request: Request<Body> = Request::get("/p/x").body(crate::empty()).expect("a request");
    let error = forward::answer(&cx, &Backend { address: address.into(), tls: None }, None, request).await.expect_err("nobody");
    assert_eq!((error.code, error.message), (503, format!("error trying to reach service: dial tcp {address}: connect: connection refused")));
}
