//! What the API server says to the pod's ServiceAccount.

use std::path::Path;
use std::sync::Arc;

use client::{Client, Endpoint, HttpTransport, ListParams, PartialObject};
use serde_json::json;

use super::me::env;

/// Where every pod finds its identity.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API, as this pod sees it.
pub struct Cluster {
    client: Option<Client>,
    namespace: String,
}

impl Cluster {
    /// From what the kubelet put into the container. Nothing is asked yet.
    pub fn new(namespace: &str) -> Self {
        let own = std::fs::read_to_string(Path::new(ACCOUNT).join("namespace")).unwrap_or_default();
        let namespace = if namespace.is_empty() { own.trim() } else { namespace };
        Self { client: connect(), namespace: namespace.to_owned() }
    }

    /// The names of the namespace's pods, or why they are not known.
    pub async fn pods(&self) -> Result<Vec<String>, String> {
        let client = self.client.as_ref().ok_or("this pod has no ServiceAccount token")?;
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let list = client.at::<PartialObject>(path).list(&ListParams { limit: 500, ..ListParams::default() }).await;
        let pods = list.map_err(|e| e.to_string())?.into_items();
        Ok(pods.into_iter().filter_map(|p| p.metadata.name).collect())
    }
}

/// A client with this pod's identity, if it has one.
pub fn connect() -> Option<Client> {
    let (host, port) = (env("KUBERNETES_SERVICE_HOST")?, env("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    // The same as a kubeconfig would say; the token is read from its file again and again, since it is renewed there.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pod",
        "clusters": [{"name": "pod", "cluster": {"server": format!("https://{host}:{port}"), "certificate-authority": format!("{ACCOUNT}/ca.crt")}}],
        "users": [{"name": "pod", "user": {"tokenFile": format!("{ACCOUNT}/token")}}],
        "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod"}}],
    });
    let endpoint = Endpoint::parse(&config.to_string(), Path::new(ACCOUNT)).ok()?;
    Some(Client::new(Arc::new(HttpTransport::new(endpoint).ok()?)).user_agent("shop"))
}
