//! Table cells as kubectl shows them (`pkg/printers/internalversion`).

use crate::tree;
use machinery::{
    Value,
    labels::{Operator, Requirement, Selector},
    time,
};
use std::time::SystemTime;

/// What stands for nothing.
pub const NONE: &str = "<none>";
/// What stands for what is not known.
pub const UNKNOWN: &str = "<unknown>";
/// What stands for a value that is not set.
pub const UNSET: &str = "<unset>";

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// A number of seconds for people: two digits' worth of the two largest units.
pub fn human_duration(seconds: i64) -> String {
    let two = |large: i64, unit: &str, small: i64, subunit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{subunit}"),
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// The seconds from one time to another; negative if it is the other way round.
pub(crate) fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    match to.duration_since(from) {
        Ok(d) => i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        Err(e) => -i64::try_from(e.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

/// How long ago a time was; `<unknown>` if there is none.
pub fn since(timestamp: &Value, now: SystemTime) -> String {
    match timestamp.as_str().and_then(|t| time::parse(t).ok()) {
        Some(then) => human_duration(seconds_between(then, now)),
        None => UNKNOWN.to_owned(),
    }
}

/// The cell of the name.
pub fn name(obj: &Value) -> Value {
    Value::from(tree::text(&obj["metadata"], "name"))
}

/// The cell of the age.
pub fn age(obj: &Value, now: SystemTime) -> Value {
    since(&obj["metadata"]["creationTimestamp"], now).into()
}

/// The cell of the time of creation, as a date.
pub fn created(obj: &Value) -> Value {
    Value::from(tree::text(&obj["metadata"], "creationTimestamp"))
}

/// A number's cell; 0 if it is absent.
pub fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// A text's cell; what stands for nothing if it is empty.
pub fn or(value: &Value, nothing: &str) -> Value {
    match value.as_str() {
        None | Some("") => nothing.into(),
        Some(text) => text.into(),
    }
}

/// A number or text (`IntOrString`) as text.
pub fn int_or_string(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Parts joined by commas; `<none>` for none.
pub fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

/// Labels as `a=b,c=d`.
pub fn label_set(labels: &Value) -> String {
    joined(labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())))
}

/// A `LabelSelector` object as kubectl writes it.
pub fn selector(selector: &Value) -> String {
    match Selector::from_label_selector(selector) {
        Ok(parsed) => match sorted(&parsed) {
            text if text.is_empty() => NONE.to_owned(),
            text => text,
        },
        Err(_) => "<error>".to_owned(),
    }
}

/// A `LabelSelector` object as the table of Deployments has it: nothing is said of an empty one.
pub fn plain_selector(selector: &Value) -> String {
    Selector::from_label_selector(selector).map_or_else(|_| "<invalid>".to_owned(), |parsed| sorted(&parsed))
}

/// A selector's terms by key, as upstream sorts them.
fn sorted(selector: &Selector) -> String {
    let mut terms: Vec<_> = selector.requirements().iter().collect();
    terms.sort_by(|a, b| a.key.cmp(&b.key));
    let texts: Vec<String> = terms.into_iter().map(term).collect();
    texts.join(",")
}

/// One term of a `LabelSelector`.
fn term(term: &Requirement) -> String {
    let (key, values) = (&term.key, term.values.join(","));
    match (term.operator, term.values.len()) {
        (Operator::In, 1) => format!("{key}={values}"),
        (Operator::In, _) => format!("{key} in ({values})"),
        (Operator::NotIn, 1) => format!("{key}!={values}"),
        (Operator::NotIn, _) => format!("{key} notin ({values})"),
        (Operator::DoesNotExist, _) => format!("!{key}"),
        _ => key.clone(),
    }
}

/// The cells of containers' names and images of a pod spec.
pub fn containers(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|key| {
        let texts: Vec<&str> = tree::list(spec, "containers").iter().map(|c| tree::text(c, key)).collect();
        texts.join(",").into()
    })
}

/// A few of many, then how many more there are.
pub fn first_few(parts: &[String], most: usize) -> String {
    let shown = parts.iter().take(most).cloned().collect::<Vec<_>>().join(",");
    if parts.len() > most { format!("{shown} + {} more...", parts.len() - most) } else { shown }
}
