//! A user, what is asked, and the answer: the words in which authentication and authorisation speak with the server.

use machinery::Value;
use machinery::fields::FieldSelector;
use serde_json::json;
use std::collections::BTreeMap;

/// Everyone in this group may do everything; no object can take it away (upstream's `user.SystemPrivilegedGroup`).
pub const MASTERS: &str = "system:masters";
/// Everyone who has proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Who asks without showing anything.
pub const ANONYMOUS: &str = "system:anonymous";
/// Every node.
pub const NODES: &str = "system:nodes";
/// What the name of a node's user begins with; `NAME` follows.
pub const NODE_PREFIX: &str = "system:node:";
/// What the name of a service account begins with; `NAMESPACE:NAME` follows.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Somebody who is known (or known to be nobody: `system:anonymous`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Unique id; empty where the authenticator knows none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows, by lower-case key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Somebody who has proved to be this: in the group of all those, unless it is nobody's name, or he is said to be in that group or in
    /// the other (upstream's `AuthenticatedGroupAdder`).
    #[must_use]
    pub fn proved(mut self) -> Self {
        if self.name != ANONYMOUS && !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
        self
    }

    /// As `UserInfo` of authentication.k8s.io/v1.
    pub fn to_value(&self) -> Value {
        let mut out = json!({ "username": self.name });
        if !self.uid.is_empty() {
            out["uid"] = json!(self.uid);
        }
        if !self.groups.is_empty() {
            out["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            out["extra"] = json!(self.extra);
        }
        out
    }
}

/// The name of the node that a user is (`system:node:NAME` in the group `system:nodes`).
pub fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_PREFIX).filter(|n| !n.is_empty())?;
    user.is_in(NODES).then_some(name)
}

/// Namespace and name of the service account that a user name stands for.
pub fn service_account_of(user_name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user_name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// One question to an authoriser (upstream's `authorizer.Attributes`).
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a User,
    /// `get`, `list`, …; the lower-case HTTP method for a path.
    pub verb: &'a str,
    /// API group; empty for core.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace; empty for all, or for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name; empty for none.
    pub name: &'a str,
    /// The whole path of a non-resource request.
    pub path: &'a str,
    /// Whether a resource is asked for, not a path.
    pub is_resource: bool,
    /// Of which objects alone: the field selector of a `list`, `watch` or `deletecollection`, if it can be read.
    pub fields: Option<&'a FieldSelector>,
}

/// The answer of an authoriser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, whatever others say.
    Deny,
    /// Nothing speaks for it. At the end of the chain that is a no.
    NoOpinion,
}
