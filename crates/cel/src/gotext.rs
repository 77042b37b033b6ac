//! Numbers, texts and durations as Go reads and writes them: what expressions show and what errors quote.

/// `strconv.ParseInt(text, 10, 64)`.
pub fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// `strconv.ParseUint(text, 10, 64)`: no sign.
pub fn parse_uint(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseFloat(text, 64)`: what is too large for a float is none.
pub fn parse_float(text: &str) -> Option<f64> {
    if text.contains('_') {
        return parse_float(&without_underscores(text)?);
    }
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1.0, &text[1..]),
        b'-' => (-1.0, &text[1..]),
        _ => (1.0, text),
    };
    if digits.eq_ignore_ascii_case("inf") || digits.eq_ignore_ascii_case("infinity") {
        return Some(sign * f64::INFINITY);
    }
    if text.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    }
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return hex_float(hex).map(|value| sign * value).filter(|value| value.is_finite());
    }
    let numeric = |c: u8| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-');
    if !digits.bytes().all(numeric) || digits.starts_with(['+', '-']) {
        return None;
    }
    digits.parse::<f64>().ok().filter(|value| value.is_finite()).map(|value| sign * value)
}

/// A number without the underscores between its digits, where they may stand (`underscoreOK`): a base's prefix is one of the digits.
fn without_underscores(text: &str) -> Option<String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = digits.to_ascii_lowercase();
    let based = ["0b", "0o", "0x"].iter().any(|prefix| lower.starts_with(prefix));
    let is_hex = lower.starts_with("0x");
    let (mut before, mut rest) = (if based { '0' } else { '!' }, lower.as_str());
    if based {
        rest = &lower[2..];
    }
    for letter in rest.chars() {
        let is_digit = letter.is_ascii_digit() || (is_hex && letter.is_ascii_hexdigit());
        if (letter == '_' && before != '0') || (letter != '_' && !is_digit && before == '_') {
            return None;
        }
        before = if is_digit { '0' } else { letter };
    }
    (before != '_').then(|| text.replace('_', ""))
}

/// `1.8p3` of `0x1.8p3`; the exponent is a must.
fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let mut exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0f64;
    for digit in whole.chars() {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    for digit in fraction.chars() {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
        exponent = exponent.saturating_sub(4);
    }
    Some(value * 2f64.powi(exponent))
}

/// `%g` and `%v`: the shortest that reads back, with an exponent below -4 and from 6 on.
pub fn general(value: f64) -> String {
    if let Some(text) = nonfinite(value, true) {
        return text.to_owned();
    }
    machinery::numerals::float(value)
}

/// `strconv.FormatFloat(value, 'f', -1, 64)`: the shortest without an exponent.
pub fn fixed_shortest(value: f64) -> String {
    nonfinite(value, true).map_or_else(|| format!("{value}"), str::to_owned)
}

/// NaN and the infinities as Go writes them.
pub fn nonfinite(value: f64, plus: bool) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some(if plus { "+Inf" } else { "∞" }),
        f64::NEG_INFINITY => Some(if plus { "-Inf" } else { "-∞" }),
        _ => None,
    }
}

/// `strconv.Quote`.
pub fn quote(text: &str) -> String {
    machinery::quote::Quoted(text).to_string()
}

/// Nanoseconds as seconds: `1.5s`. Through a float, as the original.
pub fn seconds(nanos: i64) -> String {
    let whole = (nanos / 1_000_000_000) as f64;
    let rest = (nanos % 1_000_000_000) as f64;
    format!("{}s", fixed_shortest(whole + rest / 1e9))
}

/// `time.Duration.String`: `1h2m3.5s`.
pub fn duration(nanos: i64) -> String {
    let shown = machinery::time::go_duration(std::time::Duration::from_nanos(nanos.unsigned_abs()));
    if nanos < 0 { format!("-{shown}") } else { shown }
}

/// `time.ParseDuration`.
pub fn parse_duration(text: &str) -> Option<i64> {
    machinery::time::parse_go_duration(text).ok()
}

/// How many digits a text begins with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// A duration as the format of OpenAPI has it (`kube-openapi/pkg/validation/strfmt`): Go's, or numbers with the names of units
/// anywhere in the text.
pub fn lenient_duration(text: &str) -> Option<i64> {
    /// The short names count alone, the last of a row also as the beginning of a longer one.
    const UNITS: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "µs", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], 1_000_000_000),
        (&["m", "min"], 60_000_000_000),
        (&["h", "hr", "hour"], 3_600_000_000_000),
        (&["d", "day"], 86_400_000_000_000),
        (&["w", "wk", "week"], 604_800_000_000_000),
    ];
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let mut total: i64 = 0;
    let mut any = false;
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (number, after) = rest[start..].split_at(digits(&rest[start..]));
        let unit_start = after.trim_start();
        let end = unit_start.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(unit_start.len());
        let (unit, after) = unit_start.split_at(end);
        rest = after;
        if unit.is_empty() {
            continue;
        }
        let factor: i64 = number.parse().ok()?;
        let unit = unit.to_lowercase();
        for (names, nanos) in UNITS {
            for (at, name) in names.iter().enumerate() {
                if unit == *name || (at + 1 == names.len() && unit.starts_with(name)) {
                    any = true;
                    total = total.wrapping_add(factor.wrapping_mul(nanos));
                }
            }
        }
    }
    any.then_some(total)
}

/// Base64 with the usual alphabet and its padding, as protobuf's JSON has bytes.
pub fn to_base64(bytes: &[u8]) -> String {
    machinery::json::in_base64(bytes)
}

/// Base64 with the alphabet of URLs and its padding, line ends skipped; else the place of the first wrong byte.
///
/// # Errors
/// Where that is.
pub fn base64(text: &str) -> Result<Vec<u8>, usize> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut bits: u32 = 0;
    let mut have = 0;
    let mut letters = text.bytes().enumerate().filter(|(_, c)| !matches!(c, b'\r' | b'\n')).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == b'=' {
            // Padding: as many as are missing, and nothing after it.
            match have {
                2 => {
                    let Some((at, second)) = letters.next() else { return Err(text.len()) };
                    if second != b'=' {
                        return Err(at);
                    }
                    out.push((bits >> 4) as u8);
                }
                3 => out.extend([(bits >> 10) as u8, (bits >> 2) as u8]),
                _ => return Err(at),
            }
            return letters.next().map_or(Ok(out), |(at, _)| Err(at));
        }
        bits = bits << 6 | u32::from(value(letter).ok_or(at)?);
        have += 1;
        if have == 4 {
            out.extend([(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]);
            (bits, have) = (0, 0);
        }
    }
    if have == 0 { Ok(out) } else { Err(text.len() / 4 * 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_go_writes_them() {
        let known = [
            (1e21, "1e+21"),
            (123456789.0, "1.23456789e+08"),
            (123456.0, "123456"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (f64::INFINITY, "+Inf"),
            (1.23e-10, "1.23e-10"),
        ];
        for (value, text) in known {
            assert_eq!(general(value), text);
        }
        assert_eq!(
            [parse_float("1e3"), parse_float("0x1p4"), parse_float("1e400"), parse_float(".5"), parse_float("+-1")],
            [Some(1000.0), Some(16.0), None, Some(0.5), None]
        );
        assert_eq!(parse_float("-Inf"), Some(f64::NEG_INFINITY));
        let spaced = ["1_000", "-1_0.0_5", "0x_1p4", "_1", "1_", "1__0", "1_.5"].map(parse_float);
        assert_eq!(spaced, [Some(1000.0), Some(-10.05), Some(16.0), None, None, None, None]);
    }

    #[test]
    fn durations_there_and_back() {
        for (text, nanos, shown) in [
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("-2ms", -2_000_000, "-2ms"),
            ("1us", 1_000, "1µs"),
            ("0", 0, "0s"),
            ("100ns", 100, "100ns"),
            ("1.000000001s", 1_000_000_001, "1.000000001s"),
        ] {
            assert_eq!(parse_duration(text), Some(nanos));
            assert_eq!(duration(nanos), shown);
        }
        assert_eq!(["", "1", "1x", "s", "-", "9223372037s"].map(parse_duration), [None; 6]);
        assert_eq!(
            (lenient_duration("2 days"), lenient_duration("1 week 1h"), lenient_duration("x")),
            (Some(172_800_000_000_000), Some(608_400_000_000_000), None)
        );
        assert_eq!(seconds(3_723_000_000_000), "3723s");
    }

    #[test]
    fn base64_with_its_padding() {
        assert_eq!([to_base64(b""), to_base64(b"a"), to_base64(b"ab"), to_base64(b"abc\xff")], ["", "YQ==", "YWI=", "YWJj/w=="]);
        assert_eq!(base64("aGVsbG8="), Ok(b"hello".to_vec()));
        assert_eq!([base64("YQ=="), base64("")], [Ok(b"a".to_vec()), Ok(Vec::new())]);
        assert_eq!((base64("a!=="), base64("ab+/")), (Err(1), Err(2)));
        assert!(base64("YQ=").is_err() && base64("YQ==x").is_err());
    }
}
