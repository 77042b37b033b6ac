//! Kubernetes' CEL: what the API's rules, policies and conditions are written in.
//!
//! A text becomes a tree ([`ast`]), the tree is checked against the types of an environment ([`env`]), what it may cost is
//! estimated before it is taken ([`cost`]) and counted while it runs ([`eval`]). A function is a row of a library ([`decl`]); which
//! libraries there are is a question of the version ([`version`]). Nothing here reads a clock, a file or the network.
#![allow(missing_docs, reason = "the fields and variants of the tree, the types and the rows say by their names what they are")]

pub mod ast;
mod checker;
pub mod cost;
pub mod decl;
pub mod declared;
pub mod env;
pub mod error;
pub mod eval;
pub mod expander;
pub mod gotext;
pub mod issues;
pub mod library;
pub mod macros;
mod messages;
pub mod operators;
pub mod parser;
pub mod program;
pub mod regex;
pub mod source;
pub mod time;
pub mod types;
mod validate;
pub mod value;
pub mod version;
pub(crate) mod work;

pub use declared::Declared;
pub use env::Env;
pub use issues::{Issue, Issues};
pub use program::Program;
pub use types::Type;
pub use value::Value;
pub use version::Version;
