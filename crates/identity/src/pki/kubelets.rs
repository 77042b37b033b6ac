//! Whom the API server takes for the kubelet of a node.
//!
//! Address and port of a kubelet are what its Node object tells, and a node writes that itself. So they lead to the node, but prove
//! nothing: what answers there must show a certificate of the cluster's authority that names the node (`system:node:NAME` in
//! `system:nodes`), or the handshake ends before the server's own certificate is shown. By its name alone no other server of the
//! cluster passes, the API server's least of all. (Upstream believes whatever answers, unless `--kubelet-certificate-authority` is
//! given, and then whatever has a certificate for the address.)
//!
//! Further authorities may be given, for kubelets that have their certificates from elsewhere: theirs must name the address that was
//! dialled, or the node. What the cluster's own authority has signed is never taken by that rule.

use super::Renewable;
use crate::{Error, user::NODES};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How kubelets are spoken to: who vouches for them, and what is shown to them.
#[derive(Debug)]
pub struct Kubelets {
    authorities: Arc<Authorities>,
    shown: Arc<Renewable>,
}

#[derive(Debug)]
struct Authorities {
    cluster: RootCertStore,
    others: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Kubelets {
    /// With the cluster's authority.
    ///
    /// # Errors
    /// The authority is not usable.
    pub fn new(authority: &CertificateDer<'_>, shown: Arc<Renewable>) -> Result<Kubelets, Error> {
        let mut cluster = RootCertStore::empty();
        cluster.add(authority.clone().into_owned())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Kubelets { authorities: Arc::new(Authorities { cluster, others: RootCertStore::empty(), provider }), shown })
    }

    /// The same with further authorities (PEM).
    ///
    /// # Errors
    /// There is none, or one is not usable.
    pub fn also(&self, pem: &[u8]) -> Result<Kubelets, Error> {
        let mut others = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(pem) {
            others.add(authority.map_err(|error| Error::Key(format!("an authority of kubelets: {error}")))?)?;
        }
        if others.is_empty() {
            return Err(Error::Key("no authority of kubelets: no certificate in PEM".into()));
        }
        let Authorities { cluster, provider, .. } = &*self.authorities;
        Ok(Kubelets { authorities: Arc::new(Authorities { cluster: cluster.clone(), others, provider: Arc::clone(provider) }), shown: Arc::clone(&self.shown) })
    }

    /// The TLS settings for the kubelet of a node. No session is resumed: what was proved to one connection holds for no other.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn of(&self, node: &str) -> Result<Arc<ClientConfig>, Error> {
        let verifier = OfNode { authorities: Arc::clone(&self.authorities), node: node.to_owned() };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.authorities.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.shown) as Arc<_>);
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Takes the certificate of one node's kubelet.
#[derive(Debug)]
struct OfNode {
    authorities: Arc<Authorities>,
    node: String,
}

impl OfNode {
    fn signed_by(&self, roots: &RootCertStore, cert: &ParsedCertificate<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
        let algorithms = self.authorities.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(cert, roots, between, now, algorithms)
    }

    /// Whether a certificate of the cluster's names the node.
    fn names_node(&self, der: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
        let subject = cert.subject();
        let names: Vec<&str> = subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect();
        let is_node = subject.iter_organization().any(|organization| organization.as_str() == Ok(NODES));
        let wanted = format!("system:node:{}", self.node);
        if is_node && names == [wanted.as_str()] {
            return Ok(());
        }
        Err(rustls::Error::General(format!("failed to verify certificate: x509: certificate is valid for {}, not {wanted} of {NODES}", names.join(", "))))
    }
}

impl ServerCertVerifier for OfNode {
    fn verify_server_cert(
        &self,
        der: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let cert = ParsedCertificate::try_from(der)?;
        let Authorities { cluster, others, .. } = &*self.authorities;
        let signed = self.signed_by(cluster, &cert, between, now);
        if signed.is_ok() {
            self.names_node(der)?;
        } else if !others.is_empty() {
            self.signed_by(others, &cert, between, now)?;
            let by_name = |error| ServerName::try_from(self.node.as_str()).map_err(|_| error).and_then(|node| verify_server_name(&cert, &node));
            verify_server_name(&cert, dialled).or_else(by_name)?;
        } else {
            signed?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.authorities.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.authorities.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Ca, Credential, Subject, Usage},
        *,
    };
    use std::{net::IpAddr, time::SystemTime};

