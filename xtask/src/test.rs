//! `cargo xtask test`: everything that is checked, in the order of what it costs, with one closing line: the form of the code,
//! the licences of what it stands on, lints and unit tests, a real cluster. A filter that no test matches is an error.
//!
//! Lints need nothing. Unit tests mount, make namespaces and cgroups, and are root for it. The tests of a cluster run the program as root
//! on this machine, in clusters of their own names, and need kubectl: the one on the path, or one built from its Go module.
//!
//! Each crate is compiled once: by clippy's driver, which is rustc with more lints, and in one profile, whose hot crates are optimised
//! so far that a cluster can be tested with it. `cargo xtask test release` tests a cluster of the program that is given to people.

use crate::{
    licences, software,
    task::{cargo, step},
};
use anyhow::{Context as _, bail};
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// The crate of tests that start clusters.
const CLUSTER: &str = "cluster-tests";
/// Of kubectl where none is installed.
const KUBECTL: &str = "k8s.io/kubernetes/cmd/kubectl";
/// The Go module that pins it: by its bare version Go refuses a module that replaces others.
const KUBECTL_MODULE: &str = "conformance";

/// What the test programs told.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

/// Runs the task.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let root = workspace()?;
    let (what, filter) = (arguments.first().map(String::as_str), arguments.get(1).map(String::as_str));
    let mut count = Count::default();
    match what {
        None => {
            form(&root)?;
            licences::check(&root)?;
            unit(&root, None, &mut count)?;
            cluster(&root, Profile::Dev, None, &mut count)?;
        }
        Some("unit") => unit(&root, filter, &mut count)?,
        Some("cluster") => cluster(&root, Profile::Dev, filter, &mut count)?,
        Some("release") => cluster(&root, Profile::Release, filter, &mut count)?,
        Some("swap") => return swap(&root, &arguments[1..]),
        Some("workloads") => return software::run(&software::WORKLOADS.map(str::to_owned)),
        Some(other) => bail!("{other:?} is neither `unit` nor `cluster` nor `release` nor `swap` nor `workloads`"),
    }
    if let Some(filter) = filter
        && count.passed + count.failed == 0
    {
        bail!("no test's name has {filter:?} in it");
    }
    println!("\n{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

pub fn workspace() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("the workspace has a folder")
}

/// The parts of the cluster in the originals' places and the originals in theirs, where the originals are built.
fn swap(root: &Path, scenarios: &[String]) -> anyhow::Result<()> {
    program(root, Profile::Release)?;
    let ok = Command::new(root.join("tests/swap")).args(scenarios).current_dir(root).env("KUBECTL", kubectl(root)?).status()?.success();
    if ok { Ok(()) } else { bail!("the swap failed") }
}

fn form(root: &Path) -> anyhow::Result<()> {
    step("form: rustfmt");
    let ok = cargo(root).args(["fmt", "--all", "--check", "--quiet"]).status()?.success();
    if ok { Ok(()) } else { bail!("the code is not formatted: `cargo fmt --all`") }
}

/// How long one test program may take: several times what the longest needs on two slow cores. One that hangs is a failure that is
/// told, and the others are still heard.
const LIMIT: &str = "1200";
/// Bytes of the path of the directory for what is temporary: tests bind sockets in it, whose paths have 107.
const TEMPORARY_BYTES_MAX: usize = 40;

/// A cargo that compiles the workspace's crates with clippy's driver; its warnings are errors.
fn linting(root: &Path) -> Command {
    let mut command = cargo(root);
    // What `cargo clippy -- -D warnings` sets for its driver.
    command.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver").env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
    if std::env::temp_dir().as_os_str().len() > TEMPORARY_BYTES_MAX {
        command.env("TMPDIR", "/tmp");
    }
    // It tells on standard error whom it ends.
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", format!("timeout --foreground --verbose --kill-after=10 {LIMIT}"));
    command
}

fn unit(root: &Path, filter: Option<&str>, count: &mut Count) -> anyhow::Result<()> {
    step("lints (clippy, warnings are errors) and programs");
    // Tests run some examples as programs. They are built as such: cargo's `--all-targets` makes tests of them.
    let examples = ["build", "--workspace", "--examples", "--quiet"];
    // Not the documentation, which would be compiled once more for tests that it has none of.
    let all = ["test", "--workspace", "--lib", "--bins", "--tests"];
    if !linting(root).args(examples).status()?.success() || !linting(root).args(all).args(["--no-run", "--quiet"]).status()?.success() {
        bail!("lints failed, or something does not compile");
    }
    // Some of them can be run by anybody.
    if filter.is_none() && !is_root() {
        bail!("the unit tests must be root, for what is a node's: run `cargo xtask test` with sudo");
    }
    step("unit tests");
    let mut command = linting(root);
    command.args(all).args(["--no-fail-fast", "--exclude", CLUSTER]);
    counted(command.args(filter), count)
}

