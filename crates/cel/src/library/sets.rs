//! Lists as sets (`cel-go/ext`, sets): each element of the one is looked for in the other.

use super::global;
use crate::cost::{CallEstimate, Cost, EstimatedCall};
use crate::decl::{Function, Library, Overload};
use crate::error::EvalError;
use crate::eval::standard::counted_plain;
use crate::value::{List, Value};
use crate::version::Version;
use crate::work;

pub fn library() -> Library {
    let once = |overload: Overload| overload.overload_costs(|args, _| pairs(args, 1.0), |call| estimate(call, 1.0));
    let both = |overload: Overload| overload.overload_costs(|args, _| pairs(args, 2.0), |call| estimate(call, 2.0));
    let contained = global("list_sets_contains_list list(T) list(T) -> bool", |args| with_lists(args, contains));
    let equal = global("list_sets_equivalent_list list(T) list(T) -> bool", |args| with_lists(args, |a, b| Ok(contains(a, b)? && contains(b, a)?)));
    let common = global("list_sets_intersects_list list(T) list(T) -> bool", |args| with_lists(args, intersects));
    let mut library = Library::new("cel.lib.ext.sets", Version(29));
    library.functions = vec![
        Function { name: "sets.contains", overloads: vec![once(contained)] },
        Function { name: "sets.equivalent", overloads: vec![both(equal)] },
        Function { name: "sets.intersects", overloads: vec![once(common)] },
    ];
    library
}

fn with_lists<'v>(args: &[Value<'v>], run: for<'l> fn(&'l List<'v>, &'l List<'v>) -> Result<bool, EvalError>) -> Result<Value<'v>, EvalError> {
    match (&args[0], &args[1]) {
        (Value::List(a), Value::List(b)) => run(a, b).map(Value::Bool),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn contains<'v>(list: &List<'v>, part: &List<'v>) -> Result<bool, EvalError> {
    for element in part.iter() {
        if !list.contains(&element?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What cannot be compared is not there.
fn intersects<'v>(one: &List<'v>, other: &List<'v>) -> Result<bool, EvalError> {
    work::take(one.len() as u64)?;
    for element in one.iter().flatten() {
        match other.contains(&element) {
            Ok(true) => return Ok(true),
            Err(error) if error.is_final() => return Err(error),
            Ok(false) | Err(_) => {}
        }
    }
    Ok(false)
}

fn pairs(args: &[Value<'_>], factor: f64) -> u64 {
    1u64.saturating_add((counted_plain(&args[0]).wrapping_mul(counted_plain(&args[1])) as f64 * factor) as u64)
}

fn estimate(call: &EstimatedCall<'_>, factor: f64) -> Option<CallEstimate> {
    let [one, other] = call.args else { return None };
    Some(CallEstimate::cost(call.size(one).times(call.size(other)).by_factor(factor).plus(Cost::fixed(1))))
}
