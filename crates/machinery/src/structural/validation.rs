//! Validation of a value against its schema, in the words of `kube-openapi/pkg/validation` and in its order.
//!
//! A value that was wrong before and is unchanged is good on an update (CRD validation ratcheting): each place is correlated with
//! the old one, by name in objects and by keys in lists that are maps, and what is wrong there is forgiven if the two are equal.
//! Within `anyOf` and the like nothing is forgiven.
//!
//! Of the schemas of an `anyOf` or `oneOf` that all refuse, the one that agrees in most points tells why: [`Outcome::matches`]
//! counts them as the original does. Entries of objects are visited in the order of their names (the original: in none).
//!
//! How much is wrong is the sender's choice: of one object [`PROBLEMS_MAX`] problems, or [`PROBLEM_BYTES_MAX`] of them, are told
//! at most, and what comes after them is not looked at.

use super::{
    node::{Additional, Listed, Node, Numbers, Texts, Types},
    ratchet::{self, Old},
};
use crate::{
    Map, Value,
    field::{Error, ErrorKind, ErrorList, Path},
    numerals,
    quote::Quoted,
};
use std::{collections::HashSet, fmt, rc::Rc};

/// Problems that are told of one object at most; nobody reads more.
const PROBLEMS_MAX: usize = 1_000;
/// Bytes that they may have together: the text of one may hold a whole enumeration.
const PROBLEM_BYTES_MAX: usize = 1 << 20;

/// Where a value is, as kube-openapi writes it.
#[derive(Clone, Copy)]
enum Place<'p> {
    Root,
    /// A property, or an entry whose key is none.
    Field(&'p Place<'p>, &'p str, bool),
    Item(&'p Place<'p>, usize),
}

impl Place<'_> {
    fn is_root(&self) -> bool {
        matches!(self, Place::Root)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field(parent, name, true) if parent.is_root() => f.write_str(name),
            Place::Field(parent, name, _) => write!(f, "{parent}.{name}"),
            Place::Item(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// What is wrong, with the text by which the original tells errors apart.
struct Problem {
    text: Rc<str>,
    /// `None`: of the whole object, whatever place it speaks of.
    name: Option<String>,
    told: Told,
}

/// How a problem becomes an error of a field.
enum Told {
    Required,
    Enum(Value, Vec<String>),
    TooLong(i64),
    TooMany(usize, i64),
    Type(Value),
    Invalid(Value),
}

impl Told {
    /// About how much it holds.
    fn bytes(&self) -> usize {
        match self {
            Told::Enum(value, allowed) => weight(value) + allowed.iter().map(String::len).sum::<usize>(),
            Told::Type(value) | Told::Invalid(value) => weight(value),
            Told::Required | Told::TooLong(_) | Told::TooMany(..) => 0,
        }
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| weight(item) + 1).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        _ => 1,
    }
}

/// What came of a validation.
#[derive(Default)]
struct Outcome {
    problems: Vec<Problem>,
    /// The texts of the problems.
    known: HashSet<Rc<str>>,
    bytes: usize,
    matches: usize,
}

impl Outcome {
    fn good(matches: usize) -> Outcome {
        Outcome { matches, ..Outcome::default() }
    }

    /// Nothing more is told.
    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX || self.bytes >= PROBLEM_BYTES_MAX
    }

    fn add(&mut self, problem: Problem) {
        if !self.is_full() && self.known.insert(Rc::clone(&problem.text)) {
            self.bytes += problem.text.len() + problem.told.bytes();
            self.problems.push(problem);
        }
    }

    fn merge(&mut self, other: Outcome) {
        let matches = self.matches + other.matches;
        if self.problems.is_empty() {
            *self = other;
        } else {
            other.problems.into_iter().for_each(|problem| self.add(problem));
        }
        self.matches = matches;
    }

    fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn say(&mut self, place: Place<'_>, told: Told, what: impl fmt::Display) {
        let name = place.to_string();
        self.add(Problem { text: format!("{name} in body {what}").into(), name: Some(name), told });
    }

    /// What the original says without a place.
    fn say_at_large(&mut self, text: String) {
        self.add(Problem { text: text.into(), name: None, told: Told::Invalid(Value::String(String::new())) });
    }
}

