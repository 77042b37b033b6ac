//! Paths with parts that are empty, go up, hold slashes or are badly escaped: what kube-apiserver 1.37.2 answers to each.

use super::support::Server;
use http::Method;

const NO_PATH: &str = "the server could not find the requested resource";
const PLAIN: &str = "404 page not found\n";

/// Code and what is said: the message of a Status, or the text.
async fn answer(server: &Server, method: Method, path: &str) -> (u16, String) {
    let (code, body) = server.raw(method, path, &[], "").await;
    let text = String::from_utf8_lossy(&body).into_owned();
    let message = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|status| status["message"].as_str().map(str::to_owned));
    (code, message.unwrap_or(text))
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let parent = "Name parameter invalid: \"..\": may not be '..'";
    for (path, code, said) in [
        ("/api/v1//pods".to_owned(), 404, NO_PATH),
        ("//api/v1/pods".to_owned(), 404, PLAIN),
        ("/api//v1/pods".to_owned(), 404, NO_PATH),
        ("/apis//apps".to_owned(), 404, PLAIN),
        ("/api/v2/x".to_owned(), 404, NO_PATH),
        (format!("{pods}/.."), 400, parent),
        (format!("{pods}/%2e%2e"), 400, parent),
        (format!("{pods}/."), 400, "Name parameter invalid: \".\": may not be '.'"),
        ("/api/v1/nodes/%2e%2e/proxy/".to_owned(), 400, parent),
        (format!("{pods}/a%2Fb"), 404, NO_PATH),
        (format!("{pods}/a%2fb/log"), 404, NO_PATH),
        (format!("{pods}/a//log"), 404, NO_PATH),
        (format!("{pods}/%2fx"), 404, NO_PATH),
        ("/api/v1/pods/a".to_owned(), 404, NO_PATH),
        ("/api/v1/namespaces/default//pods/x".to_owned(), 404, NO_PATH),
        ("/apis/apps/v1/namespaces/default/deployments//scale".to_owned(), 400, "name must be provided"),
        (format!("{pods}/a%zz"), 400, "400 Bad Request"),
        (format!("{pods}/a%"), 400, "400 Bad Request"),
        ("/healthz/".to_owned(), 404, PLAIN),
        ("/version/x".to_owned(), 404, NO_PATH),
        ("/openapi/v3/".to_owned(), 404, ""),
        ("/openapi/v3/%2f".to_owned(), 404, ""),
        ("/apis/none.example.com//".to_owned(), 404, PLAIN),
        ("/apis/none.example.com/v1/x/".to_owned(), 404, PLAIN),
    ] {
        assert_eq!(answer(&server, Method::GET, &path).await, (code, said.to_owned()), "{path}");
    }
    for path in [
        "/apis/apps/%2f",
        "/apis/apps//",
        "/api/v1/namespaces//pods",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks/",
        "/version/",
        &format!("{pods}/"),
    ] {
        assert_eq!(answer(&server, Method::GET, path).await.0, 200, "{path}");
    }
    let refused = "the server does not allow this method on the requested resource";
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        assert_eq!(answer(&server, method.clone(), "/healthz").await, (200, "ok".to_owned()), "{method}");
        assert_eq!(answer(&server, method.clone(), "/version").await, (405, refused.to_owned()), "{method}");
        assert_eq!(answer(&server, method.clone(), "/openapi/v2").await.0, 200, "{method}");
        assert_eq!(answer(&server, method.clone(), &format!("{pods}/a%2fb")).await, (404, NO_PATH.to_owned()), "{method}");
    }
}

