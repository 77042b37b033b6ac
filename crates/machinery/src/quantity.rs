//! Resource quantities: `100m`, `1.5Gi`, `2e3` (`apimachinery/pkg/api/resource`).
//!
//! A quantity is a number of billionths with the notation that it was written in; it is printed with the largest suffix that
//! leaves no fraction. What is finer than a billionth is rounded up, as upstream does. What is computed with ends at some
//! 10^29; what is stored is the text ([`canonical`]), which is exact.

mod canonical;

pub use canonical::{canonical, rounded_to_milli};

use canonical::{Parts, Unit};
use std::{
    cmp::Ordering,
    fmt,
    ops::{Add, AddAssign, Neg, Sub, SubAssign},
    str::FromStr,
};
use thiserror::Error;

/// Billionths in one.
const NANO: i128 = 1_000_000_000;

/// The most digits that are read before the number is out of range anyhow.
const DIGITS_LIMIT: usize = 38;

/// How a quantity is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `k`, `M`, …, and `m`, `u`, `n`: powers of 1000.
    #[default]
    Decimal,
    /// `Ki`, `Mi`, …: powers of 1024.
    Binary,
    /// `e3`, `e6`, ….
    Exponent,
}

/// A text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// No number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// An unknown suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format }
    }

    /// The whole number, rounded up; the end of the range if it is out of it.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// The number of thousandths, rounded up.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// Whether it is an integer, to a thousandth.
    pub fn is_whole(self) -> bool {
        let part = (self.nanos % NANO).abs();
        // The rest of a thousandth counts as a whole one.
        part == 0 || part > NANO - NANO / 1000
    }

    /// As a float, for ratios.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// The notation.
    pub fn format(self) -> Format {
        self.format
    }

    fn scaled(self, unit: i128) -> i64 {
        // Rounded away from zero, as upstream's ScaledValue.
        let (quotient, rest) = (self.nanos / unit, self.nanos % unit);
        let rounded = quotient + rest.signum();
        i64::try_from(rounded).unwrap_or(if rounded > 0 { i64::MAX } else { i64::MIN })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The notation is that of the first unless it is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: self.nanos.saturating_neg(), ..self }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |a, b| a + b)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = Parts::scan(text)?;
        let (scale, format) = match parts.unit {
            // Finer than a billionth is rounded up to one; beyond the range it is out of it.
            Unit::Decimal(exponent) => (10i128.pow(power(exponent)), Format::Decimal),
            Unit::Exponent(exponent) => (10i128.pow(power(exponent)), Format::Exponent),
            Unit::Binary(power) => (NANO << (10 * power), Format::Binary),
        };
        let fine = matches!(parts.unit, Unit::Exponent(exponent) if exponent < -9);
        let nanos = if fine {
            fine_nanos(&parts)
        } else if parts.whole.len() > DIGITS_LIMIT {
            i128::MAX
        } else {
            let whole: i128 = if parts.whole.is_empty() { 0 } else { parts.whole.parse().unwrap_or(i128::MAX) };
            whole.saturating_mul(scale).saturating_add(fraction_of(parts.fraction, scale))
        };
        // 2^63-1 is the largest number in binary notation.
        let nanos = if format == Format::Binary { nanos.min(i128::from(i64::MAX) * NANO) } else { nanos };
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format })
    }
}

/// The power of ten that makes billionths of a unit.
fn power(exponent: i64) -> u32 {
    u32::try_from((exponent + 9).clamp(0, 38)).unwrap_or(0)
}

/// Billionths of a number whose unit is finer than one, rounded up.
fn fine_nanos(parts: &Parts<'_>) -> i128 {
    let Unit::Exponent(exponent) = parts.unit else { return 0 };
    let drop = usize::try_from(-9 - exponent).unwrap_or(usize::MAX);
    let keep = parts.whole.len().saturating_sub(drop);
    let (kept, dropped) = parts.whole.split_at(keep);
    let more = dropped.bytes().chain(parts.fraction.bytes()).any(|b| b != b'0');
    let whole: i128 = if kept.is_empty() { 0 } else { kept.parse().unwrap_or(i128::MAX) };
    whole.saturating_add(i128::from(more))
}

