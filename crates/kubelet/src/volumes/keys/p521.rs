//! Keys of the curve P-521 (FIPS 186-5, A.2.2), in the form of PKCS#8 (RFC 5915), and requests that are signed with them.

use p521::BYTES;
use sha2::{Digest, Sha512};

use super::der::{self, ATTRIBUTES, BITS, INTEGER, OCTETS, PUBLIC, SEQUENCE};

/// `id-ecPublicKey` of `secp521r1`.
const ALGORITHM: [u8; 18] = [0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
/// `ecdsa-with-SHA512`.
const SIGNED_BY: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];

fn drawn() -> Result<[u8; BYTES], String> {
    let mut drawn = [0; BYTES];
    getrandom::fill(&mut drawn).map_err(|e| e.to_string())?;
    drawn[0] &= 1;
    Ok(drawn)
}

/// A key, and the request that proves that it is there.
pub(super) fn pair() -> Result<(Vec<u8>, Vec<u8>), String> {
    let (key, point) = loop {
        let key = drawn()?;
        // What is none or too large is drawn again.
        if let Some(point) = p521::public(&key) {
            break (key, point);
        }
    };
    let public = der::of(BITS, &[&[0], &point]);
    let private = der::of(SEQUENCE, &[&der::of(INTEGER, &[&[1]]), &der::of(OCTETS, &[&key]), &der::of(PUBLIC, &[&public])]);
    let pkcs8 = der::of(SEQUENCE, &[&der::of(INTEGER, &[&[0]]), &ALGORITHM, &der::of(OCTETS, &[&private])]);
    let asked = [der::of(INTEGER, &[&[0]]), der::of(SEQUENCE, &[]), der::of(SEQUENCE, &[&ALGORITHM, &public]), der::of(ATTRIBUTES, &[])].concat();
    let asked = der::of(SEQUENCE, &[&asked]);
    let hash = Sha512::digest(&asked);
    let signature = loop {
        if let Some(signature) = p521::sign(&key, &drawn()?, &hash) {
            break signature;
        }
    };
    let request = der::of(SEQUENCE, &[&asked, &SIGNED_BY, &der::of(BITS, &[&[0], &signature])]);
    Ok((pkcs8, request))
}
