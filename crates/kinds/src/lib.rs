//! What each kind adds to the one path: defaults, preparation, validation, selectable fields and table cells.
//!
//! A kind is a row of data (schema, names, verbs, columns; `machinery::resources`) and, where it has logic of its own, one
//! [`Strategy`]. The strategies are pure functions on the decoded tree: the request path calls them in a fixed order
//! (default, prepare, validate) and does everything else itself.
//!
//! Invariants: no strategy panics, whatever the tree looks like; `default` is idempotent; nothing here reads a clock, the
//! time comes with [`Context`] or as an argument. A module holds one kind or a small family, always in the same order:
//! the strategy, its defaults, its checks, its cells.

pub mod meta;
pub mod print;
mod rules;
mod schema;
mod strategy;
mod tree;

pub use meta::{validate_meta, validate_meta_update};
pub use strategy::{Context, Generic, NameRule, Propagation, Strategy};

/// The strategy of a resource; [`Generic`] for kinds without one.
pub fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    let _ = (group, resource);
    &Generic
}
