//! Thin, safe wrappers of the system calls that make, change and end processes. Used by the shim alone, which has one
//! thread: a child made by [`clone`] may therefore do whatever its parent could. As in [`crate::sys`], pointers are to live
//! local values of the kernel's own layout.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::proto::Sets;
use crate::sys::check;

/// Forks with new namespaces: 0 in the child. The caller has one thread, so no lock of another can be held in the child.
pub(crate) fn clone(flags: i32) -> io::Result<i32> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack given this is fork(2); the process has a single thread.
    check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }).map(|pid| pid as i32)
}

/// As [`clone`], with the child in a cgroup of version 2 from its first moment.
pub(crate) fn clone_into(flags: i32, cgroup: &impl AsRawFd) -> io::Result<i32> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    /// `struct clone_args` of linux/sched.h.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let arguments =
        Arguments { flags: flags as u64 | INTO_CGROUP, exit_signal: libc::SIGCHLD as u64, cgroup: cgroup.as_raw_fd() as u64, ..Arguments::default() };
    // SAFETY: as in `clone`; the arguments live through the call and their size is given.
    check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<Arguments>()) }).map(|pid| pid as i32)
}

/// Ends the process without running any handler.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

pub(crate) fn setns(fd: &impl AsRawFd, kind: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), kind) })).map(drop)
}

/// A process that has ended: `(pid, exit code, signal)`; none when nothing has.
pub(crate) fn reap() -> Option<(i32, i32, Option<i32>)> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Some((pid, 128 + signal, Some(signal)));
    }
    Some((pid, libc::WEXITSTATUS(status), None))
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all zeros is a valid set, which is then filled.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Blocks these signals and makes them readable from a descriptor.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set lives through both calls; the new descriptor is owned at once.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = check(libc::c_long::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: no handler is installed, only the disposition changes.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives every signal its default meaning and blocks none.
pub(crate) fn reset_signals() {
    let none = signal_set(&[]);
    // SAFETY: no handlers are installed; the set lives through the call.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// prctl(2) with one number.
pub(crate) fn prctl(option: i32, value: u64) -> io::Result<()> {
    // SAFETY: all options used here take plain numbers.
    check(libc::c_long::from(unsafe { libc::prctl(option, value as libc::c_ulong, 0, 0, 0) })).map(drop)
}

pub(crate) fn set_name(name: &CStr) {
    // SAFETY: the name lives through the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// A new session, without a controlling terminal.
pub(crate) fn new_session() {
    // SAFETY: takes nothing.
    unsafe { libc::setsid() };
}

/// Makes a terminal the session's controlling one.
pub(crate) fn control_terminal(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// The user's side of a new terminal of the devpts to which the controlling side belongs.
pub(crate) fn terminal_peer(master: &impl AsRawFd) -> io::Result<OwnedFd> {
    let locked: libc::c_int = 0;
    // SAFETY: the number lives through the call; the new descriptor is owned at once.
    unsafe {
        check(libc::c_long::from(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked)))?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let fd = check(libc::c_long::from(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Puts a descriptor at a fixed number, kept over exec.
pub(crate) fn place_fd(fd: RawFd, at: RawFd) -> io::Result<()> {
    if fd == at {
        // SAFETY: plain integers.
        return check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })).map(drop);
    }
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::dup2(fd, at) })).map(drop)
}

/// Reads and writes of an opened file wait again.
pub(crate) fn set_blocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain integers.
    unsafe {
        let flags = check(libc::c_long::from(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL)))? as i32;
        check(libc::c_long::from(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK))).map(drop)
    }
}

/// A copy of a descriptor with a number that is not in the way of 0, 1 and 2, closed on exec.
pub(crate) fn copy_high(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the new descriptor is owned at once.
    unsafe {
        let fd = check(libc::c_long::from(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10)))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Marks all descriptors from this one on to be closed by exec.
pub(crate) fn close_on_exec_from(first: u32) {
    // SAFETY: plain integers.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Closes all descriptors but these. For children that never return to code that owns another.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 0_u32;
    for fd in keep {
        if fd > first {
            // SAFETY: the caller's process uses none of them any more.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd + 1;
    }
    close_from(first);
}

/// Closes all descriptors from this one on. For children that never return to code that owns one.
pub(crate) fn close_from(first: u32) {
    // SAFETY: the caller's process uses none of them any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

pub(crate) fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: the path lives through the call.
    check(libc::c_long::from(unsafe { libc::chdir(path.as_ptr()) })).map(drop)
}

pub(crate) fn fchdir(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::fchdir(fd.as_raw_fd()) })).map(drop)
}

/// Makes the current directory the root, and drops the former root.
pub(crate) fn pivot_here() -> io::Result<()> {
    // SAFETY: constant paths. With both the same, the old root is stacked over the new one, and then detached.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::c_long::from(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)))?;
    }
    chdir(c"/")
}

/// Sets user, group and all supplementary groups of this process alone (not by glibc, which would look for threads), and
/// looks that they are set: to the kernel -1 means that the present one stays.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    if [uid, gid].iter().chain(groups).any(|id| *id == u32::MAX) {
        return Err(invalid());
    }
    let (mut users, mut own_groups) = ([u32::MAX; 3], [u32::MAX; 3]);
    // SAFETY: the lists are live, and the length of the one that has any is given; each of the others has three places.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        check(libc::syscall(libc::SYS_getresuid, &raw mut users[0], &raw mut users[1], &raw mut users[2]))?;
        check(libc::syscall(libc::SYS_getresgid, &raw mut own_groups[0], &raw mut own_groups[1], &raw mut own_groups[2]))?;
    }
    if users == [uid; 3] && own_groups == [gid; 3] { Ok(()) } else { Err(invalid()) }
}

