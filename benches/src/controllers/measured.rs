//! What stands in for a metrics server: the resource metrics API with what it is told that pods use, as an aggregated server.

use crate::{
    custom::post,
    tls::{self, Answer, Server},
};
use anyhow::Context as _;
use bytes::Bytes;
use client::Client;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);

/// What all pods use: `pods` are their names by the value of the label `app`.
pub(super) struct Usage {
    pub(super) pods: BTreeMap<String, Vec<String>>,
    pub(super) milli: AtomicU32,
}

impl Usage {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            GROUP => {
                let pods = json!({"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]});
                tls::json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [pods]}).to_string())
            }
            path if path.starts_with(GROUP) && path.ends_with("/pods") => {
                let wanted = query.split('&').find_map(|option| option.strip_prefix("labelSelector=app%3D"));
                let chosen = self.pods.iter().filter(|(app, _)| wanted.is_none_or(|wanted| wanted == app.as_str())).flat_map(|(_, pods)| pods);
                let (now, milli) = (client::now(), self.milli.load(Ordering::Relaxed));
                let one = |name: &String| -> Value {
                    let containers = json!([{"name": "main", "usage": {"cpu": format!("{milli}m"), "memory": "20Mi"}}]);
                    json!({"metadata": {"name": name, "namespace": super::NAMESPACE}, "timestamp": now, "window": "15s", "containers": containers})
                };
                let items: Vec<Value> = chosen.map(one).collect();
                tls::json(json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}).to_string())
            }
            _ => Ok(Response::builder().status(404).body(Full::new(Bytes::new()))?),
        }
    }
}

/// Serves it through the API server; returns when it does.
pub(super) async fn serve(client: &Client, usage: Arc<Usage>) -> anyhow::Result<()> {
    let server = Server::open(move |request| {
        let answer = usage.answer(&request);
        async move { answer }
    })
    .await?;
    // By name: nothing here leads packets to a Service's address, and none may have an endpoint on the loopback.
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
    post(client, &format!("/api/v1/namespaces/{}/services", super::NAMESPACE), service.to_string()).await?;
    let reference = json!({"name": "metrics", "namespace": super::NAMESPACE, "port": server.address.port()});
    let spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
        "service": reference});
    let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": spec});
    post(client, "/apis/apiregistration.k8s.io/v1/apiservices", api.to_string()).await?;
    let (begun, path) = (Instant::now(), format!("{GROUP}/namespaces/{}/pods", super::NAMESPACE));
    while let Err(error) = client.get_json::<Value>(&path).await {
        if begun.elapsed() > PATIENCE {
            return Err(error).with_context(|| format!("{path} is not served"));
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}
