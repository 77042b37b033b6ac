//! Points of the curves y² = x³ − 3x + b, in Jacobian coordinates: (x / z², y / z³).

use crate::Nist;
use num_bigint::BigUint;

/// Of the curves whose signatures are only verified: the prime, b, the order, the base's coordinates.
const P224: [&str; 5] = [
    "ffffffffffffffffffffffffffffffff000000000000000000000001",
    "b4050a850c04b3abf54132565044b0b7d7bfd8ba270b39432355ffb4",
    "ffffffffffffffffffffffffffff16a2e0b8f03e13dd29455c5c2a3d",
    "b70e0cbd6bb4bf7f321390b94a03c1d356c21122343280d6115c1d21",
    "bd376388b5f723fb4c22dfe6cd4375a05a07476444d5819985007e34",
];
const P256: [&str; 5] = [
    "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
    "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
    "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
];
const P384: [&str; 5] = [
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
    "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
    "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
];
const B: &str = "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00";
const ORDER: &str = "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409";
const BASE_X: &str = "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66";
const BASE_Y: &str = "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650";
/// The field of P-521 is that of the prime 2⁵²¹ − 1.
const BITS: u32 = 521;

/// A curve.
pub(super) struct Curve {
    prime: BigUint,
    /// The prime is 2⁵²¹ − 1.
    is_mersenne: bool,
    b: BigUint,
    /// How many points the base makes.
    pub(super) order: BigUint,
    pub(super) base: Point,
}

/// A point.
#[derive(Clone)]
pub(super) struct Point {
    x: BigUint,
    y: BigUint,
    /// Nothing where it is the point at infinity.
    z: BigUint,
}

fn hex(text: &str) -> BigUint {
    BigUint::parse_bytes(text.as_bytes(), 16).unwrap_or_default()
}

fn small(n: u32) -> BigUint {
    BigUint::from(n)
}

impl Point {
    fn infinity() -> Self {
        Self { x: small(1), y: small(1), z: small(0) }
    }

    /// The point of these coordinates; none: it is not on the curve.
    pub(super) fn of(curve: &Curve, x: BigUint, y: BigUint) -> Option<Self> {
        let is_within = x < curve.prime && y < curve.prime;
        let right = curve.add(&curve.minus(&curve.mul(&curve.square(&x), &x), &curve.mul(&small(3), &x)), &curve.b);
        (is_within && curve.square(&y) == right).then(|| Self { x, y, z: small(1) })
    }

    fn is_infinity(&self) -> bool {
        self.z == BigUint::default()
    }

    /// Its coordinates; the point at infinity has none.
    pub(super) fn coordinates(&self, curve: &Curve) -> Option<(BigUint, BigUint)> {
        let inverse = self.z.modinv(&curve.prime)?;
        let squared = curve.square(&inverse);
        Some((curve.mul(&self.x, &squared), curve.mul(&curve.mul(&self.y, &squared), &inverse)))
    }
}

impl Curve {
    /// P-521.
    pub(super) fn new() -> Self {
        let prime = (small(1) << BITS) - small(1);
        Self { prime, is_mersenne: true, b: hex(B), order: hex(ORDER), base: Point { x: hex(BASE_X), y: hex(BASE_Y), z: small(1) } }
    }

    pub(super) fn of(curve: Nist) -> Self {
        let [prime, b, order, x, y] = match curve {
            Nist::P224 => P224,
            Nist::P256 => P256,
            Nist::P384 => P384,
            Nist::P521 => return Self::new(),
        }
        .map(hex);
        Self { prime, is_mersenne: false, b, order, base: Point { x, y, z: small(1) } }
    }

    /// Bytes of a coordinate.
    pub(super) fn bytes(&self) -> usize {
        self.prime.bits().div_ceil(8) as usize
    }

    /// What is left of a number: 2⁵²¹ counts as one.
    fn reduced(&self, mut n: BigUint) -> BigUint {
        if !self.is_mersenne {
            return n % &self.prime;
        }
        while n.bits() > u64::from(BITS) {
            n = (&n & &self.prime) + (n >> BITS);
        }
        if n == self.prime { BigUint::default() } else { n }
    }

    fn mul(&self, a: &BigUint, b: &BigUint) -> BigUint {
        self.reduced(a * b)
    }

    fn square(&self, a: &BigUint) -> BigUint {
        self.mul(a, a)
    }

    fn add(&self, a: &BigUint, b: &BigUint) -> BigUint {
        self.reduced(a + b)
    }

    /// Both are within the field.
    fn minus(&self, a: &BigUint, b: &BigUint) -> BigUint {
        self.reduced(a + &self.prime - b)
    }

    fn doubled(&self, p: &Point) -> Point {
        let (delta, gamma) = (self.square(&p.z), self.square(&p.y));
        let beta = self.mul(&p.x, &gamma);
        let alpha = self.mul(&small(3), &self.mul(&self.minus(&p.x, &delta), &self.add(&p.x, &delta)));
        let x = self.minus(&self.square(&alpha), &self.mul(&small(8), &beta));
        let z = self.minus(&self.minus(&self.square(&self.add(&p.y, &p.z)), &gamma), &delta);
        let y = self.mul(&alpha, &self.minus(&self.mul(&small(4), &beta), &x));
        Point { x, y: self.minus(&y, &self.mul(&small(8), &self.square(&gamma))), z }
    }

    /// The sum of two points.
    pub(super) fn sum(&self, p: &Point, q: &Point) -> Point {
        if p.is_infinity() {
            return q.clone();
        }
        if q.is_infinity() {
            return p.clone();
        }
        let (pz, qz) = (self.square(&p.z), self.square(&q.z));
        let (u1, u2) = (self.mul(&p.x, &qz), self.mul(&q.x, &pz));
        let (s1, s2) = (self.mul(&self.mul(&p.y, &qz), &q.z), self.mul(&self.mul(&q.y, &pz), &p.z));
        let (h, r) = (self.minus(&u2, &u1), self.minus(&s2, &s1));
        if h == BigUint::default() {
            return if r == BigUint::default() { self.doubled(p) } else { Point::infinity() };
        }
        let squared = self.square(&h);
        let (cubed, v) = (self.mul(&squared, &h), self.mul(&u1, &squared));
        let x = self.minus(&self.minus(&self.square(&r), &cubed), &self.mul(&small(2), &v));
        let y = self.minus(&self.mul(&r, &self.minus(&v, &x)), &self.mul(&s1, &cubed));
        Point { x, y, z: self.mul(&self.mul(&h, &p.z), &q.z) }
    }

    /// A point so many times, which is a secret: each bit costs a doubling and a sum, whichever it is.
    pub(super) fn times_secret(&self, n: &BigUint, p: &Point) -> Point {
        (0..u64::from(BITS)).rev().fold(Point::infinity(), |out, bit| {
            let doubled = self.doubled(&out);
            let added = self.sum(&doubled, p);
            if n.bit(bit) { added } else { doubled }
        })
    }

    /// A point so many times.
    pub(super) fn times(&self, n: &BigUint, p: &Point) -> Point {
        let mut out = Point::infinity();
        for bit in (0..n.bits()).rev() {
            out = self.doubled(&out);
            if n.bit(bit) {
                out = self.sum(&out, p);
            }
        }
        out
    }
}
