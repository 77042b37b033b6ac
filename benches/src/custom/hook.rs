//! A webhook that admits everything, over TLS in this process: what a write costs the server that has to ask.

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How long it thinks: less than this a write that asks it cannot take.
pub(super) const THINKS: Duration = Duration::from_millis(5);

/// Where it listens, and whom to trust.
pub(super) struct Hook {
    url: String,
    authority_pem: String,
}

impl Hook {
    /// Listens on a port of its own until the process ends.
    pub(super) async fn open() -> anyhow::Result<Self> {
        let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let chain = vec![key.cert.der().clone()];
        let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, secret)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}/", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let served = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(admit)).await;
                    if let Err(error) = served {
                        eprintln!("webhook: {error}");
                    }
                });
            }
        });
        Ok(Self { url, authority_pem: key.cert.pem() })
    }

    /// A configuration by which so many webhooks ask it about every ConfigMap that is written.
    pub(super) fn configuration(&self, count: u32) -> String {
        let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.authority_pem);
        let hooks: Vec<Value> = (0..count)
            .map(|n| {
                json!({
                    "name": format!("hook-{n}.example.com"),
                    "clientConfig": {"url": self.url, "caBundle": bundle},
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

async fn admit(request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let uid = review["request"]["uid"].as_str().context("a uid")?;
    tokio::time::sleep(THINKS).await;
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": uid, "allowed": true}});
    Ok(Response::builder().header("content-type", "application/json").body(Full::new(answer.to_string().into()))?)
}
