//! What every task does: tells its steps, and runs cargo.

use std::path::Path;
use std::process::Command;

/// Tells that a step begins.
pub fn step(what: &str) {
    println!("\n== {what}");
}

/// A cargo in the environment of whoever started this task. What cargo tells a program that it runs (its package, its
/// manifest) is taken away: build scripts look at these variables (`ring`'s does), and would be run again by the next cargo
/// that a user starts.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_a_package)) {
        command.env_remove(name);
    }
    command.current_dir(root);
    command
}

pub fn is_of_a_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| name.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}
