//! What the machine is and has, and how much of it is kept for the node itself.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Config;

/// Memory below which the node runs short, in bytes.
pub const MEMORY_MIN_BYTES: i64 = 100 << 20;
/// Shares of the disk and of its inodes below which the node runs short, in hundredths.
pub const DISK_MIN_PERCENT: u64 = 10;
/// Memory kept for the node itself (upstream's default `memory.available` threshold), in bytes.
pub(crate) const RESERVED_MEMORY_BYTES: i64 = MEMORY_MIN_BYTES;

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
}

impl Machine {
    /// What this machine has.
    #[must_use]
    pub fn this(config: &Config) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000, memory_bytes: meminfo("MemTotal"), host_ips: vec![config.node_ip] }
    }
}

/// The architecture as Go names it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels of the node.
#[must_use]
pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut out = config.labels.clone();
    for (k, v) in [("kubernetes.io/hostname", config.node_name.as_str()), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", architecture())] {
        out.insert(k.into(), v.into());
        if let Some(rest) = k.strip_prefix("kubernetes.io/").filter(|r| *r != "hostname") {
            out.insert(format!("beta.kubernetes.io/{rest}"), v.into());
        }
    }
    out
}

/// A value of `/proc/meminfo` in bytes.
#[must_use]
pub fn meminfo(key: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<i64>().ok()).unwrap_or(0) * 1024
}

/// When the machine was started.
#[must_use]
pub fn booted() -> Option<SystemTime> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let since_epoch_s: u64 = text.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())?;
    Some(UNIX_EPOCH + Duration::from_secs(since_epoch_s))
}

/// Bytes of the file system of `path`: all that can be had, and free. What the file system keeps back counts for neither, as
/// df(1) has it: a disk with a large reserve is not a full one.
#[must_use]
pub fn disk(path: &std::path::Path) -> (u64, u64) {
    nix::sys::statvfs::statvfs(path).map_or((0, 0), |s| {
        let used = s.blocks().saturating_sub(s.blocks_free());
        ((used + s.blocks_available()) * s.fragment_size(), s.blocks_available() * s.fragment_size())
    })
}
