//! Who is about to start a cluster and has nothing of it yet: there is neither a lock nor a directory by which its first start could be
//! found, so the kernel's table of processes tells.

use crate::cli::{Cli, Command};
use clap::Parser as _;
use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::Path,
};

/// The kernel's table of processes, and this one's place in it.
const TABLE: &str = "/proc";
const OWN: &str = "/proc/self";

/// Another process of this very program that sees the same files and is told to start the cluster of this name.
pub fn process(name: &str) -> Option<u32> {
    let all = fs::read_dir(TABLE).ok()?.flatten();
    let mut numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != std::process::id());
    numbers.find(|pid| {
        let theirs = Path::new(TABLE).join(pid.to_string());
        ["exe", "ns/mnt"].iter().all(|what| is_same(&Path::new(OWN).join(what), &theirs.join(what)))
            && fs::read(theirs.join("cmdline")).is_ok_and(|line| starts(&line).as_deref() == Some(name))
    })
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// The name of the cluster, or of the place of a node of another, that a command line starts.
fn starts(line: &[u8]) -> Option<String> {
    let words = line.strip_suffix(&[0])?.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    match Cli::try_parse_from(words).ok()?.command {
        Command::Up(up) => Some(up.which.name),
        Command::Agent(agent) if !agent.reset && !agent.print_unit && !agent.print_manifest => Some(agent.name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_tells_what_it_starts() {
        let starts = |line: &str| starts(line.replace(' ', "\0").as_bytes());
        assert_eq!(starts("knarr up --nodes 3 --name=a shop.yaml ").as_deref(), Some("a"));
        assert_eq!(starts("/x/knarr agent ").as_deref(), Some("knarr"));
        for other in ["knarr agent --reset ", "knarr down --name a ", "knarr up --no-such-flag ", "", "knarr up"] {
            assert_eq!(starts(other), None, "{other:?}");
        }
        assert_eq!(process("a-cluster-that-nobody-starts"), None);
    }
}
