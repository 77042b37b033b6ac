//! RSA keys (FIPS 186-5, A.1.3, with random primes), in the form of PKCS#8.
//!
//! A candidate is drawn anew each time, so that all primes are as likely as each other; small divisors sort out most of them.

use num_bigint::BigUint;

use super::der::{self, INTEGER, OCTETS, SEQUENCE};

/// The public exponent, which is prime.
const EXPONENT: u32 = 65_537;
/// Divisors up to here are tried first.
const SMALL_MAX: u32 = 2_000;
/// Rounds of Miller and Rabin's test: more than FIPS 186-5 asks for random numbers of these sizes (table B.1: 4).
const ROUNDS: usize = 8;
/// `rsaEncryption` with its parameter, which is nothing.
const ALGORITHM: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// A key whose modulus has so many bits.
pub(super) fn pkcs8(bits: usize) -> Result<Vec<u8>, String> {
    let small = small_primes();
    let (one, e) = (BigUint::from(1_u32), BigUint::from(EXPONENT));
    let first = prime(bits / 2, &small)?;
    let second = loop {
        let second = prime(bits / 2, &small)?;
        let apart = if second > first { &second - &first } else { &first - &second };
        // Numbers that are near each other are found from their product.
        if apart.bits() > bits as u64 / 2 - 100 {
            break second;
        }
    };
    let (p, q) = if first > second { (first, second) } else { (second, first) };
    let (p1, q1) = (&p - &one, &q - &one);
    let missing = || "a prime has no inverse".to_owned();
    let d = e.modinv(&(&p1 * &q1)).ok_or_else(missing)?;
    let inverse = q.modinv(&p).ok_or_else(missing)?;
    let numbers = [BigUint::default(), &p * &q, e, d.clone(), p, q, &d % &p1, &d % &q1, inverse].map(|n| integer(&n)).concat();
    let key = der::of(SEQUENCE, &[&numbers]);
    Ok(der::of(SEQUENCE, &[&der::of(INTEGER, &[&[0]]), &ALGORITHM, &der::of(OCTETS, &[&key])]))
}

fn integer(n: &BigUint) -> Vec<u8> {
    let bytes = n.to_bytes_be();
    // A first bit that is set would say that it is negative.
    let sign: &[u8] = if bytes[0] & 0x80 == 0 { &[] } else { &[0] };
    der::of(INTEGER, &[sign, &bytes])
}

fn small_primes() -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    for n in 3..SMALL_MAX {
        if n % 2 == 1 && found.iter().take_while(|p| **p * **p <= n).all(|p| n % p != 0) {
            found.push(n);
        }
    }
    found
}

fn random(bytes: usize) -> Result<BigUint, String> {
    let mut drawn = vec![0; bytes];
    getrandom::fill(&mut drawn).map_err(|e| e.to_string())?;
    Ok(BigUint::from_bytes_be(&drawn))
}

/// A prime of so many bits, whose two highest are set, so that a product of two has all of its own.
fn prime(bits: usize, small: &[u32]) -> Result<BigUint, String> {
    let last = bits as u64 - 1;
    loop {
        let mut n = random(bits / 8)?;
        for bit in [0, last - 1, last] {
            n.set_bit(bit, true);
        }
        let has = |p: &u32| (&n % *p) == BigUint::default();
        // One less must have nothing in common with the exponent.
        let unfit = (&n % EXPONENT) == BigUint::from(1_u32);
        if !unfit && !small.iter().any(has) && is_prime(&n)? {
            return Ok(n);
        }
    }
}

/// Whether an odd number is prime, as good as surely.
fn is_prime(n: &BigUint) -> Result<bool, String> {
    let (one, two) = (BigUint::from(1_u32), BigUint::from(2_u32));
    let less = n - &one;
    let twos = less.trailing_zeros().unwrap_or(0);
    let odd = &less >> twos;
    let bytes = usize::try_from(n.bits()).unwrap_or(0).div_ceil(8);
    'rounds: for _ in 0..ROUNDS {
        let base = random(bytes)? % (&less - &two) + &two;
        let mut x = base.modpow(&odd, n);
        if x == one || x == less {
            continue;
        }
        for _ in 1..twos {
            x = x.modpow(&two, n);
            if x == less {
                continue 'rounds;
            }
        }
        return Ok(false);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let prime = |text: &str| is_prime(&text.parse().unwrap()).unwrap();
        for p in ["101", "65537", "2305843009213693951", "170141183460469231731687303715884105727"] {
            assert!(prime(p), "{p}");
        }
        // Among them what Fermat's test takes for prime.
        for n in ["561", "1105", "41041", "3215031751", "2305843009213693953", "340282366920938463463374607431768211457"] {
            assert!(!prime(n), "{n}");
        }
        assert_eq!(small_primes()[..6], [3, 5, 7, 11, 13, 17]);
    }

    #[test]
    fn a_prime_has_its_bits() {
        let small = small_primes();
        let p = prime(512, &small).unwrap();
        assert_eq!(p.bits(), 512);
        assert!(p.bit(510) && p.bit(0));
    }
}
