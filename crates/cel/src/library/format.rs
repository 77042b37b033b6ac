//! `format` (`cel-go/ext`, version 2 of the strings): as an English locale writes numbers, with thousands apart.

use std::fmt::Write;

use crate::error::EvalError;
use crate::gotext;
use crate::types::Type;
use crate::value::{List, Map, Value, convert};
use crate::work;

/// The digits of a fraction, unless the clause says how many.
const PRECISION: usize = 6;
/// The most digits or places that a clause may ask for: what is longer is no text that anyone reads, and Rust writes no more. (The original
/// takes any number.)
const PRECISION_MAX: usize = u16::MAX as usize;

type Text = Result<String, EvalError>;

/// `"…".format([…])`.
pub(super) fn format<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let [Value::String(text), Value::List(list)] = args else { return Err(EvalError::no_such_overload()) };
    filled(text, list).map(Value::text)
}

/// What a clause makes of an argument, as far as there is work left for it.
fn bounded(text: String) -> Result<String, EvalError> {
    work::take_bytes(text.len() as u64)?;
    Ok(text)
}

fn filled(text: &str, args: &List<'_>) -> Text {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut next = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        if next >= args.len() {
            return Err(EvalError::of(format!("index {next} out of range")));
        }
        if rest.is_empty() {
            return Err(EvalError::of("unexpected end of string"));
        }
        let arg = args.at(next)?;
        let (clause, precision, after) = clause(rest).map_err(|error| EvalError::of(format!("could not parse formatting clause: {error}")))?;
        let made = formatted(clause, precision, &arg).and_then(bounded);
        out.push_str(&made.map_err(|error| if error.is_final() { error } else { EvalError::of(format!("error during formatting: {error}")) })?);
        rest = after;
        next += 1;
    }
    out.push_str(rest);
    Ok(out)
}

/// The letter of a clause, its precision, and what is behind it.
pub(crate) fn clause(text: &str) -> Result<(char, Option<usize>, &str), String> {
    let (precision, rest) = match text.strip_prefix('.') {
        None => (None, text),
        Some(after) => {
            let end = after.find(|c: char| !c.is_ascii_digit()).ok_or("error while parsing precision: could not find end of precision specifier")?;
            let digits = &after[..end];
            let wrong =
                |why: &str| format!("error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing \"{digits}\": {why}");
            if digits.is_empty() {
                return Err(wrong("invalid syntax"));
            }
            (Some(digits.parse::<usize>().map_err(|_| wrong("value out of range"))?.min(PRECISION_MAX)), &after[end..])
        }
    };
    let letter = rest.chars().next().unwrap_or_default();
    match letter {
        's' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o' => Ok((letter, precision, &rest[1..])),
        other => Err(format!("unrecognized formatting clause \"{other}\"")),
    }
}

fn formatted(clause: char, precision: Option<usize>, arg: &Value<'_>) -> Text {
    match clause {
        's' => shown(arg),
        'd' => decimal(arg),
        'f' => float(arg)
            .map(|value| fixed(value, precision.unwrap_or(PRECISION)))
            .ok_or_else(|| EvalError::of(format!("fixed-point clause can only be used on doubles, was given {}", arg.type_name()))),
        'e' => float(arg)
            .map(|value| scientific(value, precision.unwrap_or(PRECISION)))
            .ok_or_else(|| EvalError::of(format!("scientific clause can only be used on doubles, was given {}", arg.type_name()))),
        'b' => match arg {
            Value::Int(value) => Ok(signed(*value, |magnitude| format!("{magnitude:b}"))),
            Value::Uint(value) => Ok(format!("{value:b}")),
            Value::Bool(value) => Ok(u8::from(*value).to_string()),
            other => Err(EvalError::of(format!("only integers and bools can be formatted as binary, was given {}", other.type_name()))),
        },
        'o' => match arg {
            Value::Int(value) => Ok(signed(*value, |magnitude| format!("{magnitude:o}"))),
            Value::Uint(value) => Ok(format!("{value:o}")),
            other => Err(EvalError::of(format!("octal clause can only be used on integers, was given {}", other.type_name()))),
        },
        upper => {
            let text = match arg {
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                Value::Int(value) => signed(*value, |magnitude| format!("{magnitude:x}")),
                Value::Uint(value) => format!("{value:x}"),
                other => {
                    return Err(EvalError::of(format!("only integers, byte buffers, and strings can be formatted as hex, was given {}", other.type_name())));
                }
            };
            Ok(if upper == 'X' { text.to_uppercase() } else { text })
        }
    }
}

