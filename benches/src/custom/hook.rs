//! A webhook that admits everything, over TLS in this process: what a write costs the server that has to ask.

use crate::tls::{self, Answer, Server};
use anyhow::Context as _;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::time::Duration;

/// How long it thinks: less than this a write that asks it cannot take.
pub(super) const THINKS: Duration = Duration::from_millis(5);

/// Where it listens, and whom to trust.
pub(super) struct Hook(Server);

impl Hook {
    /// Listens on a port of its own until the process ends.
    pub(super) async fn open() -> anyhow::Result<Self> {
        Ok(Self(Server::open(admit).await?))
    }

    /// A configuration by which so many webhooks ask it about every ConfigMap that is written.
    pub(super) fn configuration(&self, count: u32) -> String {
        let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.0.authority_pem);
        let url = format!("https://{}/", self.0.address);
        let hooks: Vec<Value> = (0..count)
            .map(|n| {
                json!({
                    "name": format!("hook-{n}.example.com"),
                    "clientConfig": {"url": url, "caBundle": bundle},
                    "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                })
            })
            .collect();
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": format!("hooks-{count}")}, "webhooks": hooks,
        })
        .to_string()
    }
}

async fn admit(request: Request<Incoming>) -> Answer {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let uid = review["request"]["uid"].as_str().context("a uid")?;
    tokio::time::sleep(THINKS).await;
    tls::json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": uid, "allowed": true}}).to_string())
}
