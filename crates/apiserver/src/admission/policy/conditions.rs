//! Match conditions of webhooks and policies: all must hold; one that does not is the end, whatever fails beside it.

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

/// The same in a scope that is there.
pub(super) fn all<'v>(scope: &Scope<'v>, conditions: &'v [Condition], ignore: bool) -> Result<bool, String> {
    let (mut budget, mut failed) = (CONDITIONS_BUDGET, Vec::new());
    for condition in conditions {
        match scope.evaluate(&condition.expression, &mut budget) {
            Ok(Ok(Cel::Bool(false))) => {
                tracing::trace!(condition = condition.name, "a match condition does not hold");
                return Ok(false);
            }
            Ok(Ok(_)) => {}
            Ok(Err(why)) => failed.push(why),
            // What comes after the end of the budget is not looked at.
            Err(spent) => return if ignore { Ok(false) } else { Err(spent.0) },
        }
    }
    match failed.len() {
        0 => Ok(true),
        _ if ignore => Ok(false),
        _ => Err(super::super::joined(&failed)),
    }
}
