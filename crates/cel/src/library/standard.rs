//! The functions of the language itself: operators, conversions, sizes, strings, times.
//!
//! Their signatures are the table `standard.txt`: a line is a function, an overload (`.` before a member's, `!` behind one that takes
//! errors) and its types. Their order is the original's: it is the order in which calls are matched. What they do and count is the
//! evaluator's ([`crate::eval::standard`]); what they are estimated at stands here.

use super::signature;
use crate::ast::Literal;
use crate::cost::{CallEstimate, Cost, Estimate, EstimatedCall, REGEX_LENGTH, Range, STRING_TRAVERSAL, Size};
use crate::decl::{Function, Library, Overload};
use crate::eval;
use crate::macros;
use crate::messages;
use crate::types::Type;
use crate::version::Version;

const TABLE: &str = include_str!("standard.txt");

/// The most characters of a format's pattern, by the original's reckoning.
const FORMAT_MAX: u64 = 64;

/// The library.
pub fn library() -> Library {
    let mut library = Library::new("standard", Version::FIRST);
    for row in TABLE.lines() {
        let Some((function, overload)) = overload(row) else { continue };
        match library.functions.last_mut() {
            Some(last) if last.name == function => last.overloads.push(overload),
            _ => library.functions.push(Function { name: function, overloads: vec![overload] }),
        }
    }
    library.macros = macros::standard();
    library.types = vec![
        ("bool", Type::Bool),
        ("bytes", Type::Bytes),
        ("double", Type::Double),
        ("int", Type::Int),
        ("list", Type::list(Type::Dyn)),
        ("map", Type::map(Type::Dyn, Type::Dyn)),
        ("null_type", Type::Null),
        ("string", Type::String),
        ("type", Type::Type(None)),
        ("uint", Type::Uint),
        ("google.protobuf.Duration", Type::Duration),
        ("google.protobuf.Empty", Type::object("google.protobuf.Empty")),
        ("google.protobuf.Timestamp", Type::Timestamp),
    ];
    library.constants = vec![(messages::NULL_VALUE, Type::Int, Literal::Int(0))];
    library
}

/// A row of the table.
fn overload(row: &'static str) -> Option<(&'static str, Overload)> {
    let (left, result) = row.split_once(" -> ")?;
    let mut words = left.split_ascii_whitespace();
    let (function, id) = (words.next()?, words.next()?);
    let (member, id) = id.strip_prefix('.').map_or((false, id), |id| (true, id));
    let (non_strict, id) = id.strip_suffix('!').map_or((false, id), |id| (true, id));
    let params: Vec<Type> = words.map(signature).collect();
    let eval::standard::Row { run, cost, binding } = eval::standard::row(id);
    let overload = Overload { member, non_strict, binding, cost, estimate: estimate(id), ..Overload::global(id, params, signature(result), run) };
    Some((function, overload))
}

/// How the cost of an overload is estimated. (Logic, conditions and the sizes of joined lists are the estimate's own:
/// [`crate::cost::Estimator`].)
fn estimate(id: &str) -> Option<Estimate> {
    Some(match id {
        "string_to_bytes" => |call| {
            let size = call.size(call.args.first()?);
            // A character has up to four bytes.
            Some(CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), Range::new(size.min, size.max.wrapping_mul(4))))
        },
        "bytes_to_string" => |call| {
            let size = call.size(call.args.first()?);
            Some(CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), Range::new(size.min / 4, size.max)))
        },
        "starts_with_string" | "ends_with_string" => |call| Some(CallEstimate::cost(call.size(call.args.first()?).by_factor(STRING_TRAVERSAL))),
        "in_list" => |call| Some(CallEstimate::cost(call.size(call.args.get(1)?).by_factor(1.0))),
        "matches" => |call| Some(CallEstimate::cost(pattern(call.size(call.args.first()?), call.size(call.args.get(1)?)))),
        "matches_string" => |call| Some(CallEstimate::cost(pattern(call.size(call.target?), call.size(call.args.first()?)))),
        "contains_string" => |call| {
            let (text, part) = (call.size(call.target?), call.size(call.args.first()?));
            Some(CallEstimate::cost(text.by_factor(STRING_TRAVERSAL).times(part.by_factor(STRING_TRAVERSAL))))
        },
        "add_string" | "add_bytes" => |call| joined(call).map(|size| CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), size)),
        "add_list" => |call| joined(call).map(|size| CallEstimate::sized(Cost::fixed(1), size)),
        "equals" => |call| opaque_equals(call).or_else(|| compared(call)),
        "not_equals" => compared,
        _ if ["less", "greater"].iter().any(|verb| id.starts_with(verb)) && (id.ends_with("_string") || id.ends_with("_bytes")) => compared,
        _ => return None,
    })
}

/// A text searched for a pattern: the pattern costs even where the text is empty.
fn pattern(text: Size, pattern: Size) -> Cost {
    text.plus(Range::fixed(1)).by_factor(STRING_TRAVERSAL).times(pattern.by_factor(REGEX_LENGTH))
}

/// The size of two things one behind the other.
fn joined(call: &EstimatedCall<'_>) -> Option<Size> {
    let [left, right] = call.args else { return None };
    Some(call.size(left).plus(call.size(right)))
}

/// Two values compared: as far as the shorter one goes.
fn compared(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let [left, right] = call.args else { return None };
    let max = call.size(left).max.min(call.size(right).max);
    Some(CallEstimate::cost(Range::new(u64::from(max > 0), max).by_factor(STRING_TRAVERSAL)))
}

/// Kubernetes' own types are compared at a price of their own; but only by `==`.
fn opaque_equals(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let [left, right] = call.args else { return None };
    let name = match (&left.ty, &right.ty) {
        (Type::Opaque(name, _), Type::Opaque(other, _)) | (Type::Object(name), Type::Object(other)) if name == other => name,
        _ => return None,
    };
    let cost = match &**name {
        "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => Cost::fixed(1),
        "kubernetes.NamedFormat" => Range::new(1, FORMAT_MAX).by_factor(STRING_TRAVERSAL),
        // Of the two sizes the original looks at the right one twice.
        "kubernetes.URL" => Range::new(1, right.size.map_or(1, |size| size.max)).by_factor(STRING_TRAVERSAL),
        name if name.starts_with("kubernetes.authorization.") => Cost::fixed(1),
        _ => return None,
    };
    Some(CallEstimate::cost(cost))
}
