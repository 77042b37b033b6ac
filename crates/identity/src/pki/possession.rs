//! Whose key a PodCertificateRequest is about, and whether who asks has it (upstream's `validateStubPKCS10Request` and
//! `validateDeprecatedPKIXPublicKey`, with their words). ring verifies what it knows; P-521 is our own crate's, and signatures of RSA-PSS whose
//! salt is of any length, as Go makes them, are read here: all of it is public.

use ::p521::Nist;
use num_bigint::BigUint;
use ring::{
    digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest},
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm},
};
use std::{borrow::Cow, ops::RangeInclusive};
use x509_parser::{
    certification_request::X509CertificationRequest,
    error::X509Error,
    prelude::FromDer,
    public_key::{PublicKey, RSAPublicKey},
    x509::SubjectPublicKeyInfo,
};

mod pkcs1;
mod unseen;

/// The keys of RSA that ring looks at.
const RSA_BITS: RangeInclusive<u64> = 2048..=8192;
const OID_ED25519: &str = "1.3.101.112";

/// Why a key is not one to be certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// What of it is shown; none: nothing.
    pub shown: Option<String>,
    /// What is wrong.
    pub why: &'static str,
    /// It is not the key: whoever asks does not show that he has it.
    pub unproven: bool,
}

impl Unfit {
    fn new(why: &'static str) -> Self {
        Self { shown: None, why, unproven: false }
    }

    fn shown(shown: String, why: &'static str) -> Self {
        Self { shown: Some(shown), why, unproven: false }
    }
}

/// A key of a kind that may be certified.
enum Key<'a> {
    Ed25519,
    P256,
    P384,
    P521,
    Rsa(RSAPublicKey<'a>),
}

