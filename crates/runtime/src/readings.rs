//! What a cgroup has used, read from the kernel's files; version 1 and 2 are told in the same words.
//!
//! A short reading ([`Files::stats`]) is what the kubelet needs for each container of the node at once; a whole one
//! ([`Files::detail`]) opens three times as many files and looks at the container's processes, so there is one for who asks for it.
//! What a kernel or a version does not tell is zero, or absent where zero would be a statement.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::types::{Bandwidth, BlockDevice, Detail, Pressure, Pressures, Stall, Stats, Throughput};

/// Nanoseconds of a tick of `/proc` and of `cpuacct.stat`: the kernel tells both in hundredths of a second, whatever it counts in.
const TICK_NS: u64 = 10_000_000;
/// Version 1 says "no limit" by the largest number of pages.
const NO_LIMIT: u64 = 1 << 62;
/// Processes of a cgroup whose files are looked at, and files of each: both are the container's choice.
const PROCESSES_MAX: usize = 256;
const OPEN_FILES_MAX: usize = 4096;

/// The directories in which a cgroup's files lie.
pub(crate) struct Files<'d> {
    dirs: &'d [PathBuf],
    unified: bool,
}

/// A file of lines `KEY VALUE`.
struct Keyed(String);

impl Keyed {
    fn get(&self, key: &str) -> Option<u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line?.trim().parse().ok()
    }

    fn number(&self, key: &str) -> u64 {
        self.get(key).unwrap_or(0)
    }
}

