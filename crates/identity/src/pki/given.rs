//! An authority that others keep: a certificate and a key in files of any name, as kubeadm and openssl write them.

use super::{Ca, is_key_of};
use crate::Error;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::path::Path;

const INTEGER_ZERO: [u8; 3] = [0x02, 0x01, 0x00];
/// `rsaEncryption` without parameters (RFC 8017, appendix C).
const RSA: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// `id-ecPublicKey`, and the curves whose keys can sign here (RFC 5480).
const EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;

impl Ca {
    /// Reads an authority that signs requests alone: nothing is written (upstream's `--cluster-signing-cert-file` and `-key-file`).
    ///
    /// # Errors
    /// The files cannot be read or understood, or are not of each other.
    pub fn given(cert: &Path, key: &Path) -> Result<Ca, Error> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::file(path));
        let bad = |path: &Path, why: &str| Error::Key(format!("{}: {why}", path.display()));
        let (cert_pem, key_pem) = (read(cert)?, read(key)?);
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| bad(cert, &e.to_string()))?;
        let own = match PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad(key, &e.to_string()))? {
            PrivateKeyDer::Pkcs8(own) => own.secret_pkcs8_der().to_vec(),
            PrivateKeyDer::Pkcs1(own) => pkcs8_of_rsa(own.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(own) => pkcs8_of_curve(own.secret_sec1_der()).ok_or_else(|| bad(key, "its curve is neither P-256 nor P-384"))?,
            _ => return Err(bad(key, "a key of another kind (`openssl pkcs8 -topk8 -nocrypt` makes one that is understood)")),
        };
        let own = KeyPair::try_from(own).map_err(|e| bad(key, &e.to_string()))?;
        if !is_key_of(&der, &own) {
            return Err(bad(cert, &format!("it is not the certificate of {}", key.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&der, own)?;
        Ok(Ca { issuer, cert: der, cert_pem, directory: key.parent().unwrap_or(Path::new(".")).to_owned() })
    }
}

/// A key of PKCS #1, as kubeadm writes it, in the frame of PKCS #8 (RFC 5208).
fn pkcs8_of_rsa(key: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&INTEGER_ZERO[..], &RSA[..], &tlv(OCTETS, key)[..]].concat())
}

/// A key of a curve in openssl's own form (RFC 5915), which names the curve, in the same frame.
fn pkcs8_of_curve(key: &[u8]) -> Option<Vec<u8>> {
    let curve = [&P256[..], &P384[..]].into_iter().find(|curve| key.windows(curve.len()).any(|part| part == *curve))?;
    Some(tlv(SEQUENCE, &[&INTEGER_ZERO[..], &tlv(SEQUENCE, &[&EC[..], curve].concat())[..], &tlv(OCTETS, key)[..]].concat()))
}

/// A value in DER.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short @ ..=0x7f] => out.push(*short),
        _ => {
            // Eight bytes at most.
            out.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
            out.extend_from_slice(length);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_as_der_has_them() {
        assert_eq!((tlv(4, &[7; 3]), tlv(5, &[])), (vec![4, 3, 7, 7, 7], vec![5, 0]));
        assert_eq!(tlv(4, &[7; 0x80])[..4], [4, 0x81, 0x80, 7]);
        assert_eq!(tlv(4, &[7; 0x123])[..5], [4, 0x82, 1, 0x23, 7]);
        assert_eq!(pkcs8_of_rsa(&[1, 2])[..5], [0x30, 22, 2, 1, 0]);
        let named = pkcs8_of_curve(&P256).expect("it is named");
        assert_eq!((named[..7].to_vec(), named.len()), (vec![0x30, 36, 2, 1, 0, 0x30, 19], 38));
        assert_eq!(pkcs8_of_curve(&EC), None);
    }

    #[test]
    fn an_authority_is_read_from_files_of_any_name_and_nothing_is_written() {
        let root = std::env::temp_dir().join(format!("identity-given-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let (made, other) = (Ca::load_or_create(&root.join("a")).expect("an authority"), Ca::load_or_create(&root.join("b")).expect("another"));
        let (cert, key) = (root.join("a/ca.crt"), root.join("a/ca.key"));
        assert_eq!(Ca::given(&cert, &key).expect("the same").cert(), made.cert());
        let wrong = Ca::given(&cert, &root.join("b/ca.key")).err().expect("of another").to_string();
        assert!(wrong.contains("it is not the certificate of"), "{wrong}");
        assert_ne!(made.cert(), other.cert());
        assert!(matches!(Ca::given(&root.join("none"), &key), Err(Error::File { .. })));
        let _ = std::fs::remove_dir_all(&root);
    }
}
