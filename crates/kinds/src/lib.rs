//! What each kind adds to the one path: defaults, preparation, validation, selectable fields and table cells.
//!
//! A kind is a row of data (schema, names, verbs, columns; `machinery::resources`) and, where it has logic of its own, one
//! [`Strategy`]. The strategies are pure functions on the decoded tree: the request path calls them in a fixed order
//! (default, prepare, validate) and does everything else itself.
//!
//! Invariants: no strategy panics, whatever the tree looks like; `default` is idempotent; nothing here reads a clock, the
//! time comes with [`Context`] or as an argument. A module holds one kind or a small family, always in the same order:
//! the strategy, its defaults, its checks. The tables' cells are in `rows`.

mod addresses;
mod amounts;
mod claim;
mod cluster;
mod config;
pub mod custom;
pub mod custom_rules;
pub mod definitions;
mod deployment;
mod event;
pub mod expressions;
mod groups;
mod internal;
mod job;
mod late;
mod limits;
pub mod meta;
mod name_rule;
mod pod;
pub mod print;
mod replicaset;
mod rows;
mod rules;
mod schema;
mod service;
mod sets;
mod strategy;
mod template;
#[cfg(test)]
mod tests;
mod tree;
pub mod usage;
mod volume;
mod withheld;
mod workloads;

pub use internal::difference;
pub use late::is_late;
pub use meta::{annotations as validate_annotations, validate_meta, validate_meta_update};
pub use name_rule::NameRule;
pub use pod::{api_references, dotted_sysctl, names_secrets, qos_class};
pub use rules::{labels as validate_labels, not_supported};
pub use service::keep_cluster_ips;
pub use strategy::{Context, Generic, Identity, Judged, Propagation, Selectable, Strategy, as_written};
pub use withheld::{holds_pod, withhold};

/// The strategy of a resource; [`Generic`] for kinds without one.
pub fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    workloads::strategy(group, resource).or_else(|| groups::strategy(group, resource)).unwrap_or(&Generic)
}
