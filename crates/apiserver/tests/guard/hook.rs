//! A webhook that is played here: TLS with certificates of its own, and answers as a test says.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the webhook does with a request.
pub enum Act {
    /// It answers a review's response; the uid is added if there is none.
    Respond(Value),
    /// It answers this body.
    Body(String),
    /// It answers with this code, a header and a body.
    Code(u16, (&'static str, &'static str), String),
    /// It answers this body packed, to whom may be answered so.
    Packed(Vec<u8>),
    /// It answers this body when it is told to.
    After(Arc<tokio::sync::Notify>, String),
    /// It refuses to look at it (HTTP/2).
    Refuse,
    /// It never answers.
    Hang,
    /// It begins an answer and never ends it.
    Trickle,
    /// It answers far more than is taken.
    Flood,
}

type Answer = dyn Fn(&str, &Value) -> Act + Send + Sync;

/// A running webhook.
pub struct Hook {
    pub port: u16,
    /// The authority of its certificate, in PEM.
    pub ca: String,
    /// Path and request of every review.
    pub seen: Arc<Mutex<Vec<(String, Value)>>>,
    /// How many connections it has taken.
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An authority and a certificate that it has signed.
pub struct Papers {
    pub ca: String,
    chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    key: KeyPair,
}

impl Papers {
    /// TLS that shows them and asks nobody for a certificate that anybody vouches for.
    pub fn server_config(self) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().expect("versions");
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        builder.with_client_cert_verifier(Arc::new(Anybody(provider))).with_single_cert(self.chain, key.into()).expect("a key that fits")
    }
}

/// Takes any client's certificate.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::server::danger::ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Papers for these names, after a change.
pub fn papers(names: &[&str], change: impl Fn(&mut CertificateParams)) -> Papers {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "hooks-ca");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&ca_key).expect("an authority");
    let issuer = Issuer::from_params(&authority, &ca_key);
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let cert = params.signed_by(&key, &issuer).expect("a certificate");
    Papers { ca: ca.pem(), chain: vec![cert.der().clone()], key }
}

impl Hook {
    /// One whose certificate is good for this host and for a Service `hook` in `default`.
    pub async fn start(answer: impl Fn(&str, &Value) -> Act + Send + Sync + 'static) -> Hook {
        Hook::with(papers(&["127.0.0.1", "localhost", "hook.default.svc"], |_| {}), answer).await
    }

    pub async fn with(papers: Papers, answer: impl Fn(&str, &Value) -> Act + Send + Sync + 'static) -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(papers.key.serialize_der());
        let mut config = config.with_single_cert(papers.chain, key.into()).expect("a key that fits");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (answer, all): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&seen));
        let connections: Arc<AtomicUsize> = Arc::default();
        let taken = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                taken.fetch_add(1, Ordering::Relaxed);
                let (acceptor, answer, all) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&all));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| exchange(request, Arc::clone(&answer), Arc::clone(&all)));
                    let _ = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Hook { port, ca: papers.ca, seen, connections, task }
    }

    /// `clientConfig` by URL.
    pub fn by_url(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle()})
    }

    pub fn bundle(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&self.ca)
    }

    /// The requests that came on a path.
    pub fn on(&self, path: &str) -> Vec<Value> {
        self.seen.lock().expect("no panic").iter().filter(|(own, _)| own == path).map(|(_, review)| review["request"].clone()).collect()
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

async fn exchange(request: Request<Incoming>, answer: Arc<Answer>, seen: Arc<Mutex<Vec<(String, Value)>>>) -> Result<Response<Body>, h2::Error> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let takes_gzip = request.headers().get("accept-encoding").is_some_and(|coding| coding == "gzip");
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
    review["query"] = query.into();
    seen.lock().expect("no panic").push((path.clone(), review.clone()));
    let json_of = |text: String| Response::builder().header("content-type", "application/json").body(full(text)).expect("a response");
    let asked = if review["request"].is_null() { &review["spec"] } else { &review["request"] };
    Ok(match answer(&path, asked) {
        Act::Respond(mut response) => {
            if response["uid"].is_null() {
                response["uid"] = review["request"]["uid"].clone();
            }
            json_of(json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response}).to_string())
        }
        Act::Body(text) => json_of(text),
        Act::Code(code, (name, value), text) => Response::builder().status(code).header(name, value).body(full(text)).expect("a response"),
        Act::Packed(packed) => {
            assert!(takes_gzip, "asked for");
            Response::builder().header("content-encoding", "gzip").header("content-type", "application/json").body(full(packed)).expect("a response")
        }
        Act::After(told, text) => {
            told.notified().await;
            json_of(text)
        }
        Act::Refuse => return Err(h2::Reason::REFUSED_STREAM.into()),
        Act::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Response::new(full(""))
        }
        Act::Trickle => {
            let stream = futures_util::stream::unfold(0u8, |at| async move {
                if at > 0 {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
                Some((Ok(hyper::body::Frame::data(Bytes::from_static(b"{"))), at.saturating_add(1)))
            });
            Response::new(http_body_util::StreamBody::new(stream).boxed_unsync())
        }
        Act::Flood => {
            let chunk = Bytes::from(vec![b' '; 1 << 20]);
            let stream = futures_util::stream::repeat_with(move || Ok(hyper::body::Frame::data(chunk.clone())));
            Response::new(http_body_util::StreamBody::new(stream).boxed_unsync())
        }
    })
}

/// A webhook of a configuration that concerns the creation of config maps.
pub fn entry(name: &str, client: Value) -> Value {
    json!({
        "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    })
}

/// A configuration of webhooks; `kind` is `Mutating` or `Validating`.
pub fn configuration(kind: &str, name: &str, hooks: Vec<Value>) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"), "metadata": {"name": name}, "webhooks": hooks})
}
