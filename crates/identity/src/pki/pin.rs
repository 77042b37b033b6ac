//! An authority known by a hash of its public key (RFC 7469), as kubeadm's join command names it.

use crate::Error;
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The hash of a certificate's SubjectPublicKeyInfo: `sha256:` and lower-case hexadecimal.
///
/// # Errors
/// It is no certificate.
pub fn pin(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let (_, read) = X509Certificate::from_der(certificate).map_err(|e| Error::Key(format!("a certificate: {e}")))?;
    let hash = digest(&SHA256, read.public_key().raw);
    Ok(format!("sha256:{}", hash.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;

    /// Made by `openssl req -x509`; the hash by `openssl x509 -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256`.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBgTCCASegAwIBAgIUGlslDd1cr+yE3T2FCE/OwMn0jccwCgYIKoZIzj0EAwIw\n\
        FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjkxOTIyMjhaGA8yMTI2MTEw\n\
        NTE5MjIyOFowFTETMBEGA1UEAwwKa3ViZXJuZXRlczBZMBMGByqGSM49AgEGCCqG\n\
        SM49AwEHA0IABG/9NgxCsMzAG6oYSXHP+oLF6qRlK3zTYvR9scbAu5SEHgAA6WRo\n\
        gx0OfEP8j/M+3ssxtPS68yxSDAu95soS4H+jUzBRMB0GA1UdDgQWBBTy0jAQj2Ij\n\
        RO3/wcaTGl/+J375iTAfBgNVHSMEGDAWgBTy0jAQj2IjRO3/wcaTGl/+J375iTAP\n\
        BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCNhjMoJYex9fyCKGnb\n\
        p4Us56OPzsmYGN4v8anwBnId3gIgGmfF1ojWU1K0FVktE7+MDo+0/2PGOkGYHmJM\n\
        kJHMuvM=\n\
        -----END CERTIFICATE-----";
    const HASH: &str = "sha256:a039aa55e1e6894cf0904feef690dbade4b04ae43ded278a7f33dc462f985bf3";

    #[test]
    fn a_key_is_known_by_the_hash_that_openssl_gives() {
        assert_eq!(pin(&CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()).unwrap(), HASH);
        assert!(pin(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }
}
