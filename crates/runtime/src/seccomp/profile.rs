//! The default profile as rules, and the reader of profile files.

use serde::Deserialize;

use super::{ALLOW, Calls, Compare, Condition, ERRNO, LOG, Rules, TRACE};

/// Always allowed.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget", "capset", "chdir", "chmod",
    "chown", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "close_range", "connect",
    "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit",
    "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat",
    "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr",
    "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait", "futex_waitv",
    "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd", "getdents", "getdents64",
    "getegid", "geteuid", "getgid", "getgroups", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt",
    "gettid", "gettimeofday", "getuid", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "ioctl",
    "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr",
    "lseek", "lsetxattr", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "lstat", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore",
    "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "modify_ldt", "mprotect",
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "mremap", "mseal", "msgctl",
    "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep",
    "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64",
    "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "ptrace", "pwrite64", "pwritev", "pwritev2",
    "read", "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages",
    "removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction",
    "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop",
    "sendfile", "sendmmsg", "sendmsg", "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid",
    "setfsuid", "setgid", "setgroups", "setitimer", "setpgid", "setpriority", "setregid", "setresgid", "setresuid",
    "setreuid", "setrlimit", "setsid", "setsockopt", "setuid", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt",
    "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "socketpair", "splice", "stat", "statfs", "statmount",
    "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create",
    "timerfd_gettime", "timerfd_settime", "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat", "utime",
    "utimensat", "utimes", "vfork", "vmsplice", "wait4", "waitid", "write", "writev",
];

/// Always allowed to 32-bit programs besides: what they call by other names.
#[rustfmt::skip]
const ALLOWED_32: &[&str] = &[
    "_llseek", "_newselect", "chown32", "clock_adjtime64", "clock_getres_time64", "clock_gettime64", "clock_nanosleep_time64",
    "fadvise64_64", "fchown32", "fcntl64", "fstat64", "fstatat64", "fstatfs64", "ftruncate64", "futex_time64", "getegid32",
    "geteuid32", "getgid32", "getgroups32", "getresgid32", "getresuid32", "getuid32", "io_pgetevents_time64", "ipc",
    "lchown32", "lstat64", "mmap2", "mq_timedreceive_time64", "mq_timedsend_time64", "ppoll_time64", "pselect6_time64",
    "recv", "recvmmsg_time64", "rt_sigtimedwait_time64", "sched_rr_get_interval_time64", "semtimedop_time64", "send",
    "sendfile64", "setfsgid32", "setfsuid32", "setgid32", "setgroups32", "setregid32", "setresgid32", "setresuid32",
    "setreuid32", "setuid32", "sigprocmask", "sigreturn", "socketcall", "stat64", "statfs64", "timer_gettime64",
    "timer_settime64", "timerfd_gettime64", "timerfd_settime64", "truncate64", "ugetrlimit", "utimensat_time64", "waitpid",
];

