//! A hostile container: the published ways out, each tried as far as a process without further rights can. Every attempt
//! prints one line, `NAME: held (why)` or `NAME: THROUGH (how)`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

type Outcome = Result<String, String>;

pub(crate) fn run(args: &[&str]) -> i32 {
    match args {
        ["all", marker] => all(marker),
        // Looks through whatever becomes visible, until it has met so many.
        ["peek", marker, count, seconds] => return peek(marker, count.parse().unwrap_or(1), Duration::from_secs(seconds.parse().unwrap_or(1))),
        ["cwd", marker] => tell("working directory", above(marker)),
        ["exe"] => tell("the runtime's program", overwrite("/proc/self/exe")),
        ["mount", kind, at] => tell(kind, mount(kind, at)),
        ["keyring"] => println!("{}", keyring()),
        other => {
            eprintln!("unknown attack {other:?}");
            return 64;
        }
    }
    0
}

fn tell(name: &str, outcome: Outcome) {
    match outcome {
        Ok(how) => println!("{name}: THROUGH ({how})"),
        Err(why) => println!("{name}: held ({why})"),
    }
}

fn all(marker: &str) {
    tell("core_pattern", overwrite("/proc/sys/kernel/core_pattern"));
    tell("sysrq", overwrite("/proc/sysrq-trigger"));
    tell("uevent_helper", overwrite("/sys/kernel/uevent_helper"));
    tell("modprobe", overwrite("/proc/sys/kernel/modprobe"));
    tell("release_agent", release_agent());
    tell("mount of cgroups", mount("cgroup", "/mnt-cgroup"));
    tell("mount of proc", mount("proc", "/mnt-proc"));
    tell("own users", own_users());
    tell("disks", disks());
    tell("memory", node("mem", 1, 1).and_then(|p| open(&p)));
    tell("kernel log", node("kmsg", 1, 11).and_then(|p| open(&p)));
    tell("masked files", masked());
    tell("file handles", by_handle());
    tell("inherited rights", inherited());
    tell("descriptors", descriptors(marker));
    tell("above the root", above(marker));
}

fn text(e: io::Error) -> String {
    e.to_string()
}

fn open(path: &str) -> Outcome {
    OpenOptions::new().read(true).open(path).map(|_| path.to_owned()).map_err(text)
}

/// Opening decides: nothing is written to a host that is not protected.
fn overwrite(path: &str) -> Outcome {
    OpenOptions::new().write(true).open(path).map(|_| path.to_owned()).map_err(text)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn mount(kind: &str, at: &str) -> Outcome {
    fs::create_dir_all(at).map_err(text)?;
    let (kind, at) = (CString::new(kind).unwrap_or_default(), CString::new(at).unwrap_or_default());
    // SAFETY: all texts live through the call.
    let done = unsafe { libc::mount(c"none".as_ptr(), at.as_ptr(), kind.as_ptr(), 0, c"".as_ptr().cast()) };
    check(libc::c_long::from(done)).map(|_| format!("{kind:?} at {at:?}")).map_err(text)
}

/// Users of its own give rights over what it makes itself, which must not reach further.
fn own_users() -> Outcome {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })).map_err(text)?;
    let tried = [release_agent(), mount("cgroup", "/mnt-cgroup"), overwrite("/proc/sys/kernel/core_pattern"), remount()];
    tried.into_iter().find_map(Result::ok).ok_or_else(|| "nothing in it".to_owned())
}

/// Makes what is read-only writable again.
fn remount() -> Outcome {
    // SAFETY: constant texts.
    let done = unsafe { libc::mount(c"none".as_ptr(), c"/proc/sys".as_ptr(), c"".as_ptr(), libc::MS_REMOUNT | libc::MS_BIND, std::ptr::null()) };
    check(libc::c_long::from(done)).map(|_| "/proc/sys is writable".to_owned()).map_err(text)
}

fn release_agent() -> Outcome {
    let tops = fs::read_dir("/sys/fs/cgroup").map_err(text)?.flatten().map(|e| e.path());
    let all = tops.map(|top| overwrite(&top.join("release_agent").to_string_lossy()).or_else(|_| overwrite(&top.join("cgroup.procs").to_string_lossy())));
    let mut last = "no hierarchy".to_owned();
    for one in all {
        match one {
            Ok(how) => return Ok(how),
            Err(why) => last = why,
        }
    }
    Err(last)
}

fn node(name: &str, major: u32, minor: u32) -> Outcome {
    let path = format!("/node-{name}");
    let c = CString::new(path.clone()).unwrap_or_default();
    // SAFETY: the path lives through the call.
    check(libc::c_long::from(unsafe { libc::mknod(c.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(major, minor)) })).map_err(text)?;
    Ok(path)
}

