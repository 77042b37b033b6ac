//! Container logs: parsing, reading and following, rotation.

pub mod parse;
pub mod read;
pub mod rotate;