#[tokio::test]
async fn names_that_cannot_be_part_of_a_path() {
    let server = Server::start().await;
    let percent = r#"Name parameter invalid: "%": may not contain '%'"#;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    for (path, code, said) in [
        ("/api/v1/nodes/%25", 400, percent),
        ("/api/v1/namespaces/%25/status", 400, percent),
        (&*format!("{deployments}/%25/scale"), 400, percent),
        ("/api/v1/namespaces/%25/pods/x", 404, r#"pods "x" not found"#),
        ("/api/v1/namespaces/%2e%2e/pods", 500, r#"invalid key: "/pods/..""#),
        ("/api/v1/namespaces/./pods?fieldSelector=metadata.name%3Dx", 500, r#"invalid key: "/pods/./x""#),
        ("/api/v1/namespaces/./services?watch=1", 500, r#"invalid key: "/services/specs/.""#),
        ("/api/v1/namespaces/./pods/x", 500, r#"invalid key: "/pods/./x""#),
        ("/api/v1/namespaces/./pods/x/log", 500, r#"invalid key: "/pods/./x""#),
        ("/api/v1/namespaces/./services/https:x:443/proxy/", 500, r#"invalid key: "/services/specs/./x""#),
        ("/api/v1/namespaces/default/services/https:%25:443/proxy/", 400, percent),
        ("/api/v1/namespaces/./pods/%25", 400, percent),
        ("/api/v1/componentstatuses/%25", 404, r#"componentstatus "%" not found"#),
    ] {
        assert_eq!(answer(&server, Method::GET, path).await, (code, said.to_owned()), "{path}");
    }
    for (path, code, said) in [
        ("/api/v1/nodes/%25", 400, percent),
        ("/api/v1/namespaces/../pods", 500, r#"invalid key: "/pods/..""#),
        ("/api/v1/namespaces/../pods/x", 500, r#"invalid key: "/pods/../x""#),
    ] {
        assert_eq!(answer(&server, Method::DELETE, path).await, (code, said.to_owned()), "{path}");
    }
    let sent = async |method: Method, path: &str, body: &'static str| {
        let (code, body) = server.raw(method, path, &[("content-type", "application/json")], body).await;
        let status: serde_json::Value = serde_json::from_slice(&body).expect("a Status");
        (code, status["message"].as_str().unwrap_or_default().to_owned())
    };
    let named = r#"{"metadata":{"name":"x"}}"#;
    for (namespace, why) in [("%25", r#""%": [may not contain '%']"#), ("%2e", r#"".": [may not be '.']"#)] {
        let made = sent(Method::POST, &format!("/api/v1/namespaces/{namespace}/configmaps"), named).await;
        assert_eq!(made, (500, format!("Internal error occurred: invalid resource name {why}")));
    }
    let token = async |account: &str, body: &'static str| sent(Method::POST, &format!("/api/v1/namespaces/{account}/token"), body).await;
    assert_eq!(token("default/serviceaccounts/%25", "{}").await, (400, percent.to_owned()));
    assert!(token("default/serviceaccounts/%25", "{").await.1.contains("unexpected end of JSON input"), "the body is read first");
    assert!(token("./serviceaccounts/x", "{}").await.1.contains(r#"invalid resource name ".""#));
    let scaled = sent(Method::PUT, &format!("{deployments}/%2e/scale"), named).await;
    assert_eq!(scaled, (400, "the name of the object (x) does not match the name on the URL (.)".to_owned()));
}

#[tokio::test]
async fn a_document_that_is_asked_for_in_no_words_is_answered_in_none() {
    let server = Server::start().await;
    let told = ["vary", "x-kubernetes-pf-flowschema-uid", "content-type"];
    for (accept, kept) in [("json", [false; 3]), (",", [false; 3]), ("text/html", [true, true, false]), ("*/*", [true; 3])] {
        let headers = server.headers("/openapi/v3/apis/node.k8s.io/v1", &[("accept", accept)]).await;
        assert_eq!(told.map(|name| headers.contains_key(name)), kept, "{accept}");
    }
}

#[tokio::test]
async fn documents_of_the_second_version_alone_are_compressed() {
    let server = Server::start().await;
    let get = async |path: &str| server.raw(Method::GET, path, &[("accept-encoding", "gzip")], "").await;
    for path in ["/openapi/v3", "/openapi/v3/apis/apps", "/openapi/v3/apis/apps/v1"] {
        let (code, document) = get(path).await;
        assert!(code == 200 && document.starts_with(b"{"), "{path}: {code}");
    }
    let (code, document) = get("/openapi/v2").await;
    assert!(code == 200 && document.starts_with(&[0x1f, 0x8b]), "{code}");
}
