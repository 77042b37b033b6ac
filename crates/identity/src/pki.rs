//! The cluster's own certificate authority, the certificates it issues, and kubeconfig files.
//!
//! Everything lies in one directory, keys with mode 0600: `ca.crt`, `ca.key`, and `NAME.crt`, `NAME.key` for each
//! certificate. A certificate is issued anew when what it should say has changed, when its end is near, or when another
//! authority signed it; otherwise loading costs reading two files.

mod cluster;
mod files;
mod given;
mod kubelets;
mod pin;
mod possession;
mod renewable;
mod request;
mod sec1;
#[cfg(test)]
mod tests;
mod usages;

pub use cluster::{ClusterNames, ClusterPki, NodePki, SIGNING_LIFE};
pub(crate) use files::{Durability, read_or_make, write_secret};
pub use kubelets::Kubelets;
pub use pin::pin;
pub use possession::{Unfit, proven_key, request_is_signed, request_key};
pub use renewable::Renewable;

use crate::Error;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType, SerialNumber,
};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig,
    client::WantsClientCert,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::{
    certification_request::X509CertificationRequest,
    prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The authority's life; kubeadm's is the same.
const CA_LIFE: Duration = DAY.saturating_mul(3650);
/// A certificate's life.
const LIFE: Duration = DAY.saturating_mul(365);
/// A certificate that ends within this is issued anew.
const RENEW_BEFORE: Duration = DAY.saturating_mul(60);
/// How far behind a reader's clock may be.
const CLOCK_SLACK: Duration = Duration::from_secs(5 * 60);

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A server's.
    Server,
    /// A client's.
    Client,
    /// Both (a kubelet that also calls).
    Both,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The certificate as PEM.
    pub cert_pem: String,
    /// The key as PEM (PKCS #8).
    pub key_pem: String,
}

impl Credential {
    /// The certificate.
    ///
    /// # Errors
    /// It is no PEM.
    pub fn cert(&self) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).map_err(|e| Error::Key(format!("a certificate: {e}")))
    }

    /// The certificate and those between it and its authority, as far as they were given.
    ///
    /// # Errors
    /// It is no PEM.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let all = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        all.map_err(|e| Error::Key(format!("a certificate: {e}")))
    }

    /// The key.
    ///
    /// # Errors
    /// It is no PEM.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::Key(format!("a key: {e}")))
    }
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Common name: a client's user.
    pub common_name: String,
    /// Organisations: a client's groups; two at most.
    pub organizations: Vec<String>,
    /// DNS names of a server.
    pub names: Vec<String>,
    /// Addresses of a server.
    pub ips: Vec<IpAddr>,
    /// What it is for.
    pub usage: Usage,
}

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    cert: CertificateDer<'static>,
    cert_pem: String,
    directory: PathBuf,
}

impl Ca {
    /// Reads the authority of a directory, or makes both.
    ///
    /// # Errors
    /// The files cannot be read, written or understood.
    pub fn load_or_create(directory: &Path) -> Result<Ca, Error> {
        Ca::load_or_create_named(directory, "ca", "kubernetes")
    }

