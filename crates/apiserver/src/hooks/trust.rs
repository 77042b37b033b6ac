//! Whether a hook is who it must be, by Go's rules and in its words.
//!
//! The library verifies; what it refuses is looked at once more, because Go takes two kinds of certificate that it does not (one
//! that is itself among the authorities, and one that could sign others), and because Go looks at the time and the name before
//! the authority and tells of the first that is wrong.

use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

/// Where hosts keep the authorities that they believe, in Go's order.
const FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is offered before the others, as Go does: a server that leaves it to the client takes the one that costs both least.
const FIRST: [CipherSuite; 3] =
    [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];

/// A certificate with those between it and its authority, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// TLS to a hook: whom to believe (nobody named: the host's authorities), who to be, whether to offer HTTP/2.
pub(crate) fn config(bundle: &[u8], identity: Option<Identity>, two: bool) -> Result<ClientConfig, String> {
    let roots = if bundle.is_empty() { system() } else { Arc::new(read(bundle)) };
    if roots.is_empty() && !bundle.is_empty() {
        return Err(format!("unable to load root certificates: {}", unread(bundle)));
    }
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !FIRST.contains(&suite.suite()));
    let provider = Arc::new(provider);
    let verifier = Arc::new(Verifier::new(roots, Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if two { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(config)
}

/// Whether a bundle can be used: it has an authority, or there is none at all and the host's count.
pub(crate) fn is_usable(bundle: &[u8]) -> bool {
    bundle.is_empty() || !read(bundle).is_empty()
}

/// Authorities from PEM; what is none is passed over, as Go does.
fn read(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter(|der| X509Certificate::from_der(der).is_ok()).collect()
}

/// Why there is no authority in PEM (client-go's `createErrorParsingCAData`).
fn unread(pem: &[u8]) -> &'static str {
    const END: &[u8] = b"-----END ";
    if CertificateDer::pem_slice_iter(pem).any(|found| found.is_ok()) {
        "failed to parse certificate: x509: malformed certificate"
    } else if pem.windows(END.len()).any(|part| part == END) {
        "no valid certificate authority data seen"
    } else {
        "unable to parse bytes as PEM block"
    }
}

/// What this host believes, read once: a program must be started anew to see another, as with Go.
fn system() -> Arc<Vec<CertificateDer<'static>>> {
    static ROOTS: OnceLock<Arc<Vec<CertificateDer<'static>>>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let found = FILES.iter().find_map(|file| std::fs::read(file).ok());
        Arc::new(found.map(|pem| read(&pem)).unwrap_or_default())
    }))
}

#[derive(Debug)]
struct Verifier {
    roots: Arc<Vec<CertificateDer<'static>>>,
    /// None where there is no authority that it could use.
    library: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(roots: Arc<Vec<CertificateDer<'static>>>, provider: Arc<CryptoProvider>) -> Verifier {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let library = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build().ok();
        Verifier { roots, library, provider }
    }

