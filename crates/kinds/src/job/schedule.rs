//! The schedules of cron jobs: checked here, followed by the controller.

use crate::rules;
use machinery::{
    field::{Error, ErrorList, Path},
    numerals, time,
};

/// A field of a schedule: its least and greatest value, and the names of values.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// The value of the first name.
    first: u32,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[], first: 0 },
    Bounds { min: 0, max: 23, names: &[], first: 0 },
    Bounds { min: 1, max: 31, names: &[], first: 0 },
    Bounds { min: 1, max: 12, names: &MONTHS, first: 1 },
    Bounds { min: 0, max: 6, names: &DAYS, first: 0 },
];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Checks a schedule in the standard notation of cron, or one of the `@` words.
///
/// # Errors
/// What is wrong, in the words of the original's parser.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let mut rest = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, fields) = text.split_once(' ').ok_or_else(|| "empty spec string".to_owned())?;
        let zone = zone.split_once('=').map_or("", |(_, z)| z);
        if !is_zone(zone) {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        rest = fields.trim();
    }
    if rest.starts_with('@') {
        return descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly {} fields, found {}: [{}]", FIELDS.len(), fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for expression in field.split(',').filter(|e| !e.is_empty()) {
            range(expression, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) => machinery::time::parse_go_duration(duration).map(drop).map_err(|why| format!("failed to parse duration {text}: {why}")),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

fn range(expression: &str, bounds: &Bounds) -> Result<(), String> {
    let parts: Vec<&str> = expression.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?", ..] => (bounds.min, bounds.max),
        [one] => {
            let value = number_or_name(one, bounds)?;
            (value, value)
        }
        [first, last] => (number_or_name(first, bounds)?, number_or_name(last, bounds)?),
        _ => return Err(format!("too many hyphens: {expression}")),
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            // `N/step` goes on to the end.
            if ends.len() == 1 {
                end = bounds.max;
            }
            step
        }
        _ => return Err(format!("too many slashes: {expression}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {expression}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {expression}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {expression}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {expression}"));
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().zip(bounds.first..).find(|(name, _)| **name == lower) {
        Some((_, value)) => Ok(value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    match numerals::whole("Atoi", text) {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(why) => Err(format!("failed to parse int from {text}: {why}")),
    }
}

/// Whether there is a time zone of this name.
fn is_zone(zone: &str) -> bool {
    is_zone_name(zone) && (zone == "Local" || time::zone(zone).is_some())
}

/// Whether a text is shaped like the name of a time zone.
fn is_zone_name(zone: &str) -> bool {
    let part = |p: &str| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        (1..=14).contains(&p.len()) && p.bytes().all(legal) && !p.starts_with('-') && !matches!(p, "." | "..")
    };
    zone.split('/').all(part)
}

/// Checks the name of a time zone: one of IANA's, in its own letters.
pub(super) fn check_zone(zone: &str, path: &Path, errors: &mut ErrorList) {
    // Upstream shows the field, which may be absent, and not the text in it: as JSON.
    let bad = |detail: &str| rules::typed(Error::invalid(path, zone, detail));
    if zone.is_empty() {
        errors.push(bad("timeZone must be nil or non-empty string"));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        errors.push(bad("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"));
    }
    if !is_zone(zone) {
        errors.push(bad(&format!("unknown time zone {zone}")));
    }
}
