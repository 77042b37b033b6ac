//! What is told of every process: its processor time, memory, files and start (the `process_*` of Go's client library), and what was
//! built.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::exposition::{Families, Family, Kind};

const CPU: Family = Family::new("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.");
const OPEN: Family = Family::new("process_open_fds", Kind::Gauge, "Number of open file descriptors.");
const MOST: Family = Family::new("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.");
const RESIDENT: Family = Family::new("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
const VIRTUAL: Family = Family::new("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.");
const START: Family = Family::new("process_start_time_seconds", Kind::Gauge, "Start time of the process since unix epoch in seconds.");
const BUILD: Family = Family::new(
    "kubernetes_build_info",
    Kind::Gauge,
    "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
);

/// Ticks of the kernel in a second, as it tells them to processes on every architecture that we run on.
const TICKS_S: f64 = 100.0;

/// Tells of this process. Parts in one process tell the same.
pub fn tell(out: &mut Families) {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
    out.add(&CPU, &[], (field(&stat, 11) + field(&stat, 12)) / TICKS_S, None);
    out.add(&OPEN, &[], fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64, None);
    if let Some(most) = word(&read("/proc/self/limits"), "Max open files") {
        out.add(&MOST, &[], most, None);
    }
    for (family, name) in [(&RESIDENT, "VmRSS:"), (&VIRTUAL, "VmSize:")] {
        out.add(family, &[], word(&status, name).unwrap_or(0.0) * 1024.0, None);
    }
    static SINCE: OnceLock<f64> = OnceLock::new();
    let since = *SINCE.get_or_init(|| started(SystemTime::now(), &read("/proc/uptime"), &stat));
    out.add(&START, &[], since, None);
}

/// Tells what was built (`v1.37.0`), and for which platform.
pub fn tell_build(out: &mut Families, version: &str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = format!("linux/{architecture}");
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    out.add(&BUILD, &[("git_version", version), ("major", major), ("minor", minor), ("platform", &platform)], 1.0, None);
}

/// A field behind the program's name, which is in brackets and may hold spaces.
fn field(stat: &str, at: usize) -> f64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(at).and_then(|field| field.parse().ok()).unwrap_or(0.0)
}

/// The number behind a name at a line's beginning.
fn word(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// When the process began: the kernel tells it as time since its own start.
fn started(now: SystemTime, uptime: &str, stat: &str) -> f64 {
    let up: f64 = uptime.split_whitespace().next().and_then(|up| up.parse().ok()).unwrap_or(0.0);
    let ago = Duration::try_from_secs_f64(up - field(stat, 19) / TICKS_S).unwrap_or_default();
    (now - ago).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 90000 123 456 18446744073709551615";

    #[test]
    fn the_kernel_s_words_are_read() {
        assert_eq!([field(STAT, 11), field(STAT, 12)], [150.0, 50.0]);
        assert_eq!(started(UNIX_EPOCH + Duration::from_secs(5000), "1000.50 17.0\n", STAT), 4899.5);
        assert_eq!(word("Name:\tx\nVmRSS:\t  51200 kB\n", "VmRSS:"), Some(51200.0));
        assert_eq!(word("Max open files            1024                 524288               files\n", "Max open files"), Some(1024.0));
    }

    #[test]
    fn this_process_is_told() {
        let mut out = Families::default();
        tell(&mut out);
        tell_build(&mut out, "v1.37.2");
        let text = out.finish();
        for name in ["process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_start_time_seconds", "process_virtual_memory_bytes"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} in\n{text}");
        }
        assert!(text.contains("kubernetes_build_info{git_version=\"v1.37.2\",major=\"1\",minor=\"37\",platform=\"linux/"), "{text}");
        assert!(word(&text, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 100_000.0), "{text}");
    }
}
