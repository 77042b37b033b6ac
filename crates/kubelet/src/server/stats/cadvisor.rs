//! `GET /metrics/cadvisor`: what is known of the machine and of each cgroup, under cAdvisor's names (its sets that the kubelet has on:
//! CPU, memory, disks, network, processes, ends for want of memory, and pressure where the kernel counts it).
//!
//! Series are of the machine (`id="/"`), of the classes of pods, of each pod and of each container. Links are a pod's own: upstream
//! has them with the container that holds a pod's namespaces, of which there is none here, so they are with the pod's cgroup,
//! as its other figures are. Space is told of the machine alone, as upstream does where a runtime measures for it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::usage::{self, Link};
use super::{Answer, Families, Family, Kind, Measured, exposed, measure, seconds};
use crate::cri::{BlockDevice, Detail, Reading, Stats, Throughput};
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::{node, util};

/// A family with one sample a cgroup; none where it is not told.
type Row = (Family, fn(&Stats, &Detail) -> Option<f64>);

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Counter, help)
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Gauge, help)
}

fn seconds_of_us(us: u64) -> f64 {
    us as f64 / 1e6
}

const ROWS: [Row; 38] = [
    (counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), |_, d| Some(seconds(d.cpu_user_ns))),
    (counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), |_, d| Some(seconds(d.cpu_system_ns))),
    (counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), |_, d| {
        d.cpu_quota_us.and(d.bandwidth).map(|b| b.periods as f64)
    }),
    (counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), |_, d| {
        d.cpu_quota_us.and(d.bandwidth).map(|b| b.throttled_periods as f64)
    }),
    (counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), |_, d| {
        d.cpu_quota_us.and(d.bandwidth).map(|b| seconds(b.throttled_ns))
    }),
    (counter("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs."), |_, d| d.cpu_quota_us.and(d.bandwidth).map(|b| b.bursts as f64)),
    (counter("container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted."), |_, d| {
        d.cpu_quota_us.and(d.bandwidth).map(|b| seconds(b.burst_ns))
    }),
    (gauge("container_memory_cache", "Number of bytes of page cache memory."), |_, d| Some(d.memory_cache_bytes as f64)),
    (gauge("container_memory_rss", "Size of RSS in bytes."), |s, _| Some(s.memory_rss_bytes as f64)),
    (gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes."), |_, d| Some(d.memory_kernel_bytes as f64)),
    (gauge("container_memory_mapped_file", "Size of memory mapped files in bytes."), |_, d| Some(d.memory_mapped_bytes as f64)),
    (gauge("container_memory_swap", "Container swap usage in bytes."), |s, _| Some(s.swap_usage_bytes as f64)),
    (counter("container_memory_failcnt", "Number of memory usage hits limits"), |_, d| Some(d.memory_limit_hits as f64)),
    (gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed"), |s, _| {
        Some(s.memory_usage_bytes as f64)
    }),
    (gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes"), |_, d| Some(d.memory_max_usage_bytes as f64)),
    (gauge("container_memory_working_set_bytes", "Current working set in bytes."), |s, _| Some(s.memory_working_set_bytes as f64)),
    (gauge("container_memory_total_active_file_bytes", "Current total active file in bytes."), |_, d| Some(d.memory_active_file_bytes as f64)),
    (gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes."), |_, d| Some(d.memory_inactive_file_bytes as f64)),
    (counter("container_memory_events_high_total", "Cumulative count of memory.high throttle events for the container"), |_, d| {
        Some(d.memory_high_events as f64)
    }),
    (counter("container_memory_events_max_total", "Cumulative count of memory.max limit hit events for the container"), |_, d| {
        Some(d.memory_max_events as f64)
    }),
    (gauge("container_memory_file_dirty_bytes", "Number of bytes of file cache that has been modified but not yet written back to disk."), |_, d| {
        Some(d.memory_dirty_bytes as f64)
    }),
    (gauge("container_memory_file_writeback_bytes", "Number of bytes of file cache that is currently being written back to disk."), |_, d| {
        Some(d.memory_writeback_bytes as f64)
    }),
    (counter("container_memory_pgscan_total", "Cumulative number of pages scanned by the page reclaim algorithm."), |_, d| Some(d.pages_scanned as f64)),
    (counter("container_memory_pgsteal_total", "Cumulative number of pages reclaimed by the page reclaim algorithm."), |_, d| Some(d.pages_stolen as f64)),
    (counter("container_memory_workingset_refault_file_total", "Cumulative number of refaults of previously evicted file pages."), |_, d| {
        Some(d.file_refaults as f64)
    }),
    (counter("container_memory_workingset_refault_anon_total", "Cumulative number of refaults of previously evicted anonymous pages."), |_, d| {
        Some(d.anon_refaults as f64)
    }),
    (gauge("container_processes", "Number of processes running inside the container."), |_, d| Some(d.processes as f64)),
    (gauge("container_file_descriptors", "Number of open file descriptors for the container."), |_, d| Some(d.open_files as f64)),
    (gauge("container_sockets", "Number of open sockets for the container."), |_, d| Some(d.sockets as f64)),
    (gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero"), |_, d| {
        Some(d.pids_max.unwrap_or(0) as f64)
    }),
    (gauge("container_threads", "Number of threads running inside the container"), |s, _| Some(s.pids as f64)),
    (counter("container_oom_events_total", "Count of out of memory events observed for the container"), |_, d| Some(d.oom_kills as f64)),
    (
        counter("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion."),
        |s, _| s.pressure.map(|p| seconds_of_us(p.cpu.full.total_us)),
    ),
    (counter("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion."), |s, _| {
        s.pressure.map(|p| seconds_of_us(p.cpu.some.total_us))
    }),
    (
        counter(
            "container_pressure_memory_stalled_seconds_total",
            "Total time duration no tasks in the container could make progress due to memory congestion.",
        ),
        |s, _| s.pressure.map(|p| seconds_of_us(p.memory.full.total_us)),
    ),
    (counter("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion."), |s, _| {
        s.pressure.map(|p| seconds_of_us(p.memory.some.total_us))
    }),
    (
        counter("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion."),
        |s, _| s.pressure.map(|p| seconds_of_us(p.io.full.total_us)),
    ),
    (counter("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion."), |s, _| {
        s.pressure.map(|p| seconds_of_us(p.io.some.total_us))
    }),
];
/// What a cgroup was given, told without a time.
const SPECS: [Row; 6] = [
    (gauge("container_spec_memory_limit_bytes", "Memory limit for the container."), |s, _| Some(s.memory_limit_bytes.unwrap_or(0) as f64)),
    (gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container."), |s, _| Some(s.swap_limit_bytes.unwrap_or(0) as f64)),
    (gauge("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container."), |_, d| Some(d.memory_reservation_bytes as f64)),
    (gauge("container_spec_cpu_period", "CPU period of the container."), |_, d| Some(d.cpu_period_us as f64)),
    (gauge("container_spec_cpu_quota", "CPU quota of the container."), |_, d| d.cpu_quota_us.map(|quota| quota as f64)),
    (gauge("container_spec_cpu_shares", "CPU share of the container."), |_, d| Some(d.cpu_shares as f64)),
];
const CPU: Family = counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.");
const FAILURES: Family = counter("container_memory_failures_total", "Cumulative count of memory allocation failures.");
const ULIMITS: Family = gauge("container_ulimits_soft", "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice");
const LAST_SEEN: Family = gauge("container_last_seen", "Last time a container was seen by the exporter");
const CREATED: Family = gauge("container_creation_time_seconds", "Container creation time since unix epoch in seconds.");
const STARTED: Family = gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.");
const READ_BYTES: Family = counter("container_fs_reads_bytes_total", "Cumulative count of bytes read");
const READS: Family = counter("container_fs_reads_total", "Cumulative count of reads completed");
const WRITTEN_BYTES: Family = counter("container_fs_writes_bytes_total", "Cumulative count of bytes written");
const WRITES: Family = counter("container_fs_writes_total", "Cumulative count of writes completed");
const BLKIO: Family = counter("container_blkio_device_usage_total", "Blkio Device bytes usage");
/// Of a file system, as [`usage::whole`] names them.
const SPACE: [(Family, &str); 4] = [
    (gauge("container_fs_inodes_free", "Number of available Inodes"), "inodesFree"),
    (gauge("container_fs_inodes_total", "Number of Inodes"), "inodes"),
    (gauge("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem."), "capacityBytes"),
    (gauge("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem."), "usedBytes"),
];
/// A family with one sample a link.
type LinkRow = (Family, fn(&Link) -> u64);
const LINKS: [LinkRow; 8] = [
    (counter("container_network_receive_bytes_total", "Cumulative count of bytes received"), |l| l.received.bytes),
    (counter("container_network_receive_packets_total", "Cumulative count of packets received"), |l| l.received.packets),
    (counter("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving"), |l| l.received.dropped),
    (counter("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"), |l| l.received.errors),
    (counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"), |l| l.sent.bytes),
    (counter("container_network_transmit_packets_total", "Cumulative count of packets transmitted"), |l| l.sent.packets),
    (counter("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting"), |l| l.sent.dropped),
    (counter("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"), |l| l.sent.errors),
];
const SCRAPE_ERRORS: [Family; 2] = [
    gauge("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"),
    gauge("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise."),
];
const VERSION: Family = gauge(
    "cadvisor_version_info",
    "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
);
const PHYSICAL_CORES: Family = gauge("machine_cpu_physical_cores", "Number of physical CPU cores.");
const CORES: Family = gauge("machine_cpu_cores", "Number of logical CPU cores.");
const SOCKETS: Family = gauge("machine_cpu_sockets", "Number of CPU sockets.");
const MEMORY: Family = gauge("machine_memory_bytes", "Amount of memory installed on the machine.");
const SWAP: Family = gauge("machine_swap_bytes", "Amount of swap memory available on the machine.");

/// Whose series it is.
#[derive(Clone, Copy, Default)]
struct Of<'a> {
    id: &'a str,
    /// The container's identifier and image; of a pod and what is above it none.
    name: &'a str,
    image: &'a str,
    container: &'a str,
    namespace: &'a str,
    pod: &'a str,
}

impl<'a> Of<'a> {
    /// The labels, with further ones, in the order of their names.
    fn labels(&self, further: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own =
            [("container", self.container), ("id", self.id), ("image", self.image), ("name", self.name), ("namespace", self.namespace), ("pod", self.pod)];
        let mut all: Vec<(&str, &str)> = own.into_iter().chain(further.iter().copied()).collect();
        all.sort_unstable();
        all
    }
}

/// What takes a look at the host beside the cgroups.
struct Host {
    fs: serde_json::Value,
    device: String,
    links: Vec<Link>,
    /// By pod, in the order of the measured ones.
    of_pods: Vec<Vec<Link>>,
    disks: HashMap<(u64, u64), String>,
}

pub(crate) async fn metrics(cx: &Arc<Context>, pods: &Pods) -> Answer {
    let measured = measure(cx, pods, true).await;
    let (root, looked) = (cx.config.root_dir.clone(), Arc::clone(cx));
    exposed(
        util::blocking(move || {
            let host = look(&measured, &root);
            families(&looked, &measured, &host)
        })
        .await,
    )
}

fn look(measured: &Measured, root: &Path) -> Host {
    let netns = measured.pods.iter().map(|of| of.sandbox.as_ref().and_then(|s| s.netns.clone()));
    let (fs, device) = (usage::whole(root), usage::device(root));
    let mut disks = HashMap::new();
    let readings = measured.pods.iter().flat_map(|of| of.cgroup.iter().chain(of.containers.iter().map(|one| &one.reading)));
    let details = readings.chain(measured.classes.iter().map(|(_, r)| r)).filter_map(|r| r.detail.as_ref()).chain([&measured.node.1]);
    for disk in details.flat_map(|detail| &detail.io) {
        let BlockDevice { major, minor } = disk.device;
        disks.entry((major, minor)).or_insert_with(|| disk_name(major, minor));
    }
    Host {
        fs,
        device,
        links: usage::links(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default()),
        of_pods: netns.map(|at| at.and_then(|at| usage::links_within(&at)).unwrap_or_default()).collect(),
        disks,
    }
}

/// `/dev/NAME`; empty for what the kernel does not name.
fn disk_name(major: u64, minor: u64) -> String {
    let told = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    told.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(|name| format!("/dev/{name}")).unwrap_or_default()
}

fn families(cx: &Context, measured: &Measured, host: &Host) -> Families {
    let mut out = Families::default();
    machine(cx, measured, &mut out);
    let top = Of { id: "/", ..Of::default() };
    let at = measured.at;
    let booted = crate::machine::booted().unwrap_or(cx.started);
    group(&mut out, &top, (&measured.node.0, &measured.node.1), (booted, at), &host.disks);
    for (family, field) in &SPACE {
        let value = host.fs[field].as_u64().unwrap_or(0);
        out.add(family, &top.labels(&[("device", &host.device)]), value as f64, Some(at));
    }
    links(&mut out, &top, host.links.iter().filter(|link| usage::is_the_node_s(&link.name)), at);
    let none = Detail::default();
    for (path, reading) in &measured.classes {
        group(&mut out, &Of { id: path, ..Of::default() }, whole(reading, &none), (cx.started, at), &host.disks);
    }
    for (pod, own) in measured.pods.iter().zip(&host.of_pods) {
        let path = cx.cgroups.pod_path(&pod.pod);
        let of = Of { id: &path, namespace: util::namespace(&pod.pod), pod: util::name(&pod.pod), ..Of::default() };
        if let Some(reading) = &pod.cgroup {
            let since = pod.sandbox.as_ref().map_or(cx.started, |s| s.created);
            group(&mut out, &of, whole(reading, &none), (since, at), &host.disks);
        }
        links(&mut out, &of, own.iter(), at);
        for one in &pod.containers {
            let (container, id) = (&one.container, format!("{path}/{}", one.container.id));
            let of = Of { id: &id, name: &container.id.0, image: &container.image, container: &container.name, ..of };
            group(&mut out, &of, whole(&one.reading, &none), (one.started(), at), &host.disks);
        }
    }
    SCRAPE_ERRORS.iter().for_each(|family| out.add(family, &[], 0.0, None));
    out
}

fn whole<'r>(reading: &'r Reading, none: &'r Detail) -> (&'r Stats, &'r Detail) {
    (&reading.stats, reading.detail.as_ref().unwrap_or(none))
}

