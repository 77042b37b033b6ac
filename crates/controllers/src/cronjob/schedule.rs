//! Cron schedules, as `robfig/cron` reads them: five fields, names of months and days, steps, `?`, `@daily` and its like,
//! `@every`. In a time zone.
//!
//! What is hit is the wall clock: a time that a change of the clocks leaves out does not come that day, and one that it
//! repeats comes twice.

use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;

/// A schedule beyond which nothing is looked for: a date that never comes (30 February).
const YEARS_MAX: i16 = 5;

/// When something is to happen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Schedule {
    Fields(Fields),
    /// After so many seconds each.
    Every(i64),
}

/// Allowed values, a bit each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// A day field with a bare `*` or `?` in it leaves the word to the other; else one of the two is enough. A `*` with a
    /// step above one is no bare one.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(every) = text.strip_prefix("@every ") {
            // In whole seconds, and no less than one.
            return machinery::time::parse_go_duration(every).ok().map(|nanos| Self::Every((nanos / 1_000_000_000).max(1)));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
        let ((day, any_day), (weekday, any_weekday)) = (field(day, 1, 31, &[])?, field(weekday, 0, 6, &DAYS)?);
        Some(Self::Fields(Fields {
            minute: field(minute, 0, 59, &[])?.0,
            hour: field(hour, 0, 23, &[])?.0,
            day,
            month: field(month, 1, 12, &MONTHS)?.0,
            weekday,
            any_day,
            any_weekday,
        }))
    }

    /// The first moment after this one, by the clocks of a zone; none if there is none in the next years.
    pub(super) fn after(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => Timestamp::from_second(at.as_second() + seconds).ok(),
            Self::Fields(fields) => fields.after(at, zone),
        }
    }
}

impl Fields {
    fn after(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let has = |bits: u64, n: i8| bits & (1 << n) != 0;
        let last_year = zone.to_datetime(at).year() + YEARS_MAX;
        let mut second = at.as_second() + 60 - at.as_second().rem_euclid(60);
        loop {
            let moment = Timestamp::from_second(second).ok()?;
            let clock = zone.to_datetime(moment);
            if clock.year() > last_year {
                return None;
            }
            // A zone's offset of long ago has seconds: its minutes begin elsewhere.
            if clock.second() != 0 {
                second += i64::from(60 - clock.second());
            } else if !self.is_day(clock.date()) {
                let midnight = clock.date().tomorrow().ok()?.at(0, 0, 0, 0);
                // Clocks that are set back over midnight show the first of two midnights, which may be past.
                second = zone.to_ambiguous_timestamp(midnight).compatible().ok()?.as_second().max(second + 60);
            } else if !has(self.hour, clock.hour()) {
                second += i64::from(60 - clock.minute()) * 60;
            } else if !has(self.minute, clock.minute()) {
                second += 60;
            } else {
                return Some(moment);
            }
        }
    }

    fn is_day(&self, date: Date) -> bool {
        let has = |bits: u64, n: i8| bits & (1 << n) != 0;
        let day = has(self.day, date.day());
        let weekday = has(self.weekday, date.weekday().to_sunday_zero_offset());
        let fits = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.month, date.month()) && fits
    }
}

/// `*`, `?`, `3`, `1-5`, `*/15`, `2-10/2`, `5/10`, names; several by commas. The values, and whether one of the parts was a
/// bare star.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Option<(u64, bool)> {
    let value = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().position(|n| *n == lower).and_then(|at| u32::try_from(at).ok()).map(|at| at + min);
        named.or_else(|| text.parse().ok())
    };
    let (mut bits, mut bare) = (0, false);
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
        let step: u32 = step.map_or(Some(1), |s| s.parse().ok()).filter(|s| *s > 0)?;
        let stepped = part.contains('/');
        let (first, last) = match range {
            "*" | "?" => {
                bare |= step == 1;
                (min, max)
            }
            _ => match range.split_once('-') {
                Some((first, last)) => (value(first)?, value(last)?),
                None if stepped => (value(range)?, max),
                None => (value(range)?, value(range)?),
            },
        };
        if first < min || last > max || first > last {
            return None;
        }
        (first..=last).step_by(usize::try_from(step).ok()?).for_each(|n| bits |= 1u64 << n);
    }
    Some((bits, bare))
}
