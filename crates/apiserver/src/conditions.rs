//! Conditions of requests for what does not change: a tag that the sender knows, or a time since when it knows.
//!
//! The rules and their order are those of RFC 9110, section 13.2.2, as Go's `http.ServeContent` keeps them. Of ranges there is one at most:
//! who asks for several gets the whole, as every server may answer.

use http::{HeaderMap, StatusCode, header};
use jiff::{Timestamp, civil, fmt::rfc2822, tz::TimeZone};
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// 200 if the answer is to be sent, 304 if the sender has it, 412 if it wanted another. `tag` is quoted.
pub(crate) fn check(headers: &HeaderMap, tag: Option<&str>, modified: SystemTime) -> StatusCode {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    // Times have whole seconds.
    let modified = seconds(modified);
    let since = |name| text(name).and_then(told);
    let wanted = match text(header::IF_MATCH) {
        Some(tags) => any(tags, |one| tag == Some(one)),
        None => since(header::IF_UNMODIFIED_SINCE).is_none_or(|time| modified <= time),
    };
    if !wanted {
        return StatusCode::PRECONDITION_FAILED;
    }
    let known = match text(header::IF_NONE_MATCH) {
        Some(tags) => any(tags, |one| tag.is_some_and(|tag| weak(one) == weak(tag))),
        None => since(header::IF_MODIFIED_SINCE).is_some_and(|time| modified <= time),
    };
    if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK }
}

/// The part of `length` bytes that is asked for, if one is; why it cannot be had otherwise, in Go's words.
pub(crate) fn range(headers: &HeaderMap, tag: Option<&str>, modified: SystemTime, length: usize) -> Result<Option<Range<usize>>, &'static str> {
    const INVALID: &str = "invalid range";
    const BEHIND: &str = "invalid range: failed to overlap";
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let is_it = |known: &str| Some(known) == tag || told(known) == Some(seconds(modified));
    let Some(asked) = text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(is_it)) else { return Ok(None) };
    let mut parts = asked.strip_prefix("bytes=").ok_or(INVALID)?.split(',').map(str::trim).filter(|part| !part.is_empty());
    let (Some(part), None) = (parts.next(), parts.next()) else { return Ok(None) };
    let (first, last) = part.split_once('-').map(|(first, last)| (first.trim(), last.trim())).ok_or(INVALID)?;
    let number = |text: &str| text.parse::<u64>().map(|number| usize::try_from(number).unwrap_or(usize::MAX)).map_err(|_| INVALID);
    if first.is_empty() {
        return Ok(Some(length.saturating_sub(number(last)?)..length));
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    match () {
        () if first >= length => Err(BEHIND),
        () if first > last => Err(INVALID),
        () => Ok(Some(first..last.saturating_add(1).min(length))),
    }
}

/// A time as headers tell it.
pub(crate) fn date(time: SystemTime) -> String {
    let time = Timestamp::from_second(seconds(time)).unwrap_or_default();
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}

/// The time a year from then, as upstream tells it: by the name of the zone and not as HTTP has it, and its clients read it so.
pub(crate) fn in_a_year(time: SystemTime) -> String {
    date(time + Duration::from_secs(365 * 24 * 60 * 60)).replace("GMT", "UTC")
}

