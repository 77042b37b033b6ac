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
        let (decision, mut reason) = self.node.authorize(asked);
        if decision != Decision::NoOpinion {
            return (decision, reason);
        }
        match self.rbac.authorize(asked) {
            Ok(why) => (Decision::Allow, why),
            Err(why) => {
                if !reason.is_empty() && !why.is_empty() {
                    reason.push('\n');
                }
                reason.push_str(&why);
                (Decision::NoOpinion, reason)
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
