//! Match conditions of webhooks and policies: all must hold; where one does not, it is no matter what fails beside it.

use super::{
    super::attributes::{Attributes, Version},
    scope::{CONDITIONS_BUDGET, Scope, Subject, Told},
};
use crate::{
    gate::policies::Condition,
    metrics::{Metrics, Whose},
};
use kubecel::Value as Cel;
use machinery::Value;
use std::{sync::OnceLock, time::Instant};

/// Whether the conditions of a webhook hold; `object` and `old` are in its version.
///
/// # Errors
/// One cannot be evaluated and none is false, unless that is to be ignored.
pub(in crate::admission) fn meets(
    asked: &Attributes<'_>,
    (conditions, whose): (&[Condition], Whose<'_>),
    ignore: bool,
    version: &Version,
    object: &Value,
    old: &Value,
) -> Result<bool, String> {
    let (made, version) = (OnceLock::new(), version.at(&asked.write.row.resource));
    let scope = Scope::new(asked.write.cx, Subject { object, old }, Told::of(asked, &version, &made)).with_authorizer(asked);
    all(&scope, conditions, ignore, (asked.world.metrics(), whose))
}

/// The same in a scope that is there. What does not hold is counted with the time that it took.
pub(super) fn all<'v>(scope: &Scope<'v>, conditions: &'v [Condition], ignore: bool, counts: (&Metrics, Whose<'_>)) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let begun = Instant::now();
    let held = hold(scope, conditions, ignore, counts);
    if held != Ok(true) {
        let (metrics, whose) = counts;
        metrics.admission().conditions_took(whose, begun.elapsed());
    }
    held
}

/// All are evaluated before any is looked at, as upstream does: the end of the budget counts for more than a condition that is false.
fn hold<'v>(scope: &Scope<'v>, conditions: &'v [Condition], ignore: bool, (metrics, whose): (&Metrics, Whose<'_>)) -> Result<bool, String> {
    let (mut budget, mut failed, mut fits) = (CONDITIONS_BUDGET, Vec::new(), true);
    for condition in conditions {
        match scope.evaluate(&condition.expression, &mut budget) {
            Ok(Ok(Cel::Bool(false))) => {
                tracing::trace!(condition = condition.name, "a match condition does not hold");
                fits = false;
            }
            // Upstream looks at them up to the first that is false.
            Ok(Err(why)) if fits => failed.push(why),
            Ok(_) => {}
            // What comes after the end of the budget is not looked at, nor counted what failed before it.
            Err(spent) => return if ignore { Ok(false) } else { Err(spent.0) },
        }
    }
    failed.iter().for_each(|_| metrics.admission().condition_failed(whose));
    match failed.as_slice() {
        [] => Ok(fits),
        _ if ignore || !fits => Ok(false),
        failed => Err(super::super::joined(failed)),
    }
}