/// All of one cgroup, begun and measured at these times.
fn group(out: &mut Families, of: &Of<'_>, (stats, detail): (&Stats, &Detail), (since, at): (SystemTime, SystemTime), disks: &HashMap<(u64, u64), String>) {
    let (labels, when) = (of.labels(&[]), Some(at));
    for (family, value) in &ROWS {
        if let Some(value) = value(stats, detail) {
            out.add(family, &labels, value, when);
        }
    }
    for (family, value) in &SPECS {
        if let Some(value) = value(stats, detail) {
            out.add(family, &labels, value, None);
        }
    }
    let whole_s = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as f64;
    out.add(&CREATED, &labels, whole_s(since), None);
    out.add(&STARTED, &labels, whole_s(since), None);
    out.add(&LAST_SEEN, &labels, whole_s(at), when);
    if stats.cpu_usage_ns > 0 {
        out.add(&CPU, &of.labels(&[("cpu", "total")]), seconds(stats.cpu_usage_ns), when);
    }
    for (kind, number) in [("pgfault", stats.page_faults), ("pgmajfault", stats.major_page_faults)] {
        for scope in ["container", "hierarchy"] {
            out.add(&FAILURES, &of.labels(&[("failure_type", kind), ("scope", scope)]), number as f64, when);
        }
    }
    if let Some(limit) = detail.open_files_limit {
        out.add(&ULIMITS, &of.labels(&[("ulimit", "max_open_files")]), limit as f64, when);
    }
    detail.io.iter().for_each(|io| disk(out, of, io, at, disks));
}

