//! Numbers with a check digit, and colours.

/// White space as a regular expression of Go's means it.
fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ')
}

fn without_spaces(text: &str) -> Vec<u8> {
    text.chars().filter(|c| !is_space(*c) && *c != '-').map(|c| u8::try_from(c).unwrap_or(0)).collect()
}

pub(super) fn is_isbn10(text: &str) -> bool {
    let digits = without_spaces(text);
    let [front @ .., last] = digits.as_slice() else { return false };
    if front.len() != 9 || !front.iter().all(u8::is_ascii_digit) || !(last.is_ascii_digit() || *last == b'X') {
        return false;
    }
    let value = |digit: u8| if digit == b'X' { 10 } else { usize::from(digit - b'0') };
    digits.iter().enumerate().map(|(at, digit)| (at + 1) * value(*digit)).sum::<usize>().is_multiple_of(11)
}

pub(super) fn is_isbn13(text: &str) -> bool {
    let digits = without_spaces(text);
    if digits.len() != 13 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 = digits.iter().enumerate().map(|(at, digit)| u32::from(digit - b'0') * if at % 2 == 0 { 1 } else { 3 }).sum();
    sum.is_multiple_of(10)
}

pub(super) fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.bytes().filter(u8::is_ascii_digit).map(|b| u32::from(b - b'0')).collect();
    let starts = |prefix: &[u32]| digits.starts_with(prefix);
    let two = digits.first_chunk::<2>().map_or(0, |[a, b]| a * 10 + b);
    let three = digits.first_chunk::<3>().map_or(0, |[a, b, c]| a * 100 + b * 10 + c);
    let known = match digits.len() {
        13 => starts(&[4]),
        14 => (300..=305).contains(&three) || matches!(two, 36 | 38),
        15 => matches!(two, 34 | 37) || starts(&[2, 1, 3, 1]) || starts(&[1, 8, 0, 0]),
        16 => starts(&[4]) || (51..=55).contains(&two) || starts(&[6, 0, 1, 1]) || two == 65 || three / 10 == 35,
        _ => false,
    };
    let doubled = |digit: u32| if digit >= 5 { digit * 2 - 9 } else { digit * 2 };
    known && digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum::<u32>().is_multiple_of(10)
}

pub(super) fn is_ssn(text: &str) -> bool {
    let shape = |(at, b): (usize, u8)| match at {
        3 | 6 => b == b'-' || b == b' ',
        _ => b.is_ascii_digit(),
    };
    text.len() == 11 && text.bytes().enumerate().all(shape)
}

pub(super) fn is_rgb(text: &str) -> bool {
    let Some(inside) = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')')) else { return false };
    let part = |part: &str| {
        let digits = part.trim_matches(is_space);
        let canonical = digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        canonical && digits.parse::<u8>().is_ok()
    };
    inside.split(',').count() == 3 && inside.split(',').all(part)
}