/// Every block device that the kernel tells of.
fn disks() -> Outcome {
    let mut last = "no disk".to_owned();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let numbers = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
        let Some((major, minor)) = numbers.trim().split_once(':') else { continue };
        let path = format!("/node-{}", entry.file_name().to_string_lossy());
        let c = CString::new(path.clone()).unwrap_or_default();
        let device = libc::makedev(major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
        // SAFETY: the path lives through the call.
        unsafe { libc::mknod(c.as_ptr(), libc::S_IFBLK | 0o600, device) };
        match open(&path) {
            Ok(path) => return Ok(path),
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Files that show nothing, and are nothing but the null device.
fn masked() -> Outcome {
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        let Ok(meta) = fs::metadata(path) else { continue };
        if !meta.file_type().is_char_device() || !fs::read(path).unwrap_or_default().is_empty() {
            return Ok(path.to_owned());
        }
    }
    Err("all empty".to_owned())
}

/// `open_by_handle_at` with the handle of the root of most file systems (the "shocker").
fn by_handle() -> Outcome {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        inode: u64,
    }
    let at = fs::File::open("/etc").or_else(|_| fs::File::open("/bin")).map_err(text)?;
    let mut handle = Handle { bytes: 8, kind: 1, inode: 2 };
    let at = std::os::fd::AsRawFd::as_raw_fd(&at);
    // SAFETY: the structure lives through the call and its size is in it.
    check(unsafe { libc::syscall(libc::SYS_open_by_handle_at, at, &raw mut handle, libc::O_RDONLY) }).map(|_| "inode 2".to_owned()).map_err(text)
}

fn inherited() -> Outcome {
    let status = fs::read_to_string("/proc/self/status").map_err(text)?;
    let some = |name: &str| status.lines().any(|l| l.strip_prefix(name).is_some_and(|v| !v.trim().trim_start_matches('0').is_empty()));
    match ["CapInh:", "CapAmb:"].into_iter().find(|name| some(name)) {
        Some(name) => Ok(name.to_owned()),
        None => Err("none".to_owned()),
    }
}

/// What is open beyond the standard streams.
fn descriptors(marker: &str) -> Outcome {
    for entry in fs::read_dir("/proc/self/fd").map_err(text)?.flatten() {
        if fs::metadata(entry.path().join(format!("../../../../../../..{marker}"))).is_ok() {
            return Ok(format!("{:?}", fs::read_link(entry.path())));
        }
        let (name, leads) = (entry.file_name(), fs::read_link(entry.path()).unwrap_or_default());
        let own = leads.to_string_lossy().starts_with("/proc/");
        if !own && name.to_string_lossy().parse::<i32>().is_ok_and(|n| n > 2) {
            return Ok(format!("{name:?} {leads:?}"));
        }
    }
    Err("only streams".to_owned())
}

fn above(marker: &str) -> Outcome {
    let up = format!("{}{marker}", "../".repeat(12));
    match (fs::metadata(&up), fs::metadata(marker)) {
        (Err(e), Err(_)) => Err(text(e)),
        _ => Ok(up),
    }
}

/// The session keyring's number.
fn keyring() -> i64 {
    const GET_KEYRING_ID: libc::c_long = 0;
    const SESSION: libc::c_long = -3;
    // SAFETY: plain integers.
    unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION, 0) }
}

/// Watches every process that appears, from the first moment that its number is there: through its rights, its root and its
/// descriptors. Prints what it should not have seen, and how many it met: `count`, or fewer if the time is over.
fn peek(marker: &str, count: usize, limit: Duration) -> i32 {
    /// Numbers that others may have taken meanwhile.
    const AHEAD: u32 = 4;
    /// Looks at each: until it has become its program, and a while after.
    const LOOKS: usize = 40;
    println!("ready");
    let rights = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("CapPrm:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let own = rights("self").unwrap_or(0);
    let mut told = std::collections::BTreeSet::new();
    let mut next = std::process::id() + 1;
    let mut met = 0;
    let begun = Instant::now();
    while met < count && begun.elapsed() < limit {
        let Some(pid) = (next..next + AHEAD).find(|pid| rights(&pid.to_string()).is_some_and(|r| told_rights(r, own, &mut told))) else {
            // Those that came and went while it looked at another are passed over, or it would wait for their numbers for ever.
            let newest = newest();
            if newest >= next + AHEAD {
                next = newest;
            }
            continue;
        };
        met += 1;
        next = pid + 1;
        for _ in 0..LOOKS {
            if fs::metadata(format!("/proc/{pid}/root{marker}")).is_ok() {
                told.insert("the host's root".to_owned());
            }
            for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                let leads = fs::read_link(fd.path()).unwrap_or_default().to_string_lossy().into_owned();
                let harmless = ["pipe:", "socket:", "anon_inode:[signalfd]", "/dev/", "/proc/"].iter().any(|p| leads.starts_with(p)) || leads.is_empty();
                if !harmless {
                    told.insert(format!("descriptor {leads}"));
                }
            }
        }
    }
    let mut out = io::stdout().lock();
    for what in &told {
        let _ = writeln!(out, "saw {what}");
    }
    let _ = writeln!(out, "met {met}");
    0
}

/// The number that was given last in this process namespace (proc_loadavg(5)).
fn newest() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn told_rights(rights: u64, own: u64, told: &mut std::collections::BTreeSet<String>) -> bool {
    if rights & !own != 0 {
        told.insert("rights".to_owned());
    }
    true
}
