//! What Go says of a certificate request whose signature it does not look at: its key, or the way in which it is signed, is none that
//! `crypto/x509` takes (`getSignatureAlgorithmFromAI`, `checkSignature`).

use std::borrow::Cow;
use x509_parser::{
    signature_algorithm::RsaSsaPssParams,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

const MD5_RSA: &str = "1.2.840.113549.1.1.4";
const PSS: &str = "1.2.840.113549.1.1.10";
/// The ways to sign, each with the keys that sign so.
const WAYS: [(&str, &str); 14] = [
    (MD5_RSA, "RSA"),
    ("1.2.840.113549.1.1.5", "RSA"),
    ("1.3.14.3.2.29", "RSA"),
    ("1.2.840.113549.1.1.11", "RSA"),
    ("1.2.840.113549.1.1.12", "RSA"),
    ("1.2.840.113549.1.1.13", "RSA"),
    (PSS, "RSA"),
    ("1.2.840.10040.4.3", "DSA"),
    ("2.16.840.1.101.3.4.3.2", "DSA"),
    ("1.2.840.10045.4.1", "ECDSA"),
    ("1.2.840.10045.4.3.2", "ECDSA"),
    ("1.2.840.10045.4.3.3", "ECDSA"),
    ("1.2.840.10045.4.3.4", "ECDSA"),
    ("1.3.101.112", "Ed25519"),
];
/// The hashes of PSS, each with the bytes of its salt: no other salt is taken.
const SALTED: [(&str, u32); 3] = [("2.16.840.1.101.3.4.2.1", 32), ("2.16.840.1.101.3.4.2.2", 48), ("2.16.840.1.101.3.4.2.3", 64)];
/// The kinds of keys: what signs with them, and Go's types of them.
const KEYS: [(&str, &str, &str); 3] =
    [("1.2.840.113549.1.1.1", "RSA", "*rsa.PublicKey"), ("1.2.840.10045.2.1", "ECDSA", "*ecdsa.PublicKey"), ("1.3.101.112", "Ed25519", "ed25519.PublicKey")];
/// P-224, P-256, P-384, P-521.
const CURVES: [&str; 4] = ["1.3.132.0.33", "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

/// Why a signature is not looked at; none where it is.
pub(super) fn refused(key: &SubjectPublicKeyInfo<'_>, signed: &AlgorithmIdentifier<'_>) -> Option<Cow<'static, str>> {
    const UNKNOWN: Cow<'static, str> = Cow::Borrowed("x509: cannot verify signature: algorithm unimplemented");
    let (of, way) = (key.algorithm.algorithm.to_id_string(), signed.algorithm.to_id_string());
    let curve = || key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
    if of == "1.2.840.10045.2.1" && !curve().is_some_and(|curve| CURVES.contains(&curve.as_str())) {
        return Some("x509: unsupported elliptic curve".into());
    }
    if way == MD5_RSA {
        return Some("x509: cannot verify signature: insecure algorithm MD5-RSA".into());
    }
    let by = WAYS.iter().find(|(known, _)| *known == way).map(|(_, by)| *by).filter(|_| way != PSS || is_plain_pss(signed));
    let own = KEYS.iter().find(|(known, ..)| *known == of);
    let (Some(by), Some((_, own, ty))) = (by, own) else { return Some(UNKNOWN) };
    (by != *own).then(|| format!("x509: signature algorithm specifies an {by} public key, but have public key of type {ty}").into())
}

/// Whether PSS is used with one hash for all, and with a salt of its length.
fn is_plain_pss(signed: &AlgorithmIdentifier<'_>) -> bool {
    let Some(Ok(params)) = signed.parameters.as_ref().map(RsaSsaPssParams::try_from) else { return false };
    let hash = params.hash_algorithm_oid().to_id_string();
    let of_mask = params.mask_gen_algorithm().is_ok_and(|mask| mask.hash.to_id_string() == hash);
    of_mask && params.trailer_field() == 1 && SALTED.contains(&(hash.as_str(), params.salt_length()))
}
