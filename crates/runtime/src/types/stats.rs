//! What is read of cgroups and disks.

/// A reading of a cgroup.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// CPU time since the start, ns.
    pub cpu_usage_ns: u64,
    /// Memory charged, bytes.
    pub memory_usage_bytes: u64,
    /// Usage without the inactive page cache, as Kubernetes' `workingSetBytes`.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub memory_rss_bytes: u64,
    /// The limit, when there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Since the start.
    pub page_faults: u64,
    /// Since the start.
    pub major_page_faults: u64,
    /// Tasks now.
    pub pids: u64,
    /// Swap in use, bytes.
    pub swap_usage_bytes: u64,
    /// The most swap that may be used, when there is a limit.
    pub swap_limit_bytes: Option<u64>,
    /// How long tasks have waited, where the kernel counts it (version 2 alone).
    pub pressure: Option<Pressures>,
}

/// How long tasks have waited for what.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// For the CPU.
    pub cpu: Stall,
    /// For memory.
    pub memory: Stall,
    /// For disks.
    pub io: Stall,
}

/// How long some tasks have waited for something, and how long all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Some.
    pub some: Pressure,
    /// All.
    pub full: Pressure,
}

/// Pressure stall information: a time since the start, and shares in hundredths of the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Microseconds.
    pub total_us: u64,
    /// Of the last ten seconds.
    pub avg10: f64,
    /// Of the last minute.
    pub avg60: f64,
    /// Of the last five minutes.
    pub avg300: f64,
}

/// What a cgroup tells beside [`Stats`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detail {
    /// CPU time of programs, ns.
    pub cpu_user_ns: u64,
    /// CPU time of the kernel for them, ns.
    pub cpu_system_ns: u64,
    /// The period of the quota.
    pub cpu_period_us: u64,
    /// CPU time in a period, when it is limited.
    pub cpu_quota_us: Option<u64>,
    /// As version 1 counts them.
    pub cpu_shares: u64,
    /// How the quota was felt, where it is counted.
    pub bandwidth: Option<Bandwidth>,
    /// Page cache, bytes.
    pub memory_cache_bytes: u64,
    /// The kernel's own memory for it, bytes.
    pub memory_kernel_bytes: u64,
    /// Mapped files, bytes.
    pub memory_mapped_bytes: u64,
    /// The most that was charged, bytes.
    pub memory_max_usage_bytes: u64,
    /// How often the limit was met (version 1).
    pub memory_limit_hits: u64,
    /// Page cache in use, bytes.
    pub memory_active_file_bytes: u64,
    /// Page cache that nobody has used lately, bytes.
    pub memory_inactive_file_bytes: u64,
    /// Page cache that is not on disk yet, bytes.
    pub memory_dirty_bytes: u64,
    /// Page cache on its way to disk, bytes.
    pub memory_writeback_bytes: u64,
    /// What is kept for it, bytes.
    pub memory_reservation_bytes: u64,
    /// How often it was slowed down (version 2).
    pub memory_high_events: u64,
    /// How often the limit was met (version 2).
    pub memory_max_events: u64,
    /// Pages looked at by reclaim (version 2).
    pub pages_scanned: u64,
    /// Pages taken by reclaim (version 2).
    pub pages_stolen: u64,
    /// Pages of files that were taken and needed again (version 2).
    pub file_refaults: u64,
    /// The same of others (version 2).
    pub anon_refaults: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// The most tasks, when there is a limit.
    pub pids_max: Option<u64>,
    /// By disk.
    pub io: Vec<Throughput>,
    /// Processes now.
    pub processes: u64,
    /// Open files of its first 256 processes.
    pub open_files: u64,
    /// Sockets of these.
    pub sockets: u64,
    /// How many files its first process may open; −1: any.
    pub open_files_limit: Option<i64>,
}

/// How a quota of the CPU was felt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Periods with anything to run.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// How long it then waited.
    pub throttled_ns: u64,
    /// Periods in which it went over.
    pub bursts: u64,
    /// By how much.
    pub burst_ns: u64,
}

/// A block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its driver.
    pub major: u64,
    /// Its number there.
    pub minor: u64,
}

/// What went to and from a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Which.
    pub device: BlockDevice,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The space that a container's writable layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}
