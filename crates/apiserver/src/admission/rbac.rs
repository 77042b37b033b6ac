//! Roles and bindings: nobody grants what they do not have.

use super::{Plugin, World};
use crate::{Operation, Write};
use machinery::{Value, status::Status};

pub(super) struct Escalation;

impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBAC escalation"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        let resource = &write.row.resource;
        let kinds = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
        let concerned = resource.group == "rbac.authorization.k8s.io" && kinds.contains(&resource.resource.as_str());
        if !concerned || write.operation == Operation::Delete {
            return Ok(());
        }
        let authorizer = &world.identity().authorizer;
        let allowed = |asked: &identity::Attributes<'_>| authorizer.allows(asked);
        identity::rbac::check_escalation(authorizer.rbac(), &allowed, &write.cx.user, &resource.resource, object, write.old)
    }
}
