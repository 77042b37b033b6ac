//! Access to devices that others use already is for namespaces that their administrator has labelled (KEP-5018): a claim or a
//! template that asks for it elsewhere is refused before it is looked at.

use crate::{meta, rows::Row, world::World};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    tree::items,
};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// What is wrong with a new claim, or template of claims, in a namespace.
pub(super) fn check(world: &World, row: &Row, object: &Value) -> ErrorList {
    let spec = match (row.resource.group.as_str(), row.resource.kind.kind.as_str()) {
        ("resource.k8s.io", "ResourceClaim") => &object["spec"],
        ("resource.k8s.io", "ResourceClaimTemplate") => &object["spec"]["spec"],
        _ => return ErrorList::new(),
    };
    // v1beta1 has no `exactly`.
    let wanted = |request: &Value| request["exactly"]["adminAccess"] == true || request["adminAccess"] == true;
    let Some(at) = items(&spec["devices"]["requests"]).iter().position(wanted) else { return ErrorList::new() };
    refused(world, object, &Path::root("spec.devices.requests").index(at).child("adminAccess"))
}

/// What is wrong with an allocation that a claim's status is given, which none was before.
pub(super) fn check_status(world: &World, row: &Row, object: &Value, old: &Value) -> ErrorList {
    if row.resource.group != "resource.k8s.io" || row.resource.kind.kind != "ResourceClaim" {
        return ErrorList::new();
    }
    let granted = |claim: &Value| items(&claim["status"]["allocation"]["devices"]["results"]).iter().position(|result| result["adminAccess"] == true);
    match (granted(old), granted(object)) {
        (None, Some(at)) => refused(world, object, &Path::root("status.allocation.devices.results").index(at).child("adminAccess")),
        _ => ErrorList::new(),
    }
}

fn refused(world: &World, object: &Value, path: &Path) -> ErrorList {
    let name = meta::text(object, "namespace");
    match world.get(("", "v1", "namespaces"), "", name) {
        Some(namespace) if namespace["metadata"]["labels"][LABEL] == "true" => ErrorList::new(),
        Some(_) => vec![Error::forbidden(path, format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"))],
        None => vec![Error::internal(path, format!("could not retrieve namespace to verify admin access: namespaces {name:?} not found"))],
    }
}
