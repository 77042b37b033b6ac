//! Texts by Go's layouts of RFC 3339, read as `time.Parse` reads them: an hour may have one digit, a comma may stand before the
//! fraction, and whatever is wrong is told with the part of the layout at which it is.

use crate::unix::{days, month_length};
use std::ops::RangeInclusive;

/// Digits of a fraction that count.
const NANO_DIGITS: usize = 9;

/// How a text is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// RFC 3339; a fraction may follow the seconds.
    Seconds,
    /// With six digits of a fraction.
    Micros,
    /// With three.
    Millis,
    /// Without a zone: a time of UTC.
    Local,
    /// A date alone: its midnight in UTC.
    Date,
}

/// A time that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970, in UTC.
    pub seconds: i64,
    /// Nanoseconds above.
    pub nanos: u32,
    /// Seconds east of UTC, as the text had it.
    pub offset: i64,
}

impl Layout {
    fn text(self) -> &'static str {
        match self {
            Layout::Seconds => "2006-01-02T15:04:05Z07:00",
            Layout::Micros => "2006-01-02T15:04:05.000000Z07:00",
            Layout::Millis => "2006-01-02T15:04:05.000Z07:00",
            Layout::Local => "2006-01-02T15:04:05",
            Layout::Date => "2006-01-02",
        }
    }

    /// What a text of this layout says.
    ///
    /// # Errors
    /// Go's wording.
    pub fn read(self, text: &str) -> Result<Moment, String> {
        let mut reading = Reading { text, layout: self, rest: text.as_bytes() };
        let year = reading.year()?;
        reading.mark("-")?;
        let month = reading.number("01", true, 1..=12, "month")?;
        reading.mark("-")?;
        // How many days there are is looked at when all has been read.
        let day = reading.number("02", true, 0..=99, "day")?;
        let (second, nanos, offset) = if self == Layout::Date { (0, 0, 0) } else { reading.clock()? };
        if !reading.rest.is_empty() {
            return Err(reading.wrong(&format!("extra text: {}", quoted(reading.rest))));
        }
        if day < 1 || day > month_length(year, month) {
            return Err(reading.wrong("day out of range"));
        }
        Ok(Moment { seconds: days(year, month, day) * 86_400 + second - offset, nanos, offset })
    }
}

/// Seconds since 1970 and nanoseconds; in the layout of microseconds there must be six digits of them.
///
/// # Errors
/// Go's wording.
pub(crate) fn parse(text: &str, micro: bool) -> Result<(i64, u32), String> {
    stored(micro).read(text).map(|moment| (moment.seconds, moment.nanos))
}

/// That a time is none, where all of it fits the layout.
pub(crate) fn unfit(text: &str, micro: bool) -> String {
    Reading { text, layout: stored(micro), rest: text.as_bytes() }.unread(text.as_bytes(), "2006")
}

fn stored(micro: bool) -> Layout {
    if micro { Layout::Micros } else { Layout::Seconds }
}

/// A text and what is left of it.
struct Reading<'t> {
    text: &'t str,
    layout: Layout,
    rest: &'t [u8],
}