/// What is wrong with a value that stands at `path`.
pub(super) fn validate(node: &Node, value: &Value, path: &Path) -> ErrorList {
    errors(check(node, value, None, Place::Root), path)
}

/// What is wrong with a value that was another.
pub(super) fn validate_update(node: &Node, value: &Value, old: &Value, path: &Path) -> ErrorList {
    errors(check(node, value, Some(old), Place::Root), path)
}

fn errors(outcome: Outcome, path: &Path) -> ErrorList {
    let error = |problem: Problem| {
        let name = problem.name.as_deref().unwrap_or_default();
        let place = match name {
            // The original has no path to the whole of an object, and says so.
            "" | "." if path.as_str().is_empty() => Path::root("<nil>"),
            "" | "." => path.clone(),
            name => path.child(name.strip_prefix('.').unwrap_or(name)),
        };
        match problem.told {
            Told::Required => Error::required(&place, ""),
            Told::Enum(value, allowed) => Error::not_supported(&place, value, &allowed),
            Told::TooLong(max) => Error::too_long(&place, usize::try_from(max).unwrap_or_default()),
            Told::TooMany(actual, max) => Error::too_many(&place, actual, usize::try_from(max).unwrap_or_default()),
            Told::Type(value) => Error { kind: ErrorKind::TypeInvalid, path: place, value, detail: problem.text.to_string(), bare: false, shown: None },
            Told::Invalid(value) => Error::invalid(&place, value, problem.text.to_string()),
        }
    };
    outcome.problems.into_iter().map(error).collect()
}

/// The JSON type as OpenAPI names it, and its format.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(n) if n.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

/// Checks a value. With an old one, unchanged wrongs are forgiven.
fn check(node: &Node, value: &Value, old: Old<'_>, place: Place<'_>) -> Outcome {
    let outcome = check_all(node, value, old, place);
    match old {
        Some(old) if !outcome.is_good() && ratchet::same(node, value, old) => Outcome::good(outcome.matches),
        _ => outcome,
    }
}

fn check_all(node: &Node, value: &Value, old: Old<'_>, place: Place<'_>) -> Outcome {
    let mut out = Outcome::default();
    if value.is_null() {
        if !node.types.is_empty() && !node.nullable {
            type_problem(&node.type_text, "null", place, &mut out);
        } else {
            out.matches += 1;
        }
        check_enum(node, value, place, &mut out);
        return out;
    }
    if !node.types.is_empty() || node.format.is_some() {
        check_type(node, value, place, &mut out);
        out.matches += 1;
    }
    out.merge(combined(node, value, place));
    out.matches += 1;
    match value {
        Value::String(text) => {
            check_text(node.texts.as_deref(), text, place, &mut out);
            out.matches += 1;
            if let Some((name, Some(format))) = &node.format {
                if !format(text) {
                    type_problem(name, text, place, &mut out);
                }
                out.matches += 1;
            }
        }
        Value::Number(_) => {
            check_number(node, value, place, &mut out);
            out.matches += 2;
        }
        Value::Array(items) => {
            check_items(node, items, old, place, &mut out);
            out.matches += 2;
        }
        _ => {}
    }
    check_enum(node, value, place, &mut out);
    out.matches += 1;
    if let Value::Object(map) = value {
        check_entries(node, map, old, place, &mut out);
        out.matches += 1;
    }
    out.matches += 1;
    out
}

fn type_problem(wanted: &str, found: &str, place: Place<'_>, out: &mut Outcome) {
    out.say(place, Told::Type(found.into()), format_args!("must be of type {wanted}: {}", Quoted(found)));
}

fn check_type(node: &Node, value: &Value, place: Place<'_>, out: &mut Outcome) {
    let (found, found_format) = type_of(value);
    let format = node.format.as_ref().map_or("", |(name, _)| name);
    let is_whole = matches!(value, Value::Number(n) if !n.is_i64() && n.as_f64().is_some_and(numerals::is_whole)) && node.types.has(Types::INTEGER);
    let fits = node.types.has(Types::of(found)) || is_whole || (found == "integer" && node.types.has(Types::NUMBER));
    let is_many = matches!(value, Value::String(_) | Value::Array(_));
    if !is_many && !format.is_empty() && !fits && found_format != format {
        type_problem(format, found_format, place, out);
        return;
    }
    let is_numeric = node.types.has(Types::NUMBER) || node.types.has(Types::INTEGER);
    if fits || (!is_numeric && !format.is_empty() && is_many) {
        out.matches += 1;
        return;
    }
    type_problem(&node.type_text, found, place, out);
}