fn disk(out: &mut Families, of: &Of<'_>, io: &Throughput, at: SystemTime, disks: &HashMap<(u64, u64), String>) {
    let BlockDevice { major, minor } = io.device;
    let device = disks.get(&(major, minor)).map_or("", String::as_str);
    let labels = of.labels(&[("device", device)]);
    for (family, value) in [(&READ_BYTES, io.read_bytes), (&READS, io.reads), (&WRITTEN_BYTES, io.write_bytes), (&WRITES, io.writes)] {
        out.add(family, &labels, value as f64, Some(at));
    }
    let (major, minor) = (major.to_string(), minor.to_string());
    for (operation, value) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
        let labels = of.labels(&[("device", device), ("major", &major), ("minor", &minor), ("operation", operation)]);
        out.add(&BLKIO, &labels, value as f64, Some(at));
    }
}

fn links<'l>(out: &mut Families, of: &Of<'_>, links: impl Iterator<Item = &'l Link>, at: SystemTime) {
    for link in links {
        let labels = of.labels(&[("interface", &link.name)]);
        for (family, value) in &LINKS {
            out.add(family, &labels, value(link) as f64, Some(at));
        }
    }
}

fn machine(cx: &Context, measured: &Measured, out: &mut Families) {
    let info = node::system_info(cx);
    let version = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", info.kernel_version.as_str()),
        ("osVersion", &info.os_image),
    ];
    out.add(&VERSION, &version, 1.0, None);
    let labels = [("boot_id", info.boot_id.as_str()), ("machine_id", &info.machine_id), ("system_uuid", &info.system_uuid)];
    let (physical, sockets) = cores(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let cores = cx.machine.cpu_milli / 1000;
    let swap = measured.node.0.swap_limit_bytes.unwrap_or(0);
    let told = [
        (&CORES, cores as f64),
        (&PHYSICAL_CORES, if physical > 0 { physical as f64 } else { cores as f64 }),
        (&SOCKETS, sockets.max(1) as f64),
        (&MEMORY, cx.machine.memory_bytes as f64),
        (&SWAP, swap as f64),
    ];
    told.iter().for_each(|(family, value)| out.add(family, &labels, *value, Some(measured.at)));
}

