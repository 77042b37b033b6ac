//! The program `knarr`.
fn main() {}
