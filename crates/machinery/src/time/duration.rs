//! Durations as Go writes and reads them (`time.Duration.String`, `time.ParseDuration`), to the nanosecond.

use super::layout;
use crate::quote::bytes_of;
use std::time::Duration;

/// A duration as Go writes it: `1h0m5s`, `15.013s`, `1.5ms`.
pub fn go_duration(duration: Duration) -> String {
    /// A number of units of so many nanoseconds, without zeros at its end.
    fn number(nanos: u128, unit: u128) -> String {
        let (whole, rest) = (nanos / unit, nanos % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let digits = unit.ilog10() as usize;
        format!("{whole}.{rest:0digits$}").trim_end_matches('0').to_owned()
    }
    let (nanos, seconds) = (duration.as_nanos(), duration.as_secs());
    match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => return format!("{}µs", number(nanos, 1_000)),
        1_000_000..1_000_000_000 => return format!("{}ms", number(nanos, 1_000_000)),
        _ => {}
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = number(nanos - u128::from(seconds / 60) * 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// The largest amount that Go adds up: that of the least `i64`, which only a sign brings into the range.
const AMOUNT_MAX: u64 = 1 << 63;

/// Why a text is no duration.
enum Wrong<'t> {
    Form,
    NoUnit,
    Unit(&'t str),
}

/// Nanoseconds of a duration as Go writes it: `1m30s`, `.5h`, `-1s`, `0`.
///
/// # Errors
/// In Go's words.
pub fn parse_go_duration(text: &str) -> Result<i64, String> {
    amount(text).map_err(|wrong| match wrong {
        Wrong::Form => format!("time: invalid duration {}", quoted(text)),
        Wrong::NoUnit => format!("time: missing unit in duration {}", quoted(text)),
        Wrong::Unit(unit) => format!("time: unknown unit {} in duration {}", quoted(unit), quoted(text)),
    })
}

fn amount(text: &str) -> Result<i64, Wrong<'_>> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(Wrong::Form);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (part, after) = part(rest)?;
        // Neither is above 2^63, so that their sum is an u64 or just too large for one.
        total = total.checked_add(part).filter(|total| *total <= AMOUNT_MAX).ok_or(Wrong::Form)?;
        rest = after;
    }
    if negative { Ok((total as i64).wrapping_neg()) } else { i64::try_from(total).map_err(|_| Wrong::Form) }
}

/// The nanoseconds of a number and its unit, and what follows them.
fn part(text: &str) -> Result<(u64, &str), Wrong<'_>> {
    let (whole, after) = text.split_at(digits(text));
    let (fraction, after) = after.strip_prefix('.').map_or(("", after), |after| after.split_at(digits(after)));
    if whole.is_empty() && fraction.is_empty() {
        return Err(Wrong::Form);
    }
    // A number that is too large is told before its unit is looked at.
    let whole = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|whole| *whole <= AMOUNT_MAX).ok_or(Wrong::Form)? };
    let (name, after) = after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
    let unit: u64 = match name {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(Wrong::NoUnit),
        _ => return Err(Wrong::Unit(name)),
    };
    let whole = whole.checked_mul(unit).filter(|nanos| *nanos <= AMOUNT_MAX).ok_or(Wrong::Form)?;
    let (value, scale) = leading_fraction(fraction);
    // A float is exact enough: what is added is less than the unit, and an hour has 3.6e12 nanoseconds.
    let nanos = whole + (value as f64 * (unit as f64 / scale)) as u64;
    if nanos > AMOUNT_MAX { Err(Wrong::Form) } else { Ok((nanos, after)) }
}

/// The digits of a fraction as a number and what it is divided by; those that do not fit are left out.
fn leading_fraction(digits: &str) -> (u64, f64) {
    let (mut value, mut scale) = (0_u64, 1_f64);
    for digit in digits.bytes() {
        let next = (value <= (AMOUNT_MAX - 1) / 10).then(|| value * 10 + u64::from(digit - b'0')).filter(|next| *next <= AMOUNT_MAX);
        match next {
            Some(next) => (value, scale) = (next, scale * 10.0),
            None => break,
        }
    }
    (value, scale)
}

/// How many digits a text begins with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// As package `time` quotes what it refuses.
fn quoted(text: &str) -> String {
    layout::quoted(&bytes_of(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        let p = |nanos| go_duration(Duration::from_nanos(nanos));
        let s = 1_000_000_000;
        assert_eq!([p(10 * s), p(80 * s), p(300 * s), p(3600 * s)], ["10s", "1m20s", "5m0s", "1h0m0s"]);
        assert_eq!(
            [p(0), p(7), p(1_500), p(1_050_000), p(15_013_000_000), p(3_605_000_000_100)],
            ["0s", "7ns", "1.5µs", "1.05ms", "15.013s", "1h0m5.0000001s"]
        );
    }

    /// The cases of Go's own test of `ParseDuration`, and the ends of what its numbers hold.
    #[test]
    fn durations_are_read_as_go_does() {
        let known = [
            ("0", 0),
            ("-0", 0),
            ("+5s", 5_000_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.004s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10.5s4m", 250_500_000_000),
            ("-2m3.4s", -123_400_000_000),
            ("12us12µs12μs", 36_000),
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.830103483285477580700h", 2_988_372_539_827),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775807ns", i64::MAX),
            ("9223372036.854775807s", i64::MAX),
            ("9223372036s854ms775us807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("-9223372036s854ms775us808ns", i64::MIN),
            ("-2562047h47m16.854775808s", i64::MIN),
        ];
        for (text, nanos) in known {
            assert_eq!(parse_go_duration(text), Ok(nanos), "{text}");
        }
        let form = ["", "-", "s", ".", "-.", ".s", "+.s", "1s 1s", "3000000h", "9223372036854775808ns", "9223372036854775.808us", "-9223372036854775809ns"];
        let far = ["99999999999999999999x", "9223372036854775808ns1ns", "--1s", "1.5.5s", "18446744073709551615ns"];
        for text in form.into_iter().chain(far) {
            let why = match text {
                "1s 1s" => "time: unknown unit \"s \" in duration \"1s 1s\"".to_owned(),
                "1.5.5s" => "time: missing unit in duration \"1.5.5s\"".to_owned(),
                _ => format!("time: invalid duration {text:?}"),
            };
            assert_eq!(parse_go_duration(text), Err(why), "{text}");
        }
        let odd = crate::quote::text_of(b"1\xff".to_vec());
        assert_eq!(parse_go_duration(&odd).unwrap_err(), r#"time: unknown unit "\xff" in duration "1\xff""#);
        assert_eq!(parse_go_duration("3").unwrap_err(), "time: missing unit in duration \"3\"");
        assert_eq!(parse_go_duration("3x\"µ\n").unwrap_err(), "time: unknown unit \"x\\\"\\xc2\\xb5\\x0a\" in duration \"3x\\\"\\xc2\\xb5\\x0a\"");
    }
}