impl Reading<'_> {
    fn unread(&self, rest: &[u8], part: &str) -> String {
        format!("parsing time {} as \"{}\": cannot parse {} as \"{part}\"", quoted(self.text.as_bytes()), self.layout.text(), quoted(rest))
    }

    fn wrong(&self, why: &str) -> String {
        format!("parsing time {}: {why}", quoted(self.text.as_bytes()))
    }

    /// The time of day: seconds since midnight, nanoseconds, seconds east of UTC.
    fn clock(&mut self) -> Result<(i64, u32, i64), String> {
        self.mark("T")?;
        let hour = self.number("15", false, 0..=23, "hour")?;
        self.mark(":")?;
        let minute = self.number("04", true, 0..=59, "minute")?;
        self.mark(":")?;
        let second = self.number("05", true, 0..=59, "second")?;
        let nanos = match self.layout {
            Layout::Micros => self.exact(".000000")?,
            Layout::Millis => self.exact(".000")?,
            Layout::Seconds | Layout::Local | Layout::Date => self.fraction(),
        };
        let offset = if self.layout == Layout::Local { 0 } else { self.zone()? };
        Ok((hour * 3600 + minute * 60 + second, nanos, offset))
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

    /// Nanoseconds of a fraction with as many digits as its part of the layout has. Go reads them as a number, so the first may be a sign.
    fn exact(&mut self, part: &str) -> Result<u32, String> {
        let fraction = self.rest.split_at_checked(part.len()).filter(|(fraction, _)| matches!(fraction[0], b'.' | b','));
        let Some((fraction, rest)) = fraction else { return Err(self.unread(self.rest, part)) };
        let mut digits = fraction[1..].to_vec();
        let is_negative = digits[0] == b'-';
        if is_negative || digits[0] == b'+' {
            digits[0] = b'0';
        }
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(self.unread(self.rest, part));
        }
        if is_negative && size(&digits) > 0 {
            return Err(self.wrong("fractional second out of range"));
        }
        self.rest = rest;
        Ok(nanos(&digits))
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let [b'Z', rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(0);
        }
        let zone = self.rest.split_at_checked(6).filter(|(zone, _)| zone[3] == b':');
        let Some((zone, rest)) = zone else { return Err(self.unread(self.rest, "Z07:00")) };
        let number = |pair: &[u8]| pair.iter().all(u8::is_ascii_digit).then(|| size(pair));
        let hour = number(&zone[1..3]);
        let minute = hour.and_then(|_| number(&zone[4..]));
        // Go lets them be one too many. It looks at the numbers first, the hour's among them where the minute is none, and tells of the last.
        if minute.is_some_and(|minute| minute > 60) {
            return Err(self.wrong("time zone offset minute out of range"));
        }
        if hour.is_some_and(|hour| hour > 24) {
            return Err(self.wrong("time zone offset hour out of range"));
        }
        let (Some(hour), Some(minute), b'+' | b'-') = (hour, minute, zone[0]) else { return Err(self.unread(self.rest, "Z07:00")) };
        self.rest = rest;
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
pub(super) fn quoted(text: &[u8]) -> String {
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
        for (zone, why) in [
            ("+00:61", ": time zone offset minute out of range"),
            ("+25:61", ": time zone offset minute out of range"),
            ("+25:xx", ": time zone offset hour out of range"),
            ("?25:00", ": time zone offset hour out of range"),
            ("+xx:61", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "+xx:61" as "Z07:00""#),
            ("?01:00", r#" as "2006-01-02T15:04:05Z07:00": cannot parse "?01:00" as "Z07:00""#),
        ] {
            let text = format!("2026-01-01T00:00:00{zone}");
            assert_eq!(parse(&text, false), Err(format!("parsing time \"{text}\"{why}")));
        }
        assert!(parse("2026-01-01T00:00:00.-00001Z", true).is_err_and(|why| why.ends_with(": fractional second out of range")));
        assert!(parse("2026-01-01T00:00:00Zé", false).is_err_and(|why| why.ends_with(r#"extra text: "\xc3\xa9""#)));
    }

    #[test]
    fn what_go_lets_pass() {
        for text in ["2026-01-01T5:00:00Z", "2026-01-01T05:00:00,000Z", "2026-01-02T05:00:00+24:00", "2026-01-01T05:00:00.0000000001Z"] {
            assert_eq!(parse(text, false), Ok((1_767_243_600, 0)), "{text}");
        }
        for (text, nanos) in [(".123456Z", 123_456_000), (".+12345Z", 12_345_000), (".-00000Z", 0)] {
            assert_eq!(parse(&format!("2026-01-01T05:00:00{text}"), true), Ok((1_767_243_600, nanos)), "{text}");
        }
    }

    #[test]
    fn times_without_a_zone_and_dates() {
        let at = |offset| Ok(Moment { seconds: 1_767_243_600, nanos: 0, offset });
        assert_eq!(Layout::Local.read("2026-01-01T05:00:00.0"), at(0));
        assert_eq!(Layout::Millis.read("2026-01-01T07:00:00.000+02:00"), at(7200));
        assert_eq!(Layout::Date.read("2026-01-01").map(|moment| moment.seconds), Ok(1_767_225_600));
        for (layout, text, why) in [
            (Layout::Local, "2026-01-01T05:00:00+25:00", r#": extra text: "+25:00""#),
            (Layout::Local, "2026-01-01t05:00:00", r#" as "2006-01-02T15:04:05": cannot parse "t05:00:00" as "T""#),
            (Layout::Date, "2026-02-30", ": day out of range"),
            (Layout::Date, "2026-1-1", r#" as "2006-01-02": cannot parse "1-1" as "01""#),
            (Layout::Date, "2026-01-01T", r#": extra text: "T""#),
        ] {
            assert_eq!(layout.read(text), Err(format!("parsing time \"{text}\"{why}")));
        }
    }
}
