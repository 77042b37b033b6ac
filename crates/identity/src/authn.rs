//! From a certificate or a token to a user.

use crate::{
    Error, RequestHeaders, Review, Tokens, User, bootstrap,
    pki::{Credential, Kubelets},
    user::AUTHENTICATED,
};
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
    /// How kubelets are spoken to. Without it nothing that needs a kubelet works (logs, exec, …).
    pub kubelets: Option<Arc<Kubelets>>,
    /// What is shown to aggregated API servers.
    pub front_proxy_client: Option<Credential>,
    /// How the front proxy says who asks.
    pub request_headers: RequestHeaders,
}

/// The authorities that vouch for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vouchers {
    /// The cluster's: its owner is a user.
    pub cluster: bool,
    /// The front proxy's: its owner says who asks, if it may by its name.
    pub front_proxy: bool,
}

/// Knows who somebody is by what they show.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    trust: Trust,
    cluster: Option<Arc<dyn ClientCertVerifier>>,
    front_proxy: Option<Arc<dyn ClientCertVerifier>>,
}

impl Authenticator {
    /// With the tokens of service accounts.
    pub fn new(tokens: Arc<Tokens>, trust: Trust) -> Self {
        let (cluster, front_proxy) = (verifier(&trust.client_ca_pem), verifier(&trust.front_proxy_ca_pem));
        Authenticator { tokens, trust, cluster, front_proxy }
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
        // Of several the last counts, as for Go.
        let name = subject.iter_common_name().last().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
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

    /// Whose authority vouches for a certificate. The TLS handshake has verified it, but not told by which; who is vouched for by
    /// neither now is nobody.
    pub fn vouchers(&self, der: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> Vouchers {
        let vouches = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier.as_ref().is_some_and(|verifier| verifier.verify_client_cert(der, between, UnixTime::now()).is_ok())
        };
        Vouchers { cluster: vouches(&self.cluster), front_proxy: vouches(&self.front_proxy) }
    }

    /// What a bearer token says that is meant for the API server.
    ///
    /// # Errors
    /// It is not good, or not for us.
    #[allow(clippy::unused_async, reason = "token webhooks will wait")]
    pub async fn bearer(&self, token: &str) -> Result<Review, Error> {
        self.review(token, &[], SystemTime::now())
    }

    /// What a bearer token says, of a bootstrapper's or a service account's, that is meant for one of these audiences (none: the
    /// API server's own).
    ///
    /// # Errors
    /// It is not good, or not for them.
    pub fn review(&self, token: &str, audiences: &[String], now: SystemTime) -> Result<Review, Error> {
        match bootstrap::user(self.tokens.objects(), token, now) {
            Some(user) => Ok(Review { user, audiences: self.tokens.own_audiences(audiences)?, used: None }),
            None => self.tokens.verify(token, audiences, now),
        }
    }
}

/// A verifier of clients' certificates; none without an authority.
fn verifier(authority: &str) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authority.as_bytes()).filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pki::Ca, testing::Memory};

    #[test]
    fn an_authority_vouches_for_its_own_alone() {
        let root = std::env::temp_dir().join(format!("identity-voucher-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let [cluster, front, other] = ["cluster", "front", "other"].map(|name| Ca::load_or_create(&root.join(name)).expect("an authority"));
        let tokens = Arc::new(Tokens::ephemeral("https://issuer", Memory::of([])).expect("keys"));
        let trust = |front: &str| Trust { client_ca_pem: cluster.cert_pem().to_owned(), front_proxy_ca_pem: front.to_owned(), ..Trust::default() };
        let authenticator = Authenticator::new(Arc::clone(&tokens), trust(front.cert_pem()));
        let shown = |ca: &Ca| ca.client_cert("jane", "jane", &["system:masters"]).expect("a certificate").cert().expect("DER").into_owned();
        let vouchers = |authenticator: &Authenticator, ca: &Ca| {
            let Vouchers { cluster, front_proxy } = authenticator.vouchers(&shown(ca), &[]);
            (cluster, front_proxy)
        };
        assert_eq!(vouchers(&authenticator, &cluster), (true, false));
        assert_eq!(vouchers(&authenticator, &front), (false, true));
        assert_eq!(vouchers(&authenticator, &other), (false, false));
        // Without a verifier for the front proxy's its certificates are nobody's, not users'.
        let without = Authenticator::new(Arc::clone(&tokens), trust(""));
        assert_eq!((vouchers(&without, &front), vouchers(&without, &cluster)), ((false, false), (true, false)));
        // One authority may be both.
        assert_eq!(vouchers(&Authenticator::new(tokens, trust(cluster.cert_pem())), &cluster), (true, true));
        std::fs::remove_dir_all(&root).expect("clean");
    }
}
