//! Points in time with the offset they were written in, and the fields that they have in a time zone.
//!
//! The range is that of the protobuf type: the years 1 to 9999. The rules of zones are those that the program carries.

use std::cmp::Ordering;
use std::fmt;

use jiff::tz::TimeZone;
use machinery::time::{Layout, Moment};

use crate::error::EvalError;

/// `0001-01-01T00:00:00Z`.
const FIRST_SECOND: i64 = -62_135_596_800;
/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;
const DAY: i64 = 86_400;
const NANOS: i64 = 1_000_000_000;

/// A point in time.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
    /// What it is shown in: seconds east of UTC. It has no part in equality and order.
    offset: i32,
}

/// The parts of a date and time.
struct Fields {
    year: i64,
    month: i64,
    day: i64,
}

/// The part of a time that an expression asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    FullYear,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl Timestamp {
    /// 1970.
    pub const EPOCH: Timestamp = Timestamp { seconds: 0, nanos: 0, offset: 0 };

    /// So many seconds after 1970.
    ///
    /// # Errors
    /// Out of the range.
    pub fn of_seconds(seconds: i64) -> Result<Timestamp, EvalError> {
        Timestamp { seconds, nanos: 0, offset: 0 }.in_range()
    }

    /// The same, if it is in the range.
    ///
    /// # Errors
    /// Out of it.
    pub fn in_range(self) -> Result<Timestamp, EvalError> {
        if (FIRST_SECOND..=LAST_SECOND).contains(&self.seconds) { Ok(self) } else { Err(EvalError::of("timestamp overflow")) }
    }

    /// Seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// The nanoseconds above.
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// Whether it is Go's zero time.
    pub fn is_zero(self) -> bool {
        self.seconds == FIRST_SECOND && self.nanos == 0
    }

    /// So many nanoseconds later.
    ///
    /// # Errors
    /// Out of the range.
    pub fn plus(self, nanos: i64) -> Result<Timestamp, EvalError> {
        let sum = i64::from(self.nanos) + nanos % NANOS;
        let seconds = self.seconds.checked_add(nanos / NANOS + sum.div_euclid(NANOS)).ok_or_else(|| EvalError::of("integer overflow"))?;
        Timestamp { seconds, nanos: sum.rem_euclid(NANOS) as u32, offset: self.offset }.in_range()
    }

    /// The nanoseconds since another.
    ///
    /// # Errors
    /// More than fit.
    pub fn since(self, other: Timestamp) -> Result<i64, EvalError> {
        // Seconds first: what does not fit there does not fit, whatever the nanoseconds are.
        (self.seconds - other.seconds)
            .checked_mul(NANOS)
            .and_then(|nanos| nanos.checked_add(i64::from(self.nanos) - i64::from(other.nanos)))
            .ok_or_else(|| EvalError::of("integer overflow"))
    }

    /// RFC 3339 as Go reads it: an hour of one digit and a comma before the fraction are taken too.
    pub fn parse(text: &str) -> Option<Timestamp> {
        Layout::Seconds.read(text).ok().map(Timestamp::of)
    }

    /// A date alone: its midnight in UTC.
    ///
    /// # Errors
    /// Go's wording.
    pub fn parse_date(text: &str) -> Result<Timestamp, String> {
        Layout::Date.read(text).map(Timestamp::of)
    }

    /// What the format `date-time` of OpenAPI takes: RFC 3339 with any fraction, or local time, whose layout is tried last and tells what is wrong.
    ///
    /// # Errors
    /// Go's wording.
    pub fn parse_lenient(text: &str) -> Result<Timestamp, String> {
        let zoned = [Layout::Seconds, Layout::Micros, Layout::Millis].into_iter().find_map(|layout| layout.read(text).ok());
        zoned.map_or_else(|| Layout::Local.read(text), Ok).map(Timestamp::of)
    }

    fn of(moment: Moment) -> Timestamp {
        // An offset is less than two days.
        Timestamp { seconds: moment.seconds, nanos: moment.nanos, offset: moment.offset as i32 }
    }

    /// A part of it in a zone: the name of one, or an offset (`+01:30`).
    ///
    /// # Errors
    /// There is no such zone.
    pub fn part(self, part: Part, zone: &str) -> Result<i64, EvalError> {
        let local = self.seconds + self.offset_in(zone)?;
        let (days, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let fields = civil(days);
        Ok(match part {
            Part::FullYear => fields.year,
            Part::Month => fields.month - 1,
            Part::DayOfYear => days - days_of(fields.year, 1, 1),
            Part::DayOfMonth => fields.day - 1,
            Part::Date => fields.day,
            // 1970 began on a Thursday.
            Part::DayOfWeek => (days + 4).rem_euclid(7),
            Part::Hours => second / 3600,
            Part::Minutes => second / 60 % 60,
            Part::Seconds => second % 60,
            Part::Milliseconds => i64::from(self.nanos / 1_000_000),
        })
    }

    /// Seconds east of UTC at this time in a zone.
    fn offset_in(self, zone: &str) -> Result<i64, EvalError> {
        if zone.is_empty() || zone == "UTC" || zone == "Local" {
            return Ok(0);
        }
        if let Some((hours, minutes)) = zone.split_once(':') {
            let number =
                |text: &str| text.parse::<i32>().map_err(|_| EvalError::of(format!("strconv.Atoi: parsing {}: invalid syntax", crate::gotext::quote(text))));
            let (hours, minutes) = (i64::from(number(hours)?), i64::from(number(minutes)?));
            return Ok(60 * if zone.starts_with('-') { hours * 60 - minutes } else { hours * 60 + minutes });
        }
        if zone.contains("..") || zone.starts_with(['/', '\\']) {
            return Err(EvalError::of("time: invalid location name"));
        }
        let unknown = || EvalError::of(format!("unknown time zone {zone}"));
        let rules = TimeZone::tzif(zone, machinery::time::zone(zone).ok_or_else(unknown)?).map_err(|_| unknown())?;
        let at = jiff::Timestamp::from_second(self.seconds).map_err(|_| EvalError::of("timestamp overflow"))?;
        Ok(i64::from(rules.to_offset(at).seconds()))
    }

    /// The same, shown in UTC.
    pub fn utc(self) -> Timestamp {
        Timestamp { offset: 0, ..self }
    }

    /// As Go shows a time: `2024-01-02 03:04:05 +0000 UTC`.
    pub fn go_text(self) -> String {
        let text = self.to_string();
        let (clock, zone) = text.split_at(text.len() - if self.offset == 0 { 1 } else { 6 });
        let clock = clock.replacen('T', " ", 1);
        if self.offset == 0 { format!("{clock} +0000 UTC") } else { format!("{clock} {0} {0}", zone.replace(':', "")) }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with the fraction that there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.seconds + i64::from(self.offset);
        let Fields { year, month, day } = civil(local.div_euclid(DAY));
        let second = local.rem_euclid(DAY);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)?;
        if self.nanos > 0 {
            let fraction = format!("{:09}", self.nanos);
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let minutes = self.offset / 60;
        write!(f, "{}{:02}:{:02}", if minutes < 0 { '-' } else { '+' }, minutes.abs() / 60, minutes.abs() % 60)
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timestamp {}

/// The days since 1970 of a date (days from a March of year 0, as in "chrono-compatible low-level date algorithms").
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day since 1970.
fn civil(days: i64) -> Fields {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Fields { year: year_of_era + era * 400 + i64::from(month <= 2), month, day: day_of_year - (153 * shifted + 2) / 5 + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn there_and_back() {
        for text in
            ["2024-02-29T23:59:59.5Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2023-01-01T00:00:00+02:00", "1969-12-31T00:00:00-05:30"]
        {
            assert_eq!(time(text).to_string(), text);
        }
        let wrong = ["2023-02-29T00:00:00Z", "2024-01-01", "2024-01-01T24:00:00Z", "2024-01-01T00:00:00", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00.Z", ""];
        assert_eq!(wrong.map(Timestamp::parse), [None; 7]);
        assert_eq!(time("2024-01-01T1:00:00,25Z").to_string(), "2024-01-01T01:00:00.25Z");
    }

    /// By the layout that is tried last, which has no zone.
    #[test]
    fn what_is_no_date_time_is_told_by_the_layout_of_local_time() {
        for (text, why) in [
            ("2020-01-01T00:00:00+25:00", r#": extra text: "+25:00""#),
            ("2020-01-01t00:00:00z", r#" as "2006-01-02T15:04:05": cannot parse "t00:00:00z" as "T""#),
            ("2020-01-01 00:00:00Z", r#" as "2006-01-02T15:04:05": cannot parse " 00:00:00Z" as "T""#),
            ("2020-01-01T00:00:60Z", ": second out of range"),
        ] {
            assert_eq!(Timestamp::parse_lenient(text), Err(format!("parsing time \"{text}\"{why}")));
        }
        let shown =
            ["2020-01-01T00:00:00", "2020-01-01T00:00:00.5+01:00", "2020-01-01T00:00:00.+12Z"].map(|text| Timestamp::parse_lenient(text).unwrap().to_string());
        assert_eq!(shown, ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00.5+01:00", "2020-01-01T00:00:00.012Z"]);
    }

    #[test]
    fn parts_in_zones() {
        let at = time("2024-07-01T22:30:15.123Z");
        let parts = [
            Part::FullYear,
            Part::Month,
            Part::DayOfYear,
            Part::DayOfMonth,
            Part::Date,
            Part::DayOfWeek,
            Part::Hours,
            Part::Minutes,
            Part::Seconds,
            Part::Milliseconds,
        ];
        assert_eq!(parts.map(|part| at.part(part, "UTC").unwrap()), [2024, 6, 182, 0, 1, 1, 22, 30, 15, 123]);
        assert_eq!(parts.map(|part| at.part(part, "Europe/Oslo").unwrap()), [2024, 6, 183, 1, 2, 2, 0, 30, 15, 123]);
        assert_eq!(at.part(Part::Hours, "-02:30").unwrap(), 20);
        assert_eq!(at.part(Part::Hours, "nowhere").unwrap_err().message, "unknown time zone nowhere");
        assert_eq!(at.part(Part::Hours, "a:b").unwrap_err().message, "strconv.Atoi: parsing \"a\": invalid syntax");
    }

    #[test]
    fn sums_stay_in_the_range() {
        assert_eq!(time("2024-01-01T00:00:00Z").plus(-1).unwrap().to_string(), "2023-12-31T23:59:59.999999999Z");
        assert_eq!(time("9999-12-31T23:59:59Z").plus(NANOS).unwrap_err().message, "timestamp overflow");
        assert_eq!(time("9999-12-31T23:59:59Z").since(time("0001-01-01T00:00:00Z")).unwrap_err().message, "integer overflow");
        assert_eq!(time("2024-01-01T00:00:01Z").since(time("2024-01-01T00:00:00.5Z")), Ok(500_000_000));
    }
}