fn signed(value: i64, write: fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, write(value.unsigned_abs()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        _ = write!(out, "{byte:02x}");
        out
    })
}

/// `%s`.
fn shown(arg: &Value<'_>) -> Text {
    match arg {
        Value::List(list) => shown_list(list),
        Value::Map(map) => shown_map(map),
        Value::Null => Ok("null".to_owned()),
        Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Bool(_)
        | Value::String(_)
        | Value::Timestamp(_)
        | Value::Bytes(_)
        | Value::Duration(_)
        | Value::Type(_) => match convert(arg, &Type::String) {
            Ok(text) => Ok(text.as_str().unwrap_or_default().to_owned()),
            Err(error) => Err(EvalError::of(format!("could not convert argument {} to string", gotext::quote(&error.message)))),
        },
        other => Err(EvalError::of(format!(
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
            other.type_name()
        ))),
    }
}

fn decimal(arg: &Value<'_>) -> Text {
    match arg {
        Value::Int(value) => Ok(value.to_string()),
        Value::Uint(value) => Ok(value.to_string()),
        other => Err(EvalError::of(format!("decimal clause can only be used on integers, was given {}", other.type_name()))),
    }
}

/// A value inside of a list or map, as a literal of the language.
fn inside(value: &Value<'_>) -> Text {
    Ok(match value {
        Value::Int(_) | Value::Uint(_) => decimal(value)?,
        Value::String(text) => gotext::quote(text),
        Value::Bytes(_) => format!("b{}", gotext::quote(&shown(value)?)),
        Value::Bool(_) | Value::Null | Value::Type(_) => shown(value)?,
        Value::Timestamp(time) => format!("timestamp(\"{time}\")"),
        Value::Duration(nanos) => format!("duration(\"{}\")", gotext::seconds(*nanos)),
        Value::List(list) => shown_list(list)?,
        Value::Map(map) => shown_map(map)?,
        Value::Double(value) => match gotext::nonfinite(*value, true) {
            Some(text) => format!("\"{text}\""),
            None => format!("{value:.PRECISION$}"),
        },
        other => return Err(EvalError::of(format!("no formatting function for {}", other.type_name()))),
    })
}

fn shown_list(list: &List<'_>) -> Text {
    let elements: Vec<String> = list.iter().map(|element| bounded(inside(&element?)?)).collect::<Result<_, EvalError>>()?;
    Ok(format!("[{}]", elements.join(", ")))
}

fn shown_map(map: &Map<'_>) -> Text {
    let mut entries = Vec::with_capacity(map.len());
    for key in map.keys() {
        let name = match &key {
            Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_) => inside(&key)?,
            other => return Err(EvalError::of(format!("no formatting function for map key of type {}", other.type_name()))),
        };
        let value = map.find(&key)?.unwrap_or(Value::Null);
        entries.push((bounded(name)?, bounded(inside(&value)?)?));
    }
    entries.sort();
    let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
    Ok(format!("{{{}}}", entries.join(", ")))
}

/// A double, or the text of one that has no digits.
fn float(arg: &Value<'_>) -> Option<f64> {
    match arg {
        Value::Double(value) => Some(*value),
        Value::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => gotext::parse_float(text),
        _ => None,
    }
}

/// `%f`: thousands apart.
fn fixed(value: f64, precision: usize) -> String {
    if let Some(text) = gotext::nonfinite(value, false) {
        return text.to_owned();
    }
    let text = format!("{:.precision$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = if value.is_sign_negative() { "-".to_owned() } else { String::new() };
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `%e`: times a power of ten. What the clause calls its precision is the width, as in the original.
fn scientific(value: f64, width: usize) -> String {
    const SUPERSCRIPTS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let text = match gotext::nonfinite(value, false) {
        Some(text) => text.to_owned(),
        None => {
            let text = format!("{value:.PRECISION$e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("", exponent), |digits| ("⁻", digits));
            let power: String = format!("{digits:0>2}").bytes().map(|digit| SUPERSCRIPTS[usize::from(digit - b'0')]).collect();
            format!("{mantissa}×10{sign}{power}")
        }
    };
    let length = text.chars().count();
    format!("{}{text}", " ".repeat(width.saturating_sub(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by mutation: more digits than are written are no panic.
    #[test]
    fn no_precision_is_too_large() {
        for clause in ["%.999999999f", "%.65536f", "%.65535f", "%.999999999e"] {
            let args = [Value::text(clause), Value::list(vec![Value::Double(-1.5)])];
            let made = work::with_all(|| format(&args)).0.expect("a text");
            assert!(made.as_str().is_some_and(|text| text.len() >= PRECISION_MAX), "{clause}");
        }
    }
}
