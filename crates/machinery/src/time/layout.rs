//! Texts by Go's layouts of RFC 3339, read as `time.Parse` reads them: an hour may have one digit, a comma may stand before the
//! fraction, and whatever is wrong is told with the part of the layout at which it is.

use crate::unix::{days, month_length};
use std::ops::RangeInclusive;

const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Digits of a fraction that count.
const NANO_DIGITS: usize = 9;

/// Seconds since 1970 and nanoseconds; in the layout of microseconds there must be six digits of them.
///
/// # Errors
/// Go's wording.
pub(crate) fn parse(text: &str, micro: bool) -> Result<(i64, u32), String> {
    let mut reading = Reading { text, micro, rest: text.as_bytes() };
    let year = reading.year()?;
    reading.mark("-")?;
    let month = reading.number("01", true, 1..=12, "month")?;
    reading.mark("-")?;
    // How many days there are is looked at when all has been read.
    let day = reading.number("02", true, 0..=99, "day")?;
    reading.mark("T")?;
    let hour = reading.number("15", false, 0..=23, "hour")?;
    reading.mark(":")?;
    let minute = reading.number("04", true, 0..=59, "minute")?;
    reading.mark(":")?;
    let second = reading.number("05", true, 0..=59, "second")?;
    let nanos = if micro { reading.micros()? } else { reading.fraction() };
    let offset = reading.zone()?;
    if !reading.rest.is_empty() {
        return Err(reading.wrong(&format!("extra text: {}", quoted(reading.rest))));
    }
    if day < 1 || day > month_length(year, month) {
        return Err(reading.wrong("day out of range"));
    }
    Ok((days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// That a time is none, where all of it fits the layout.
pub(crate) fn unfit(text: &str, micro: bool) -> String {
    Reading { text, micro, rest: text.as_bytes() }.unread(text.as_bytes(), "2006")
}

/// A text and what is left of it.
struct Reading<'t> {
    text: &'t str,
    micro: bool,
    rest: &'t [u8],
}

impl Reading<'_> {
    fn unread(&self, rest: &[u8], part: &str) -> String {
        let layout = if self.micro { MICROS } else { SECONDS };
        format!("parsing time {} as \"{layout}\": cannot parse {} as \"{part}\"", quoted(self.text.as_bytes()), quoted(rest))
    }

    fn wrong(&self, why: &str) -> String {
        format!("parsing time {}: {why}", quoted(self.text.as_bytes()))
    }

    fn year(&mut self) -> Result<i64, String> {
        match self.rest.split_at_checked(4) {
            Some((year, rest)) if year.iter().all(u8::is_ascii_digit) => {
                self.rest = rest;
                Ok(size(year))
            }
            _ => Err(self.unread(self.rest, "2006")),
        }
    }

    fn mark(&mut self, mark: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(mark.as_bytes()).ok_or_else(|| self.unread(self.rest, mark))?;
        Ok(())
    }

    /// Two digits, or one where the layout's part does not say two.
    fn number(&mut self, part: &str, two: bool, range: RangeInclusive<i64>, name: &str) -> Result<i64, String> {
        let digits = self.rest.iter().take(2).take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || two && digits < 2 {
            return Err(self.unread(self.rest, part));
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let number = size(number);
        if range.contains(&number) { Ok(number) } else { Err(self.wrong(&format!("{name} out of range"))) }
    }

    /// Nanoseconds of the fraction that the layout of seconds does not name and a text may have.
    fn fraction(&mut self) -> u32 {
        let [b'.' | b',', rest @ ..] = self.rest else { return 0 };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return 0;
        }
        self.rest = &rest[digits..];
        nanos(&rest[..digits.min(NANO_DIGITS)])
    }

    fn micros(&mut self) -> Result<u32, String> {
        match self.rest.split_at_checked(7) {
            Some(([b'.' | b',', digits @ ..], rest)) if digits.iter().all(u8::is_ascii_digit) => {
                self.rest = rest;
                Ok(nanos(digits))
            }
            _ => Err(self.unread(self.rest, ".000000")),
        }
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let [b'Z', rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(0);
        }
        let digits = |pair: &[u8]| pair.iter().all(u8::is_ascii_digit);
        let zone = self.rest.split_at_checked(6).filter(|(zone, _)| zone[3] == b':' && digits(&zone[1..3]) && digits(&zone[4..]));
        let Some((zone, rest)) = zone else { return Err(self.unread(self.rest, "Z07:00")) };
        let (hour, minute) = (size(&zone[1..3]), size(&zone[4..]));
        // Go lets them be one too many.
        match (hour, minute, zone[0]) {
            (25.., _, _) => return Err(self.wrong("time zone offset hour out of range")),
            (_, 61.., _) => return Err(self.wrong("time zone offset minute out of range")),
            (_, _, b'+' | b'-') => self.rest = rest,
            _ => return Err(self.unread(self.rest, "Z07:00")),
        }
        let seconds = hour * 3600 + minute * 60;
        Ok(if zone[0] == b'-' { -seconds } else { seconds })
    }
}

/// The number of a few digits.
fn size(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'))
}

/// What nine digits or fewer behind a point are.
fn nanos(digits: &[u8]) -> u32 {
    let all = digits.iter().copied().chain(std::iter::repeat(b'0')).take(NANO_DIGITS);
    all.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'))
}

/// As the package that reads times quotes: by bytes, those that are no ASCII by their numbers.
fn quoted(text: &[u8]) -> String {
    let mut out = String::from("\"");
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(*byte)]),
            b' '..=0x7f => out.push(char::from(*byte)),
            other => out.push_str(&format!("\\x{other:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kube-apiserver 1.37.2 said them.
    #[test]
    fn what_is_wrong_is_told_as_go_tells_it() {
        for (text, why) in [
            ("2026-01-01 00:00:00", r#" as "2006-01-02T15:04:05Z07:00": cannot parse " 00:00:00" as "T""#),
            ("2026-01-01", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#),
            ("1767225600", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "225600" as "-""#),
            ("2026-1-1T00:00:00Z", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "1-1T00:00:00Z" as "01""#),
            ("2026-01-01t00:00:00z", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "t00:00:00z" as "T""#),
            ("10000-01-01T00:00:00Z", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "0-01-01T00:00:00Z" as "-""#),
            ("2026-01-01T00:00:00", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#),
            ("soon", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#),
            ("2026-01-01T24:00:00Z", ": hour out of range"),
            ("2026-02-30T00:00:00Z", ": day out of range"),
            ("2026-13-01T00:00:00Z", ": month out of range"),
            ("2026-01-01T00:00:60Z", ": second out of range"),
            ("2026-01-01T00:00:00+25:00", ": time zone offset hour out of range"),
            ("2026-01-01T00:00:00Z ", r#": extra text: " ""#),
        ] {
            assert_eq!(parse(text, false), Err(format!("parsing time \"{text}\"{why}")));
        }
        assert!(parse("2026-01-01T00:00:00Zé", false).is_err_and(|why| why.ends_with(r#"extra text: "\xc3\xa9""#)));
    }

    #[test]
    fn what_go_lets_pass() {
        for text in ["2026-01-01T5:00:00Z", "2026-01-01T05:00:00,000Z", "2026-01-02T05:00:00+24:00", "2026-01-01T05:00:00.0000000001Z"] {
            assert_eq!(parse(text, false), Ok((1_767_243_600, 0)), "{text}");
        }
        assert_eq!(parse("2026-01-01T05:00:00.123456Z", true), Ok((1_767_243_600, 123_456_000)));
    }
}
