//! Dates, times and durations.

pub(super) fn is_date(text: &str) -> bool {
    text.len() == 10 && crate::unix::parse(&format!("{text}T00:00:00Z")).is_some()
}

/// A date, `t` and a time with a zone; seconds may have a fraction behind any one character.
pub(super) fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let number = |from: usize, most: &str| time.get(from..from + 2).is_some_and(|two| two.bytes().all(|b| b.is_ascii_digit()) && two <= most);
    let colons = time.get(2..3) == Some(":") && time.get(5..6) == Some(":");
    if !is_date(date) || !colons || !number(0, "23") || !number(3, "59") || !number(6, "59") {
        return false;
    }
    let rest = time.get(8..).unwrap_or_default();
    is_zone(rest) || {
        let mut letters = rest.chars();
        let fraction = letters.next().is_some_and(|c| c != '\n');
        let after = letters.as_str();
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        fraction && digits > 0 && is_zone(&after[digits..])
    }
}

fn is_zone(text: &str) -> bool {
    let shape = |(at, b): (usize, u8)| match at {
        0 => b == b'+' || b == b'-',
        3 => b == b':',
        _ => b.is_ascii_digit(),
    };
    text == "z" || (text.len() == 6 && text.bytes().enumerate().all(shape))
}

/// As Go reads durations, or numbers with the names of units anywhere in a text.
pub(super) fn is_duration(text: &str) -> bool {
    crate::time::parse_go_duration(text).is_ok() || has_amount(text)
}

fn has_amount(text: &str) -> bool {
    const UNITS: [&[&str]; 8] =
        [&["ns", "nano"], &["us", "µs", "micro"], &["ms", "milli"], &["s", "sec"], &["m", "min"], &["h", "hr", "hour"], &["d", "day"], &["w", "wk", "week"]];
    let is_unit = |unit: &str| {
        let unit = unit.to_lowercase();
        UNITS.iter().any(|names| names.contains(&unit.as_str()) || names.last().is_some_and(|last| unit.starts_with(last)))
    };
    let mut rest = text;
    let mut found = false;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let from = &rest[start..];
        let digits = from.bytes().take_while(u8::is_ascii_digit).count();
        let after = from[digits..].trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
        let letters: usize = after.chars().take_while(|c| c.is_ascii_alphabetic() || *c == 'µ').map(char::len_utf8).sum();
        if letters == 0 {
            rest = &from[digits..];
            continue;
        }
        // A number that is too large ends the reading.
        if from[..digits].parse::<i64>().is_err() {
            return false;
        }
        found |= is_unit(&after[..letters]);
        rest = &after[letters..];
    }
    found
}