impl<'d> Files<'d> {
    pub(crate) fn new(dirs: &'d [PathBuf], unified: bool) -> Self {
        Self { dirs, unified }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.dirs.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok())
    }

    fn keyed(&self, name: &str) -> Keyed {
        Keyed(self.text(name).unwrap_or_default())
    }

    /// A file of one number; `max`, and what counts as no limit, is none.
    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok().filter(|number| *number < NO_LIMIT)
    }

    /// The short reading.
    pub(crate) fn stats(&self) -> Result<Stats> {
        let memory = self.keyed("memory.stat");
        let gone = || Error::State("the cgroup is gone".to_owned());
        let (cpu_usage_ns, usage, inactive, mut stats) = if self.unified {
            let [inactive, rss, faults, major] = ["inactive_file", "anon", "pgfault", "pgmajfault"].map(|key| memory.number(key));
            let swap = (self.number("memory.swap.current").unwrap_or(0), self.number("memory.swap.max"));
            let (cpu, usage) = (self.keyed("cpu.stat").number("usage_usec") * 1000, self.number("memory.current"));
            (cpu, usage, inactive, counted(rss, faults, major, self.number("memory.max"), swap))
        } else {
            let keys = ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault", "total_swap"];
            let [inactive, rss, faults, major, swap] = keys.map(|key| memory.number(key));
            let limit = self.number("memory.limit_in_bytes");
            // Memory and swap have one limit together.
            let swap_limit = self.number("memory.memsw.limit_in_bytes").map(|both| both.saturating_sub(limit.unwrap_or(0)));
            let (cpu, usage) = (self.number("cpuacct.usage").unwrap_or(0), self.number("memory.usage_in_bytes"));
            (cpu, usage, inactive, counted(rss, faults, major, limit, (swap, swap_limit)))
        };
        let usage = usage.ok_or_else(gone)?;
        stats.cpu_usage_ns = cpu_usage_ns;
        (stats.memory_usage_bytes, stats.memory_working_set_bytes) = (usage, usage.saturating_sub(inactive));
        stats.pids = self.number("pids.current").unwrap_or(0);
        stats.pressure = self.pressures();
        Ok(stats)
    }

    fn pressures(&self) -> Option<Pressures> {
        if !self.unified {
            return None;
        }
        let [cpu, memory, io] = ["cpu.pressure", "memory.pressure", "io.pressure"].map(|name| self.text(name).as_deref().and_then(pressure));
        Some(Pressures { cpu: cpu?, memory: memory?, io: io? })
    }

    /// What there is beside the short reading.
    pub(crate) fn detail(&self) -> Detail {
        let (cpu, memory) = (self.keyed("cpu.stat"), self.keyed("memory.stat"));
        let mut out = if self.unified { self.detail_2(&cpu, &memory) } else { self.detail_1(&memory) };
        out.pids_max = self.number("pids.max");
        out.bandwidth = cpu.get("nr_periods").map(|periods| Bandwidth {
            periods,
            throttled_periods: cpu.number("nr_throttled"),
            throttled_ns: cpu.get("throttled_time").unwrap_or_else(|| cpu.number("throttled_usec") * 1000),
            bursts: cpu.number("nr_bursts"),
            burst_ns: cpu.get("burst_time").unwrap_or_else(|| cpu.number("burst_usec") * 1000),
        });
        self.look_at_processes(&mut out);
        out
    }

    fn detail_1(&self, memory: &Keyed) -> Detail {
        let time = self.keyed("cpuacct.stat");
        let quota = self.text("cpu.cfs_quota_us").and_then(|text| text.trim().parse::<i64>().ok());
        let io = |name: &str| self.text(name).unwrap_or_default();
        Detail {
            cpu_user_ns: time.number("user") * TICK_NS,
            cpu_system_ns: time.number("system") * TICK_NS,
            cpu_period_us: self.number("cpu.cfs_period_us").unwrap_or(0),
            cpu_quota_us: quota.and_then(|quota| u64::try_from(quota).ok()),
            cpu_shares: self.number("cpu.shares").unwrap_or(0),
            memory_cache_bytes: memory.number("total_cache"),
            memory_kernel_bytes: self.number("memory.kmem.usage_in_bytes").unwrap_or(0),
            memory_mapped_bytes: memory.number("total_mapped_file"),
            memory_max_usage_bytes: self.number("memory.max_usage_in_bytes").unwrap_or(0),
            memory_limit_hits: self.number("memory.failcnt").unwrap_or(0),
            memory_active_file_bytes: memory.number("total_active_file"),
            memory_inactive_file_bytes: memory.number("total_inactive_file"),
            memory_dirty_bytes: memory.number("total_dirty"),
            memory_writeback_bytes: memory.number("total_writeback"),
            memory_reservation_bytes: self.number("memory.soft_limit_in_bytes").unwrap_or(0),
            oom_kills: self.keyed("memory.oom_control").number("oom_kill"),
            io: by_operation(&io("blkio.throttle.io_service_bytes"), &io("blkio.throttle.io_serviced")),
            ..Detail::default()
        }
    }

    fn detail_2(&self, cpu: &Keyed, memory: &Keyed) -> Detail {
        let events = self.keyed("memory.events");
        let bandwidth = self.text("cpu.max").unwrap_or_default();
        let mut bandwidth = bandwidth.split_whitespace();
        let quota = bandwidth.next().and_then(|quota| quota.parse().ok());
        let weight = self.number("cpu.weight");
        Detail {
            cpu_user_ns: cpu.number("user_usec") * 1000,
            cpu_system_ns: cpu.number("system_usec") * 1000,
            cpu_period_us: bandwidth.next().and_then(|period| period.parse().ok()).unwrap_or(0),
            cpu_quota_us: quota,
            // cAdvisor's inverse of the older formula by which shares become a weight.
            cpu_shares: weight.map_or(0, |weight| 2 + weight.saturating_sub(1) * 262_142 / 9999),
            memory_cache_bytes: memory.number("file"),
            memory_kernel_bytes: memory.number("kernel"),
            memory_mapped_bytes: memory.number("file_mapped"),
            memory_max_usage_bytes: self.number("memory.peak").unwrap_or(0),
            memory_active_file_bytes: memory.number("active_file"),
            memory_inactive_file_bytes: memory.number("inactive_file"),
            memory_dirty_bytes: memory.number("file_dirty"),
            memory_writeback_bytes: memory.number("file_writeback"),
            memory_reservation_bytes: self.number("memory.low").unwrap_or(0),
            memory_high_events: events.number("high"),
            memory_max_events: events.number("max"),
            pages_scanned: memory.number("pgscan"),
            pages_stolen: memory.number("pgsteal"),
            file_refaults: memory.number("workingset_refault_file"),
            anon_refaults: memory.number("workingset_refault_anon"),
            oom_kills: events.number("oom_kill"),
            io: by_device(&self.text("io.stat").unwrap_or_default()),
            ..Detail::default()
        }
    }

    fn look_at_processes(&self, out: &mut Detail) {
        let text = self.text("cgroup.procs").unwrap_or_default();
        // Processes of a namespace that is not ours are zeros.
        let all: Vec<u32> = text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0).collect();
        out.processes = all.len() as u64;
        for pid in all.iter().take(PROCESSES_MAX) {
            for file in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().take(OPEN_FILES_MAX) {
                out.open_files += 1;
                let is_socket = fs::read_link(file.path()).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
                out.sockets += u64::from(is_socket);
            }
        }
        out.open_files_limit = all.first().and_then(|pid| open_files_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?));
    }
}