fn check_enum(node: &Node, value: &Value, place: Place<'_>, out: &mut Outcome) {
    let Some(enumeration) = &node.enumeration else { return };
    if !enumeration.has(value) {
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => String::from_utf8(crate::json::encode(other)).unwrap_or_default(),
        };
        let allowed: Vec<String> = enumeration.values.iter().map(shown).collect();
        let text = format_args!("should be one of [{}]", allowed.join(" ")).to_string();
        out.say(place, Told::Enum(value.clone(), allowed), text);
    }
}

fn check_text(texts: Option<&Texts>, text: &str, place: Place<'_>, out: &mut Outcome) {
    let Some(texts) = texts else { return };
    // As many characters as bytes at most, and a quarter of them at least.
    let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
    if let Some(max) = texts.max_length.filter(|max| bytes > *max && length() > *max) {
        out.say(place, Told::TooLong(max), format_args!("should be at most {max} chars long"));
    } else if let Some(min) = texts.min_length.filter(|min| length() < *min) {
        out.say(place, Told::Invalid(text.into()), format_args!("should be at least {min} chars long"));
    } else if let Some(pattern) = &texts.pattern {
        match pattern.compiled() {
            Ok(compiled) if compiled.is_match(text) => {}
            Ok(_) => out.say(place, Told::Invalid(text.into()), format_args!("should match '{}'", pattern.text)),
            Err(why) => out.say(place, Told::Invalid(text.into()), format_args!("should match '{}, but pattern is invalid: {why}'", pattern.text)),
        }
    }
}

/// The one numeric type that a schema has; none where it has no type, or two.
fn numeric_type(node: &Node) -> &str {
    match node.type_text.as_ref() {
        one @ ("integer" | "number") => one,
        _ => "",
    }
}

/// Whether a number can be of the type and format.
fn in_range(number: f64, exact: Option<i64>, node: &Node) -> bool {
    let format = node.format.as_ref().map_or("", |(name, _)| name);
    match (numeric_type(node), format) {
        ("integer", "int32") => match exact {
            Some(exact) => i32::try_from(exact).is_ok(),
            None => number.fract() == 0.0 && (-2_147_483_648.0..=2_147_483_647.0).contains(&number),
        },
        // Go looks at the shortest digits that mean the float: those of the least whole number mean one that is less.
        ("integer", _) => exact.is_some() || numerals::reread(number).is_some(),
        ("number", "float") => (number as f32).is_finite(),
        _ => true,
    }
}

/// Tells that a number, or one in the schema, is not of the type and format.
fn check_range(what: &str, number: f64, exact: Option<i64>, node: &Node, place: Place<'_>, out: &mut Outcome) -> bool {
    if in_range(number, exact, node) {
        return true;
    }
    let kind = numeric_type(node);
    let format = match (kind, node.format.as_ref().map_or("", |(name, _)| name)) {
        ("integer", format @ ("int32" | "int64")) | ("number", format @ ("float" | "double")) => format!("with format {format}"),
        _ => "(default format)".to_owned(),
    };
    out.say_at_large(format!("{what} value must be of type {kind} {format} in {place}"));
    false
}

