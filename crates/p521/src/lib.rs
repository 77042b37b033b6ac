//! ECDSA by the curve P-521 (FIPS 186-5, SP 800-186), which `ring` does not know: keys and proofs of pods' certificates (KEP-4317). What is signed
//! by a key on one of the shorter curves is verified as well, since `ring` does so for few hashes alone.
//!
//! The field's crate brings twenty-three others and, by their features, builds TLS anew; this is two hundred lines over the integers that X.509's
//! reader brings anyway. **Its integers take time by their values**, so it is for what it is used for: a key that is drawn here, and signs
//! once. What is verified is public.

mod der;
mod point;

use num_bigint::BigUint;
use point::{Curve, Point};

/// Bytes of a number of this curve.
pub const BYTES: usize = 66;
/// Bytes of a hash at most: more would have to be cut.
const HASH_MAX: usize = 64;
/// A public key's form: both coordinates follow.
const UNCOMPRESSED: u8 = 4;

/// The curves of which signatures are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nist {
    /// P-224.
    P224,
    /// P-256.
    P256,
    /// P-384.
    P384,
    /// P-521.
    P521,
}

fn number(bytes: &[u8]) -> BigUint {
    BigUint::from_bytes_be(bytes)
}

fn padded(number: &BigUint) -> [u8; BYTES] {
    let bytes = number.to_bytes_be();
    let mut out = [0; BYTES];
    out[BYTES - bytes.len()..].copy_from_slice(&bytes);
    out
}

/// A number that may be a secret: between one and the curve's order.
fn scalar(curve: &Curve, bytes: &[u8]) -> Option<BigUint> {
    Some(number(bytes)).filter(|n| *n != BigUint::default() && *n < curve.order)
}

/// The public key of a secret one, with both of its coordinates; none: the number is no key.
#[must_use]
pub fn public(secret: &[u8; BYTES]) -> Option<Vec<u8>> {
    let curve = Curve::new();
    let (x, y) = curve.times_secret(&scalar(&curve, secret)?, &curve.base).coordinates(&curve)?;
    Some([&[UNCOMPRESSED][..], &padded(&x), &padded(&y)].concat())
}

/// Signs a hash; the nonce is drawn anew for each. None: it is no nonce, or no hash.
#[must_use]
pub fn sign(secret: &[u8; BYTES], nonce: &[u8; BYTES], hash: &[u8]) -> Option<Vec<u8>> {
    let curve = Curve::new();
    let (d, k) = (scalar(&curve, secret)?, scalar(&curve, nonce)?);
    let n = &curve.order;
    let r = curve.times_secret(&k, &curve.base).coordinates(&curve)?.0 % n;
    let e = (hash.len() <= HASH_MAX).then(|| number(hash))?;
    let s = k.modinv(n)? * (e + &r * d) % n;
    let is_none = r == BigUint::default() || s == BigUint::default();
    (!is_none).then(|| der::signature(&r, &s))
}

/// Whether a signature (DER) of a hash is by who has this public key.
#[must_use]
pub fn verify(public: &[u8], hash: &[u8], signature: &[u8]) -> bool {
    verify_on(Nist::P521, public, hash, signature)
}

/// The same on any of the curves.
#[must_use]
pub fn verify_on(curve: Nist, public: &[u8], hash: &[u8], signature: &[u8]) -> bool {
    verified(&Curve::of(curve), public, hash, signature).unwrap_or(false)
}

fn verified(curve: &Curve, public: &[u8], hash: &[u8], signature: &[u8]) -> Option<bool> {
    let bytes = curve.bytes();
    let (form, coordinates) = public.split_first()?;
    if *form != UNCOMPRESSED || coordinates.len() != 2 * bytes || hash.len() > HASH_MAX {
        return None;
    }
    // Of a longer hash the first bits count; where one is, the order has as many bits as these bytes.
    let hash = &hash[..hash.len().min(bytes)];
    let (x, y) = coordinates.split_at(bytes);
    let key = Point::of(curve, number(x), number(y))?;
    let (r, s) = der::numbers(signature)?;
    let n = &curve.order;
    let none = BigUint::default();
    if r == none || s == none || r >= *n || s >= *n {
        return None;
    }
    let inverse = s.modinv(n)?;
    let (u, v) = (number(hash) * &inverse % n, &r * &inverse % n);
    let sum = curve.sum(&curve.times(&u, &curve.base), &curve.times(&v, &key));
    Some(sum.coordinates(curve)?.0 % n == r)
}

#[cfg(test)]
mod tests;
