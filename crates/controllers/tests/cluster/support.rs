//! A cluster without containers: the API server and the controllers in this process, and nodes that only say that their
//! pods run.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Identity};
use bytes::Bytes;
use client::{Client, DeleteParams, Delta, Error, Informers, Meta, Patch, PatchParams};
use futures_util::FutureExt as _;
use http::Request;
use http_body_util::BodyExt;
use identity::User;
use k8s_openapi::api::core::v1::{Binding, Node, Pod};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long something awaited may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client in the server's process.
pub fn local(api: &ApiServer, name: &str, groups: &[&str]) -> Client {
    let groups = groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
    let user = User { name: name.to_owned(), uid: String::new(), groups, extra: Default::default() };
    let (api, user) = (api.clone(), Arc::new(user));
    let carry = move |request: Request<Bytes>| {
        let (api, user) = (api.clone(), user.clone());
        async move {
            let mut request = request.map(apiserver::full);
            request.extensions_mut().insert(user);
            Ok(api.handle(request).await)
        }
        .boxed()
    };
    Client::new(Arc::new(carry)).user_agent(name)
}

/// Starts all controllers.
pub fn controllers(api: &ApiServer, config: controllers::Config, stop: &CancellationToken) -> Informers {
    let informers = Informers::new(local(api, "system:kube-controller-manager", &[]), stop.clone());
    let server = api.clone();
    let client_for = move |name: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        local(&server, &format!("system:serviceaccount:kube-system:{name}"), &groups)
    };
    tokio::spawn(controllers::run(config, client_for, informers.clone(), stop.clone()));
    informers
}

/// Makes nodes that bind every pod, say that it runs and is ready, and let it go when it is deleted.
pub async fn hollow(admin: &Client, informers: &Informers, names: &[&str]) -> Result<(), Error> {
    for name in names {
        let now = client::now();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).map_err(|e| Error::Decode(e.to_string()))?;
        admin.all::<Node>().create(&node).await?;
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
        admin.all::<Node>().patch_status(name, &Patch::Strategic(patch), &PatchParams::default()).await?;
    }
    let mut changes = informers.informer::<Pod>().subscribe();
    let (admin, names) = (admin.clone(), names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    tokio::spawn(async move {
        let mut next = 0;
        while let Some(change) = changes.recv().await {
            let (Delta::Added(pod) | Delta::Updated { new: pod, .. }) = change else { continue };
            next += 1;
            let (admin, node) = (admin.clone(), names[next % names.len()].clone());
            tokio::spawn(async move {
                match move_on(&admin, &pod, &node, next).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => eprintln!("hollow node: {}: {error}", pod.name()),
                    _ => {}
                }
            });
        }
    });
    Ok(())
}

