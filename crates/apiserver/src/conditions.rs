//! Conditions of requests for what does not change: a tag that the sender knows, or a time since when it knows.
//!
//! The rules and their order are those of RFC 9110, section 13.2.2, as Go's `http.ServeContent` keeps them; what it does with
//! ranges is left out, as an answer may always be the whole.

use http::{HeaderMap, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};
use std::time::SystemTime;

/// 200 if the answer is to be sent, 304 if the sender has it, 412 if it wanted another. `tag` is quoted.
pub(crate) fn check(headers: &HeaderMap, tag: Option<&str>, modified: SystemTime) -> StatusCode {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    // Times have whole seconds.
    let modified = seconds(modified);
    let since = |name| text(name).and_then(|text| rfc2822::parse(text).ok()).map(|time| time.timestamp().as_second());
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

/// A time as headers tell it.
pub(crate) fn date(time: SystemTime) -> String {
    let time = Timestamp::from_second(seconds(time)).unwrap_or_default();
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
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
    use std::time::Duration;

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
        assert_eq!(date(made), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(checked(header::IF_MODIFIED_SINCE, "Tue, 14 Nov 2023 22:13:20 GMT"), 304, "the very second");
        assert_eq!(checked(header::IF_MODIFIED_SINCE, "Tue, 14 Nov 2023 22:13:19 GMT"), 200);
        assert_eq!(checked(header::IF_UNMODIFIED_SINCE, "Wed, 21 Oct 2015 07:28:00 GMT"), 412);
        assert_eq!(checked(header::IF_UNMODIFIED_SINCE, "no time"), 200);
    }
}
