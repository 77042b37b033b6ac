//! A signature as DER: a sequence of two positive numbers.

use num_bigint::BigUint;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// A length of one byte that is 128 or more.
const LONG: u8 = 0x81;

/// Of its two numbers.
pub(super) fn signature(r: &BigUint, s: &BigUint) -> Vec<u8> {
    let mut numbers = Vec::new();
    for number in [r, s] {
        let bytes = number.to_bytes_be();
        // A first bit that is set would say that it is negative.
        let sign = usize::from(bytes[0] >> 7);
        numbers.extend([INTEGER, (bytes.len() + sign) as u8]);
        numbers.extend(std::iter::repeat_n(0, sign).chain(bytes));
    }
    let head: &[u8] = if numbers.len() < 0x80 { &[SEQUENCE] } else { &[SEQUENCE, LONG] };
    [head, &[numbers.len() as u8], &numbers].concat()
}

/// Its two numbers, if it is written as DER wants it.
pub(super) fn numbers(signature: &[u8]) -> Option<(BigUint, BigUint)> {
    let rest = match signature {
        [SEQUENCE, LONG, len, rest @ ..] if *len >= 0x80 && usize::from(*len) == rest.len() => rest,
        [SEQUENCE, len, rest @ ..] if *len < 0x80 && usize::from(*len) == rest.len() => rest,
        _ => return None,
    };
    let (r, rest) = integer(rest)?;
    let (s, rest) = integer(rest)?;
    rest.is_empty().then_some((r, s))
}

fn integer(bytes: &[u8]) -> Option<(BigUint, &[u8])> {
    let [INTEGER, len, rest @ ..] = bytes else { return None };
    let (number, rest) = rest.split_at_checked(usize::from(*len))?;
    let is_minimal = match number {
        [] => false,
        [0, second, ..] => *second >= 0x80,
        [first, ..] => *first < 0x80,
    };
    (*len < 0x80 && is_minimal).then(|| (BigUint::from_bytes_be(number), rest))
}