fn check_number(node: &Node, value: &Value, place: Place<'_>, out: &mut Outcome) {
    let exact = value.as_i64();
    let Some(float) = value.as_f64() else { return };
    check_range("Checked", float, exact, node, place, out);
    let Some(limits) = &node.numbers else { return };
    multiples(limits, node, value, place, out);
    // What is told of the least stands before what is told of the most.
    if let Some(min) = limits.minimum {
        let native = check_range("Minimum boundary", min, None, node, place, out);
        let exclusive = limits.exclusive_minimum;
        let (wrong, shown) = bound(min, exact.filter(|_| native), float, exclusive, |value, limit| value < limit, |value, limit| value < limit);
        if wrong {
            let word = if exclusive { "greater than" } else { "greater than or equal to" };
            out.say(place, Told::Invalid(as_shown(value, native)), format_args!("should be {word} {shown}"));
        }
    }
    if let Some(max) = limits.maximum {
        let native = check_range("Maximum boundary", max, None, node, place, out);
        let exclusive = limits.exclusive_maximum;
        let (wrong, shown) = bound(max, exact.filter(|_| native), float, exclusive, |value, limit| value > limit, |value, limit| value > limit);
        if wrong {
            let word = if exclusive { "less than" } else { "less than or equal to" };
            out.say(place, Told::Invalid(as_shown(value, native)), format_args!("should be {word} {shown}"));
        }
    }
}

/// A number as the error shows it: one that was compared as a float is one.
fn as_shown(value: &Value, native: bool) -> Value {
    if native { value.clone() } else { value.as_f64().map_or(Value::Null, Value::from) }
}

/// Whether a number is beyond a limit, and the limit as it is shown: whole numbers are compared with the limit's whole part.
fn bound(limit: f64, exact: Option<i64>, float: f64, exclusive: bool, ints: fn(i64, i64) -> bool, floats: fn(f64, f64) -> bool) -> (bool, String) {
    match exact {
        Some(exact) => {
            let limit = limit as i64;
            (ints(exact, limit) || (exclusive && exact == limit), limit.to_string())
        }
        None => (floats(float, limit) || (exclusive && float == limit), numerals::float(limit)),
    }
}

