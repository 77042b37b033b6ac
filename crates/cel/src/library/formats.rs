//! Named formats of strings (`kubernetes.format`).

use super::{costs, global, member, urls};
use crate::cost::{CallEstimate, REGEX_LENGTH, STRING_TRAVERSAL};
use crate::decl::{Function, Library};
use crate::error::EvalError;
use crate::eval::standard::{counted_plain, pattern_cost};
use crate::time::Timestamp;
use crate::value::{Opaque, Value};
use crate::version::Version;
use machinery::names;

const NAME: &str = "kubernetes.NamedFormat";
/// The characters of the longest pattern of a name, which the estimate takes for every format.
const PATTERN_MAX: f64 = 128.0;

/// A format: its name, the characters of its pattern, and what is wrong with a text.
struct Row(&'static str, u64, fn(&str) -> Vec<String>);

const FORMATS: [Row; 13] = [
    Row("dns1123Label", 30, names::dns1123_label),
    Row("dns1123Subdomain", 60, names::dns1123_subdomain),
    Row("dns1035Label", 30, names::dns1035_label),
    Row("qualifiedName", 60, names::qualified_name),
    Row("dns1123LabelPrefix", 30, |text| names::dns1123_label(&prefix(text))),
    Row("dns1123SubdomainPrefix", 60, |text| names::dns1123_subdomain(&prefix(text))),
    Row("dns1035LabelPrefix", 30, |text| names::dns1035_label(&prefix(text))),
    Row("labelValue", 40, names::label_value),
    Row("uri", 1103, |text| urls::request_uri_error(text).into_iter().collect()),
    Row("uuid", 70, |text| unless(is_uuid(text), "does not match the UUID format")),
    Row("byte", 84, |text| unless(is_base64(text), "invalid base64")),
    Row("date", 71, |text| unless(Timestamp::parse_date(text).is_ok(), "invalid date")),
    Row("datetime", 71, |text| unless(is_date_time(text), "invalid datetime")),
];

/// A format, by its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format(usize);

impl Opaque for Format {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        other.as_opaque::<Format>().map(|other| self == other).ok_or_else(EvalError::no_such_overload)
    }

    fn text(&self) -> Option<String> {
        None
    }
}

pub fn library() -> Library {
    let mut library = Library::new("kubernetes.format", Version(31));
    library.functions = vec![
        Function {
            name: "validate",
            overloads: vec![member("format-validate kubernetes.NamedFormat string -> optional(list(string))", validate).costs(
                |args, _| match args[0].as_opaque::<Format>() {
                    Some(format) => pattern_cost(counted_plain(&args[1]), FORMATS[format.0].1),
                    None => 1,
                },
                |call| {
                    let size = call.size(call.args.first()?);
                    Some(CallEstimate::cost(size.by_factor(STRING_TRAVERSAL).by_factor(PATTERN_MAX * REGEX_LENGTH)))
                },
            )],
        },
        Function {
            name: "format.named",
            overloads: vec![
                global("format-named string -> optional(kubernetes.NamedFormat)", |args| {
                    let name = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
                    Ok(FORMATS.iter().position(|row| row.0 == name).map_or(Value::NONE, |at| Value::some(Value::opaque(Format(at)))))
                })
                .costs(costs::nominal, costs::nominal_estimate),
            ],
        },
    ];
    macro_rules! constants {
        ($($at:literal $name:literal),*) => {
            $(library.functions.push(Function { name: $name, overloads: vec![global(concat!($name, " -> kubernetes.NamedFormat"), |_| Ok(Value::opaque(Format($at))))] });)*
        };
    }
    constants!(
        0 "format.dns1123Label", 1 "format.dns1123Subdomain", 2 "format.dns1035Label", 3 "format.qualifiedName", 4 "format.dns1123LabelPrefix",
        5 "format.dns1123SubdomainPrefix", 6 "format.dns1035LabelPrefix", 7 "format.labelValue", 8 "format.uri", 9 "format.uuid", 10 "format.byte",
        11 "format.date", 12 "format.datetime"
    );
    library
}

fn validate<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let (Some(format), Some(text)) = (args[0].as_opaque::<Format>(), args[1].as_str()) else { return Err(EvalError::no_such_overload()) };
    let errors = FORMATS[format.0].2(text);
    Ok(if errors.is_empty() { Value::NONE } else { Value::some(Value::texts(errors)) })
}

fn unless(fits: bool, error: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![error.to_owned()] }
}

/// A prefix of a name may end with a dash.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(name) if !name.is_empty() => {
            let mut masked = name.to_owned();
            masked.pop();
            masked + "a"
        }
        _ => text.to_owned(),
    }
}

/// Dashes may lack.
fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (at, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if at > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        if rest.len() < length || !rest.bytes().take(length).all(|c| c.is_ascii_hexdigit()) {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

/// Groups of four with padding in the last; nothing is none.
fn is_base64(text: &str) -> bool {
    let letters = text.trim_end_matches('=');
    let padding = text.len() - letters.len();
    let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'\\');
    !text.is_empty() && text.len().is_multiple_of(4) && padding <= 2 && letters.bytes().all(letter)
}

/// A date, and a time as RFC 3339 has it, whatever stands before the fraction.
fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let bytes = time.as_bytes();
    let two = |at: usize, most: &[u8]| bytes.get(at..at + 2).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit) && digits <= most);
    if Timestamp::parse_date(date).is_err() || !two(0, b"23") || bytes.get(2) != Some(&b':') || !two(3, b"59") || bytes.get(5) != Some(&b':') || !two(6, b"59")
    {
        return false;
    }
    let Some(rest) = time.get(8..) else { return false };
    let mut chars = rest.chars();
    let fraction = match (chars.next(), chars.as_str()) {
        (Some(_), after) if after.starts_with(|c: char| c.is_ascii_digit()) => Some(after.trim_start_matches(|c: char| c.is_ascii_digit())),
        _ => None,
    };
    let is_zone = |zone: &str| {
        let zone = zone.as_bytes();
        let digits = |at: usize| zone.get(at..at + 2).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
        zone == b"z" || (zone.len() == 6 && matches!(zone[0], b'+' | b'-') && digits(1) && zone[3] == b':' && digits(4))
    };
    is_zone(rest) || fraction.is_some_and(is_zone)
}