/// A profile of the workspace.
#[derive(Clone, Copy)]
enum Profile {
    Dev,
    Release,
}

fn cluster(root: &Path, profile: Profile, filter: Option<&str>, count: &mut Count) -> anyhow::Result<()> {
    if !is_root() {
        bail!("the tests of a cluster must be root: run `cargo xtask test` with sudo");
    }
    let program = program(root, profile)?;
    let kubectl = kubectl(root)?;
    step("tests of a real cluster");
    let mut command = linting(root);
    // Of the whole workspace, as the unit tests: another choice of packages is another choice of features, for which every
    // dependency is built once more.
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for name in cluster_tests(root)? {
        command.args(["--test", &name]);
    }
    command.args(filter).args(["--", "--test-threads=1"]).env("KNARR", program).env("KUBECTL", kubectl);
    // Each of them loads both cores, and one holds a rate of requests: they run one after another.
    counted(&mut command, count)
}

/// The names of the programs of [`CLUSTER`]: one a file.
fn cluster_tests(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("tests/tests");
    let mut names = Vec::new();
    for file in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        names.extend(file?.file_name().to_str().and_then(|name| name.strip_suffix(".rs")).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The program.
fn program(root: &Path, profile: Profile) -> anyhow::Result<PathBuf> {
    let (mut command, folder) = match profile {
        // Of the whole workspace, whose features the tests were compiled with.
        Profile::Dev => (linting(root), "debug"),
        Profile::Release => (cargo(root), "release"),
    };
    match profile {
        // With the examples, which bring along what tests depend on: alone it would be of other features, and half the workspace compiled again.
        Profile::Dev => command.args(["build", "--workspace", "--examples", "--bin", "knarr"]),
        Profile::Release => command.args(["build", "--release", "--package", "knarr"]),
    };
    step(&format!("the program ({folder})"));
    if !command.status()?.success() {
        bail!("the program does not build");
    }
    Ok(target(root)?.join("x86_64-unknown-linux-gnu").join(folder).join("knarr"))
}

pub fn target(root: &Path) -> anyhow::Result<PathBuf> {
    let output = cargo(root).args(["metadata", "--format-version=1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|o| o.stdout.trim_ascii() == b"0")
}

/// kubectl from the path, else built once from its Go module below the target directory.
pub fn kubectl(root: &Path) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|p| p.join("kubectl")).find(|p| p.is_file());
    if let Some(found) = found {
        return Ok(found);
    }
    let folder = target(root)?.join("kubectl");
    let built = folder.join("kubectl");
    if !built.exists() {
        step("kubectl, from its Go module (none is installed)");
        let mut build = Command::new("go");
        build.current_dir(root.join(KUBECTL_MODULE)).args(["build", "-ldflags=-s -w", "-o"]).arg(&built).arg(KUBECTL).env("CGO_ENABLED", "0");
        let ok = build.status();
        if !ok.context("kubectl is not installed and Go, to build it, is not either")?.success() {
            bail!("kubectl does not build: install it, or put it on the path");
        }
    }
    Ok(built)
}

/// Runs tests, shows what they print and adds up what they tell.
fn counted(command: &mut Command, count: &mut Count) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().context("a child without output")?);
    for line in output.lines() {
        let line = line?;
        println!("{line}");
        if let Some((passed, failed)) = result(&line) {
            count.passed += passed;
            count.failed += failed;
        }
    }
    let before = count.failed;
    if !child.wait()?.success() && before == 0 {
        // A test program that did not build, or that died.
        count.failed += 1;
    }
    println!("({} s)", started.elapsed().as_secs());
    Ok(())
}

/// The numbers of `test result: ok. 3 passed; 0 failed; …`.
fn result(line: &str) -> Option<(usize, usize)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_harness_is_understood() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(super::result(line), Some((12, 3)));
        assert_eq!(super::result("test a ... ok"), None);
    }

    #[test]
    fn a_nested_cargo_knows_nothing_of_this_package() {
        for (name, gone) in [("CARGO_MANIFEST_DIR", true), ("CARGO_PKG_NAME", true), ("CARGO_HOME", false), ("CARGO_TARGET_DIR", false), ("PATH", false)] {
            assert_eq!(crate::task::is_of_a_package(name), gone, "{name}");
        }
    }
}