fn counted(rss: u64, faults: u64, major: u64, limit: Option<u64>, (swap, swap_limit): (u64, Option<u64>)) -> Stats {
    Stats {
        memory_rss_bytes: rss,
        memory_limit_bytes: limit,
        page_faults: faults,
        major_page_faults: major,
        swap_usage_bytes: swap,
        swap_limit_bytes: swap_limit,
        ..Stats::default()
    }
}

/// The soft limit of open files; −1 without one.
fn open_files_limit(limits: &str) -> Option<i64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next())?;
    if soft == "unlimited" { Some(-1) } else { soft.parse().ok() }
}

/// A file of the kernel's pressure stall information; also those of the whole machine.
fn pressure(text: &str) -> Option<Stall> {
    let of = |kind: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| rest.split_whitespace().find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
        let share = |key: &str| value(key).and_then(|share| share.parse().ok()).unwrap_or(0.0);
        Some(Pressure { total_us: value("total")?.parse().ok()?, avg10: share("avg10"), avg60: share("avg60"), avg300: share("avg300") })
    };
    // Kernels before 5.13 tell nothing full of the CPU.
    Some(Stall { some: of("some")?, full: of("full").unwrap_or_default() })
}

fn device(text: &str) -> Option<BlockDevice> {
    let (major, minor) = text.split_once(':')?;
    Some(BlockDevice { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Version 2: `MAJOR:MINOR rbytes=… wbytes=… rios=… wios=… …`.
fn by_device(text: &str) -> Vec<Throughput> {
    let line = |line: &str| {
        let mut parts = line.split_whitespace();
        let device = device(parts.next()?)?;
        let values: Vec<(&str, u64)> = parts.filter_map(|part| part.split_once('=')).filter_map(|(key, value)| Some((key, value.parse().ok()?))).collect();
        let value = |wanted: &str| values.iter().find(|(key, _)| *key == wanted).map_or(0, |(_, value)| *value);
        Some(Throughput { device, read_bytes: value("rbytes"), write_bytes: value("wbytes"), reads: value("rios"), writes: value("wios") })
    };
    text.lines().filter_map(line).collect()
}

/// Version 1: lines `MAJOR:MINOR OPERATION VALUE` in two files.
fn by_operation(bytes: &str, counts: &str) -> Vec<Throughput> {
    let mut out: Vec<Throughput> = Vec::new();
    for (text, counts) in [(bytes, false), (counts, true)] {
        for line in text.lines() {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [at, operation, value] = parts[..] else { continue };
            let (Some(device), Ok(value)) = (device(at), value.parse()) else { continue };
            let place = out.iter().position(|one| one.device == device).unwrap_or_else(|| {
                out.push(Throughput { device, ..Throughput::default() });
                out.len() - 1
            });
            match (operation, counts) {
                ("Read", false) => out[place].read_bytes = value,
                ("Write", false) => out[place].write_bytes = value,
                ("Read", true) => out[place].reads = value,
                ("Write", true) => out[place].writes = value,
                _ => {}
            }
        }
    }
    out
}

/// What the whole machine was used for, from `/proc`, in the same words as a cgroup; the root cgroup of version 2 has no files of its own.
pub fn of_machine(proc: &Path) -> (Stats, Detail) {
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let (stat, memory, vm) = (read("stat"), read("meminfo"), Keyed(read("vmstat")));
    let ticks: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let tick = |at: &[usize]| at.iter().filter_map(|at| ticks.get(*at)).sum::<u64>() * TICK_NS;
    let kib = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let usage = kib("MemTotal").saturating_sub(kib("MemFree"));
    let pressures = ["cpu", "memory", "io"].map(|name| pressure(&read(&format!("pressure/{name}"))));
    let [cpu, of_memory, io] = pressures;
    let (swap, swap_free) = (kib("SwapTotal"), kib("SwapFree"));
    let stats = Stats {
        // user nice system (idle iowait) irq softirq steal; a guest's time is its user's.
        cpu_usage_ns: tick(&[0, 1, 2, 5, 6, 7]),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(kib("Inactive(file)")),
        memory_rss_bytes: kib("AnonPages"),
        memory_limit_bytes: Some(kib("MemTotal")),
        page_faults: vm.number("pgfault"),
        major_page_faults: vm.number("pgmajfault"),
        // RUNNING/ALL is the fourth of its words.
        pids: read("loadavg").split_whitespace().nth(3).and_then(|tasks| tasks.split_once('/')?.1.parse().ok()).unwrap_or(0),
        swap_usage_bytes: swap.saturating_sub(swap_free),
        swap_limit_bytes: Some(swap),
        pressure: cpu.zip(of_memory).zip(io).map(|((cpu, memory), io)| Pressures { cpu, memory, io }),
    };
    let detail = Detail {
        cpu_user_ns: tick(&[0, 1]),
        cpu_system_ns: tick(&[2, 5, 6]),
        memory_cache_bytes: kib("Cached"),
        memory_kernel_bytes: kib("Slab") + kib("KernelStack") + kib("PageTables"),
        memory_mapped_bytes: kib("Mapped"),
        memory_active_file_bytes: kib("Active(file)"),
        memory_inactive_file_bytes: kib("Inactive(file)"),
        memory_dirty_bytes: kib("Dirty"),
        memory_writeback_bytes: kib("Writeback"),
        oom_kills: vm.number("oom_kill"),
        pids_max: read("sys/kernel/pid_max").trim().parse().ok(),
        io: of_disks(&read("diskstats")),
        ..Detail::default()
    };
    (stats, detail)
}

/// Whole disks that were used: `MAJOR MINOR NAME reads merged sectors ms writes merged sectors …`.
fn of_disks(text: &str) -> Vec<Throughput> {
    /// Of a sector in this file, whatever the disk's own is.
    const SECTOR_BYTES: u64 = 512;
    let line = |line: &str| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok());
        let device = BlockDevice { major: number(0)?, minor: number(1)? };
        let (reads, read, writes, written) = (number(3)?, number(5)?, number(7)?, number(9)?);
        let used = reads + writes > 0;
        used.then_some(Throughput { device, read_bytes: read * SECTOR_BYTES, write_bytes: written * SECTOR_BYTES, reads, writes })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("knarr-readings-{name}-{}", std::process::id()));
        for (file, text) in files {
            let at = dir.join(file);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        }
        dir
    }

    #[test]
    fn version_2_is_read() {
        let pressure = "some avg10=1.50 avg60=0.50 avg300=0.10 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n";
        let dir = dir(
            "two",
            &[
                (
                    "cpu.stat",
                    "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 300\nnr_bursts 1\nburst_usec 7\n",
                ),
                ("cpu.max", "50000 100000\n"),
                ("cpu.weight", "39\n"),
                ("memory.current", "10000\n"),
                ("memory.max", "max\n"),
                ("memory.peak", "20000\n"),
                ("memory.low", "0\n"),
                ("memory.swap.current", "4096\n"),
                ("memory.swap.max", "8192\n"),
                (
                    "memory.stat",
                    "anon 4000\nfile 3000\nkernel 500\nfile_mapped 100\nfile_dirty 5\nfile_writeback 6\ninactive_file 2500\nactive_file 400\npgfault 9\npgmajfault 2\npgscan 3\npgsteal 1\nworkingset_refault_anon 8\nworkingset_refault_file 11\n",
                ),
                ("memory.events", "low 0\nhigh 3\nmax 2\noom 1\noom_kill 1\n"),
                ("pids.current", "3\n"),
                ("pids.max", "100\n"),
                ("io.stat", "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:0 \n"),
                ("cpu.pressure", pressure),
                ("memory.pressure", pressure),
                ("io.pressure", pressure),
            ],
        );
        let dirs = [dir.clone()];
        let files = Files::new(&dirs, true);
        let stats = files.stats().unwrap();
        assert_eq!((stats.cpu_usage_ns, stats.memory_usage_bytes, stats.memory_working_set_bytes, stats.memory_rss_bytes), (1_500_000_000, 10_000, 7500, 4000));
        assert_eq!((stats.memory_limit_bytes, stats.swap_usage_bytes, stats.swap_limit_bytes), (None, 4096, Some(8192)));
        assert_eq!((stats.page_faults, stats.major_page_faults, stats.pids), (9, 2, 3));
        let cpu = stats.pressure.unwrap().cpu;
        assert_eq!((cpu.some.total_us, cpu.full.total_us), (2_000_000, 500_000));
        assert!((cpu.some.avg10 - 1.5).abs() < 1e-9);
        let detail = files.detail();
        assert_eq!((detail.cpu_user_ns, detail.cpu_system_ns, detail.cpu_period_us, detail.cpu_quota_us), (1_000_000_000, 500_000_000, 100_000, Some(50_000)));
        assert_eq!(detail.bandwidth, Some(Bandwidth { periods: 10, throttled_periods: 4, throttled_ns: 300_000, bursts: 1, burst_ns: 7000 }));
        assert_eq!((detail.cpu_shares, detail.memory_max_usage_bytes, detail.memory_kernel_bytes, detail.memory_mapped_bytes), (998, 20_000, 500, 100));
        assert_eq!((detail.memory_high_events, detail.memory_max_events, detail.oom_kills, detail.pids_max), (3, 2, 1, Some(100)));
        let used = Throughput { device: BlockDevice { major: 253, minor: 0 }, read_bytes: 4096, write_bytes: 8192, reads: 1, writes: 2 };
        assert_eq!(detail.io[0], used);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn version_1_is_read() {
        let dir = dir(
            "one",
            &[
                ("cpuacct.usage", "700\n"),
                ("cpuacct.stat", "user 5\nsystem 2\n"),
                ("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
                ("cpu.cfs_quota_us", "-1\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("cpu.shares", "512\n"),
                ("memory.usage_in_bytes", "9000\n"),
                ("memory.limit_in_bytes", "20000\n"),
                ("memory.memsw.limit_in_bytes", "20000\n"),
                ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
                (
                    "memory.stat",
                    "cache 1\ntotal_cache 3000\ntotal_rss 4000\ntotal_swap 0\ntotal_inactive_file 1000\ntotal_active_file 10\ntotal_pgfault 4\ntotal_pgmajfault 1\n",
                ),
                ("memory.failcnt", "6\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
                ("blkio.throttle.io_service_bytes", "253:0 Read 512\n253:0 Write 1024\n253:0 Total 1536\nTotal 1536\n"),
                ("blkio.throttle.io_serviced", "253:0 Read 1\n253:0 Write 2\n"),
            ],
        );
        let dirs = [dir.join("none"), dir.clone()];
        let files = Files::new(&dirs, false);
        let stats = files.stats().unwrap();
        assert_eq!((stats.cpu_usage_ns, stats.memory_usage_bytes, stats.memory_working_set_bytes, stats.memory_limit_bytes), (700, 9000, 8000, Some(20_000)));
        assert_eq!((stats.swap_usage_bytes, stats.swap_limit_bytes, stats.pressure), (0, Some(0), None));
        let detail = files.detail();
        assert_eq!((detail.cpu_user_ns, detail.cpu_system_ns, detail.cpu_quota_us, detail.cpu_shares), (50_000_000, 20_000_000, None, 512));
        assert_eq!((detail.memory_cache_bytes, detail.memory_limit_hits, detail.memory_reservation_bytes, detail.oom_kills), (3000, 6, 0, 2));
        let used = Throughput { device: BlockDevice { major: 253, minor: 0 }, read_bytes: 512, write_bytes: 1024, reads: 1, writes: 2 };
        assert_eq!(detail.io, [used]);
        assert!(Files::new(&dirs[..1], false).stats().is_err(), "a cgroup that is gone");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_machine_is_read() {
        let dir = dir(
            "machine",
            &[
                ("stat", "cpu  10 1 5 100 50 1 2 3 0 0\ncpu0 1\n"),
                ("meminfo", "MemTotal:  1000 kB\nMemFree:  400 kB\nInactive(file):  100 kB\nAnonPages: 50 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n"),
                ("vmstat", "pgfault 7\npgmajfault 3\noom_kill 1\n"),
                ("loadavg", "0.10 0.20 0.30 2/345 999\n"),
                ("diskstats", " 253 0 vda 2 0 8 1 3 0 16 1 0 1 2\n 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n"),
            ],
        );
        let (stats, detail) = of_machine(&dir);
        assert_eq!((stats.cpu_usage_ns, stats.memory_usage_bytes, stats.memory_working_set_bytes), (220_000_000, 600 << 10, 500 << 10));
        assert_eq!((stats.swap_usage_bytes, stats.swap_limit_bytes, stats.pids, stats.page_faults), (6 << 10, Some(10 << 10), 345, 7));
        let used = Throughput { device: BlockDevice { major: 253, minor: 0 }, read_bytes: 4096, write_bytes: 8192, reads: 2, writes: 3 };
        assert_eq!((detail.io, stats.pressure), (vec![used], None));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn limits_of_open_files() {
        assert_eq!(
            open_files_limit("Max cpu time unlimited unlimited seconds\nMax open files            1024                 524288               files\n"),
            Some(1024)
        );
        assert_eq!(open_files_limit("Max open files            unlimited            unlimited            files\n"), Some(-1));
        assert_eq!(open_files_limit(""), None);
    }
}