    const AT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn authority(name: &str) -> (Ca, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("identity-kubelets-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        (Ca::load_or_create(&path).expect("an authority"), path)
    }

    fn server(ca: &Ca, name: &str, groups: &[&str], names: &[&str], ips: &[IpAddr], usage: Usage) -> Credential {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let subject = Subject { common_name: name.into(), organizations: texts(groups), names: texts(names), ips: ips.to_vec(), usage };
        ca.issue(&subject, SystemTime::now()).expect("a certificate")
    }

    fn taken(kubelets: &Kubelets, node: &str, shown: &Credential) -> Result<(), String> {
        let verifier = OfNode { authorities: Arc::clone(&kubelets.authorities), node: node.into() };
        let der = shown.cert().expect("a certificate");
        verifier.verify_server_cert(&der, &[], &AT.into(), &[], UnixTime::now()).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_node_is_known_by_its_name_and_by_nothing_else() {
        let (ca, path) = authority("own");
        let (stranger, other) = authority("stranger");
        let shown = Renewable::new(&ca.client_cert("c", "kube-apiserver-kubelet-client", &["system:masters"]).expect("a certificate")).expect("shown");
        let kubelets = Kubelets::new(ca.cert(), shown).expect("kubelets");
        let node = |name: &str| server(&ca, &format!("system:node:{name}"), &[NODES], &[name], &[AT], Usage::Server);
        assert_eq!(taken(&kubelets, "a", &node("a")), Ok(()));
        let elsewhere = server(&ca, "system:node:a", &[NODES], &[], &[[198, 51, 100, 1].into()], Usage::Server);
        assert_eq!(taken(&kubelets, "a", &elsewhere), Ok(()), "by which address it is reached does not matter");
        let another = taken(&kubelets, "a", &node("b")).expect_err("another node");
        assert!(another.contains("certificate is valid for system:node:b, not system:node:a of system:nodes"), "{another}");
        for (name, groups) in [("kube-apiserver", &[][..]), ("system:node:a", &[]), ("system:node:a", &["system:masters"]), ("system:node:", &[NODES])] {
            let shown = server(&ca, name, groups, &["a", "kubernetes"], &[AT, [127, 0, 0, 1].into()], Usage::Server);
            assert!(taken(&kubelets, "a", &shown).is_err(), "{name} of {groups:?}");
        }
        assert!(taken(&kubelets, "a", &server(&ca, "system:node:a", &[NODES], &[], &[AT], Usage::Client)).is_err(), "a client's is no server's");
        assert!(taken(&kubelets, "a", &server(&stranger, "system:node:a", &[NODES], &["a"], &[AT], Usage::Server)).is_err(), "another authority's");
        [path, other].into_iter().for_each(|path| std::fs::remove_dir_all(path).expect("clean"));
    }

    #[test]
    fn who_has_another_authority_names_its_address_or_itself() {
        let (ca, path) = authority("cluster");
        let (theirs, other) = authority("theirs");
        let shown = Renewable::new(&ca.client_cert("c", "c", &[]).expect("a certificate")).expect("shown");
        let kubelets = Kubelets::new(ca.cert(), shown).expect("kubelets").also(theirs.cert_pem().as_bytes()).expect("further authorities");
        let of = |ca: &Ca, names: &[&str], ips: &[IpAddr]| server(ca, "whoever", &[], names, ips, Usage::Server);
        assert_eq!(taken(&kubelets, "a", &of(&theirs, &["a"], &[])), Ok(()));
        assert_eq!(taken(&kubelets, "a", &of(&theirs, &[], &[AT])), Ok(()));
        assert!(taken(&kubelets, "a", &of(&theirs, &["b"], &[[127, 0, 0, 1].into()])).is_err());
        assert!(taken(&kubelets, "a", &of(&ca, &["a"], &[AT])).is_err(), "the cluster's own authority names nodes otherwise");
        // Who gives the cluster's own as a further one changes nothing.
        let twice = kubelets.also(ca.cert_pem().as_bytes()).expect("the same authority");
        assert!(taken(&twice, "a", &of(&ca, &["a"], &[AT])).is_err());
        assert!(kubelets.also(b"nothing").is_err());
        [path, other].into_iter().for_each(|path| std::fs::remove_dir_all(path).expect("clean"));
    }
}
