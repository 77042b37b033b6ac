//! Keys of pods' certificates, of each kind that a projection can ask for, and the proof that whoever asks has them: a PKCS#10 request of
//! nothing else (upstream's `generateKeyAndProof`).
//!
//! ring makes keys of P-256, P-384 and Ed25519. It signs with RSA and looks whether a key is one, but makes none: that is done here. It
//! knows no P-521. An RSA key takes a second of work or more, so they are made one after the other, whoever asks for how many.

mod der;
mod p521;
mod rsa;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::sync::Semaphore;

use crate::util;

/// One at a time.
static RSA: Semaphore = Semaphore::const_new(1);
/// Characters of a line of PEM.
const LINE: usize = 64;

/// A key that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// PKCS#8, PEM.
    pub(super) key: String,
    /// PKCS#10, DER.
    pub(super) proof: Vec<u8>,
}

/// Makes a key of a kind. Whoever does not wait for it any more, has it made for nothing, and nobody's turn comes before it is.
pub(super) async fn make(kind: &str) -> Result<Made, String> {
    let turn = match kind.starts_with("RSA") {
        true => Some(RSA.acquire().await.map_err(|e| e.to_string())?),
        false => None,
    };
    let kind = kind.to_owned();
    util::blocking(move || {
        let _turn = turn;
        made(&kind)
    })
    .await
}

fn made(kind: &str) -> Result<Made, String> {
    let failed = |what: &'static str| move |e: String| format!("while generating {what} key: {e}");
    match kind {
        "RSA3072" => of_rsa(3072).map_err(failed("RSA 3072")),
        "RSA4096" => of_rsa(4096).map_err(failed("RSA 4096")),
        "ECDSAP256" => of_ring(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed("ECDSA P256")),
        "ECDSAP384" => of_ring(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(failed("ECDSA P384")),
        "ECDSAP521" => {
            let (key, proof) = p521::pair().map_err(failed("ECDSA P521"))?;
            Ok(Made { key: pem(&key), proof })
        }
        "ED25519" => of_ring(&rcgen::PKCS_ED25519).map_err(failed("Ed25519")),
        _ => Err(format!("unknown key type {kind:?}")),
    }
}

fn of_ring(algorithm: &'static SignatureAlgorithm) -> Result<Made, String> {
    let key = KeyPair::generate_for(algorithm).map_err(|e| e.to_string())?;
    Ok(Made { key: key.serialize_pem(), proof: proof(&key)? })
}

fn of_rsa(bits: usize) -> Result<Made, String> {
    let der = rsa::pkcs8(bits)?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), &rcgen::PKCS_RSA_SHA256).map_err(|e| e.to_string())?;
    Ok(Made { key: pem(&der), proof: proof(&key)? })
}

fn proof(key: &KeyPair) -> Result<Vec<u8>, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(|e| format!("while generating stub PKCS#10 request: {e}"))?;
    Ok(request.der().to_vec())
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    for line in text.as_bytes().chunks(LINE) {
        out.extend(line.iter().map(|b| char::from(*b)).chain(['\n']));
    }
    out + "-----END PRIVATE KEY-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha512};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    #[tokio::test]
    async fn a_key_of_each_kind_is_proven_and_reads_as_what_it_is() {
        // 4096 bits are made as 3072 are, and take some times as long.
        for (kind, bytes) in [("ECDSAP256", 0), ("ECDSAP384", 0), ("ECDSAP521", 241), ("ED25519", 0), ("RSA3072", 0)] {
            let made = make(kind).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
            let text: String = made.key.lines().filter(|l| !l.starts_with("-----")).collect();
            let key = STANDARD.decode(text).unwrap();
            assert!(bytes == 0 || key.len() == bytes, "{kind}: {}", key.len());
            assert!(made.key.starts_with("-----BEGIN PRIVATE KEY-----\n") && made.key.ends_with("\n-----END PRIVATE KEY-----\n"));
            let (_, request) = X509CertificationRequest::from_der(&made.proof).unwrap_or_else(|e| panic!("{kind}: {e}"));
            if kind == "ECDSAP521" {
                let of = &request.certification_request_info;
                assert!(::p521::verify(&of.subject_pki.subject_public_key.data, &Sha512::digest(of.raw), &request.signature_value.data));
            } else {
                request.verify_signature().unwrap_or_else(|e| panic!("{kind}: {e}"));
            }
        }
        assert_eq!(make("DSA").await, Err("unknown key type \"DSA\"".to_owned()));
    }
}
