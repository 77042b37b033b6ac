//! What is limited by the plug-in's settings: used by those alone whose use a quota bounds.

use super::super::{amounts::Amounts, forbidden, text};
use crate::Write;
use kinds::usage::Scope;
use machinery::{Value, quantity::Quantity, status::Status, tree::items};
use std::{collections::HashSet, sync::Arc};

/// Whether a quota bounds each amount that the settings limit.
pub(super) fn covered(write: &Write<'_>, object: &Value, matching: &[&Arc<Value>], limited: &[Value], uses: &Amounts) -> Result<(), Status> {
    let resource = &write.row.resource;
    let own = limited.iter().filter(|limit| text(limit, "apiGroup") == resource.group && text(limit, "resource") == resource.resource);
    let parts: Vec<&str> = own.flat_map(|limit| items(&limit["matchContains"])).filter_map(Value::as_str).collect();
    let bounded = |name: &str| matching.iter().any(|quota| !quota["status"]["hard"][name].is_null());
    let used = uses.iter().filter(|(_, amount)| **amount > Quantity::ZERO).map(|(name, _)| name.as_str());
    let uncovered: Vec<&str> = used.filter(|name| parts.iter().any(|part| name.contains(part)) && !bounded(name)).collect();
    if uncovered.is_empty() {
        return Ok(());
    }
    Err(forbidden(write, object, format!("insufficient quota to consume: {}", uncovered.join(","))))
}

/// Whether a quota has each scope that the settings limit and the object is in. Upstream's error is none of the API's.
pub(super) fn scoped(write: &Write<'_>, object: &Value, quotas: &[Arc<Value>], limited: &[Value]) -> Result<(), Status> {
    let (group, resource) = (write.row.resource.group.as_str(), write.row.resource.resource.as_str());
    let wanted: Vec<Scope<'_>> =
        limited.iter().flat_map(|limit| items(&limit["matchScopes"])).map(Scope::of).filter(|scope| scope.holds(group, resource, object)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let scopes = quotas.iter().flat_map(|quota| Scope::all(quota));
    let known: HashSet<&str> = scopes.filter(|scope| scope.holds(group, resource, object)).map(|scope| scope.name).collect();
    let told = |scope: &Scope<'_>| {
        let values: Vec<&str> = scope.values.iter().filter_map(Value::as_str).collect();
        format!("{{{} {} [{}]}}", scope.name, scope.operator, values.join(" "))
    };
    let missing: Vec<String> = wanted.iter().filter(|scope| !known.contains(scope.name)).map(told).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Status::new(500, "", format!("insufficient quota to match these scopes: [{}]", missing.join(" "))))
}