/// How many different cores, and sockets, `/proc/cpuinfo` tells of; none where the architecture's does not.
fn cores(text: &str) -> (usize, usize) {
    let (mut cores, mut sockets) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for cpu in text.split("\n\n") {
        let value = |key: &str| cpu.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key)).map(|(_, value)| value.trim());
        if let (Some(socket), Some(core)) = (value("physical id"), value("core id")) {
            sockets.insert(socket);
            cores.insert((socket, core));
        }
    }
    (cores.len(), sockets.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{Bandwidth, Pressures};

    #[test]
    fn a_cgroup_is_told_under_the_names_that_dashboards_use() {
        let stats = Stats {
            cpu_usage_ns: 1_500_000_000,
            memory_working_set_bytes: 12_582_912,
            memory_limit_bytes: Some(1 << 20),
            page_faults: 3,
            pids: 2,
            pressure: Some(Pressures::default()),
            ..Stats::default()
        };
        let io = Throughput { device: BlockDevice { major: 253, minor: 0 }, read_bytes: 4096, write_bytes: 0, reads: 1, writes: 0 };
        let bandwidth = Bandwidth { periods: 4, throttled_periods: 2, throttled_ns: 500_000_000, ..Bandwidth::default() };
        let detail = Detail { cpu_quota_us: Some(50_000), bandwidth: Some(bandwidth), open_files_limit: Some(-1), io: vec![io], ..Detail::default() };
        let of = Of { id: "/kubepods/podu/c1", name: "c1", image: "app:1", container: "app", namespace: "n", pod: "p" };
        let mut out = Families::default();
        let (since, at) = (UNIX_EPOCH + std::time::Duration::from_millis(7_900), UNIX_EPOCH + std::time::Duration::from_millis(9_500));
        group(&mut out, &of, (&stats, &detail), (since, at), &HashMap::from([((253, 0), "/dev/vda".to_owned())]));
        let link = usage::links("eth0: 1500 12 3 4 0 0 0 0 900 8 1 2 0 0 0 0\n");
        links(&mut out, &of, link.iter(), at);
        let text = out.finish();
        let own = r#"id="/kubepods/podu/c1",image="app:1",name="c1",namespace="n",pod="p""#;
        for line in [
            format!(r#"container_cpu_usage_seconds_total{{container="app",cpu="total",{own}}} 1.5 9500"#),
            format!(r#"container_memory_working_set_bytes{{container="app",{own}}} 1.2582912e+07 9500"#),
            format!(r#"container_cpu_cfs_throttled_seconds_total{{container="app",{own}}} 0.5 9500"#),
            format!(r#"container_spec_memory_limit_bytes{{container="app",{own}}} 1.048576e+06"#),
            format!(r#"container_spec_cpu_quota{{container="app",{own}}} 50000"#),
            format!(r#"container_start_time_seconds{{container="app",{own}}} 7"#),
            format!(r#"container_fs_reads_bytes_total{{container="app",device="/dev/vda",{own}}} 4096 9500"#),
            r#"container_network_receive_packets_dropped_total{container="app",id="/kubepods/podu/c1",image="app:1",interface="eth0",name="c1",namespace="n",pod="p"} 4 9500"#.to_owned(),
            format!(r#"container_pressure_cpu_waiting_seconds_total{{container="app",{own}}} 0 9500"#),
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        let mut bare = Families::default();
        group(&mut bare, &of, (&Stats::default(), &Detail::default()), (since, at), &HashMap::new());
        let bare = bare.finish();
        for absent in ["container_cpu_cfs_", "container_pressure_", "container_fs_", "container_spec_cpu_quota", "container_cpu_usage_seconds_total"] {
            assert!(!bare.contains(absent), "{absent}");
        }
    }

    #[test]
    fn cores_are_counted_once() {
        let cpu = |socket: u32, core: u32| format!("processor : 1\nphysical id\t: {socket}\ncore id\t\t: {core}\n");
        assert_eq!(cores(&[cpu(0, 0), cpu(0, 0), cpu(0, 1), cpu(1, 0)].join("\n")), (3, 2));
        assert_eq!(cores("processor : 0\n"), (0, 0));
    }
}
