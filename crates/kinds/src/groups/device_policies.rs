//! How much may be asked of a device's capacity that several share (KEP-5075, `validateRequestPolicy`).
//!
//! Ranges are compared exactly and stepped through in whole numbers, as upstream does while `DRAFractionalCapacityRange` waits for
//! clusters that no older version is part of.

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    quantity::{Format, Quantity},
};
use std::collections::HashSet;

/// Values that a policy may list.
const OPTIONS_MAX: usize = 10;

/// Checks the policy of a capacity. `shared`: several may have the device at a time. `path` is the policy's.
pub(super) fn check(capacity: &Value, shared: bool, path: &Path, errors: &mut ErrorList) {
    let policy = &capacity["requestPolicy"];
    if policy.is_null() {
        return;
    }
    if !shared {
        errors.push(Error::forbidden(path, "allowMultipleAllocations must be true"));
        return;
    }
    let most = rules::quantity(&capacity["value"]).unwrap_or_default();
    let (options, range) = (tree::list(policy, "validValues"), &policy["validRange"]);
    let field = match (options.is_empty(), range.is_null()) {
        (false, false) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.push(Error::forbidden(path, detail));
            return;
        }
        (true, true) => return,
        (false, true) => "validValues",
        (true, false) => "validRange",
    };
    match rules::quantity(&policy["default"]) {
        None => errors.push(Error::required(&path.child("default"), format!("required when {field} is defined"))),
        Some(default) if range.is_null() => check_options(options, default, most, &path.child(field), errors),
        Some(default) => check_range(range, default, most, &path.child(field), errors),
    }
}

fn check_options(options: &[Value], default: Quantity, most: Quantity, path: &Path, errors: &mut ErrorList) {
    let options: Vec<Quantity> = options.iter().map(|option| rules::quantity(option).unwrap_or_default()).collect();
    for (at, pair) in options.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        errors.push(Error::invalid(&path.index(at + 1), pair[1].to_string(), "values must be sorted in ascending order"));
    }
    let mut has_default = false;
    if options.len() > OPTIONS_MAX {
        errors.push(Error::too_many(path, options.len(), OPTIONS_MAX));
    } else {
        for (at, option) in options.iter().enumerate() {
            if *option > most {
                errors.push(Error::invalid(&path.index(at), option.to_string(), format!("option is larger than capacity value: {most}")));
            }
            has_default |= *option == default;
        }
        let mut seen = HashSet::new();
        let whole = options.iter().map(|option| option.value()).enumerate();
        errors.extend(whole.filter(|(_, whole)| !seen.insert(*whole)).map(|(at, whole)| Error::duplicate(&path.index(at), whole.to_string())));
    }
    if !has_default {
        errors.push(Error::invalid(path, default.to_string(), "default value is not valid according to the requestPolicy"));
    }
}

fn check_range(range: &Value, default: Quantity, most: Quantity, path: &Path, errors: &mut ErrorList) {
    let [min, max, step] = ["min", "max", "step"].map(|field| rules::quantity(&range[field]));
    let mut wrong = |field: &str, shown: Quantity, detail: String| errors.push(Error::invalid(&path.child(field), shown.to_string(), detail));
    let Some(min) = min else {
        errors.push(Error::required(&path.child("min"), "required when validRange is defined"));
        return;
    };
    if min > most {
        wrong("min", min, format!("min is larger than capacity value: {most}"));
    }
    if default < min {
        wrong("default", default, format!("default is less than min: {min}"));
    }
    if let Some(max) = max {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > most {
            wrong("max", max, format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            wrong("default", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step else { return };
    if step <= Quantity::ZERO {
        wrong("step", step, "must be greater than zero".into());
        return;
    }
    let one_more = min + step;
    if one_more > most {
        wrong("step", step, format!("one step {one_more} is larger than capacity value: {most}"));
    }
    let mut fits = true;
    for (field, bound) in [("default", Some(default)), ("min", Some(min)), ("max", max), ("step", Some(step))] {
        let Some(bound) = bound else { continue };
        if bound < Quantity::ZERO {
            wrong(field, bound, rules::NEGATIVE.into());
        } else if bound > Quantity::from_value(i64::MAX, Format::Decimal) {
            wrong(field, bound, format!("must not be larger than {}", i64::MAX));
        } else {
            continue;
        }
        fits = false;
    }
    // What is rounded up is one at least.
    for value in [Some(default), max].into_iter().flatten().filter(|_| fits) {
        if value.value().wrapping_sub(min.value()) % step.value() != 0 {
            wrong("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}
