//! Semantic versions (`kubernetes.Semver`, version 1): what `blang/semver` reads, with its errors.

use std::cmp::Ordering;

use super::{costs, global, member};
use crate::decl::Run;
use crate::decl::{Function, Library, Overload};
use crate::error::EvalError;
use crate::gotext::quote;
use crate::value::{Opaque, Value};
use crate::version::Version;

const NAME: &str = "kubernetes.Semver";

/// A version. What its build says has no part in its order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Semver {
    numbers: [u64; 3],
    pre: Pre,
}

/// What comes before the release itself; none is the release.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pre(Vec<Part>);

/// A part of it: numbers come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl Ord for Pre {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0.is_empty(), other.0.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.0.cmp(&other.0),
        }
    }
}

impl PartialOrd for Pre {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Opaque for Semver {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        other.as_opaque::<Semver>().map(|other| self == other).ok_or_else(EvalError::no_such_overload)
    }
}

pub fn library() -> Library {
    let one = |overload: Overload| overload.costs(costs::nominal, costs::nominal_estimate);
    let of = |name, row: &'static str, run: Run| Function { name, overloads: vec![one(member(row, run))] };
    let read = |overload: Overload| overload.costs(costs::read_first, costs::read_first_estimate);
    let mut library = Library::new("kubernetes.Semver", Version(33));
    library.functions = vec![
        Function {
            name: "semver",
            overloads: vec![
                read(global("string_to_semver string -> kubernetes.Semver", |args| parsed(args).map(Value::opaque))),
                read(global("string_bool_to_semver string bool -> kubernetes.Semver", |args| parsed(args).map(Value::opaque))),
            ],
        },
        Function {
            name: "isSemver",
            overloads: vec![
                read(global("is_semver_string string -> bool", |args| Ok(Value::Bool(parsed(args).is_ok())))),
                read(global("is_semver_string_bool string bool -> bool", |args| Ok(Value::Bool(parsed(args).is_ok())))),
            ],
        },
        of("isGreaterThan", "semver_is_greater_than kubernetes.Semver kubernetes.Semver -> bool", |args| {
            compared(args).map(|order| Value::Bool(order.is_gt()))
        }),
        of("isLessThan", "semver_is_less_than kubernetes.Semver kubernetes.Semver -> bool", |args| compared(args).map(|order| Value::Bool(order.is_lt()))),
        of("compareTo", "semver_compare_to kubernetes.Semver kubernetes.Semver -> int", |args| compared(args).map(|order| Value::Int(order as i64))),
        of("major", "semver_major kubernetes.Semver -> int", |args| Ok(Value::Int(get(args, 0)?.numbers[0] as i64))),
        of("minor", "semver_minor kubernetes.Semver -> int", |args| Ok(Value::Int(get(args, 0)?.numbers[1] as i64))),
        of("patch", "semver_patch kubernetes.Semver -> int", |args| Ok(Value::Int(get(args, 0)?.numbers[2] as i64))),
    ];
    library
}

/// A version as a value.
pub(crate) fn value<'v>(text: &str) -> Result<Value<'v>, String> {
    parse(text).map(Value::opaque)
}

fn get<'a>(args: &'a [Value<'_>], at: usize) -> Result<&'a Semver, EvalError> {
    args.get(at).and_then(|arg| arg.as_opaque()).ok_or_else(EvalError::no_such_overload)
}

fn compared(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(get(args, 0)?.cmp(get(args, 1)?))
}

/// The first argument as a version, read kindly if the second says so.
fn parsed(args: &[Value<'_>]) -> Result<Semver, EvalError> {
    let text = args.first().and_then(Value::as_str).ok_or_else(EvalError::no_such_overload)?;
    let result = if matches!(args.get(1), Some(Value::Bool(true))) { normalized(text).and_then(|text| parse(&text)) } else { parse(text) };
    result.map_err(EvalError::of)
}

/// Without a `v` before it and zeros before its numbers, with the numbers that lack.
fn normalized(text: &str) -> Result<String, String> {
    let mut parts: Vec<String> = text.strip_prefix('v').unwrap_or(text).splitn(3, '.').map(str::to_owned).collect();
    for part in &mut parts {
        if part.len() > 1 {
            let trimmed = part.trim_start_matches('0');
            *part = if trimmed.starts_with(|c: char| c.is_ascii_digit()) { trimmed.to_owned() } else { format!("0{trimmed}") };
        }
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}

fn parse(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let mut parts = text.splitn(3, '.');
    let (Some(major), Some(minor), Some(patch)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("No Major.Minor.Patch elements found".to_owned());
    };
    let (major, minor) = (number(major, "major", "Major")?, number(minor, "minor", "Minor")?);
    let (patch, build) = patch.split_once('+').map_or((patch, None), |(patch, build)| (patch, Some(build)));
    let (patch, pre) = patch.split_once('-').map_or((patch, None), |(patch, pre)| (patch, Some(pre)));
    let patch = number(patch, "patch", "Patch")?;
    let pre = pre.into_iter().flat_map(|pre| pre.split('.')).map(part).collect::<Result<_, _>>()?;
    for part in build.into_iter().flat_map(|build| build.split('.')) {
        if part.is_empty() {
            return Err("Build meta data is empty".to_owned());
        }
        if !is_name(part) {
            return Err(format!("Invalid character(s) found in build meta data {}", quote(part)));
        }
    }
    Ok(Semver { numbers: [major, minor, patch], pre: Pre(pre) })
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit())
}

fn has_zeros(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0')
}

fn number(text: &str, name: &str, upper: &str) -> Result<u64, String> {
    if !is_number(text) {
        return Err(format!("Invalid character(s) found in {name} number {}", quote(text)));
    }
    if has_zeros(text) {
        return Err(format!("{upper} number must not contain leading zeroes {}", quote(text)));
    }
    read(text)
}

fn read(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {}: {}", quote(text), if text.is_empty() { "invalid syntax" } else { "value out of range" }))
}

fn part(text: &str) -> Result<Part, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if is_number(text) {
        if has_zeros(text) {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", quote(text)));
        }
        return read(text).map(Part::Number);
    }
    if is_name(text) { Ok(Part::Text(text.to_owned())) } else { Err(format!("Invalid character(s) found in prerelease {}", quote(text))) }
}