/// Allowed to who has a capability.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname",
        "sethostname", "setns", "syslog", "umount2", "unshare",
    ]),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    ("SYS_TIME", &["settimeofday", "clock_settime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// The execution domains that harm nobody: Linux, 32-bit Linux, both without address randomisation's legacy, and "which?".
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The newest family of sockets.
const AF_MCTP: libc::c_int = 45;
/// The architectures that profiles name.
#[rustfmt::skip]
const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X",
    "SCMP_ARCH_LOONGARCH64",
];
/// This machine's, and whose 32-bit programs it can run.
#[cfg(target_arch = "x86_64")]
const OWN: (&str, Option<&str>) = ("SCMP_ARCH_X86_64", Some("SCMP_ARCH_X86"));
#[cfg(not(target_arch = "x86_64"))]
const OWN: (&str, Option<&str>) = ("SCMP_ARCH_AARCH64", None);
/// Flags of clone(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// The rules that containerd and Docker have in common, in effect if not in form.
pub(super) fn runtime_default(has: &dyn Fn(&str) -> bool) -> Rules {
    let mut rules = Rules { default: ERRNO | libc::EPERM as u32, calls_32: OWN.1.map(|_| Calls::new()), ..Rules::default() };
    for name in ALLOWED.iter().chain(ALLOWED_32) {
        rules.add(name, Vec::new(), ALLOW);
    }
    for (_, names) in WITH_CAPABILITY.iter().filter(|(capability, _)| has(capability)) {
        for name in *names {
            rules.add(name, Vec::new(), ALLOW);
        }
    }
    if !has("SYS_ADMIN") {
        rules.add("clone", vec![Condition { argument: 0, compare: Compare::Masked(NEW_NAMESPACES), value: 0 }], ALLOW);
        // Its flags are in memory, where a filter cannot look: C libraries fall back to clone.
        rules.add("clone3", Vec::new(), ERRNO | libc::ENOSYS as u32);
    }
    for value in PERSONALITIES {
        rules.add("personality", vec![Condition { argument: 0, compare: Compare::Equal, value }], ALLOW);
    }
    let family = |compare, value: libc::c_int| Condition { argument: 0, compare, value: value as u64 };
    // All families that there are, but for AF_ALG and AF_VSOCK: what they reach belongs to no namespace.
    rules.add("socket", vec![family(Compare::Less, libc::AF_ALG)], ALLOW);
    rules.add("socket", vec![family(Compare::Equal, libc::AF_NFC)], ALLOW);
    rules.add("socket", vec![family(Compare::Greater, libc::AF_VSOCK), family(Compare::LessOrEqual, AF_MCTP)], ALLOW);
    rules
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    /// Beside the machine's own; the specification's form.
    #[serde(default)]
    architectures: Vec<String>,
    /// Docker's form.
    #[serde(default)]
    arch_map: Vec<Architecture>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    /// The oldest form.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
}

/// Reads a profile file for a process with these capabilities.
pub(super) fn parse(text: &[u8], has: &dyn Fn(&str) -> bool) -> Result<Rules, String> {
    let profile: Profile = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let mut rules = Rules { default: action(&profile.default_action, profile.default_errno_ret)?, ..Rules::default() };
    if names_32(&profile)? {
        rules.calls_32 = Some(Calls::new());
    }
    rules.flags = profile.flags.iter().map(|name| flag(name)).try_fold(0, |all, one| Ok::<_, String>(all | one?))?;
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let mine = |arches: &[String]| arches.iter().any(|a| a == arch);
    for entry in profile.syscalls {
        let (yes, no) = (entry.includes.unwrap_or_default(), entry.excludes.unwrap_or_default());
        let included = yes.caps.iter().all(|c| has(c)) && (yes.arches.is_empty() || mine(&yes.arches));
        if !included || no.caps.iter().any(|c| has(c)) || mine(&no.arches) {
            continue;
        }
        let action = action(&entry.action, entry.errno_ret)?;
        let conditions = entry.args.unwrap_or_default().iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        // Several on one argument can only have been meant as alternatives: runc makes each a rule of its own then.
        let mut arguments: Vec<u32> = conditions.iter().map(|c| c.argument).collect();
        arguments.sort_unstable();
        arguments.dedup();
        let clauses = if arguments.len() < conditions.len() { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] };
        for name in entry.names.iter().chain(&entry.name) {
            clauses.iter().for_each(|clause| rules.add(name, clause.clone(), action));
        }
    }
    Ok(rules)
}

/// Whether the profile is for 32-bit programs of this machine too.
fn names_32(profile: &Profile) -> Result<bool, String> {
    let mapped = profile.arch_map.iter().filter(|m| m.architecture == OWN.0).flat_map(|m| &m.sub_architectures);
    let named: Vec<&str> = profile.architectures.iter().chain(mapped).map(String::as_str).collect();
    match named.iter().find(|name| !ARCHITECTURES.contains(name)) {
        Some(unknown) => Err(format!("unknown architecture {unknown:?}")),
        None => Ok(OWN.1.is_some_and(|other| named.contains(&other))),
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => TRACE | errno,
        "SCMP_ACT_LOG" => LOG,
        other => return Err(format!("unknown action {other:?}")),
    })
}

/// A flag of the filter. Those about several threads and about a supervisor mean nothing here.
fn flag(name: &str) -> Result<u32, String> {
    match name {
        "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(4),
        other => Err(format!("unknown flag {other:?}")),
    }
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    if argument.index > 5 {
        return Err(format!("no call has an argument {}", argument.index));
    }
    let compare = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Compare::Equal,
        "SCMP_CMP_NE" => Compare::NotEqual,
        "SCMP_CMP_LT" => Compare::Less,
        "SCMP_CMP_LE" => Compare::LessOrEqual,
        "SCMP_CMP_GT" => Compare::Greater,
        "SCMP_CMP_GE" => Compare::GreaterOrEqual,
        "SCMP_CMP_MASKED_EQ" => {
            // Here `value` is the mask and `valueTwo` what must remain.
            let (argument, mask, value) = (argument.index, argument.value, argument.value_two);
            return Ok(Condition { argument, compare: Compare::Masked(mask), value });
        }
        other => return Err(format!("unknown comparison {other:?}")),
    };
    Ok(Condition { argument: argument.index, compare, value: argument.value })
}