/// A pod's next step on its node.
async fn move_on(admin: &Client, pod: &Pod, node: &str, number: usize) -> Result<(), Error> {
    let api = admin.namespaced::<Pod>(pod.namespace());
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    if bound.is_empty() {
        if pod.annotation("test/unschedulable").is_some() {
            return Ok(());
        }
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name()}, "target": {"kind": "Node", "name": node}});
        let binding: Binding = serde_json::from_value(body).map_err(|e| Error::Decode(e.to_string()))?;
        return api.create_subresource::<_, Value>(pod.name(), "binding", &binding).await.map(drop);
    }
    if pod.is_deleting() {
        return api.delete(pod.name(), &DeleteParams::now()).await;
    }
    if phase == "Pending" {
        let now = client::now();
        let ip = format!("10.244.{}.{}", number / 250 % 250, number % 250 + 1);
        let done = pod.annotation("test/ends");
        let condition = |kind: &str| json!({"type": kind, "status": if done.is_some() { "False" } else { "True" }, "lastTransitionTime": now});
        let status = json!({"status": {"phase": done.unwrap_or("Running"), "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            "conditions": [condition("Ready"), condition("ContainersReady")]}});
        return api.patch_status(pod.name(), &Patch::Strategic(status), &PatchParams::default()).await.map(drop);
    }
    Ok(())
}

/// What the parts log, by `RUST_LOG`.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // A second test of the process finds it set.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// A cluster for one test.
pub struct Cluster {
    pub admin: Client,
    pub informers: Informers,
    api: ApiServer,
    store: store::Store,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    pub async fn start() -> Cluster {
        // The nodes have no kubelet that would renew their leases.
        Self::with_grace(u32::MAX).await
    }

    /// A cluster whose nodes are unknown after so many seconds of silence.
    pub async fn with_grace(node_monitor_grace_s: u32) -> Cluster {
        log();
        let store = store::Store::in_memory(&store::Options::default()).expect("a store");
        let identity = Identity::new(&store, None, "https://kubernetes.default.svc", Default::default()).expect("keys");
        let api = ApiServer::new(apiserver::Config::default(), store.clone(), identity).expect("a server");
        api.bootstrap().await.expect("bootstrap");
        let (admin, stop) = (local(&api, "admin", &["system:masters"]), CancellationToken::new());
        let node_monitor_grace = std::time::Duration::from_secs(node_monitor_grace_s.into());
        let config =
            controllers::Config { node_monitor_grace, root_ca: "the authority".into(), cluster_cidr: Some("10.244.0.0/16".into()), ..Default::default() };
        let informers = controllers(&api, config, &stop);
        hollow(&admin, &informers, &["a", "b"]).await.expect("nodes");
        Cluster { admin, informers, api, store, stop }
    }

    /// Starts these controllers once more, with a memory of their own.
    pub fn another(&self, enabled: &[&str]) {
        let enabled = enabled.iter().map(|name| (*name).to_owned()).collect();
        controllers(&self.api, controllers::Config { enabled, ..Default::default() }, &self.stop);
    }

    /// Creates an object of any kind.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let body = serde_json::to_vec(&object).expect("JSON");
        self.send("POST", path, "application/json", body).await.unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        match self.admin.get_json(path).await {
            Ok(value) => Some(value),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    /// An object as it lies in the store.
    pub fn stored(&self, key: &str) -> Value {
        let entry = self.store.bucket_of(key).and_then(|bucket| bucket.get(key)).unwrap_or_else(|| panic!("nothing at {key}"));
        serde_json::from_slice(&entry.json).expect("JSON")
    }

    pub async fn merge(&self, path: &str, patch: Value) -> Value {
        let body = serde_json::to_vec(&patch).expect("JSON");
        self.send("PATCH", path, "application/merge-patch+json", body).await.unwrap_or_else(|e| panic!("PATCH {path}: {e}"))
    }

    pub async fn delete(&self, path: &str, propagation: &str) {
        let body = serde_json::to_vec(&json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation})).expect("JSON");
        self.send("DELETE", path, "application/json", body).await.unwrap_or_else(|e| panic!("DELETE {path}: {e}"));
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<Value, Error> {
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(Bytes::from(body)).expect("a request");
        let body = self.admin.raw(request).await?.into_body();
        let bytes = body.collect().await.expect("an answer").to_bytes();
        Ok(serde_json::from_slice(&bytes).expect("JSON"))
    }

    /// Waits until an object (`Null`: none), or a list, is as it should be; looks again whenever the collection changes.
    pub async fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let collection = match path.split_once('?') {
            Some((list, _)) => list,
            None if self.is_list(path) => path,
            None => path.rsplit_once('/').expect("a path").0,
        };
        let watch = Request::get(format!("{collection}?watch=true")).body(Bytes::new()).expect("a request");
        let mut changes = self.admin.raw(watch).await.unwrap_or_else(|e| panic!("watch {collection}: {e}")).into_body();
        loop {
            let value = self.get(path).await.unwrap_or(Value::Null);
            if is(&value) {
                return value;
            }
            let change = tokio::time::timeout(PATIENCE, changes.frame()).await;
            assert!(matches!(change, Ok(Some(Ok(_)))), "{path} in vain: {value:#}");
        }
    }

    fn is_list(&self, path: &str) -> bool {
        let rest = path.split_once("/namespaces/").map_or("", |(_, rest)| rest);
        rest.matches('/').count() == 1
    }
}
