//! What a Kubernetes API object is: its schema, its encodings, and what may be done to it without knowing its kind.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no global state but the immutable built-in
//! facts ([`schema::builtin`], [`resources::builtin`]), which are decoded once from files that `cargo xtask generate`
//! writes. An object is a [`Value`] tree guided by a [`schema::Schema`], so that a built-in kind and a custom one
//! take the same way.
//!
//! Invariant of the crate: no panic is reachable from input; bad input is a [`status::Status`] in upstream's wording.

pub use serde_json::{Map, Value};

pub mod apply;
pub mod convert;
pub mod defaulting;
pub mod extended;
pub mod field;
pub mod fields;
pub mod gvk;
pub mod json;
pub mod json_path;
pub mod labels;
pub mod names;
pub mod numerals;
pub mod openapi;
pub mod past;
pub mod patch;
pub mod placement;
pub mod pod_names;
pub mod printed;
pub mod proto;
pub mod quantity;
pub mod quote;
pub mod regexp;
pub mod resources;
pub mod schema;
pub mod status;
pub mod structural;
pub mod time;
pub mod tree;
mod unix;
pub mod yaml;
pub mod zpages;