    /// As [`Ca::load_or_create`], for a second authority (`front-proxy-ca`) beside the first.
    ///
    /// # Errors
    /// As there.
    pub fn load_or_create_named(directory: &Path, file: &str, common_name: &str) -> Result<Ca, Error> {
        files::make_directory(directory)?;
        let (cert_path, key_path) = (directory.join(format!("{file}.crt")), directory.join(format!("{file}.key")));
        let key_pem = read_or_make(&key_path, || Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem()))?;
        let key = KeyPair::from_pem(&key_pem)?;
        let mut cert_pem = read_or_make(&cert_path, || self_signed(&key, common_name))?;
        // The key first, so that a certificate never stands without it.
        write_if_new(&key_path, &key_pem)?;
        if !cert_path.exists() || pem_ends_soon(&cert_pem, SystemTime::now()) {
            if cert_path.exists() {
                // The same key and name: what it has signed stays good.
                cert_pem = self_signed(&key, common_name)?;
            }
            write_secret(&cert_path, cert_pem.as_bytes(), Durability::Synced)?;
        }
        let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| Error::Key(format!("{}: {e}", cert_path.display())))?;
        if !is_key_of(&cert, &key) {
            return Err(Error::Key(format!("{} is not the certificate of {}", cert_path.display(), key_path.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&cert, key)?;
        Ok(Ca { issuer, cert, cert_pem, directory: directory.to_owned() })
    }

    /// The authority's certificate as PEM: `kube-root-ca.crt`, `certificate-authority-data`.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's certificate.
    pub fn cert(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// A server's certificate for names and addresses, kept in the directory under the name of its file.
    ///
    /// # Errors
    /// The files cannot be read or written.
    pub fn server_cert(&self, file: &str, common_name: &str, names: &[String], ips: &[IpAddr]) -> Result<Credential, Error> {
        let subject = Subject { common_name: common_name.into(), organizations: Vec::new(), names: names.to_vec(), ips: ips.to_vec(), usage: Usage::Server };
        self.load_or_issue(file, &subject)
    }

    /// A client's certificate, kept in the directory under the name of its file.
    ///
    /// # Errors
    /// The files cannot be read or written.
    pub fn client_cert(&self, file: &str, common_name: &str, organizations: &[&str]) -> Result<Credential, Error> {
        let organizations = organizations.iter().map(|o| (*o).to_owned()).collect();
        let subject = Subject { common_name: common_name.into(), organizations, names: Vec::new(), ips: Vec::new(), usage: Usage::Client };
        self.load_or_issue(file, &subject)
    }

    /// The certificate of a file if it still says this, has time left and is ours; otherwise a new one in its place.
    ///
    /// # Errors
    /// The files cannot be read or written.
    pub fn load_or_issue(&self, file: &str, subject: &Subject) -> Result<Credential, Error> {
        let (cert_path, key_path) = (self.directory.join(format!("{file}.crt")), self.directory.join(format!("{file}.key")));
        if let (Ok(cert_pem), Ok(key_pem)) = (std::fs::read_to_string(&cert_path), std::fs::read_to_string(&key_path)) {
            let credential = Credential { cert_pem, key_pem };
            if self.still_good(&credential, subject, SystemTime::now()) {
                return Ok(credential);
            }
        }
        let credential = self.issue(subject, SystemTime::now())?;
        // What a crash spoils is issued again.
        write_secret(&key_path, credential.key_pem.as_bytes(), Durability::Lazy)?;
        write_secret(&cert_path, credential.cert_pem.as_bytes(), Durability::Lazy)?;
        Ok(credential)
    }

    /// A new certificate with a new key, kept nowhere.
    ///
    /// # Errors
    /// The subject cannot be put into a certificate.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Credential, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = base_params(now, LIFE)?;
        params.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
        // The library keeps one value for each type; the same type by its number (RFC 4519, 2.19) makes room for another.
        let places = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        if subject.organizations.len() > places.len() {
            return Err(Error::Key(format!("a certificate names at most {} organisations", places.len())));
        }
        for (place, organization) in places.into_iter().zip(&subject.organizations) {
            params.distinguished_name.push(place, organization.as_str());
        }
        for name in &subject.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match subject.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Credential { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    fn still_good(&self, credential: &Credential, subject: &Subject, now: SystemTime) -> bool {
        let Ok(der) = credential.cert() else { return false };
        let Ok((_, cert)) = X509Certificate::from_der(&der) else { return false };
        let Ok((_, ca)) = X509Certificate::from_der(&self.cert) else { return false };
        let Ok(key) = KeyPair::from_pem(&credential.key_pem) else { return false };
        said_by(&cert, subject)
            && end_of(&cert) > now + RENEW_BEFORE
            && cert.issuer() == ca.subject()
            && authority_key(&cert) == subject_key(&ca)
            && cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    }

    /// The TLS settings of a client that trusts this authority and shows a certificate that may be replaced.
    ///
    /// # Errors
    /// The authority is not usable.
    pub fn client_config_of(&self, own: Arc<Renewable>) -> Result<ClientConfig, Error> {
        Ok(self.client_builder()?.with_client_cert_resolver(own))
    }

    fn client_builder(&self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots))
    }

    /// The TLS settings of a client that trusts this authority and shows a certificate if it has one.
    ///
    /// # Errors
    /// The credential is not usable.
    pub fn client_config(&self, own: Option<&Credential>) -> Result<ClientConfig, Error> {
        match own {
            Some(own) => self.client_config_of(Renewable::new(own)?),
            None => Ok(self.client_builder()?.with_no_client_auth()),
        }
    }
}

/// The TLS settings of a server that asks its clients for certificates of these authorities, and lets those without one pass to show a
/// token.
///
/// # Errors
/// A certificate or the credential is not usable.
pub fn server_config(authorities: &[CertificateDer<'_>], own: &Credential) -> Result<Arc<ServerConfig>, Error> {
    server_config_of(&authorities.iter().collect::<Vec<_>>(), Renewable::new(own)?)
}

/// The same with a certificate that may be replaced, and clients of several authorities.
fn server_config_of(authorities: &[&CertificateDer<'_>], own: Arc<Renewable>) -> Result<Arc<ServerConfig>, Error> {
    server_config_by(verifier(authorities)?, own)
}

/// Of clients that show a certificate those whom one of these authorities vouches for.
fn verifier(authorities: &[&CertificateDer<'_>]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add((*authority).clone().into_owned())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build().map_err(|e| Error::Key(e.to_string()))
}

/// The same with a verifier of clients' certificates.
fn server_config_by(verifier: Arc<dyn ClientCertVerifier>, own: Arc<Renewable>) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(dial::server_provider())).with_safe_default_protocol_versions()?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(own);
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The key of a PEM file as PKCS #8, for those who sign with it by other means.
pub fn pkcs8(key: &PrivateKeyDer<'_>) -> Option<PrivatePkcs8KeyDer<'static>> {
    match key {
        PrivateKeyDer::Pkcs8(key) => Some(key.clone_key()),
        _ => None,
    }
}

fn write_if_new(path: &Path, text: &str) -> Result<(), Error> {
    if path.exists() { Ok(()) } else { write_secret(path, text.as_bytes(), Durability::Synced) }
}

fn end_of(cert: &X509Certificate<'_>) -> SystemTime {
    u64::try_from(cert.validity().not_after.timestamp()).map_or(UNIX_EPOCH, |s| UNIX_EPOCH + Duration::from_secs(s))
}

fn ends_soon(credential: &Credential, now: SystemTime) -> bool {
    pem_ends_soon(&credential.cert_pem, now)
}

/// Whether a certificate should be renewed; not if it cannot be read.
fn pem_ends_soon(pem: &str, now: SystemTime) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    X509Certificate::from_der(&der).is_ok_and(|(_, cert)| end_of(&cert) <= now + RENEW_BEFORE)
}

/// Whether a certificate is of this key.
fn is_key_of(cert: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(cert).is_ok_and(|(_, c)| c.public_key().subject_public_key.data.as_ref() == key.public_key_raw())
}

fn self_signed(key: &KeyPair, common_name: &str) -> Result<String, Error> {
    let mut params = base_params(SystemTime::now(), CA_LIFE)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    Ok(params.self_signed(key)?.pem())
}

fn base_params(now: SystemTime, life: Duration) -> Result<CertificateParams, Error> {
    let mut serial = [0_u8; 16];
    getrandom::fill(&mut serial).map_err(|e| Error::Key(e.to_string()))?;
    // A serial number is positive (RFC 5280, 4.1.2.2).
    serial[0] = (serial[0] & 0x7f) | 0x01;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = now.checked_sub(CLOCK_SLACK).unwrap_or(now).into();
    params.not_after = (now + life).into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn said_by(cert: &X509Certificate<'_>, subject: &Subject) -> bool {
    let own = cert.subject();
    let common_name = own.iter_common_name().find_map(|c| c.as_str().ok()).unwrap_or_default();
    let organizations: Vec<&str> = own.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let (mut names, mut ips) = (BTreeSet::new(), BTreeSet::new());
    if let Ok(Some(san)) = cert.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    names.insert((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    let ip = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    ips.extend(ip);
                }
                _ => {}
            }
        }
    }
    let usage = cert.extended_key_usage().ok().flatten().is_some_and(|u| {
        let wanted = (subject.usage != Usage::Client, subject.usage != Usage::Server);
        (u.value.server_auth, u.value.client_auth) == wanted
    });
    common_name == subject.common_name
        && organizations == subject.organizations
        && names == subject.names.iter().cloned().collect()
        && ips == subject.ips.iter().copied().collect()
        && usage
}

fn authority_key(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions().find_map(|e| match e.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0.to_vec()),
        _ => None,
    })
}

