//! The chain of authorisers: `system:masters`, the node authoriser, RBAC; and anonymous for health alone.

use crate::{Attributes, Decision, Objects, node::NodeAuthorizer, rbac::Rbac, user::MASTERS};
use std::sync::Arc;

/// Decides who may do what, from the store's memory.
pub struct Authorizer {
    node: NodeAuthorizer,
    rbac: Rbac,
}

impl Authorizer {
    /// Over the objects of a store.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Authorizer { node: NodeAuthorizer::new(Arc::clone(&objects)), rbac: Rbac::new(objects) }
    }

    /// The decision and the reason for it, which may be empty. What nobody allows is [`Decision::NoOpinion`].
    pub fn authorize(&self, asked: &Attributes<'_>) -> (Decision, String) {
        if asked.user.is_in(MASTERS) {
            return (Decision::Allow, String::new());
        }
        let (decision, reason) = self.node.authorize(asked);
        if decision != Decision::NoOpinion {
            return (decision, reason);
        }
        match self.rbac.authorize(asked) {
            Ok(why) => (Decision::Allow, why),
            // Where nobody decides, each is told by its name.
            Err(why) => {
                let told = [("node", reason), ("rbac", why)].into_iter().filter(|(_, why)| !why.is_empty());
                (Decision::NoOpinion, told.map(|(who, why)| format!("{who}: {why}")).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// Whether it is allowed.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        self.authorize(asked).0 == Decision::Allow
    }

    /// The RBAC part: for rules reviews and escalation checks.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }
}
