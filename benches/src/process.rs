//! What the kernel says that processes use.

use anyhow::Context as _;
use std::{fs, time::Duration};

/// Memory of processes, in KiB.
#[derive(Default, Clone, Copy)]
pub struct Memory {
    /// Resident pages, shared ones counted in each process.
    pub rss: u64,
    /// Resident pages, shared ones divided among those that share them.
    pub pss: u64,
    /// Pages that are backed by no file.
    pub anonymous: u64,
}

impl std::ops::AddAssign for Memory {
    fn add_assign(&mut self, other: Self) {
        self.rss += other.rss;
        self.pss += other.pss;
        self.anonymous += other.anonymous;
    }
}

/// What a process holds.
pub fn memory(pid: i32) -> anyhow::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
    Ok(Memory { rss: field("Rss:"), pss: field("Pss:"), anonymous: field("Anonymous:") })
}

/// CPU time used so far, also by threads that have ended; known to 10 ms.
pub fn cpu(pid: i32) -> Duration {
    // Fields 14 and 15.
    ticks(&pid.to_string(), 14)
}

/// CPU time used so far by this process's children that have ended, and by theirs.
pub fn cpu_of_children() -> Duration {
    // Fields 16 and 17.
    ticks("self", 16)
}

/// Two fields of proc_pid_stat(5) that are counted in hundredths of a second.
fn ticks(process: &str, first: usize) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Counted after the second one, the name, which may hold anything.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(first - 3);
    TICK * fields.take(2).filter_map(|f| f.parse::<u32>().ok()).sum()
}

/// Bytes that it made the kernel write to disks, so far.
pub fn written(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

/// The shims of a cluster: processes of the same program that hold its pods.
pub fn shims(cluster: &str) -> Vec<i32> {
    let mark = format!("/run/knarr/{cluster}/");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        words.get(1).is_some_and(|w| w == "shim") && words.iter().any(|w| w.contains(&mark))
    };
    pids.filter(holds).collect()
}
