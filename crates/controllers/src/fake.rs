//! A server for tests: it answers as it is told to, and notes what it was asked to write.

use std::sync::Arc;

use bytes::Bytes;
use client::{Body, Client, Transport};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::Value;

pub(crate) struct Fake<A> {
    answer: A,
    written: Mutex<Vec<String>>,
}

impl<A: Fn(&str, &str) -> (u16, Value) + Send + Sync + 'static> Fake<A> {
    /// `answer` gives a code and a body for a method and a path.
    pub(crate) fn new(answer: A) -> Arc<Self> {
        Arc::new(Self { answer, written: Mutex::default() })
    }

    pub(crate) fn client(self: &Arc<Self>) -> Client {
        Client::new(self.clone())
    }

    /// What was written so far: method, path, body.
    pub(crate) fn written(&self) -> Vec<String> {
        self.written.lock().clone()
    }
}

impl<A: Fn(&str, &str) -> (u16, Value) + Send + Sync + 'static> Transport for Fake<A> {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, client::Result<Response<Body>>> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        if method != "GET" {
            self.written.lock().push(format!("{method} {path} {}", String::from_utf8_lossy(request.body())));
        }
        let (code, body) = (self.answer)(method, path);
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        Box::pin(async move { Ok(Response::builder().status(code).header("content-type", "application/json").body(body).expect("an answer")) })
    }
}

/// A refusal.
pub(crate) fn refusal(code: u16, reason: &str) -> (u16, Value) {
    (code, serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}))
}
