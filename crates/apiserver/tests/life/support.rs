//! A server in this process and a small client for it.

use apiserver::{ApiServer, Body, Config, Identity, full};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use identity::User;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// How long an awaited event may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    api: ApiServer,
}

pub struct Reply {
    code: u16,
    body: Value,
    pub warnings: Vec<String>,
    asked: String,
}

impl Reply {
    /// The body, if the code is this one.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}: {:#}", self.asked, self.body);
        self.body
    }

    /// Code and body, whatever they are.
    pub fn either(self) -> (u16, Value) {
        (self.code, self.body)
    }
}

pub struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event: its kind and its object.
    pub async fn next(&mut self) -> (String, Value) {
        self.next_or_end().await.expect("the watch goes on")
    }

    /// The next event; `None` if the watch has ended.
    pub async fn next_or_end(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).expect("an event is JSON");
                return Some((event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            let data = frame?.expect("no error").into_data().expect("data");
            self.buffer.extend_from_slice(&data);
        }
    }
}

impl Server {
    pub async fn start() -> Server {
        Server::over(store::Store::in_memory(&store::Options::default()).expect("a store")).await
    }

    /// Over a store, with nothing begun yet.
    pub fn unbegun(store: store::Store) -> Server {
        let identity = Identity::new(&store, None, "https://kubernetes.default.svc", Default::default()).expect("keys");
        Server { api: ApiServer::new(Config::default(), store, identity).expect("a server") }
    }

    pub async fn over(store: store::Store) -> Server {
        let server = Server::unbegun(store);
        server.begin().await;
        // What a controller does in a cluster.
        let account = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        server.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
        server
    }

    /// Begins what a server does by itself.
    pub async fn begin(&self) {
        self.api.bootstrap().await.expect("bootstrap");
    }

    async fn send(&self, user: &str, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> http::Response<Body> {
        let groups = if user == "admin" { vec!["system:masters".into(), "system:authenticated".into()] } else { vec!["system:authenticated".into()] };
        let user = User { name: user.into(), uid: String::new(), groups, extra: Default::default() };
        let mut request = Request::builder().method(method).uri(uri.replace(' ', "%20")).extension(Arc::new(user));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.api.handle(request.body(full(body)).expect("a request")).await
    }

    async fn reply(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let asked = format!("{method} {uri}");
        let response = self.send("admin", method, uri, headers, body).await;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok()).map(str::to_owned).collect();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Reply { code, body, warnings, asked }
    }

    pub async fn get(&self, uri: &str) -> Reply {
        self.reply(Method::GET, uri, &[], "").await
    }

    pub async fn get_as(&self, uri: &str, accept: &str) -> Reply {
        self.reply(Method::GET, uri, &[("accept", accept)], "").await
    }

    pub async fn post(&self, uri: &str, body: &Value) -> Reply {
        self.reply(Method::POST, uri, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn post_protobuf(&self, uri: &str, body: Vec<u8>) -> Reply {
        self.reply(Method::POST, uri, &[("content-type", "application/vnd.kubernetes.protobuf")], body).await
    }

    pub async fn put(&self, uri: &str, body: &Value) -> Reply {
        self.reply(Method::PUT, uri, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn patch(&self, uri: &str, media: &str, body: &Value) -> Reply {
        self.reply(Method::PATCH, uri, &[("content-type", media)], body.to_string()).await
    }

    pub async fn delete(&self, uri: &str, options: Option<Value>) -> Reply {
        let body = options.map(|o| o.to_string()).unwrap_or_default();
        self.reply(Method::DELETE, uri, &[("content-type", "application/json")], body).await
    }

    pub async fn watch(&self, uri: &str) -> Watch {
        self.watch_with(uri, &[]).await
    }

    /// As [`Server::watch`], with headers.
    pub async fn watch_with(&self, uri: &str, headers: &[(&str, &str)]) -> Watch {
        let response = self.send("admin", Method::GET, uri, headers, "").await;
        assert_eq!(response.status(), 200, "{uri}");
        Watch { body: response.into_body(), buffer: Vec::new() }
    }

    /// The media type of an answer, and its body.
    pub async fn typed(&self, uri: &str, accept: &str) -> (String, Bytes) {
        let response = self.send("admin", Method::GET, uri, &[("accept", accept)], "").await;
        let media = response.headers()["content-type"].to_str().expect("a media type").to_owned();
        (media, response.into_body().collect().await.expect("a body").to_bytes())
    }

    /// The headers of an answer.
    pub async fn headers(&self, uri: &str, headers: &[(&str, &str)]) -> http::HeaderMap {
        self.send("admin", Method::GET, uri, headers, "").await.headers().clone()
    }

    /// A body that is still to come.
    pub async fn body(&self, uri: &str) -> Body {
        self.send("admin", Method::GET, uri, &[], "").await.into_body()
    }

    /// Code and body as they come.
    pub async fn raw(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: &'static str) -> (u16, Bytes) {
        self.raw_as("admin", method, uri, headers, body).await
    }

    /// As [`Server::raw`], by somebody else than the administrator.
    pub async fn raw_as(&self, user: &str, method: Method, uri: &str, headers: &[(&str, &str)], body: &'static str) -> (u16, Bytes) {
        let response = self.send(user, method, uri, headers, body).await;
        let code = response.status().as_u16();
        (code, response.into_body().collect().await.expect("a body").to_bytes())
    }
}

/// The names of a list's items.
pub fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}
