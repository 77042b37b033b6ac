//! `up --detach`: the same command in a session of its own. It tells its steps through a pipe until everything runs; then
//! it writes to its log, and this process returns.

use anyhow::{Context as _, bail};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// Tells the child that it is one.
const VARIABLE: &str = "KNARR_DETACHED";
/// Ends the steps: everything runs.
const END: &str = "\u{4}";

/// Starts the child and shows its steps.
pub fn parent() -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this program cannot find itself")?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "--detach");
    let mut command = Command::new(own);
    command.args(arguments).env(VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("this program cannot start itself")?;
    let lines = BufReader::new(child.stdout.take().context("the child has no output")?).lines();
    for line in lines {
        let line = line?;
        if line == END {
            return Ok(());
        }
        println!("{line}");
    }
    let status = child.wait()?;
    bail!("the cluster did not start ({status}); what it said is above")
}

/// Whether this process is such a child; it then leaves the terminal's session.
pub fn is_child() -> bool {
    if std::env::var_os(VARIABLE).is_none() {
        return false;
    }
    // Fails for a process that leads a session already, which is as good.
    let _ = setsid();
    true
}

/// Everything runs: from here on the output goes to the log.
pub fn started(log: &Path) -> anyhow::Result<()> {
    println!("{END}");
    std::io::stdout().flush()?;
    let file = File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))?;
    dup2_stdout(&file)?;
    dup2_stderr(&file)?;
    Ok(())
}
