//! What policies and bindings are about (upstream's `policy/matching`).

use super::{
    super::{
        attributes::{Attributes, Fits},
        webhook::{by_labels, in_namespace},
    },
    scope::Subject,
};
use crate::gate::policies::{Binding, Match, Named, Policy};

/// The version in which a policy looks at a write; none if the write does not concern it.
pub(super) fn of_policy(asked: &Attributes<'_>, policy: &Policy, subject: &Subject<'_>) -> Result<Option<Fits>, String> {
    let constraints = policy.constraints.as_ref().ok_or("policy contained no match constraints, a required field")?;
    find(asked, constraints, subject)
}

/// Whether a binding concerns a write.
pub(super) fn of_binding(asked: &Attributes<'_>, binding: &Binding, subject: &Subject<'_>) -> Result<bool, String> {
    match &binding.resources {
        None => Ok(true),
        Some(resources) => find(asked, resources, subject).map(|fits| fits.is_some()),
    }
}

fn find(asked: &Attributes<'_>, about: &Match, subject: &Subject<'_>) -> Result<Option<Fits>, String> {
    let told = |status: machinery::status::Status| status.message;
    let by_namespace = in_namespace(asked, about.namespaces.as_ref(), subject.object).map_err(told);
    if matches!(by_namespace, Ok(false)) {
        return Ok(None);
    }
    let by_object = by_labels(about.objects.as_ref(), subject.object, subject.old).map_err(told);
    if matches!(by_object, Ok(false)) || among(asked, &about.exclude, about.equivalent).is_some() {
        return Ok(None);
    }
    let found = if about.rules.is_empty() { Some(Fits::Own) } else { among(asked, &about.rules, about.equivalent) };
    let Some(fits) = found else { return Ok(None) };
    by_namespace?;
    by_object?;
    Ok(Some(fits))
}

/// The version that one of the rules names.
fn among(asked: &Attributes<'_>, rules: &[Named], equivalent: bool) -> Option<Fits> {
    let named = |rule: &&Named| rule.names.is_empty() || rule.names.iter().any(|name| name == asked.name());
    asked.fitting(rules.iter().filter(named).map(|rule| &rule.rule), equivalent)
}
