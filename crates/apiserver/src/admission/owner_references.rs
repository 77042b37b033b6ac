//! OwnerReferencesPermissionEnforcement: who says whose an object is must be allowed to delete it, and who keeps an owner from
//! going must be allowed to do that.

use super::{Plugin, World, forbidden, is, items, text};
use crate::{Operation, Write};
use identity::{Attributes, Decision};
use machinery::{Value, status::Status};

pub(super) struct OwnerReferencesPermissionEnforcement;

impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        // Old kubelets write pods' status without owners, which the kind keeps anyway.
        let ignored = is(write, "", "pods") && write.subresource == "status";
        if ignored || !matches!(write.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let (new, old) = (owners(object), write.old.map_or(&[][..], owners));
        if new == old {
            return Ok(());
        }
        if write.operation != Operation::Create {
            let resource = &write.row.resource;
            let place = (resource.group.as_str(), resource.version.as_str(), resource.resource.as_str());
            may(world, write, "delete", place, write.subresource, (write.namespace, write.name))
                .map_err(|reason| forbidden(write, object, format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>")))?;
        }
        let was_blocking = |uid: &Value| old.iter().any(|owner| owner["uid"] == *uid && owner["blockOwnerDeletion"] == true);
        let blocking: Vec<&Value> = new.iter().filter(|owner| owner["blockOwnerDeletion"] == true && !was_blocking(&owner["uid"])).collect();
        if blocking.is_empty() || may(world, write, "update", ("*", "*", "*"), "finalizers", ("", "*")).is_ok() {
            return Ok(());
        }
        for owner in blocking {
            finalizes(world, write, object, owner)?;
        }
        Ok(())
    }
}

fn owners(object: &Value) -> &[Value] {
    items(&object["metadata"]["ownerReferences"])
}

/// Whether the user may keep an owner from going.
fn finalizes(world: &World, write: &Write<'_>, object: &Value, owner: &Value) -> Result<(), Status> {
    let (api, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    let rows = world.rows();
    let known = rows.iter().find(|row| {
        let resource = &row.resource;
        resource.group == group && resource.version == version && resource.kind.kind == kind
    });
    let Some(row) = known else {
        let why = format!("no matches for kind {kind:?} in version {api:?}");
        let text = format!("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api} Kind {kind}: {why}");
        return Err(forbidden(write, object, text));
    };
    let namespace = if row.resource.namespaced { write.namespace } else { "" };
    let place = (group, version, row.resource.resource.as_str());
    may(world, write, "update", place, "finalizers", (namespace, text(owner, "name"))).map_err(|reason| {
        let why = format!("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {reason}, <nil>");
        forbidden(write, object, why)
    })
}

/// Whether the user may; else the authorisers' reason.
fn may(
    world: &World,
    write: &Write<'_>,
    verb: &str,
    (group, version, resource): (&str, &str, &str),
    subresource: &str,
    (namespace, name): (&str, &str),
) -> Result<(), String> {
    let asked = Attributes { user: &write.cx.user, verb, group, version, resource, subresource, namespace, name, path: "", is_resource: true, fields: None };
    match world.identity().authorizer.authorize(&asked) {
        (Decision::Allow, _) => Ok(()),
        (_, reason) => Err(reason),
    }
}
