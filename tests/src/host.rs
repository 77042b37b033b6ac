//! The processes of a cluster's containers, as the host sees them.

use std::{collections::BTreeMap, fs};

/// A process: its ID and, since IDs come again, when it was started (in ticks since boot).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its ID.
    pub pid: u32,
    /// Its start.
    pub started: u64,
}

/// The processes in the cluster's control groups, with their command lines.
#[must_use]
pub fn containers(cluster: &str) -> BTreeMap<Process, String> {
    let group = format!(":/{cluster}/");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if !read("cgroup").lines().any(|l| l.contains(&group)) {
            continue;
        }
        // After the command's name, which may hold anything, the fields are plain: the start is the 20th of them.
        let stat = read("stat");
        let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
        if let Some(started) = started {
            found.insert(Process { pid, started }, read("cmdline").replace('\0', " "));
        }
    }
    found
}
