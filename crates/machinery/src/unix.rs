//! RFC 3339 to seconds and nanoseconds since 1970 and back, for the codecs: no `SystemTime` between the text and the wire.

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date of a day since 1970-01-01 (`civil_from_days`).
fn date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * mp + 2) / 5 + 1)
}

/// How many days a month has.
pub(crate) fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Seconds since 1970 and nanoseconds; `None` for what Go's `time.RFC3339` does not parse.
pub(crate) fn parse(text: &str) -> Option<(i64, u32)> {
    crate::time::layout::parse(text, false).ok()
}

/// The canonical text: whole seconds, or microseconds if `nanos` is given. `None` outside the years 0 to 9999.
pub(crate) fn format(seconds: i64, nanos: Option<u32>) -> Option<String> {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // 0000-01-01 and 9999-12-31.
    if !(-719_528..=2_932_896).contains(&day) {
        return None;
    }
    let (year, month, date) = date(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let base = format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}");
    Some(match nanos {
        Some(nanos) => format!("{base}.{:06}Z", nanos / 1000 % 1_000_000),
        None => format!("{base}Z"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_seconds_agree() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:30:01Z", 1_709_209_801),
            ("2026-11-24T15:19:41Z", 1_795_533_581),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Some((seconds, 0)), "{text}");
            assert_eq!(format(seconds, None).as_deref(), Some(text));
        }
    }

    #[test]
    fn zones_and_fractions() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some((0, 0)));
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Some((0, 500_000_000)));
        assert_eq!(format(0, Some(123_456_789)).as_deref(), Some("1970-01-01T00:00:00.123456Z"));
        for bad in
            ["", "1970-01-01", "1970-13-01T00:00:00Z", "2023-02-29T00:00:00Z", "1970-01-01T00:00:00", "1970-01-01T00:00:00.Z", "1970-01-01T00:00:00+25:00"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
