//! TLS towards an API server.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Result};
use crate::kubeconfig::Endpoint;

/// The configuration for an endpoint: ring, its authorities, its client certificate, HTTP/2 before HTTP/1.1.
pub(crate) fn config(endpoint: &mut Endpoint) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let refuse = |e: rustls::Error| Error::Config(e.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(refuse)?;
    let builder = if endpoint.insecure {
        builder.dangerous().with_custom_certificate_verifier(dial::unverified(provider))
    } else {
        let mut roots = RootCertStore::empty();
        for authority in &endpoint.authorities {
            roots.add(authority.clone()).map_err(refuse)?;
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match endpoint.credentials.certificate.take() {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refuse)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
