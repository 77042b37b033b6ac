//! Signatures of certificate requests by keys of RSA of which ring looks at none: shorter ones than today's, and longer ones (RFC 8017, 8.2.2,
//! with the words of Go's `crypto/rsa`).

use num_bigint::BigUint;
use ring::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
use std::borrow::Cow;
use x509_parser::public_key::RSAPublicKey;

/// Keys that are shorter are refused, whatever they have signed.
const BITS_MIN: u64 = 1024;
/// Signatures of longer keys than anybody has are not looked at: what that costs grows with the square of their length.
const BITS_MAX: u64 = 16 * 1024;

/// What stands before a digest that is signed, in DER.
const OF_SHA1: &[u8] = &[0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 20];
const OF_SHA256: &[u8] = &[0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32];
const OF_SHA384: &[u8] = &[0x30, 0x41, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0, 4, 48];
const OF_SHA512: &[u8] = &[0x30, 0x51, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 64];

/// The hash of a way to sign, and what stands before its digests; none if it is another than these.
fn hash(signed: &str) -> Option<(&'static digest::Algorithm, &'static [u8])> {
    match signed {
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => Some((&SHA1_FOR_LEGACY_USE_ONLY, OF_SHA1)),
        "1.2.840.113549.1.1.11" => Some((&SHA256, OF_SHA256)),
        "1.2.840.113549.1.1.12" => Some((&SHA384, OF_SHA384)),
        "1.2.840.113549.1.1.13" => Some((&SHA512, OF_SHA512)),
        _ => None,
    }
}

/// Whether it could be verified that a text is signed by a key, in the way that `signed` names.
pub(super) fn verify(key: &RSAPublicKey<'_>, signed: &str, text: &[u8], signature: &[u8]) -> Result<bool, Cow<'static, str>> {
    let (n, e, s) = (BigUint::from_bytes_be(key.modulus), BigUint::from_bytes_be(key.exponent), BigUint::from_bytes_be(signature));
    let bits = n.bits();
    if bits < BITS_MIN {
        return Err(format!("crypto/rsa: {bits}-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)").into());
    }
    let Some((hash, info)) = hash(signed).filter(|_| bits <= BITS_MAX) else { return Ok(false) };
    let told = [info, digest(hash, text).as_ref()].concat();
    let length = bits.div_ceil(8) as usize;
    let expected = [&[0, 1][..], &vec![0xff; length - told.len() - 3][..], &[0][..], &told[..]].concat();
    // An exponent that large is nobody's, and what is signed with one that is even, or one, shows nothing.
    let fits = signature.len() == length && s < n && (2..=32).contains(&e.bits()) && e.bit(0);
    match fits && s.modpow(&e, &n) == BigUint::from_bytes_be(&expected) {
        true => Ok(true),
        false => Err("crypto/rsa: verification error".into()),
    }
}
