//! Match conditions of webhooks and policies: all must hold; where one does not, it is no matter what fails beside it.

use super::{
    super::attributes::{Attributes, Version},
    scope::{CONDITIONS_BUDGET, Scope, Subject, Told},
};
use crate::gate::policies::Condition;
use kubecel::Value as Cel;
use machinery::Value;
use std::sync::OnceLock;

/// Whether the conditions of a webhook hold; `object` and `old` are in its version.
///
/// # Errors
/// One cannot be evaluated and none is false, unless that is to be ignored.
pub(in crate::admission) fn meets(
    asked: &Attributes<'_>,
    conditions: &[Condition],
    ignore: bool,
    version: &Version,
    object: &Value,
    old: &Value,
) -> Result<bool, String> {
    let (made, version) = (OnceLock::new(), version.at(&asked.write.row.resource));
    let scope = Scope::new(asked.write.cx, Subject { object, old }, Told::of(asked, &version, &made)).with_authorizer(asked);
    all(&scope, conditions, ignore)
}

/// The same in a scope that is there. All are evaluated before any is looked at, as upstream does: the end of the budget counts for more
/// than a condition that is false.
pub(super) fn all<'v>(scope: &Scope<'v>, conditions: &'v [Condition], ignore: bool) -> Result<bool, String> {
    let (mut budget, mut failed, mut fits) = (CONDITIONS_BUDGET, Vec::new(), true);
    for condition in conditions {
        match scope.evaluate(&condition.expression, &mut budget) {
            Ok(Ok(Cel::Bool(false))) => {
                tracing::trace!(condition = condition.name, "a match condition does not hold");
                fits = false;
            }
            Ok(Ok(_)) => {}
            Ok(Err(why)) => failed.push(why),
            Err(spent) => return if ignore { Ok(false) } else { Err(spent.0) },
        }
    }
    match failed.as_slice() {
        [] => Ok(fits),
        _ if ignore || !fits => Ok(false),
        failed => Err(super::super::joined(failed)),
    }
}
