//! From a certificate or a token to a user.

use crate::{Error, Tokens, User, pki::Credential, user::AUTHENTICATED};
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the API server shows to others, and what it lets others know of those it trusts.
#[derive(Clone, Default)]
pub struct Trust {
    /// The authority of client certificates, as PEM: `extension-apiserver-authentication`, and `ca.crt` of token Secrets.
    pub client_ca_pem: String,
    /// The authority of the front proxy, as PEM: `extension-apiserver-authentication`. Empty for none.
    pub front_proxy_ca_pem: String,
    /// How kubelets are spoken to: their authority and the server's own client certificate. Without it nothing that
    /// needs a kubelet works (logs, exec, …).
    pub kubelet_client: Option<Arc<rustls::ClientConfig>>,
    /// What is shown to aggregated API servers.
    pub front_proxy_client: Option<Credential>,
}

/// Names of the front proxy: who shows a certificate with one of them, by the front proxy's authority, may say who asks.
pub const FRONT_PROXY_NAMES: [&str; 1] = ["front-proxy-client"];

/// Knows who somebody is by what they show.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    trust: Trust,
    front_proxy: Option<Arc<dyn ClientCertVerifier>>,
}

impl Authenticator {
    /// With the tokens of service accounts.
    pub fn new(tokens: Arc<Tokens>, trust: Trust) -> Self {
        let front_proxy = verifier(&trust.front_proxy_ca_pem);
        Authenticator { tokens, trust, front_proxy }
    }

    /// What the server itself shows and trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The user of a client certificate that the TLS handshake has verified (the common name, and an organisation for
    /// each group), and when it ends.
    ///
    /// # Errors
    /// The certificate has no common name.
    pub fn certificate(&self, der: &CertificateDer<'_>) -> Result<(User, SystemTime), Error> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| Error::Nameless(e.to_string()))?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().find_map(|cn| cn.as_str().ok()).unwrap_or_default();
        if name.is_empty() {
            return Err(Error::Nameless("no common name".into()));
        }
        let mut groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        let hash = ring::digest::digest(&ring::digest::SHA256, der);
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hex}")])]);
        let ends_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let ends = UNIX_EPOCH + Duration::from_secs(ends_s);
        Ok((User { name: name.to_owned(), uid: String::new(), groups, extra }, ends))
    }

    /// Whether it is the front proxy's authority that vouches for a certificate which the TLS handshake has verified. Its owner is
    /// then no user: it says who asks, if its name is one of [`FRONT_PROXY_NAMES`].
    pub fn is_front_proxy(&self, der: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> bool {
        self.front_proxy.as_ref().is_some_and(|verifier| verifier.verify_client_cert(der, between, UnixTime::now()).is_ok())
    }

    /// The user of a bearer token that is meant for the API server.
    ///
    /// # Errors
    /// It is not good, or not for us.
    #[allow(clippy::unused_async, reason = "token webhooks will wait")]
    pub async fn bearer(&self, token: &str) -> Result<User, Error> {
        self.tokens.verify(token, &[], SystemTime::now()).map(|review| review.user)
    }
}

/// A verifier of clients' certificates; none without an authority.
fn verifier(authority: &str) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authority.as_bytes()).filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
}
