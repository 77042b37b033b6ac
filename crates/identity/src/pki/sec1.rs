//! A key on P-256 in the form of its own (SEC 1, `EC PRIVATE KEY`), as openssl, k3s and kubeadm write such keys. Clients that know a key's
//! kind by its head alone (fabric8's for Java) take PKCS #8, whose head tells none, for RSA.

use super::armoured;
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

/// How PKCS #8 begins for a key on P-256, as ring writes it: its 32 bytes follow, and its public half.
const PKCS8: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01, 0x04, 0x20,
];
const KEY_BYTES: usize = 32;
/// Of the public half with its tags.
const PUBLIC_BYTES: usize = 70;
/// How SEC 1 begins for the same key.
const SEC1: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// Between the halves, the curve: prime256v1.
const CURVE: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The same key, or none if it is another than the cluster's own are.
pub(super) fn pem(pkcs8: &str) -> Option<String> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pkcs8.as_bytes()).ok()?;
    let (key, public) = der.secret_pkcs8_der().strip_prefix(&PKCS8)?.split_at_checked(KEY_BYTES)?;
    if public.len() != PUBLIC_BYTES {
        return None;
    }
    Some(armoured("EC PRIVATE KEY", &[&SEC1[..], key, &CURVE, public].concat()))
}