/// Leaves the session keyring of whoever started the program (an administrator's keys) for an empty one.
pub(crate) fn leave_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: no name is given: the new keyring has none.
    let joined = check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) });
    match joined {
        // A kernel without keys, or a filter above this whole process that keeps them from all that it makes.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        done => done.map(drop),
    }
}

/// Takes everything but these capabilities out of the bounding set.
pub(crate) fn bound_capabilities(keep: u64) -> io::Result<()> {
    for bit in 0..64 {
        if keep >> bit & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, bit) {
            // Beyond the kernel's last one.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// The process's own sets. Where the runtime itself lacks a capability, so do its containers.
pub(crate) fn set_capabilities(sets: Sets) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut now = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 of the interface: one header, two data structures, all live.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, now.as_mut_ptr()) })?;
    let has = u64::from(now[0].permitted) | u64::from(now[1].permitted) << 32;
    let half = |shift: u32| {
        let of = |set: u64| ((set & has) >> shift) as u32;
        Data { effective: of(sets.effective), permitted: of(sets.permitted), inheritable: of(sets.inheritable) }
    };
    let data = [half(0), half(32)];
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    for bit in (0..64).filter(|bit| sets.ambient & has & 1 << bit != 0) {
        // SAFETY: plain integers.
        check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, bit, 0, 0) }))?;
    }
    Ok(())
}

/// Installs a seccomp filter.
pub(crate) fn set_filter(program: &[libc::sock_filter], flags: u32) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program and its description live through the call; the kernel copies and checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) }).map(drop)
}

/// Raises the number of descriptors a process may have; one that may not be raised stays.
pub(crate) fn set_open_files(limit: u64) {
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the structure lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) };
}

/// Sets one of the process's limits.
pub(crate) fn set_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limits = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives through the call.
    check(libc::c_long::from(unsafe { libc::setrlimit(resource, &raw const limits) })).map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // SAFETY: plain integers.
    unsafe { libc::umask(mask) };
}

/// Replaces the program. Returns only on failure.
pub(crate) fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let list = |texts: &[CString]| -> Vec<*const libc::c_char> { texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect() };
    let (argv, env) = (list(argv), list(env));
    // SAFETY: both lists end with a null pointer and point to texts that live through the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Two connected packet sockets, closed on exec, the first one not blocking.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0 as RawFd; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors, which become owned at once.
    let (ours, theirs) = unsafe {
        check(libc::c_long::from(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr())))?;
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    };
    crate::sys::set_nonblocking(&ours)?;
    Ok((ours, theirs))
}

/// Waits for events; interrupted is no event.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout_ms: i32) {
    // SAFETY: the list is live and its length is given.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
}

/// Brings the loopback link of the present network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is a zeroed plain structure that lives through the calls; the socket is owned at once.
    unsafe {
        let socket = check(libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)))?;
        let socket = OwnedFd::from_raw_fd(socket as RawFd);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request))).map(drop)
    }
}

pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the text is live and its length is given.
    check(libc::c_long::from(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })).map(drop)
}

/// A connection to this port of the loopback, in the network namespace of the caller, and whether it is made already. One
/// that is not becomes writable when it is: see [`connected`].
pub(crate) fn connect_loopback(port: u16) -> io::Result<(OwnedFd, bool)> {
    // SAFETY: both address structures are plain, zeroed, and live through the calls; the sockets are owned at once.
    unsafe {
        let mut four: libc::sockaddr_in = std::mem::zeroed();
        four.sin_family = libc::AF_INET as libc::sa_family_t;
        four.sin_port = port.to_be();
        four.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let mut six: libc::sockaddr_in6 = std::mem::zeroed();
        six.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        six.sin6_port = port.to_be();
        six.sin6_addr.s6_addr[15] = 1;
        let first = connect(libc::AF_INET, (&raw const four).cast(), size_of_val(&four));
        first.or_else(|e| connect(libc::AF_INET6, (&raw const six).cast(), size_of_val(&six)).map_err(|_| e))
    }
}

/// What came of a connection that was not made at once.
pub(crate) fn connected(fd: &impl AsRawFd) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: number and size live through the call.
    check(libc::c_long::from(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut size) }))?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// # Safety
/// `address` points to a live socket address of `len` bytes.
unsafe fn connect(family: i32, address: *const libc::sockaddr, len: usize) -> io::Result<(OwnedFd, bool)> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: see above.
    unsafe {
        let fd = check(libc::c_long::from(libc::socket(family, kind, 0)))?;
        let fd = OwnedFd::from_raw_fd(fd as RawFd);
        match check(libc::c_long::from(libc::connect(fd.as_raw_fd(), address, len as libc::socklen_t))) {
            // On the loopback the kernel answers at once, unless the listener's queue is full.
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok((fd, false)),
            Err(e) => Err(e),
            Ok(_) => Ok((fd, true)),
        }
    }
}

/// Makes a directory below an opened one.
pub(crate) fn mkdirat(dir: &impl AsRawFd, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the name lives through the call.
    check(libc::c_long::from(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })).map(drop)
}

/// Makes a symbolic link below an opened directory.
pub(crate) fn symlinkat(target: &CStr, dir: &impl AsRawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: both texts live through the call.
    check(libc::c_long::from(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) })).map(drop)
}

/// openat(2).
pub(crate) fn openat(dir: &impl AsRawFd, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: the name lives through the call; the new descriptor is owned at once.
    unsafe {
        let fd = check(libc::c_long::from(libc::openat(dir.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode)))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

pub(crate) fn fchown(fd: RawFd, uid: u32, gid: u32) {
    // SAFETY: plain integers.
    unsafe { libc::fchown(fd, uid, gid) };
}
