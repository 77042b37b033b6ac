//! TLS to a host that need not prove who it is, and of clients of whom it is asked later. All of the project's trust in nobody's word is
//! here, but for that of probes, which ask whether something answers at all.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Accepts every certificate, as `insecure-skip-tls-verify` and the like ask. That the host has the certificate's key is still
/// checked.
#[must_use]
pub fn unverified(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyCertificate(provider))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Certificates that a client may show beside its own. A path has six at most, but the search for one among many that bear the same names
/// takes seconds, and each is kept for as long as its connection.
const BETWEEN_MAX: usize = 8;

/// Takes any certificate whose key its client has, as Go's `RequestClientCert` does, and asks for one as the other verifier does. Only for
/// a server that asks afterwards whether somebody vouches for a certificate, before it believes what that says.
#[must_use]
pub fn requested(verifier: Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(Requested(verifier))
}

#[derive(Debug)]
struct Requested(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Requested {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, between: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        if between.len() > BETWEEN_MAX {
            return Err(Error::General(format!("{} certificates beside the client's own", between.len())));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Ciphers in the order in which Go's servers prefer them, whatever their clients do: the shorter key of AES first. The settings of a server
/// that are made of it must say `ignore_client_order`.
#[must_use]
pub fn server_provider() -> CryptoProvider {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider { cipher_suites, ..default_provider() }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection, version};

    use super::*;

    /// Everything that one side has to say, told to the other.
    fn tell(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
        let mut said = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut said).unwrap();
        }
        let mut rest = said.as_slice();
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_certificate_of_nobody_for_somebody_else_will_do() {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let server = Arc::new(server.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key.into()).unwrap());
        for spoken in [&version::TLS12, &version::TLS13] {
            let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[spoken]).unwrap();
            let client = client.dangerous().with_custom_certificate_verifier(unverified(provider.clone())).with_no_client_auth();
            let mut client: Connection = ClientConnection::new(Arc::new(client), "host.example".try_into().unwrap()).unwrap().into();
            let mut server: Connection = ServerConnection::new(server.clone()).unwrap().into();
            while client.is_handshaking() || server.is_handshaking() {
                tell(&mut client, &mut server).unwrap();
                tell(&mut server, &mut client).unwrap();
            }
        }
    }
    #[test]
    fn a_client_shows_any_certificate_but_not_any_number() {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["host.example".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let strange = rcgen::generate_simple_self_signed(["eve".to_owned()]).unwrap();
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build().unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let server = server.with_client_cert_verifier(requested(verifier)).with_single_cert(vec![cert.der().clone()], key.into()).unwrap();
        let server = Arc::new(server);
        let shake = |spoken, between: usize| -> Result<(), Error> {
            let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[spoken]).unwrap();
            let client = client.dangerous().with_custom_certificate_verifier(unverified(provider.clone()));
            let shown = vec![strange.cert.der().clone(); between + 1];
            let own = PrivatePkcs8KeyDer::from(strange.signing_key.serialize_der());
            let client = client.with_client_auth_cert(shown, own.into()).unwrap();
            let mut client: Connection = ClientConnection::new(Arc::new(client), "host.example".try_into().unwrap()).unwrap().into();
            let mut server: Connection = ServerConnection::new(server.clone()).unwrap().into();
            while client.is_handshaking() || server.is_handshaking() {
                tell(&mut client, &mut server)?;
                tell(&mut server, &mut client)?;
            }
            Ok(())
        };
        for spoken in [&version::TLS12, &version::TLS13] {
            assert_eq!(shake(spoken, 0), Ok(()));
            assert_eq!(shake(spoken, BETWEEN_MAX), Ok(()));
            assert!(matches!(shake(spoken, BETWEEN_MAX + 1), Err(Error::General(_))));
        }
    }
}