fn subject_key(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions().find_map(|e| match e.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// A PEM block of a kind (RFC 7468: lines of 64 characters).
pub fn armoured(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

/// Common name and organisations that a certificate request (PEM) asks for.
///
/// # Errors
/// It is no certificate request, or one of them is a text of a type that is not read here (T.61, UCS-2, UCS-4).
pub fn request_subject(request_pem: &[u8]) -> Result<(String, Vec<String>), Error> {
    let bad = |why: String| Error::Key(format!("the certificate request: {why}"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(request_pem).map_err(|e| bad(e.to_string()))?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| bad(e.to_string()))?;
    let subject = &request.certification_request_info.subject;
    let text = |part: &AttributeTypeAndValue<'_>| part.as_str().map(str::to_owned).map_err(|e| bad(e.to_string()));
    // Of several names the last counts, as for Go.
    let mut names = subject.iter_common_name().map(text).collect::<Result<Vec<_>, _>>()?;
    let organizations = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
    Ok((names.pop().unwrap_or_default(), organizations))
}

/// What a chain of certificates (PEM) says of its first.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Its public key, as [`request_key`] names keys.
    pub key: Vec<u8>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Reads a chain; else what is wrong with it, in upstream's words.
///
/// # Errors
/// What to tell the client.
pub fn leaf(chain_pem: &str) -> Result<Leaf, String> {
    let mut leaf = None;
    for block in x509_parser::pem::Pem::iter_from_buffer(chain_pem.as_bytes()) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err("issued certificate chain must consist entirely of CERTIFICATE PEM blocks".to_owned());
        }
        let which = if leaf.is_none() { "leaf" } else { "intermediate" };
        let (_, read) = X509Certificate::from_der(&block.contents).map_err(|_| format!("{which} certificate does not parse as valid X.509"))?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
            if time.timestamp() < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) }.unwrap_or(UNIX_EPOCH)
        };
        let (not_before, not_after) = (at(read.validity().not_before), at(read.validity().not_after));
        leaf.get_or_insert_with(|| Leaf { key: read.public_key().raw.to_vec(), not_before, not_after });
    }
    leaf.ok_or_else(|| "issued certificate chain must contain at least one certificate".to_owned())
}

/// A kubeconfig with one context that holds everything it needs.
pub fn kubeconfig(name: &str, server: &str, ca_pem: &str, user: &str, own: &Credential) -> String {
    let data = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\nusers:\n- name: {user}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        data(ca_pem),
        data(&own.cert_pem),
        data(&sec1::pem(&own.key_pem).unwrap_or_else(|| own.key_pem.clone()))
    )
}