/// The second that a header tells, in one of the three forms that RFC 9110 (5.6.7) knows, as Go's `http.ParseTime` reads them: nobody asks
/// whether it was that day of the week, and of the form of today alone the zone is GMT and no other.
fn told(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let (day, is_whole, [date, month, year], clock) = match words[..] {
        [day, date, month, year, clock, "GMT"] => (day.strip_suffix(',')?, false, [two(date)?, month, four(year)?], clock),
        [day, date, clock, "GMT" | "UTC"] => {
            let (date, rest) = date.split_once('-')?;
            let (month, year) = rest.split_once('-')?;
            (day.strip_suffix(',')?, true, [two(date)?, month, two(year)?], clock)
        }
        [day, month, date, clock, year] => (day, false, [date, month, four(year)?], clock),
        _ => return None,
    };
    if !DAYS.iter().map(|name| if is_whole { *name } else { &name[..3] }).any(|name| name.eq_ignore_ascii_case(day)) {
        return None;
    }
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? + 1;
    // Of two digits Go takes the century that is nearer.
    let year = match (is_whole, number(year)?) {
        (true, year) if year >= 69 => 1900 + year,
        (true, year) => 2000 + year,
        (false, year) => year,
    };
    let (hour, rest) = clock.split_once(':')?;
    let (minute, second) = rest.split_once(':')?;
    let small = |text: &str| number(text).and_then(|number| i8::try_from(number).ok());
    let time = civil::DateTime::new(year, i8::try_from(month).ok()?, small(date)?, small(hour)?, small(two(minute)?)?, small(two(second)?)?, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A text of two bytes.
fn two(text: &str) -> Option<&str> {
    (text.len() == 2).then_some(text)
}

/// A text of four bytes.
fn four(text: &str) -> Option<&str> {
    (text.len() == 4).then_some(text)
}

/// A number of digits alone.
fn number(text: &str) -> Option<i16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

/// Whether one of the tags does, or all do. A list is read up to what is no tag.
fn any(tags: &str, is: impl Fn(&str) -> bool) -> bool {
    let mut rest = tags.trim();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
        if rest.starts_with('*') {
            return true;
        }
        let Some(tag) = first(rest) else { return false };
        if is(tag) {
            return true;
        }
        rest = &rest[tag.len()..];
    }
}

/// The tag that a text begins with: quoted, of visible characters.
fn first(text: &str) -> Option<&str> {
    let quoted = text.strip_prefix("W/").unwrap_or(text).strip_prefix('"')?;
    let end = quoted.find(|c: char| !(c == '!' || ('#'..='~').contains(&c) || c >= '\u{80}'))?;
    quoted[end..].starts_with('"').then(|| &text[..text.len() - quoted.len() + end + 1])
}

fn weak(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_asked_for_by_its_first_and_last_byte() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let asked = |text: &str| range(&HeaderMap::from_iter([(header::RANGE, text.parse().unwrap())]), None, made, 100);
        assert_eq!((asked("bytes=0-10"), asked("bytes=90-"), asked("bytes=-5")), (Ok(Some(0..11)), Ok(Some(90..100)), Ok(Some(95..100))));
        assert_eq!((asked("bytes=0-1000"), asked("bytes=-1000"), asked("bytes=1-2,3-4")), (Ok(Some(0..100)), Ok(Some(0..100)), Ok(None)));
        assert_eq!(asked("bytes=100-"), Err("invalid range: failed to overlap"));
        for wrong in ["lines=1-2", "bytes=5-1", "bytes=x-", "bytes=7"] {
            assert_eq!(asked(wrong), Err("invalid range"), "{wrong}");
        }
        let known = |tag: &str| HeaderMap::from_iter([(header::RANGE, "bytes=0-0".parse().unwrap()), (header::IF_RANGE, tag.parse().unwrap())]);
        for (known, is_it) in [
            (known("\"a\""), true),
            (known("\"b\""), false),
            (known("W/\"a\""), false),
            (known("Tue, 14 Nov 2023 22:13:20 GMT"), true),
            (known("Tue, 14 Nov 2023 22:13:21 GMT"), false),
        ] {
            assert_eq!(range(&known, Some("\"a\""), made, 9), Ok(is_it.then_some(0..1)), "{known:?}");
        }
    }

    #[test]
    fn a_document_is_sent_unless_it_is_known_or_another_is_wanted() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let checked = |name: header::HeaderName, text: &str| check(&HeaderMap::from_iter([(name, text.parse().unwrap())]), Some("\"a\""), made).as_u16();
        for (tags, state) in
            [("\"a\"", 304), ("W/\"a\"", 304), ("*", 304), ("\"x\", \"a\"", 304), ("\"x\"", 200), ("a", 200), ("", 200), ("W/*, *", 200), ("x, *", 200)]
        {
            assert_eq!(checked(header::IF_NONE_MATCH, tags), state, "{tags}");
        }
        for (tags, state) in [("\"a\"", 200), ("*", 200), ("W/\"a\"", 412), ("\"x\"", 412)] {
            assert_eq!(checked(header::IF_MATCH, tags), state, "{tags}");
        }
        assert_eq!((date(made).as_str(), in_a_year(made).as_str()), ("Tue, 14 Nov 2023 22:13:20 GMT", "Wed, 13 Nov 2024 22:13:20 UTC"));
        assert_eq!(checked(header::IF_MODIFIED_SINCE, "Tue, 14 Nov 2023 22:13:20 GMT"), 304, "the very second");
        assert_eq!(checked(header::IF_MODIFIED_SINCE, "Tue, 14 Nov 2023 22:13:19 GMT"), 200);
        assert_eq!(checked(header::IF_UNMODIFIED_SINCE, "Wed, 21 Oct 2015 07:28:00 GMT"), 412);
        assert_eq!(checked(header::IF_UNMODIFIED_SINCE, "no time"), 200);
    }

    #[test]
    fn a_time_is_told_in_three_forms() {
        let second = Some(1_700_000_000);
        for text in ["Tue, 14 Nov 2023 22:13:20 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023", "mon, 14 nov 2023 22:13:20 GMT"] {
            assert_eq!(told(text), second, "{text}");
        }
        assert_eq!((told("Sun Nov  6 08:49:37 1994"), told("Sunday, 06-Nov-94 08:49:37 GMT")), (Some(784_111_777), Some(784_111_777)));
        for none in [
            "Tue, 14 Nov 2023 22:13:20 UTC",
            "Tue, 14 Nov 2023 22:13:20 +0000",
            "Tue, 14 Nov 2023 22:13:20",
            "Tue, 1 Nov 2023 22:13:20 GMT",
            "Tue, 32 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 23 22:13:20 GMT",
            "Xyz, 14 Nov 2023 22:13:20 GMT",
            "2023-11-14T22:13:20Z",
            "",
        ] {
            assert_eq!(told(none), None, "{none}");
        }
    }
}
