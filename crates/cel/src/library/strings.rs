//! Strings (`cel-go/ext`, strings, version 2): characters are code points.

use super::format::format;
use super::{costs, global, member};
use crate::cost::{CallEstimate, EstimatedCall, Range, STRING_TRAVERSAL, by_factor};
use crate::decl::CallCost;
use crate::decl::{Binding, Function, Library};
use crate::error::EvalError;
use crate::eval::standard::{counted, counted_plain, read_cost};
use crate::value::{Value, shown};
use crate::version::Version;
use crate::work;

/// What was always there.
pub fn library() -> Library {
    let read: CallCost = |args, _| read_cost(&args[0]);
    let made: CallCost = |args, _| by_factor(counted_plain(&args[0]), 2.0 * STRING_TRAVERSAL);
    let joined: CallCost = |_, result| by_factor(counted_plain(result), 2.0 * STRING_TRAVERSAL);
    let mut library = Library::new("cel.lib.ext.strings", Version::FIRST);
    library.functions = vec![
        Function { name: "charAt", overloads: vec![member("string_char_at_int string int -> string", char_at)] },
        Function {
            name: "indexOf",
            overloads: vec![
                member("string_index_of_string string string -> int", |args| index_of(args, 0)).costs(costs::traversed, costs::scanned),
                member("string_index_of_string_int string string int -> int", |args| index_of(args, int(args, 2))).costs(costs::traversed, costs::scanned),
            ],
        },
        Function {
            name: "lastIndexOf",
            overloads: vec![
                member("string_last_index_of_string string string -> int", last_index_of).costs(costs::traversed, costs::scanned),
                member("string_last_index_of_string_int string string int -> int", |args| last_index_of_from(args, int(args, 2)))
                    .costs(costs::traversed, costs::scanned),
            ],
        },
        Function {
            name: "lowerAscii",
            overloads: vec![member("string_lower_ascii string -> string", |args| Ok(Value::text(text(args, 0).to_ascii_lowercase()))).costs(read, same_size)],
        },
        Function {
            name: "upperAscii",
            overloads: vec![member("string_upper_ascii string -> string", |args| Ok(Value::text(text(args, 0).to_ascii_uppercase()))).costs(read, same_size)],
        },
        Function {
            name: "trim",
            overloads: vec![member("string_trim string -> string", |args| Ok(Value::text(text(args, 0).trim_matches(is_space)))).costs(read, same_size)],
        },
        Function {
            name: "replace",
            overloads: vec![
                member("string_replace_string_string string string string -> string", |args| replace(args, -1)).costs(made, replaced),
                member("string_replace_string_string_int string string string int -> string", |args| replace(args, int(args, 3))).costs(made, replaced),
            ],
        },
        Function {
            name: "split",
            overloads: vec![
                member("string_split_string string string -> list(string)", |args| split(args, -1)).costs(made, parted),
                member("string_split_string_int string string int -> list(string)", |args| split(args, int(args, 2))).costs(made, parted),
            ],
        },
        Function {
            name: "substring",
            overloads: vec![
                member("string_substring_int string int -> string", |args| substring(args, None)).costs(read, same_size),
                member("string_substring_int_int string int int -> string", |args| substring(args, Some(int(args, 2)))).costs(read, same_size),
            ],
        },
        Function {
            name: "join",
            overloads: vec![
                member("list_join list(string) -> string", |args| join(args, "")).costs(joined, join_estimate),
                member("list_join_string list(string) string -> string", |args| join(args, text(args, 1))).costs(joined, join_estimate),
            ],
        },
    ];
    library
}

/// What came with version 2.
pub fn formatting() -> Library {
    let mut library = Library::new("cel.lib.ext.strings.format", Version(29));
    library.functions = vec![
        Function {
            name: "format",
            overloads: vec![member("string_format string list(dyn) -> string", format).overload_costs(
                |args, _| by_factor(counted(&args[0]), STRING_TRAVERSAL),
                |call| Some(CallEstimate::cost(call.size(call.target?).by_factor(STRING_TRAVERSAL))),
            )],
        },
        Function {
            name: "strings.quote",
            overloads: vec![global("strings_quote string -> string", |args| Ok(Value::text(quote(text(args, 0))))).bound(Binding::Guarded).overload_costs(
                |args, _| by_factor(counted(&args[0]), STRING_TRAVERSAL),
                |call| {
                    let size = call.size(call.args.first()?);
                    let result = Range::new(size.min.wrapping_add(2), size.max.wrapping_mul(2).wrapping_add(2));
                    Some(CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), result))
                },
            )],
        },
    ];
    library
}

fn text<'a>(args: &'a [Value<'_>], at: usize) -> &'a str {
    args.get(at).and_then(Value::as_str).unwrap_or_default()
}

fn int(args: &[Value<'_>], at: usize) -> i64 {
    match args.get(at) {
        Some(Value::Int(value)) => *value,
        _ => 0,
    }
}

/// White space as Go has it.
fn is_space(c: char) -> bool {
    c.is_whitespace()
}

/// Where the character of this index begins in bytes; none beyond the end, which is itself a place.
fn offset(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    if text.is_ascii() {
        return (index <= text.len()).then_some(index);
    }
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index)
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::of(format!("index out of range: {index}"))
}

fn char_at<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let (text, index) = (text(args, 0), int(args, 1));
    let at = offset(text, index).ok_or_else(|| out_of_range(index))?;
    Ok(Value::text(text[at..].chars().next().map(String::from).unwrap_or_default()))
}

fn count(text: &str) -> i64 {
    if text.is_ascii() { text.len() as i64 } else { text.chars().count() as i64 }
}

