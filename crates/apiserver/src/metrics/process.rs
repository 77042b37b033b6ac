//! What is told of the process itself (the `process_*` and `go_*` of Go's client library, as far as they have a meaning here).

use crate::offload;
use instruments::{Families, Family, Kind, process};

const MOST: Family = Family::new("process_virtual_memory_max_bytes", Kind::Gauge, "Maximum amount of virtual memory available in bytes.");
const RECEIVED: Family = Family::new("process_network_receive_bytes_total", Kind::Counter, "Number of bytes received by the process over the network.");
const SENT: Family = Family::new("process_network_transmit_bytes_total", Kind::Counter, "Number of bytes sent by the process over the network.");
/// What a goroutine is there is a task here.
const TASKS: Family = Family::new("go_goroutines", Kind::Gauge, "Number of tasks that currently exist; there are no goroutines.");
const THREADS: Family = Family::new("go_threads", Kind::Gauge, "Number of OS threads created.");

/// Tells it: what every part tells, and what the API server alone does.
pub(super) fn text() -> String {
    let mut out = Families::default();
    process::tell(&mut out);
    if let Some(most) = limit(&read("limits"), "Max address space") {
        out.add(&MOST, &[], most as f64, None);
    }
    let network = read("net/netstat");
    for (family, column) in [(&RECEIVED, "InOctets"), (&SENT, "OutOctets")] {
        if let Some(bytes) = octets(&network, column) {
            out.add(family, &[], bytes as f64, None);
        }
    }
    out.add(&TASKS, &[], offload::tasks() as f64, None);
    out.add(&THREADS, &[], std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) as f64, None);
    out.finish()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default()
}

/// A limit of the process. None is the greatest number that there is, as in Go's library.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// What the kernel has counted of the protocol IP in the process's network: a line of names, and one of numbers.
fn octets(network: &str, column: &str) -> Option<u64> {
    let mut lines = network.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let at = lines.next()?.split_whitespace().position(|name| name == column)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!((limit(limits, "Max open files"), limit(limits, "Max address space"), limit(limits, "Max love")), (Some(1024), Some(u64::MAX), None));
        let network = "TcpExt: SyncookiesSent InOctets\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 300 400\n";
        assert_eq!((octets(network, "InOctets"), octets(network, "OutOctets"), octets("", "InOctets")), (Some(300), Some(400), None));
    }
}
