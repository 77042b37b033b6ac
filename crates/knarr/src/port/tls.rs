//! The certificate that a part's port shows, and the authority of the clients that it knows by theirs.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::agent::cluster_info;
use anyhow::Context as _;
use client::Client;
use identity::pki::{self, Credential};
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::ServerConfig;
use tokio::sync::watch;

/// Between two questions to an API server that gave no answer.
const AGAIN: Duration = Duration::from_secs(10);
/// Between two looks at whether the API server's authorities are others.
const LOOK: Duration = Duration::from_secs(60);

/// The files that a part may be given, as the originals' flags name them.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The certificate, and those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// The settings of a port at this address: with the certificate of the files, or else with one that it signs itself, as the originals do.
/// Clients are known by certificates of the authorities in this PEM, if there is one.
pub fn own(files: &Files, ip: IpAddr, clients_ca: Option<&str>) -> anyhow::Result<Arc<ServerConfig>> {
    let own = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
            Credential { cert_pem: read(cert)?, key_pem: read(key)? }
        }
        _ => self_signed(ip)?,
    };
    if let Some(pem) = clients_ca {
        return Ok(pki::server_config(&cluster_info::authorities(pem).context("the authority of clients")?, &own)?);
    }
    let builder = ServerConfig::builder_with_provider(Arc::new(dial::server_provider())).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(own.chain()?, own.key()?)?;
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn self_signed(ip: IpAddr) -> anyhow::Result<Credential> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    if !ip.is_loopback() && !ip.is_unspecified() {
        names.push(ip.to_string());
    }
    let made = rcgen::generate_simple_self_signed(names).context("a certificate for the port")?;
    Ok(Credential { cert_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() })
}

/// Settings that stay as they are.
pub fn fixed(config: Arc<ServerConfig>) -> watch::Receiver<Arc<ServerConfig>> {
    watch::channel(config).1
}

/// The settings of a port whose clients are known by certificates that are good at the API server, which may change. As long as that cannot
/// be asked for its authorities, tokens alone are known.
pub async fn of_server(files: Files, ip: IpAddr, client: Client) -> anyhow::Result<watch::Receiver<Arc<ServerConfig>>> {
    let unknown = "who signs clients' certificates is not known yet (ConfigMap kube-system/extension-apiserver-authentication)";
    let mut known = authority(&client).await.inspect_err(|error| tracing::warn!(%error, "{unknown}")).ok();
    let (replace, config) = watch::channel(own(&files, ip, known.as_ref().and_then(Option::as_deref))?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(if known.is_some() { LOOK } else { AGAIN }) => {}
                () = replace.closed() => return,
            }
            let Ok(now) = authority(&client).await else { continue };
            if known.as_ref() == Some(&now) {
                continue;
            }
            match own(&files, ip, now.as_deref()) {
                Ok(config) => {
                    drop(replace.send_replace(config));
                    known = Some(now);
                }
                // What is known stays what is shown: the next look tries again.
                Err(error) => tracing::warn!("the port's certificate: {error:#}"),
            }
        }
    });
    Ok(config)
}

/// The authority of the API server's own clients; none: it knows clients by tokens only.
async fn authority(client: &Client) -> client::Result<Option<String>> {
    let map = client.namespaced::<ConfigMap>("kube-system").get("extension-apiserver-authentication").await?;
    Ok(map.data.and_then(|mut data| data.remove("client-ca-file")))
}