    /// What Go says of a certificate that the library refused; none if Go takes it.
    fn second_look(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Option<String> {
        let Ok((_, cert)) = X509Certificate::from_der(leaf) else {
            return Some("x509: malformed certificate".into());
        };
        if let Some(why) = wrong_time(&cert, now) {
            return Some(why);
        }
        if let Some(why) = wrong_name(&cert, name) {
            return Some(why);
        }
        if self.roots.iter().any(|root| root == leaf) {
            return None;
        }
        self.unknown(&cert, now)
    }

    /// Whether none of the authorities has signed it. Those of its issuer's name that have not are told.
    fn unknown(&self, cert: &X509Certificate<'_>, now: UnixTime) -> Option<String> {
        let mut hint = String::new();
        for root in self.roots.iter() {
            let Ok((_, root)) = X509Certificate::from_der(root) else { continue };
            if root.subject().as_raw() != cert.issuer().as_raw() {
                continue;
            }
            if cert.verify_signature(Some(root.public_key())).is_err() {
                let why = match root.public_key().algorithm.algorithm.to_id_string().as_str() {
                    "1.2.840.10045.2.1" => "x509: ECDSA verification failure",
                    "1.3.101.112" => "x509: Ed25519 verification failure",
                    _ => "crypto/rsa: verification error",
                };
                let named = common_name(&root).unwrap_or_else(|| format!("serial:{}", root.serial));
                hint = format!(" (possibly because of {why:?} while trying to verify candidate authority certificate {named:?})");
            } else if wrong_time(&root, now).is_none() && cert.is_ca() {
                return None;
            }
        }
        Some(format!("x509: certificate signed by unknown authority{hint}"))
    }
}

fn common_name(cert: &X509Certificate<'_>) -> Option<String> {
    cert.subject().iter_common_name().last().and_then(|name| name.as_str().ok()).map(str::to_owned)
}

fn wrong_time(cert: &X509Certificate<'_>, now: UnixTime) -> Option<String> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let shown = |seconds: i64| {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.max(0).unsigned_abs()));
        machinery::time::rfc3339(at.unwrap_or(SystemTime::UNIX_EPOCH))
    };
    let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    let relation = match seconds {
        now if now < from => format!("before {}", shown(from)),
        now if now > to => format!("after {}", shown(to)),
        _ => return None,
    };
    Some(format!("x509: certificate has expired or is not yet valid: current time {} is {relation}", shown(seconds)))
}

fn wrong_name(cert: &X509Certificate<'_>, name: &ServerName<'_>) -> Option<String> {
    let names = cert.subject_alternative_name().ok().flatten().map(|found| found.value.general_names.clone()).unwrap_or_default();
    let dns: Vec<&str> = names.iter().filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None }).collect();
    let ips: Vec<IpAddr> = names.iter().filter_map(|name| if let GeneralName::IPAddress(bytes) = name { address(bytes) } else { None }).collect();
    match name {
        ServerName::IpAddress(ip) => {
            let ip = IpAddr::from(*ip);
            if ips.contains(&ip) {
                return None;
            }
            if ips.is_empty() {
                return Some(format!("x509: cannot validate certificate for {ip} because it doesn't contain any IP SANs"));
            }
            let known = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Some(format!("x509: certificate is valid for {known}, not {ip}"))
        }
        name => {
            let wanted = name.to_str();
            if dns.iter().any(|pattern| covers(pattern, &wanted)) {
                return None;
            }
            let has_names = !names.is_empty();
            if !has_names && common_name(cert).is_some_and(|own| covers(&own, &wanted)) {
                return Some("x509: certificate relies on legacy Common Name field, use SANs instead".into());
            }
            match dns.is_empty() {
                true => Some(format!("x509: certificate is not valid for any names, but wanted to match {wanted}")),
                false => Some(format!("x509: certificate is valid for {}, not {wanted}", dns.join(", "))),
            }
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Whether a name of a certificate, perhaps with `*` as its first label, is the wanted one.
fn covers(pattern: &str, wanted: &str) -> bool {
    let (pattern, wanted) = (pattern.trim_end_matches('.').to_ascii_lowercase(), wanted.trim_end_matches('.').to_ascii_lowercase());
    match pattern.strip_prefix("*.") {
        Some(rest) => wanted.split_once('.').is_some_and(|(first, end)| !first.is_empty() && end == rest),
        None => pattern == wanted && !pattern.is_empty(),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(library) = &self.library
            && library.verify_server_cert(leaf, between, name, ocsp, now).is_ok()
        {
            return Ok(ServerCertVerified::assertion());
        }
        match self.second_look(leaf, name, now) {
            None => Ok(ServerCertVerified::assertion()),
            Some(why) => Err(Error::General(why)),
        }
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_an_authority_is_told() {
        let told = |bundle: &str| config(bundle.as_bytes(), None, false).err();
        let why = |why: &str| Some(format!("unable to load root certificates: {why}"));
        assert_eq!(told("hello"), why("unable to parse bytes as PEM block"));
        let malformed = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(told(malformed), why("failed to parse certificate: x509: malformed certificate"));
        let key = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert_eq!(told(key), why("no valid certificate authority data seen"));
    }
}
