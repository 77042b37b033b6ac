//! `cargo xtask bench NAME`: builds the release program and runs one program of `benches/` against it.

use crate::{
    task::cargo,
    test::{target, workspace},
};
use anyhow::bail;

/// Runs the task. `KNARR` names another program to measure.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let root = workspace()?;
    let mut build = vec!["build", "--release", "--quiet", "--package", "benches"];
    let given = std::env::var_os("KNARR");
    if given.is_none() {
        build.extend(["--package", "knarr"]);
    }
    if !cargo(&root).args(build).status()?.success() {
        bail!("it does not build");
    }
    let programs = target(&root)?.join("x86_64-unknown-linux-gnu/release");
    let knarr = given.map_or_else(|| programs.join("knarr"), Into::into);
    let ok = std::process::Command::new(programs.join("benches")).args(arguments).env("KNARR", knarr).status()?.success();
    if ok { Ok(()) } else { bail!("the figures could not be measured") }
}
