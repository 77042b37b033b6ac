//! Who asks, and what they may do: certificates, tokens, RBAC and the node authoriser.
//!
//! Everything here answers from memory ([`Objects`]: the store's newest state) and a key or two on disk. Nothing waits,
//! nothing polls, and no decision outlives the objects that it was made from: what is cached is either immutable (a
//! signature that was verified) or carries the revision that it was compiled at.

mod authn;
mod authz;
mod bootstrap;
mod error;
mod jwt;
mod node;
mod node_labels;
mod objects;
pub mod pki;
pub mod rbac;
mod request_headers;
mod tokens;
mod user;

pub use authn::{Authenticator, Owner, Trust};
pub use authz::Authorizer;
pub use bootstrap::is_bootstrap_group;
pub use error::Error;
pub use node_labels::node_may_label;
pub use objects::{Changes, Objects, Seen};
pub use request_headers::RequestHeaders;
pub use tokens::{Bound, Review, TokenSpec, Tokens, legacy};
pub use user::{Attributes, Decision, User, node_of, service_account_of};

#[cfg(test)]
mod testing;
