//! The order of keys in YAML, as go-yaml sorts them (`sorter.go`).

use std::cmp::Ordering;

/// Sorts by keys. The order goes in circles (`10` < `1a` < `2` < `10`), at which the standard library's sorts may panic: this one
/// merges runs of twice the length in each pass, and ends with all that there was whatever it is told.
pub(super) fn sort<'v, T: Copy>(members: &mut [T], key: impl Fn(&T) -> &'v str) {
    let (mut from, mut length) = (members.to_vec(), 1);
    while length < members.len() {
        for (pair, out) in from.chunks(2 * length).zip(members.chunks_mut(2 * length)) {
            let (mut left, mut right) = pair.split_at(length.min(pair.len()));
            for place in out {
                let side = match (left.first(), right.first()) {
                    (Some(a), Some(b)) if order(key(a), key(b)).is_gt() => &mut right,
                    (Some(_), _) => &mut left,
                    (None, _) => &mut right,
                };
                if let Some((next, rest)) = side.split_first() {
                    (*place, *side) = (*next, rest);
                }
            }
        }
        from.copy_from_slice(members);
        length *= 2;
    }
}

/// The order of keys: letters after all else, numbers by their value.
fn order(a: &str, b: &str) -> Ordering {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_goes_in_circles_sorts_and_loses_nothing() {
        assert!(["10", "1a", "2", "10"].windows(2).all(|pair| order(pair[0], pair[1]).is_lt()));
        for count in 0..200_u32 {
            // Digests, as keys of maps often are.
            let keys: Vec<String> = (1..=count).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
            let mut sorted: Vec<&str> = keys.iter().map(String::as_str).collect();
            sort(&mut sorted, |key| key);
            let mut found = sorted.clone();
            found.sort_unstable();
            let mut all: Vec<&str> = keys.iter().map(String::as_str).collect();
            all.sort_unstable();
            assert_eq!(found, all);
        }
        let mut plain = ["b", "a10", "a", "-", "a9", "01", "1", "B"];
        sort(&mut plain, |key| key);
        assert_eq!(plain, ["-", "1", "01", "B", "a", "a9", "a10", "b"]);
    }
}
