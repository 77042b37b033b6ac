//! Roles and bindings: nobody grants what they do not have.

use super::World;
use crate::{Operation, Write};
use identity::rbac::{Grantor, check_escalation};
use machinery::{Value, status::Status};

/// Refuses what gives away more than the writer has: of an object that has been admitted so far and that nobody has judged yet, as
/// upstream wraps the storage of these kinds.
pub(super) fn check(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let resource = &write.row.resource;
    let kinds = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
    let concerned = resource.group == "rbac.authorization.k8s.io" && kinds.contains(&resource.resource.as_str());
    if !concerned || write.operation == Operation::Delete {
        return Ok(());
    }
    let authorizer = &world.identity().authorizer;
    let allowed = |asked: &identity::Attributes<'_>| authorizer.allows(asked);
    let by = Grantor { user: &write.cx.user, resource: &resource.resource, namespace: write.namespace, name: &write.cx.info.name };
    check_escalation(authorizer.rbac(), &allowed, by, object, write.old)
}
