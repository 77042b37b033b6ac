//! The text of a quantity, as Go keeps it: exact, however many digits it has, since a stored value must not change silently.
//!
//! All is done on the digits; nothing is computed that could be large. Only quantities in binary notation have an end, the
//! largest 64-bit integer, as in upstream.

use super::{ParseError, Quantity};

/// Digits of a quantity that upstream holds in a 64-bit integer; only then it may keep the sender's spelling.
const SPELLING_DIGITS_MAX: usize = 18;
const NANO: i64 = -9;
const MILLI: i64 = -3;
/// The exponents of the decimal suffixes.
const SUFFIXES: [(&str, i64); 10] = [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A quantity's text in its parts.
pub(super) struct Parts<'t> {
    pub(super) negative: bool,
    /// Digits before the point, without leading zeros.
    pub(super) whole: &'t str,
    /// Digits behind the point.
    pub(super) fraction: &'t str,
    pub(super) unit: Unit,
}

/// What the number is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A power of ten, by suffix.
    Decimal(i64),
    /// A power of ten, written as an exponent.
    Exponent(i64),
    /// A power of 1024.
    Binary(u32),
}

impl<'t> Parts<'t> {
    /// Scans as upstream does, so that the same texts are refused for the same reason.
    pub(super) fn scan(text: &'t str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let digits = |text: &'t str| text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
        let (whole, rest) = digits(unsigned.trim_start_matches('0'));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => digits(rest),
            None => ("", rest),
        };
        let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let tail = &suffix[letters..];
        if !tail.strip_prefix(['-', '+']).unwrap_or(tail).bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Format);
        }
        Ok(Self { negative: text.starts_with('-'), whole, fraction, unit: Unit::of(suffix)? })
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.bytes().all(|b| b == b'0')
    }
}

impl Unit {
    fn of(suffix: &str) -> Result<Self, ParseError> {
        if let Some((_, exponent)) = SUFFIXES.iter().find(|(s, _)| *s == suffix) {
            return Ok(Self::Decimal(*exponent));
        }
        if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
            return Ok(Self::Binary(u32::try_from(power + 1).unwrap_or(1)));
        }
        // Upstream cuts greater exponents to 32 bits and may then compute for ever.
        let exponent: i32 = suffix.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok()).ok_or(ParseError::Suffix)?;
        Ok(Self::Exponent(exponent.into()))
    }
}

/// The text that is kept for a quantity.
///
/// # Errors
/// For what is no quantity.
pub fn canonical(text: &str) -> Result<String, ParseError> {
    let parts = Parts::scan(text)?;
    if parts.is_zero() {
        return Ok("0".to_owned());
    }
    if keeps_spelling(&parts) {
        return Ok(text.to_owned());
    }
    Ok(match parts.unit {
        // A fraction of it, or more than there may be, is as the number that is computed with.
        Unit::Binary(_) => text.parse::<Quantity>()?.to_string(),
        Unit::Decimal(exponent) => decimal(&parts, exponent, false, NANO),
        Unit::Exponent(exponent) => decimal(&parts, exponent, true, NANO),
    })
}

/// The canonical text of a quantity rounded up to thousandths, as upstream's defaulting does to lists of resources. What
/// has nothing finer, or is no quantity, is `None`.
pub fn rounded_to_milli(text: &str) -> Option<String> {
    let fine = text.ends_with(['n', 'u']) || text.contains(['.', 'e', 'E']);
    let parts = fine.then(|| Parts::scan(text).ok()).flatten()?;
    let (exponent, is_exponent) = match parts.unit {
        Unit::Decimal(exponent) => (exponent, false),
        Unit::Exponent(exponent) => (exponent, true),
        Unit::Binary(_) => return None,
    };
    let fraction = i64::try_from(parts.fraction.len()).unwrap_or(i64::MAX);
    (!parts.is_zero() && exponent - fraction < MILLI).then(|| decimal(&parts, exponent, is_exponent, MILLI))
}

/// Upstream keeps the spelling of numbers that are in canonical form in its eyes.
fn keeps_spelling(parts: &Parts<'_>) -> bool {
    let (whole, fraction) = (parts.whole.len().max(1), parts.fraction.len());
    match parts.unit {
        Unit::Decimal(exponent) | Unit::Exponent(exponent) => {
            let scale = exponent - i64::try_from(fraction).unwrap_or(i64::MAX);
            let zeros = |text: &str| text.bytes().rev().take_while(|b| *b == b'0').count();
            let in_fraction = zeros(parts.fraction);
            let rounds = in_fraction + if in_fraction == fraction { zeros(parts.whole) } else { 0 } >= 3;
            whole + fraction <= SPELLING_DIGITS_MAX && scale >= NANO && scale % 3 == 0 && !rounds && !parts.whole.is_empty()
        }
        Unit::Binary(power) => {
            let value: i64 = parts.whole.parse().unwrap_or(0);
            // A power of 1024 has three digits.
            let digits = whole + 3 * power as usize + 1;
            fraction == 0 && digits <= 15 && value & 7 != 0 && value.checked_mul(1 << (10 * power)).is_some()
        }
    }
}

/// A decimal number with its suffix: no finer than `finest`, rounded up, and with as few digits as there can be.
fn decimal(parts: &Parts<'_>, exponent: i64, is_exponent: bool, finest: i64) -> String {
    let all = [parts.whole, parts.fraction].concat();
    let mut digits = all.trim_start_matches('0').as_bytes().to_vec();
    let mut exponent = exponent - i64::try_from(parts.fraction.len()).unwrap_or(i64::MAX);
    if exponent < finest {
        let drop = usize::try_from(finest - exponent).unwrap_or(usize::MAX);
        let keep = digits.len().saturating_sub(drop);
        let inexact = drop > digits.len() || digits[keep..].iter().any(|d| *d != b'0');
        digits.truncate(keep);
        if inexact {
            increment(&mut digits);
        }
        exponent = finest;
    }
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    // There are no suffixes beyond the last, nor between them.
    let last = if is_exponent { i64::MAX } else { 18 };
    while exponent % 3 != 0 || exponent > last {
        digits.push(b'0');
        exponent -= 1;
    }
    let sign = if parts.negative { "-" } else { "" };
    let digits = String::from_utf8(digits).unwrap_or_default();
    match SUFFIXES.iter().find(|(_, e)| *e == exponent) {
        _ if is_exponent && exponent != 0 => format!("{sign}{digits}e{exponent}"),
        Some((suffix, _)) if !is_exponent => format!("{sign}{digits}{suffix}"),
        _ => format!("{sign}{digits}"),
    }
}

/// One more.
fn increment(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    digits.insert(0, b'1');
}