/// The digits behind the point, times the scale, rounded up.
fn fraction_of(digits: &str, scale: i128) -> i128 {
    let (mut out, mut unit, mut more) = (0i128, scale, false);
    for digit in digits.bytes().map(|b| i128::from(b - b'0')) {
        if unit == 0 {
            more |= digit != 0;
            continue;
        }
        // Ten units of this place are one of the place before; what does not divide any more is only rounded up.
        let value = digit.saturating_mul(unit);
        out = out.saturating_add(value / 10);
        more |= value % 10 != 0;
        more |= unit % 10 != 0 && digit != 0 && unit < 10;
        unit /= 10;
    }
    out.saturating_add(i128::from(more))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Small numbers and fractions in binary notation are written in decimal, so as not to be rounded.
        let rounded = self.nanos.abs() < 1024 * NANO || self.nanos % NANO != 0;
        let format = if self.format == Format::Binary && rounded { Format::Decimal } else { self.format };
        if format == Format::Binary {
            let (mut number, mut power) = (i128::from(self.value()), 0);
            while number % 1024 == 0 && power < 6 {
                number /= 1024;
                power += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut number, mut power) = (self.nanos, 0);
        while number % 1000 == 0 && power < 9 {
            number /= 1000;
            power += 1;
        }
        match (format, power) {
            (Format::Exponent, 3) => write!(f, "{number}"),
            (Format::Exponent, _) => write!(f, "{number}e{}", power as i32 * 3 - 9),
            _ => write!(f, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        super::canonical(text).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn canonical_forms() {
        for (text, form) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1."),
            ("1500", "1500"),
            ("1000", "1k"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("9E", "9E"),
            ("-5", "-5"),
            ("+5", "+5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.1Ki", "1126400m"),
            ("2.5e-1", "250e-3"),
            ("9999E", "9999E"),
            ("9999Ei", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text), form, "{text}");
        }
    }

    #[test]
    fn what_is_stored_is_exact() {
        let long = "12345678901234567890123";
        for (text, form) in [
            (long, long),
            ("9223372036854775808", "9223372036854775808"),
            ("1e300", "1e300"),
            ("10e300", "10e300"),
            ("1000e300", "1e303"),
            ("-12345678901234567890123m", "-12345678901234567890123m"),
            ("0.12345678901234567", "123456790n"),
            ("1e-1000000", "1e-9"),
            ("01", "01"),
            ("1.500", "1.500"),
            ("1E3", "1E3"),
            ("1.0", "1"),
            ("100.0", "100"),
            ("0.999999999999999999999", "1"),
            ("8Mi", "8Mi"),
            ("+1Mi", "+1Mi"),
            ("+8Mi", "8Mi"),
            ("100.00", "100"),
            ("1000000000000000000000000E", "1000000000000000000000000E"),
        ] {
            assert_eq!(canonical(text), form, "{text}");
        }
        let digits = "7".repeat(5000);
        assert_eq!(canonical(&digits), digits);
        let start = std::time::Instant::now();
        assert_eq!(canonical(&"9".repeat(3 << 20)).len(), 3 << 20);
        assert_eq!(canonical("1e2147483647"), "10e2147483646");
        assert_eq!(canonical("1E9999999999999"), "unable to parse quantity's suffix");
        assert!(start.elapsed().as_secs() < 60);
        let q = |t: &str| t.parse::<Quantity>().unwrap_or_default();
        assert!(q("9223372036854775808") > q("9223372036854775807") && q("1e300") > q("1e20"));
        assert_eq!(q("1e300").value(), i64::MAX);
        assert_eq!((q("1e-12"), q("1500e-12")), (q("1n"), q("2n")));
        assert_eq!(q(&format!("0.{}1", "0".repeat(50))), q("1n"));
    }

    #[test]
    fn lists_of_resources_have_nothing_finer_than_a_milli() {
        for (text, rounded) in [
            ("1n", Some("1m")),
            ("1u", Some("1m")),
            ("0.1n", Some("1m")),
            ("1e-1000000", Some("1e-3")),
            ("1000001u", Some("1001m")),
            ("1.0001", Some("1001m")),
            ("-1n", Some("-1m")),
            ("1m", None),
            ("1.5", None),
            ("1", None),
            ("1e3", None),
            ("1.5Gi", None),
            ("x", None),
        ] {
            assert_eq!(rounded_to_milli(text).as_deref(), rounded, "{text}");
        }
    }

    #[test]
    fn values_are_rounded_up() {
        let q = |t: &str| t.parse::<Quantity>().unwrap_or_default();
        assert_eq!((q("1m").value(), q("1500m").value(), q("1500m").milli_value(), q("1n").milli_value()), (1, 2, 1500, 1));
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "1.2.3", "1 Gi", "1Zi", "0x1", "1Xi"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert_eq!(canonical("1Zi"), ParseError::Format.to_string());
        // Upstream finds no digit in these, and nothing wrong.
        assert_eq!((canonical("-"), canonical("."), canonical("e3")), ("0".into(), "0".into(), "0".into()));
        assert_eq!(canonical("1ki"), "unable to parse quantity's suffix");
    }
}
