//! `up --detach`: the same command in a session of its own. It tells its steps through a pipe until everything runs; then
//! it writes to its log, and this process returns.

use anyhow::{Context as _, bail};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// Tells the child that it is one.
const VARIABLE: &str = "KNARR_DETACHED";
/// Ends the steps: everything runs.
const END: &str = "\u{4}";
/// Ends the steps: the cluster runs, but not everything that was asked for is there.
const UNFINISHED: &str = "\u{15}";

/// Starts the child and shows its steps.
pub fn parent() -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this program cannot find itself")?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "--detach");
    let mut command = Command::new(own);
    command.args(arguments).env(VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("this program cannot start itself")?;
    let lines = BufReader::new(child.stdout.take().context("the child has no output")?).lines();
    let mut out = std::io::stdout();
    for line in lines {
        match line?.as_str() {
            END => return Ok(()),
            UNFINISHED => bail!("not everything that was asked for is there"),
            line => drop(writeln!(out, "{line}")),
        }
    }
    let status = child.wait()?;
    bail!("the cluster did not start ({status}); what it said is above")
}

/// Whether this process is such a child; it then leaves the terminal's session and its parent's group.
pub fn is_child() -> bool {
    if std::env::var_os(VARIABLE).is_none() {
        return false;
    }
    // Fails for a leader of a group alone, which the parent does not make it.
    let _ = setsid();
    true
}

/// Everything runs: from here on the output goes to the log.
pub fn started(log: &Path, finished: bool) -> anyhow::Result<()> {
    let file = File::options().create(true).append(true).mode(0o600).open(log).with_context(|| format!("cannot write {}", log.display()))?;
    // A parent that was interrupted does not hear it, and the cluster runs all the same.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", if finished { END } else { UNFINISHED }).and_then(|()| out.flush());
    dup2_stdout(&file)?;
    dup2_stderr(&file)?;
    Ok(())
}
