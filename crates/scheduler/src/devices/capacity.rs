//! How much of a device's capacity a request takes (KEP 5075): what it asks for, rounded up as the device's policy says.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange, CapacityRequirements, DeviceCapacity};
use machinery::quantity::Quantity;

use super::{Amounts, amount_of};

/// What a device has.
pub(super) type Capacity = BTreeMap<String, DeviceCapacity>;

const TOO_LARGE: &str = "capacity request cannot be represented in the device's range arithmetic";
const NEGATIVE: &str = "capacity value is negative";

/// Whether a device has the room beside what is used of it.
///
/// # Errors
/// The request can be met by no device.
pub(super) fn fits(capacity: &Capacity, asked: Option<&CapacityRequirements>, used: &[Option<&Amounts>]) -> Result<bool, String> {
    if asked.iter().flat_map(|asked| asked.requests.iter().flatten()).any(|(name, _)| !capacity.contains_key(name)) {
        return Ok(false);
    }
    // What cannot be computed is found before what is too much.
    let taken = consumed(capacity, asked)?;
    Ok(taken.iter().all(|(name, amount)| {
        let room = &capacity[name];
        let before: Quantity = used.iter().flatten().filter_map(|amounts| amounts.get(name)).copied().sum();
        !breaks(*amount, room.request_policy.as_ref()) && before + *amount <= amount_of(&room.value)
    }))
}

/// What a request takes of a device.
///
/// # Errors
/// It cannot be computed.
pub(super) fn consumed(capacity: &Capacity, asked: Option<&CapacityRequirements>) -> Result<Amounts, String> {
    let asked = requests(asked);
    let one = |(name, room): (&String, &DeviceCapacity)| {
        let amount = rounded(asked.get(name).copied(), room).map_err(|why| format!("capacity {name:?}: {why}"))?;
        if amount < Quantity::ZERO {
            return Err(format!("capacity {name:?}: {NEGATIVE}"));
        }
        Ok((name.clone(), amount))
    };
    capacity.iter().map(one).collect()
}

fn requests(asked: Option<&CapacityRequirements>) -> Amounts {
    asked.iter().flat_map(|asked| asked.requests.iter().flatten()).map(|(name, amount)| (name.clone(), amount_of(amount))).collect()
}

fn rounded(asked: Option<Quantity>, room: &DeviceCapacity) -> Result<Quantity, String> {
    let policy = room.request_policy.as_ref();
    let Some(asked) = asked else { return Ok(policy.and_then(|p| p.default.as_ref()).map_or_else(|| amount_of(&room.value), amount_of)) };
    let Some(policy) = policy else { return Ok(asked) };
    if let Some(range) = &policy.valid_range {
        return in_range(asked, range);
    }
    let values = policy.valid_values.iter().flatten().map(amount_of);
    Ok({ values }.find(|value| asked <= *value).unwrap_or(asked))
}

/// The unit of a range's arithmetic: thousandths where everything in it can be said in them, else whole numbers.
fn in_milli(range: &CapacityRequestPolicyRange) -> bool {
    let exact = |amount: Quantity| Quantity::from_milli(amount.milli_value(), amount.format()) == amount;
    let all = [Some(&range.min), range.max.as_ref(), range.step.as_ref()];
    all.into_iter().flatten().map(amount_of).all(exact) && range.step.as_ref().is_none_or(|step| amount_of(step).milli_value() >= 1)
}

fn in_range(asked: Quantity, range: &CapacityRequestPolicyRange) -> Result<Quantity, String> {
    let least = amount_of(&range.min);
    if asked < least {
        return Ok(least);
    }
    let Some(step) = range.step.as_ref().map(amount_of) else { return Ok(asked) };
    let milli = in_milli(range);
    let number = |amount: Quantity| i128::from(if milli { amount.milli_value() } else { amount.value() });
    let (least, by) = (number(least), number(step));
    let exact = Quantity::from_milli(asked.milli_value(), asked.format()) == asked;
    if milli && !exact {
        return Err(format!("{TOO_LARGE}: request {asked} is not a representable milli value"));
    }
    if !milli && asked > Quantity::from_value(i64::MAX, asked.format()) {
        return Err(format!("{TOO_LARGE}: request {asked} exceeds MaxInt64"));
    }
    if by <= 0 {
        return Ok(asked);
    }
    let steps = (number(asked) - least + by - 1) / by;
    let limit = if milli { "the milli-value range" } else { "MaxInt64" };
    let end = i64::try_from(least + steps * by).map_err(|_| format!("{TOO_LARGE}: rounding request {asked} up to the next step passes {limit}"))?;
    Ok(if milli { Quantity::from_milli(end, step.format()) } else { Quantity::from_value(end, step.format()) })
}

/// Whether an amount is one that the policy does not allow.
fn breaks(amount: Quantity, policy: Option<&CapacityRequestPolicy>) -> bool {
    let Some(policy) = policy else { return false };
    if policy.default.as_ref().is_some_and(|default| amount_of(default) == amount) {
        return false;
    }
    if let Some(range) = &policy.valid_range {
        if range.max.as_ref().is_some_and(|most| amount > amount_of(most)) {
            return true;
        }
        let Some(step) = range.step.as_ref().map(amount_of) else { return false };
        let milli = in_milli(range);
        let number = |amount: Quantity| i128::from(if milli { amount.milli_value() } else { amount.value() });
        let exact = !milli || Quantity::from_milli(amount.milli_value(), amount.format()) == amount;
        return !exact || (number(step) > 0 && (number(amount) - number(amount_of(&range.min))) % number(step) != 0);
    }
    let values = policy.valid_values.as_deref().unwrap_or_default();
    !values.is_empty() && !values.iter().any(|value| amount_of(value) == amount)
}
