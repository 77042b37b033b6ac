//! A request for a certificate, and the wait for the answer.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use client::{Client, Delta, Informers, ListParams, Meta as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio_util::sync::CancellationToken;

use super::{Error, Pair};

/// How long a request is waited for, then another is made (upstream's `certificateWaitTimeout`).
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// After this the log tells what is waited for: somebody may have to approve it.
const TELL: Duration = Duration::from_secs(10);
/// The life of a certificate that nobody else signs, as upstream's.
const SELF_SIGNED: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Who nodes are.
const NODES: &str = "system:nodes";

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The kubelet as a client of the API server.
    Client,
    /// The kubelet's own API.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// Keys of elliptic curves encipher nothing, so that is not among them (as upstream asks).
    fn usages(self) -> Vec<String> {
        let own = if self == Self::Client { "client auth" } else { "server auth" };
        ["digital signature", own].map(str::to_owned).to_vec()
    }
}

/// A certificate that a node wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What for.
    pub purpose: Purpose,
    /// The node.
    pub node: String,
    /// Names that it is reached by; of a serving certificate alone.
    pub names: Vec<String>,
    /// Addresses, likewise.
    pub ips: Vec<IpAddr>,
}

impl Wanted {
    /// The node's certificate as a client.
    #[must_use]
    pub fn client(node: &str) -> Self {
        Self { purpose: Purpose::Client, node: node.to_owned(), names: Vec::new(), ips: Vec::new() }
    }

    /// The certificate of the node's own API.
    #[must_use]
    pub fn serving(node: &str, ips: &[IpAddr]) -> Self {
        Self { purpose: Purpose::Serving, node: node.to_owned(), names: vec![node.to_owned()], ips: ips.to_vec() }
    }

    /// Whether a pair says this.
    #[must_use]
    pub fn is(&self, pair: &Pair) -> bool {
        pair.common_name() == self.user() && (self.purpose == Purpose::Client || pair.is_for(&self.names, &self.ips))
    }

    /// Who a node is.
    fn user(&self) -> String {
        format!("system:node:{}", self.node)
    }

    /// The certificate of a new key that its own key alone has signed, good for a year from then: what the original's kubelet shows where
    /// nobody signs for it (without `serverTLSBootstrap`).
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn self_signed(&self, now: SystemTime) -> Result<Pair, Error> {
        let failed = |e: rcgen::Error| Error::Pair(format!("a certificate cannot be made: {e}"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = self.params().map_err(failed)?;
        (params.not_before, params.not_after) = (now.into(), (now + SELF_SIGNED).into());
        Pair::new(&params.self_signed(&key).map_err(failed)?.pem(), &key.serialize_pem())
    }

    /// The request of a key, as PEM.
    fn request(&self, key: &KeyPair) -> Result<String, rcgen::Error> {
        self.params()?.serialize_request(key)?.pem()
    }

    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::CommonName, self.user());
        for name in &self.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        Ok(params)
    }
}

/// Asks for a certificate of a new key, and waits for it. A request that is not answered stays: its cleaner removes it.
///
/// # Errors
/// It was denied, not signed or removed, nobody has answered it, or the API refuses it.
pub async fn obtain(client: &Client, wanted: &Wanted) -> Result<Pair, Error> {
    let failed = |e: rcgen::Error| Error::Pair(format!("a request for a certificate cannot be made: {e}"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let spec = CertificateSigningRequestSpec {
        request: ByteString(wanted.request(&key).map_err(failed)?.into_bytes()),
        signer_name: wanted.purpose.signer().to_owned(),
        usages: Some(wanted.purpose.usages()),
        ..CertificateSigningRequestSpec::default()
    };
    let metadata = ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() };
    let made = client.all::<CertificateSigningRequest>().create(&CertificateSigningRequest { metadata, spec, status: None }).await?;
    let name = made.name().to_owned();
    let told = async {
        tokio::time::sleep(TELL).await;
        tracing::warn!(request = name, "a certificate is waited for: `kubectl certificate approve {name}` approves it, if nobody does by himself");
        std::future::pending().await
    };
    let chain = tokio::select! {
        chain = answer(client, &name) => chain?,
        () = tokio::time::sleep(PATIENCE) => return Err(Error::Unanswered(name)),
        () = told => return Err(Error::Unanswered(name)),
    };
    let pair = Pair::new(&chain, &key.serialize_pem())?;
    if !wanted.is(&pair) {
        return Err(Error::Pair(format!("the certificate of the request {name} does not say what was asked for")));
    }
    Ok(pair)
}

/// The certificate of a request, once it is there.
async fn answer(client: &Client, name: &str) -> Result<String, Error> {
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let informer = Informers::new(client.clone(), stop).informer_with::<CertificateSigningRequest>(ListParams::fields(format!("metadata.name={name}")));
    let mut changes = informer.subscribe();
    // It may be gone before it was seen at all.
    informer.synced().await;
    if informer.get("", name).is_none() {
        return Err(Error::Gone(name.to_owned()));
    }
    while let Some(change) = changes.recv().await {
        if let Delta::Deleted(_) = change {
            break;
        }
        let Some(status) = &change.object().status else { continue };
        if let Some(chain) = &status.certificate {
            return String::from_utf8(chain.0.clone()).map_err(|_| Error::Pair(format!("the certificate of the request {name} is not PEM")));
        }
        for condition in status.conditions.iter().flatten() {
            let what = match condition.type_.as_str() {
                "Denied" => "denied",
                "Failed" => "not signed",
                _ => continue,
            };
            let words = [condition.reason.as_deref(), condition.message.as_deref()];
            let why = words.into_iter().flatten().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(": ");
            return Err(Error::Refused { name: name.to_owned(), what, why });
        }
    }
    Err(Error::Gone(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::CertificateSigningRequestParams;

    #[test]
    fn a_request_says_who_the_node_is_and_where() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let read = |wanted: &Wanted| CertificateSigningRequestParams::from_pem(&wanted.request(&key).unwrap()).unwrap().params;
        let client = read(&Wanted::client("a"));
        let text = |name: &DistinguishedName, kind: &DnType| format!("{:?}", name.get(kind));
        assert!(text(&client.distinguished_name, &DnType::CommonName).contains("system:node:a"));
        assert!(text(&client.distinguished_name, &DnType::OrganizationName).contains("system:nodes"));
        assert!(client.subject_alt_names.is_empty());
        let serving = read(&Wanted::serving("a", &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]));
        assert_eq!(serving.subject_alt_names.len(), 3);
        assert_eq!(Purpose::Serving.usages(), ["digital signature", "server auth"]);
        let wanted = Wanted::serving("a", &["192.0.2.1".parse().unwrap()]);
        let own = wanted.self_signed(SystemTime::now()).unwrap();
        assert!(wanted.is(&own) && own.ends() > SystemTime::now() + SELF_SIGNED / 2);
    }
}
