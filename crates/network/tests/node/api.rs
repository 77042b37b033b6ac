//! An API server of a few lines: objects in memory, lists, watches, create and get.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use client::{Body, Client, Informers, Transport};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

pub const NODES: &str = "/api/v1/nodes";
pub const SERVICES: &str = "/api/v1/services";
pub const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
}

/// The server.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<State>>);

fn full(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

impl Server {
    pub fn informers(&self) -> Informers {
        Informers::new(Client::new(Arc::new(self.clone())), CancellationToken::new())
    }

    fn key(object: &Value) -> String {
        format!("{}/{}", object["metadata"]["namespace"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap())
    }

    /// Adds or changes an object.
    pub fn put(&self, collection: &str, mut object: Value) -> Value {
        let mut state = self.0.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["uid"] = json!(Self::key(&object));
        let old = state.objects.insert((collection.to_owned(), Self::key(&object)), object.clone());
        tell(&mut state, collection, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    /// Removes an object.
    pub fn remove(&self, collection: &str, key: &str) {
        let mut state = self.0.lock();
        state.version += 1;
        let version = state.version;
        let Some(mut object) = state.objects.remove(&(collection.to_owned(), key.to_owned())) else { return };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        tell(&mut state, collection, "DELETED", &object);
    }

    pub fn get(&self, collection: &str, key: &str) -> Option<Value> {
        self.0.lock().objects.get(&(collection.to_owned(), key.to_owned())).cloned()
    }

    fn watch(&self, collection: &str, since: u64) -> Response<Body> {
        let mut state = self.0.lock();
        let (sender, receiver) = unbounded_channel();
        for ((at, _), object) in &state.objects {
            let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            if at == collection && version > since {
                let _ = sender.send(line("ADDED", object));
            }
        }
        state.watches.push((collection.to_owned(), sender));
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let bytes = receiver.recv().await?;
            Some((Ok(Frame::data(bytes)), receiver))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn list(&self, collection: &str) -> Response<Body> {
        let state = self.0.lock();
        let items: Vec<&Value> = state.objects.iter().filter(|((at, _), _)| at == collection).map(|(_, o)| o).collect();
        full(200, &json!({"kind": "List", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}))
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

fn tell(state: &mut State, collection: &str, kind: &str, object: &Value) {
    let bytes = line(kind, object);
    state.watches.retain(|(at, sender)| at != collection || sender.send(bytes.clone()).is_ok());
}

/// `/api/v1/namespaces/NS/services/NAME` → `/api/v1/services`, `NS/NAME`.
fn namespaced(path: &str) -> Option<(String, String, Option<String>)> {
    let (root, rest) = path.split_once("/namespaces/")?;
    let mut parts = rest.split('/');
    let (namespace, resource, name) = (parts.next()?, parts.next()?, parts.next());
    Some((format!("{root}/{resource}"), namespace.to_owned(), name.map(|n| format!("{namespace}/{n}"))))
}

impl Transport for Server {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, client::Result<Response<Body>>> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let response = match (request.method(), namespaced(&path)) {
            (&Method::POST, Some((collection, _, None))) => full(201, &self.put(&collection, serde_json::from_slice(request.body()).unwrap())),
            (&Method::PUT, Some((collection, _, Some(_)))) => full(200, &self.put(&collection, serde_json::from_slice(request.body()).unwrap())),
            (&Method::GET, Some((collection, _, Some(key)))) => match self.get(&collection, &key) {
                Some(object) => full(200, &object),
                None => full(404, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})),
            },
            (&Method::GET, None) if query.contains("watch=true") => {
                let since = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok()).unwrap_or(0);
                self.watch(&path, since)
            }
            (&Method::GET, None) => self.list(&path),
            (method, _) => panic!("{method} {path}"),
        };
        Box::pin(async move { Ok(response) })
    }
}
