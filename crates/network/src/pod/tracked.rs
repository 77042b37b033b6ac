//! What the kernel is told of tracked connections, as kube-proxy tells it: for how long it knows half-closed ones, and how many it has room for.
//!
//! Both are raised where they are less. What they were stands in the bridge's alias, and is put back by the last network that goes; whoever
//! has changed them since keeps his. Room is the whole machine's: in a network namespace of its own (a further node's) it is not to be changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::{Result, sysctl};

/// A parameter that is to be no less.
pub(super) struct AtLeast {
    /// Before its former value in a bridge's alias.
    pub(super) tag: &'static str,
    parameter: &'static str,
    wanted: fn() -> u32,
}

/// All of them.
pub(super) static ALL: [AtLeast; 2] = [
    // After the kernel's own minute of silence nobody translates the answers any more that a client still waits for.
    AtLeast { tag: "half-closed:", parameter: "netfilter/nf_conntrack_tcp_timeout_close_wait", wanted: || 60 * 60 },
    AtLeast { tag: "room:", parameter: "netfilter/nf_conntrack_max", wanted: room },
];

/// The machine's cores (`a,b-c`).
const CORES: &str = "/sys/devices/system/cpu/online";

/// As many as kube-proxy asks for by default (`maxPerCore`, `min`, and its limit). A full table drops whoever comes.
fn room() -> u32 {
    // Not those that this process may use: the room is everybody's, and who takes it back may have fewer or more than who has made it.
    let cores = fs::read_to_string(CORES).ok().and_then(|list| counted(&list));
    let cores = cores.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)));
    cores.saturating_mul(32 * 1024).clamp(128 * 1024, 1024 * 1024)
}

/// How many a list of cores has.
fn counted(list: &str) -> Option<u32> {
    let of = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    list.trim().split(',').try_fold(0, |all: u32, range| all.checked_add(of(range)?))
}

/// Whether the kernel tracks connections.
pub(super) fn is_on() -> bool {
    ALL[0].now().is_some()
}

impl AtLeast {
    fn file(&self) -> PathBuf {
        PathBuf::from("/proc/sys/net").join(self.parameter)
    }

    /// What it is; none: the kernel tracks nothing yet.
    fn now(&self) -> Option<u32> {
        fs::read_to_string(self.file()).ok()?.trim().parse().ok()
    }

    /// What it is, if that is too little and can be changed here.
    pub(super) fn less(&self) -> Option<u32> {
        let changes = || fs::metadata(self.file()).is_ok_and(|file| file.permissions().mode() & 0o200 != 0);
        self.now().filter(|now| *now < (self.wanted)() && changes())
    }

    /// Makes it what it is to be.
    pub(super) fn raise(&self) -> Result<()> {
        sysctl::set(self.parameter, &(self.wanted)().to_string())
    }

    /// Makes it what it was.
    pub(super) fn put_back(&self, before: u32) -> Result<()> {
        if self.now() == Some((self.wanted)()) { sysctl::set(self.parameter, &before.to_string()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_cores_are_counted() {
        assert_eq!(["0\n", "0-3\n", "0-3,8,10-11\n", "", "x", "3-1"].map(counted), [Some(1), Some(4), Some(7), None, None, None]);
    }
}