fn multiples(limits: &Numbers, node: &Node, value: &Value, place: Place<'_>, out: &mut Outcome) {
    let (Some(factor), Some(float)) = (limits.multiple_of, value.as_f64()) else { return };
    let native = check_range("MultipleOf", factor, None, node, place, out);
    let (good, positive, shown, factor_value) = match value.as_i64().filter(|_| native) {
        Some(exact) => {
            let factor = factor as i64;
            (factor > 0 && exact.checked_rem(factor) == Some(0), factor > 0, factor.to_string(), Value::from(factor))
        }
        None => {
            let times = if factor < 1.0 { 1.0 / factor * float } else { float / factor };
            (numerals::is_whole(times), factor > 0.0, numerals::float(factor), Value::from(factor))
        }
    };
    if !positive {
        let name = place.to_string();
        let text = format!("factor MultipleOf declared for {name} must be positive: {shown}");
        out.add(Problem { text: text.into(), name: Some(name), told: Told::Invalid(factor_value) });
    } else if !good {
        out.say(place, Told::Invalid(as_shown(value, native)), format_args!("should be a multiple of {shown}"));
    }
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn check_items(node: &Node, items: &[Value], old: Old<'_>, place: Place<'_>, out: &mut Outcome) {
    if let Some(schema) = &node.items {
        let before = match (&node.listed, old.and_then(Value::as_array)) {
            (Listed::Map(keys), Some(old)) => Some(ratchet::Keyed::new(keys, old)),
            _ => None,
        };
        for (at, item) in items.iter().enumerate() {
            if out.is_full() {
                break;
            }
            let old = before.as_ref().and_then(|before| before.of(item));
            out.merge(check(schema, item, old, Place::Item(&place, at)));
        }
    }
    let size = items.len();
    if let Some(min) = node.items_count.min.filter(|min| count(size) < *min) {
        out.say(place, Told::Invalid(size.into()), format_args!("should have at least {min} items"));
    }
    if let Some(max) = node.items_count.max.filter(|max| count(size) > *max) {
        out.say(place, Told::TooMany(size, max), format_args!("should have at most {max} items"));
    }
    if node.unique_items {
        let mut seen = HashSet::new();
        if !items.iter().all(|item| seen.insert(item.to_string())) {
            out.say(place, Told::Invalid("".into()), "shouldn't contain duplicates");
        }
    }
}

fn check_entries(node: &Node, map: &Map<String, Value>, old: Old<'_>, place: Place<'_>, out: &mut Outcome) {
    let size = map.len();
    if let Some(min) = node.entries_count.min.filter(|min| count(size) < *min) {
        out.say(place, Told::Invalid(size.into()), format_args!("should have at least {min} properties"));
    }
    if let Some(max) = node.entries_count.max.filter(|max| count(size) > *max) {
        out.say(place, Told::TooMany(size, max), format_args!("should have at most {max} properties"));
    }
    // What the type's versions have in common is converted: a change of it cannot be seen.
    let before = |name: &str| if place.is_root() && matches!(name, "kind" | "apiVersion") { None } else { old.and_then(|old| old.get(name)) };
    match &node.additional {
        Additional::None => {
            for name in map.keys().filter(|name| node.property(name).is_none()) {
                if out.is_full() {
                    break;
                }
                let text = format!("{place}.{name} in body is a forbidden property").into();
                out.add(Problem { text, name: Some(place.to_string()), told: Told::Invalid(name.as_str().into()) });
            }
        }
        Additional::Schema(schema) => {
            for (name, value) in map.iter().filter(|(name, _)| node.property(name).is_none()) {
                if out.is_full() {
                    break;
                }
                out.merge(check(schema, value, before(name), Place::Field(&place, name, false)));
            }
        }
        Additional::Unsaid | Additional::Any => {}
    }
    // Both are sorted; the shorter one leads.
    if map.len() < node.properties.len() {
        for (name, value) in map {
            if let Some(schema) = node.property(name) {
                out.merge(check(schema, value, before(name), Place::Field(&place, name, true)));
            }
        }
    } else {
        for (name, schema) in &node.properties {
            if let Some(value) = map.get(name.as_ref()) {
                out.merge(check(schema, value, before(name), Place::Field(&place, name, true)));
            }
        }
    }
    for name in node.required.iter().filter(|name| !map.contains_key(name.as_ref())) {
        let name = format!("{place}.{name}");
        out.add(Problem { text: format!("{name} in body is required").into(), name: Some(name), told: Told::Required });
    }
}

/// Keeps the outcome that agrees in more points.
fn keep_better(best: &mut Option<Outcome>, other: Outcome) {
    if best.as_ref().is_none_or(|best| other.matches > best.matches) {
        *best = Some(other);
    }
}

/// `anyOf`, `oneOf`, `allOf` and `not`.
fn combined(node: &Node, value: &Value, place: Place<'_>) -> Outcome {
    let mut out = Outcome::good(1);
    let of = |node: &Node| check(node, value, None, place);
    if !node.any_of.is_empty() {
        let mut best = None;
        let mut good = None;
        for outcome in node.any_of.iter().map(of) {
            if outcome.is_good() {
                good = Some(outcome);
                break;
            }
            keep_better(&mut best, outcome);
        }
        if good.is_none() {
            out.say_at_large(format!("{} must validate at least one schema (anyOf)", Quoted(&place.to_string())));
        }
        out.merge(good.or(best).unwrap_or_default());
    }
    if !node.one_of.is_empty() {
        let (mut best, mut good, mut fitting) = (None, None, 0);
        for outcome in node.one_of.iter().map(of) {
            if outcome.is_good() {
                fitting += 1;
                best = None;
                good = good.or(Some(outcome));
            } else if fitting == 0 {
                keep_better(&mut best, outcome);
            }
        }
        if fitting == 1 {
            out.merge(good.unwrap_or_default());
        } else {
            let more = if fitting == 0 { "Found none valid".to_owned() } else { format!("Found {fitting} valid alternatives") };
            out.say_at_large(format!("{} must validate one and only one schema (oneOf). {more}", Quoted(&place.to_string())));
            out.merge(best.unwrap_or_default());
        }
    }
    if !node.all_of.is_empty() {
        let mut fitting = 0;
        for outcome in node.all_of.iter().map(of) {
            fitting += usize::from(outcome.is_good());
            out.merge(outcome);
        }
        if fitting != node.all_of.len() {
            let more = if fitting == 0 { ". None validated" } else { "" };
            out.say_at_large(format!("{} must validate all the schemas (allOf){more}", Quoted(&place.to_string())));
        }
    }
    if node.not.as_ref().is_some_and(|not| of(not).is_good()) {
        out.say_at_large(format!("{} must not validate the schema (not)", Quoted(&place.to_string())));
    }
    out
}
