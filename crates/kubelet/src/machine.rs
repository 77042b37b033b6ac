//! What the machine is and has. How much of it pods get is [`crate::reserve`]'s.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use machinery::quantity::{Format, Quantity};

use crate::config::Config;
use crate::settings::Amounts;

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of huge pages, by resource.
    pub huge_pages: Amounts,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
}

impl Machine {
    /// What this machine has.
    #[must_use]
    pub fn this(config: &Config) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cpu_milli: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: meminfo("MemTotal"),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            host_ips: config.node_ips.clone(),
        }
    }

    /// All of it that is counted out to pods or reserved, but for the disk.
    #[must_use]
    pub fn capacity(&self) -> Amounts {
        let mut out = self.huge_pages.clone();
        out.extend([("cpu".to_owned(), self.cpu_milli), ("memory".to_owned(), self.memory_bytes)]);
        out.extend(pids_max().map(|max| ("pid".to_owned(), max)));
        out
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

/// Bytes of huge pages of each size that the kernel has: `hugepages-2048kB/nr_hugepages` is how many of 2 MiB. The usual sizes are told of
/// also where there are none.
fn huge_pages(at: &Path) -> Amounts {
    let mut out = Amounts::from([("hugepages-1Gi".to_owned(), 0), ("hugepages-2Mi".to_owned(), 0)]);
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok());
        let number = fs::read_to_string(entry.path().join("nr_hugepages")).ok().and_then(|n| n.trim().parse::<i64>().ok());
        if let (Some(kib), Some(number)) = (size, number) {
            let bytes = kib.saturating_mul(1024);
            out.insert(format!("hugepages-{}", Quantity::from_value(bytes, Format::Binary)), bytes.saturating_mul(number));
        }
    }
    out
}

/// How many processes and threads there can be.
#[must_use]
pub fn pids_max() -> Option<i64> {
    let read = |at: &str| fs::read_to_string(Path::new("/proc/sys/kernel").join(at)).ok()?.trim().parse::<i64>().ok();
    [read("pid_max"), read("threads-max")].into_iter().flatten().min()
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
pub fn disk(path: &Path) -> (u64, u64) {
    nix::sys::statvfs::statvfs(path).map_or((0, 0), |s| {
        let used = s.blocks().saturating_sub(s.blocks_free());
        ((used + s.blocks_available()) * s.fragment_size(), s.blocks_available() * s.fragment_size())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_counted_by_size() {
        let dir = crate::testing::TempDir::new("huge");
        for (name, number) in [("hugepages-2048kB", "8\n"), ("hugepages-65536kB", "1\n"), ("hugepages-oddkB", "3\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), number).unwrap();
        }
        let pages = huge_pages(dir.path());
        assert_eq!(pages, Amounts::from([("hugepages-1Gi".into(), 0), ("hugepages-2Mi".into(), 16 << 20), ("hugepages-64Mi".into(), 64 << 20)]));
        assert_eq!(huge_pages(Path::new("/nowhere")).len(), 2);
    }
}
