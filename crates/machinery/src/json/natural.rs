//! The order of keys in YAML, as go-yaml sorts them (`sorter.go`).

use std::cmp::Ordering;

/// The order of keys: letters after all else, numbers by their value.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(at) = a.iter().zip(b.iter()).position(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
    let (x, y) = (a[at], b[at]);
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (false, true) => return Ordering::Less,
        (true, false) => return Ordering::Greater,
        (false, false) => {}
    }
    // Zeros that follow other digits are a part of a longer number.
    let within = (x == '0' || y == '0') && a[..at].iter().rev().take_while(|c| c.is_numeric()).any(|c| *c != '0');
    let number = |text: &[char]| {
        let digits = text[at..].iter().take_while(|c| c.is_numeric());
        digits.fold((i64::from(within), 0_usize), |(number, length), c| {
            let digit = i64::from(u32::from(*c)) - i64::from(u32::from('0'));
            (number.wrapping_mul(10).wrapping_add(digit), length + 1)
        })
    };
    number(&a).cmp(&number(&b)).then(x.cmp(&y))
}
