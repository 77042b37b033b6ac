//! What several libraries count and estimate alike (`apiserver/pkg/cel/library/cost.go`).

use crate::cost::{CallEstimate, Cost, EstimatedCall, STRING_TRAVERSAL};
use crate::eval::PER_CALL_LIMIT;
use crate::eval::standard::read_cost;
use crate::types::Type;
use crate::value::Value;

/// A call that costs one.
pub(super) fn nominal(_args: &[Value<'_>], _result: &Value<'_>) -> u64 {
    1
}

/// The same, estimated.
pub(super) fn nominal_estimate(_call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    Some(CallEstimate::cost(Cost::fixed(1)))
}

/// Reading the first argument as a text.
pub(super) fn read_first(args: &[Value<'_>], _result: &Value<'_>) -> u64 {
    read_cost(&args[0])
}

/// The same, estimated, of a function without a target.
pub(super) fn read_first_estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    Some(CallEstimate::cost(call.size(call.args.first()?).by_factor(STRING_TRAVERSAL)))
}

/// The same with a result that is as large.
pub(super) fn read_first_sized(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let size = call.size(call.args.first()?);
    Some(CallEstimate::sized(size.by_factor(STRING_TRAVERSAL), size))
}

/// Going through the target once, however deep it is.
pub(super) fn traversed(args: &[Value<'_>], _result: &Value<'_>) -> u64 {
    let mut left = PER_CALL_LIMIT;
    args.first().map_or(0, |value| traversal(value, &mut left))
}

/// What costs more than all that there is needs not be counted to its end.
fn traversal(value: &Value<'_>, left: &mut u64) -> u64 {
    *left = left.saturating_sub(1);
    if *left == 0 {
        return PER_CALL_LIMIT + 1;
    }
    match value {
        // Bytes, and rounded down, as the original.
        Value::String(text) => (text.len() as f64 * STRING_TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * STRING_TRAVERSAL) as u64,
        Value::List(list) => {
            let mut cost: u64 = 0;
            for element in list.iter() {
                cost = cost.saturating_add(element.as_ref().map_or(1, |element| traversal(element, left)));
                if *left == 0 {
                    break;
                }
            }
            cost
        }
        Value::Map(map) => {
            let mut cost: u64 = 0;
            for key in map.keys() {
                let value = map.find(&key).ok().flatten();
                cost = cost.saturating_add(traversal(&key, left)).saturating_add(value.as_ref().map_or(1, |value| traversal(value, left)));
                if *left == 0 {
                    break;
                }
            }
            cost
        }
        _ => 1,
    }
}

/// The same, estimated: each element once, with its characters where it is a text; of a text its characters.
pub(super) fn scanned(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let target = call.target?;
    let size = call.size(target);
    let Some(element) = call.element(target) else { return Some(CallEstimate::cost(size.by_factor(STRING_TRAVERSAL))) };
    let mut each = Cost::fixed(1);
    if matches!(element.ty, Type::String | Type::Bytes) {
        each = each.plus(call.size(&element).by_factor(STRING_TRAVERSAL));
    }
    Some(CallEstimate::cost(size.times(each)))
}
