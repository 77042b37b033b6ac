//! Serves the API alone, over TLS, on `127.0.0.1:PORT`, and writes a kubeconfig for its administrator: for kubectl,
//! client libraries and load generators. Nothing is kept: the store is a fresh directory that goes with the process.
//!
//! ```text
//! cargo run -p apiserver --example serve -- 16443 /tmp/kubeconfig
//! ```

use apiserver::{ApiServer, Config, Identity};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

/// A certificate and its key, as PEM and DER.
struct Pair {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

fn signed(issuer: &Issuer<'_, KeyPair>, name: &str, organization: &str, server: bool) -> Result<Pair, Error> {
    let names = if server { vec!["localhost".to_owned(), "127.0.0.1".to_owned()] } else { Vec::new() };
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.extended_key_usages = vec![if server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?;
    Ok(Pair { pem: cert.pem(), key_pem: key.serialize_pem(), der: cert.der().clone(), key_der: key.serialize_der() })
}

fn kubeconfig(port: u16, ca: &str, client: &Pair) -> String {
    let data = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: serve\ncontexts:\n- name: serve\n  context: {{cluster: serve, user: admin}}\n\
         clusters:\n- name: serve\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority-data: {}\n\
         users:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        data(ca),
        data(&client.pem),
        data(&client.key_pem)
    )
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("usage: serve PORT KUBECONFIG")?.parse()?;
    let path = args.next().ok_or("usage: serve PORT KUBECONFIG")?;

    let ca_key = KeyPair::generate()?;
    let mut ca_params = CertificateParams::new(Vec::<String>::new())?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca_params.distinguished_name.push(DnType::CommonName, "serve-ca");
    let ca_cert = ca_params.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca_params, ca_key);
    let own = signed(&issuer, "kube-apiserver", "", true)?;
    let admin = signed(&issuer, "admin", "system:masters", false)?;

    let mut roots = RootCertStore::empty();
    roots.add(ca_cert.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).allow_unauthenticated().build()?;
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.der], PrivateKeyDer::try_from(own.key_der)?)?;

    let identity = Identity {
        authenticator: Arc::new(identity::Authenticator),
        authorizer: Arc::new(identity::Authorizer),
        tokens: Arc::new(identity::Tokens),
    };
    let server = ApiServer::new(Config { advertise_port: port, ..Config::default() }, store::Store::memory(), identity)?;
    server.bootstrap().await?;
    std::fs::write(&path, kubeconfig(port, &ca_cert.pem(), &admin))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("serving on 127.0.0.1:{port}, pid {}, kubeconfig {path}", std::process::id());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.serve(listener, Arc::new(tls), shutdown).await;
    Ok(())
}