fn index_of<'v>(args: &[Value<'v>], from: i64) -> Result<Value<'v>, EvalError> {
    let (text, part) = (text(args, 0), text(args, 1));
    if from < 0 {
        return Err(out_of_range(from));
    }
    if part.is_empty() {
        return Ok(Value::Int(from.min(count(text))));
    }
    let found = offset(text, from).and_then(|start| text[start..].find(part).map(|at| from + count(&text[start..start + at])));
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let (text, part) = (text(args, 0), text(args, 1));
    match (part.is_empty(), text.len() < part.len()) {
        (true, _) => Ok(Value::Int(count(text))),
        (_, true) => Ok(Value::Int(-1)),
        _ => last_index_of_from(args, count(text) - 1),
    }
}

fn last_index_of_from<'v>(args: &[Value<'v>], from: i64) -> Result<Value<'v>, EvalError> {
    let (text, part) = (text(args, 0), text(args, 1));
    let length = count(text);
    if from < 0 {
        return Err(out_of_range(from));
    }
    if part.is_empty() {
        return Ok(Value::Int(from.min(length)));
    }
    if from >= length {
        return Ok(Value::Int(-1));
    }
    // The match may begin at that character at the latest.
    let end = offset(text, from.saturating_add(count(part))).unwrap_or(text.len());
    Ok(Value::Int(text[..end].rfind(part).map_or(-1, |at| count(&text[..at]))))
}

fn replace<'v>(args: &[Value<'v>], limit: i64) -> Result<Value<'v>, EvalError> {
    let (text, old, new) = (text(args, 0), text(args, 1), text(args, 2));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // The result may be as long as the product of the two.
    let times = if new.len() > old.len() { text.matches(old).take(limit).count() } else { 0 };
    work::take_bytes((times as u64).saturating_mul(new.len() as u64).saturating_add(text.len() as u64))?;
    Ok(Value::text(text.replacen(old, new, limit)))
}

fn split<'v>(args: &[Value<'v>], limit: i64) -> Result<Value<'v>, EvalError> {
    let (text, separator) = (text(args, 0), text(args, 1));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let parts = if separator.is_empty() { count(text) as usize } else { text.matches(separator).count() + 1 };
    work::take_kept(parts.min(limit) as u64)?;
    if !separator.is_empty() {
        return Ok(Value::texts(text.splitn(limit, separator).map(str::to_owned)));
    }
    // Every character by itself, the rest in the last one.
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if parts.len() + 1 == limit { rest.len() } else { first.len_utf8() };
        let (part, after) = rest.split_at(length);
        parts.push(part.to_owned());
        rest = after;
    }
    Ok(Value::texts(parts))
}

fn substring<'v>(args: &[Value<'v>], end: Option<i64>) -> Result<Value<'v>, EvalError> {
    let (text, start) = (text(args, 0), int(args, 1));
    if let Some(end) = end
        && start > end
    {
        return Err(EvalError::of(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let from = offset(text, start).ok_or_else(|| out_of_range(start))?;
    let to = match end {
        Some(end) => offset(text, end).ok_or_else(|| out_of_range(end))?,
        None => text.len(),
    };
    Ok(Value::text(&text[from..to]))
}

fn join<'v>(args: &[Value<'v>], separator: &str) -> Result<Value<'v>, EvalError> {
    let Some(Value::List(list)) = args.first() else { return Err(EvalError::no_such_overload()) };
    work::take(list.len() as u64)?;
    let mut out = String::new();
    for (at, element) in list.iter().enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        match element {
            Ok(Value::String(text)) => {
                work::take_bytes((text.len() + separator.len()) as u64)?;
                out.push_str(&text);
            }
            Ok(other) => return Err(EvalError::of(format!("join: invalid input: {}", shown(&other)))),
            Err(error) => return Err(EvalError::of(format!("join: invalid input: {error}"))),
        }
    }
    Ok(Value::text(out))
}

/// A text as a literal of the language.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// Reading the target; the result is no longer.
fn same_size(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let size = call.size(call.target?);
    Some(CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), size))
}

/// The result of replacing: the longest and the shortest that the sizes allow.
fn replaced(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let [old, new, ..] = call.args else { return None };
    let (size, old, new) = (call.size(call.target?), call.size(old), call.size(new));
    let per = |size: u64, by: u64| (size as f64 / by as f64).ceil() as u64;
    let (mut count, mut kept) = (Range::default(), Range::default());
    // An empty text is replaced around every character.
    if old.min == 0 {
        count.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if new.max <= old.min {
        kept.max = size.max;
    } else {
        count.max = per(size.max, old.min);
    }
    if old.max == 0 {
        count.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if old.max <= new.min {
        kept.min = size.min;
    } else {
        count.min = per(size.min, old.max);
    }
    Some(CallEstimate::sized(size.by_factor(2.0 * STRING_TRAVERSAL), count.times(new).plus(kept)))
}

/// Splitting: at worst every character is an element.
fn parted(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let size = call.size(call.target?);
    let limit = match call.args.get(1).and_then(|limit| limit.literal.as_ref()) {
        Some(crate::ast::Literal::Int(limit)) => *limit as u64,
        _ => size.max,
    };
    Some(CallEstimate::sized(size.by_factor(2.0 * STRING_TRAVERSAL), Range::new(0, limit)))
}

fn join_estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let list = call.target?;
    let count = call.size(list);
    let mut size = call.element(list).map_or(Range::default(), |element| count.times(call.size(&element)));
    if let Some(separator) = call.args.first() {
        let separators = Range::new(count.min.saturating_sub(1), count.max.saturating_sub(1));
        size = size.plus(call.size(separator).times(separators));
    }
    Some(CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), size))
}
