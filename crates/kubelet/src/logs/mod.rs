//! Container logs: parsing, reading and following, rotation.

pub mod directories;
pub mod parse;
pub mod read;
pub mod rotate;
