//! Searching with patterns (`kubernetes.regex`).

use super::member;
use crate::cost::{CallEstimate, EstimatedCall, REGEX_LENGTH, Range, STRING_TRAVERSAL};
use crate::decl::CallCost;
use crate::decl::{Function, Library};
use crate::error::EvalError;
use crate::eval::standard::{counted_plain, pattern_cost};
use crate::regex::{Regex, take_search, with_computed};
use crate::value::Value;
use crate::version::Version;
use crate::work;

pub fn library() -> Library {
    let cost: CallCost = |args, _| pattern_cost(counted_plain(&args[0]), args.get(1).map_or(1, counted_plain));
    let mut library = Library::new("kubernetes.regex", Version::FIRST);
    library.functions = vec![
        Function {
            name: "find",
            overloads: vec![member("string_find_string string string -> string", |args| computed(args, find_pattern)).costs(cost, estimate)],
        },
        Function {
            name: "findAll",
            overloads: vec![
                member("string_find_all_string string string -> list(string)", |args| computed(args, find_all_pattern)).costs(cost, estimate),
                member("string_find_all_string_int string string int -> list(string)", |args| computed(args, find_all_pattern)).costs(cost, estimate),
            ],
        },
    ];
    library
}

fn computed<'v>(args: &[Value<'v>], run: for<'a> fn(&Regex, &[Value<'a>]) -> Result<Value<'a>, EvalError>) -> Result<Value<'v>, EvalError> {
    let pattern = args[1].as_str().ok_or_else(EvalError::no_such_overload)?;
    with_computed(pattern, |error| EvalError::of(format!("Illegal regex: {error}")), |pattern| run(pattern, args))
}

/// The first match, or nothing.
pub(crate) fn find_pattern<'v>(pattern: &Regex, args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let text = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    take_search(pattern, text)?;
    Ok(Value::text(pattern.find(text).unwrap_or_default()))
}

/// All matches, or the first so many.
pub(crate) fn find_all_pattern<'v>(pattern: &Regex, args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let text = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    let limit = match args.get(2) {
        None => None,
        Some(Value::Int(limit)) => usize::try_from(*limit).ok(),
        Some(_) => return Err(EvalError::no_such_overload()),
    };
    take_search(pattern, text)?;
    let found = pattern.find_all(text, limit);
    work::take_kept(found.len() as u64)?;
    Ok(Value::texts(found.into_iter().map(str::to_owned)))
}

fn estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let size = call.size(call.target?);
    // One more character, so that the pattern costs even where the text is empty.
    let text = size.plus(Range::fixed(1)).by_factor(STRING_TRAVERSAL);
    let pattern = call.size(call.args.first()?).by_factor(REGEX_LENGTH);
    Some(CallEstimate::sized(text.times(pattern), Range::new(0, size.max)))
}