/// The kind of a key; `form` is what is told of one that cannot be read, `curves` of one of another curve.
fn kind<'a>(key: &'a SubjectPublicKeyInfo<'a>, form: &'static str, curves: &'static str) -> Result<Key<'a>, Unfit> {
    match key.parsed() {
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7") => Ok(Key::P256),
                Some("1.3.132.0.34") => Ok(Key::P384),
                Some("1.3.132.0.35") => Ok(Key::P521),
                Some("1.3.132.0.33") => Err(Unfit::shown("curve P-224".into(), curves)),
                // Go knows no others.
                _ => Err(Unfit::new(form)),
            }
        }
        Ok(PublicKey::RSA(rsa)) => match bits(&rsa) {
            3072 | 4096 => Ok(Key::Rsa(rsa)),
            bits => Err(Unfit::shown(format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096")),
        },
        _ if key.algorithm.algorithm.to_id_string() == OID_ED25519 => Ok(Key::Ed25519),
        _ => Err(Unfit::new("unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    }
}

/// How long a key is, in whole bytes as Go and ring count them.
fn bits(key: &RSAPublicKey<'_>) -> u64 {
    BigUint::from_bytes_be(key.modulus).bits().next_multiple_of(8)
}

/// The public key of a certificate request (DER) that is signed with it, as [`super::leaf`] names keys, too.
///
/// # Errors
/// What is wrong with it.
pub fn request_key(request: &[u8]) -> Result<Vec<u8>, Unfit> {
    const FORM: &str = "must be a valid PKCS#10 CSR";
    let (rest, parsed) = X509CertificationRequest::from_der(request).map_err(|_| Unfit::new(FORM))?;
    if !rest.is_empty() || super::request::malformed(&parsed).is_some() {
        return Err(Unfit::new(FORM));
    }
    let key = &parsed.certification_request_info.subject_pki;
    kind(key, FORM, "elliptic public keys must use curve P256, P384, or P521")?;
    if verified(&parsed) == Ok(true) { Ok(key.raw.to_vec()) } else { Err(Unfit::new("invalid signature")) }
}

/// Whether a request of a key on a curve is signed by it, where ring does not say so: it knows two curves, and two hashes with each. None: it is
/// signed in a way that is not known.
fn signed_on_curve(request: &X509CertificationRequest<'_>) -> Option<bool> {
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    let curve = match key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string().as_str() {
        "1.3.132.0.33" => Nist::P224,
        "1.2.840.10045.3.1.7" => Nist::P256,
        "1.3.132.0.34" => Nist::P384,
        "1.3.132.0.35" => Nist::P521,
        _ => return None,
    };
    let hash = match request.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.1" => &SHA1_FOR_LEGACY_USE_ONLY,
        "1.2.840.10045.4.3.2" => &SHA256,
        "1.2.840.10045.4.3.3" => &SHA384,
        "1.2.840.10045.4.3.4" => &SHA512,
        _ => return None,
    };
    Some(::p521::verify_on(curve, &key.subject_public_key.data, digest(hash, info.raw).as_ref(), &request.signature_value.data))
}

/// Whether a certificate request (PEM) is signed by its key, where its signature is of a kind that can be verified here.
///
/// # Errors
/// What Go's `ParseCertificateRequest` or `CheckSignature` says of one that is not.
pub fn request_is_signed(request_pem: &[u8]) -> Result<(), Cow<'static, str>> {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(request_pem) else { return Ok(()) };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else { return Ok(()) };
    if let Some(why) = super::request::malformed(&request) {
        return Err(why);
    }
    verified(&request).map(drop)
}

/// Whether the signature of a request was verified: it was not where it is of a kind that cannot be verified here.
pub(super) fn verified(request: &X509CertificationRequest<'_>) -> Result<bool, Cow<'static, str>> {
    const ECDSA: Cow<'static, str> = Cow::Borrowed("x509: ECDSA verification failure");
    let info = &request.certification_request_info;
    let (key, signed) = (&info.subject_pki, &request.signature_algorithm);
    if let Some(why) = unseen::refused(key, signed) {
        return Err(why);
    }
    let parsed = key.parsed();
    if let Ok(PublicKey::RSA(rsa)) = &parsed
        && !RSA_BITS.contains(&bits(rsa))
    {
        return pkcs1::verify(rsa, &signed.algorithm.to_id_string(), info.raw, &request.signature_value.data);
    }
    match request.verify_signature() {
        Ok(()) => return Ok(true),
        Err(X509Error::SignatureVerificationError) => {}
        Err(_) => match signed_on_curve(request) {
            Some(false) => {}
            proven => return Ok(proven.is_some()),
        },
    }
    Err(match parsed {
        Ok(PublicKey::EC(_)) => ECDSA,
        Ok(PublicKey::RSA(_)) => "crypto/rsa: verification error".into(),
        _ => "x509: Ed25519 verification failure".into(),
    })
}

/// The same of a public key (PKIX, DER) and a signature of the pod's UID.
///
/// # Errors
/// What is wrong with the key, or with the proof.
pub fn proven_key(pkix: &[u8], uid: &str, proof: &[u8]) -> Result<Vec<u8>, Unfit> {
    const FORM: &str = "must be a valid PKIX-serialized public key";
    let (rest, key) = SubjectPublicKeyInfo::from_der(pkix).map_err(|_| Unfit::new(FORM))?;
    if !rest.is_empty() {
        return Err(Unfit::new(FORM));
    }
    // That it names two of three is the original's.
    let kind = kind(&key, FORM, "elliptic public keys must use curve P256 or P384")?;
    let by =
        |algorithm: &'static dyn VerificationAlgorithm| UnparsedPublicKey::new(algorithm, &key.subject_public_key.data).verify(uid.as_bytes(), proof).is_ok();
    let proven = match &kind {
        Key::Ed25519 => by(&ED25519),
        Key::P256 => by(&ECDSA_P256_SHA256_ASN1),
        Key::P384 => by(&ECDSA_P384_SHA256_ASN1),
        Key::P521 => p521(&key, &SHA256, uid.as_bytes(), proof),
        Key::Rsa(rsa) => pss(rsa, uid.as_bytes(), proof),
    };
    if proven { Ok(key.raw.to_vec()) } else { Err(Unfit { unproven: true, ..Unfit::new("could not verify proof-of-possession signature") }) }
}

fn p521(key: &SubjectPublicKeyInfo<'_>, hash: &'static digest::Algorithm, text: &[u8], signature: &[u8]) -> bool {
    ::p521::verify(&key.subject_public_key.data, digest(hash, text).as_ref(), signature)
}

/// EMSA-PSS (RFC 8017, 9.1.2) with SHA-256, whatever the salt's length.
fn pss(key: &RSAPublicKey<'_>, text: &[u8], signature: &[u8]) -> bool {
    const HASH: usize = 32;
    const END: u8 = 0xbc;
    let (n, e, s) = (BigUint::from_bytes_be(key.modulus), BigUint::from_bytes_be(key.exponent), BigUint::from_bytes_be(signature));
    let bits = usize::try_from(n.bits()).unwrap_or(0);
    // An exponent that large is nobody's, and costs as much as it is long.
    if bits < 8 * (HASH + 2) || s >= n || signature.len() != bits.div_ceil(8) || e.bits() > 32 {
        return false;
    }
    let encoded = s.modpow(&e, &n).to_bytes_be();
    let length = (bits - 1).div_ceil(8);
    if encoded.len() > length || encoded.last() != Some(&END) {
        return false;
    }
    let mut message = vec![0; length - encoded.len()];
    message.extend(encoded);
    let (masked, hash) = message[..length - 1].split_at(length - HASH - 1);
    let unused = 8 * length - (bits - 1);
    let mut block: Vec<u8> = mask(hash, masked.len()).iter().zip(masked).map(|(m, b)| m ^ b).collect();
    if masked[0].checked_shr(8 - unused as u32).is_some_and(|high| high != 0) {
        return false;
    }
    block[0] &= 0xff >> unused;
    let Some(begin) = block.iter().position(|b| *b != 0).filter(|at| block[*at] == 1) else { return false };
    let salted = [&[0; 8], digest(&SHA256, text).as_ref(), &block[begin + 1..]].concat();
    digest(&SHA256, &salted).as_ref() == hash
}

/// MGF1 with SHA-256.
fn mask(seed: &[u8], length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for counter in 0_u32.. {
        if out.len() >= length {
            break;
        }
        out.extend(digest(&SHA256, &[seed, &counter.to_be_bytes()].concat()).as_ref());
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests;
