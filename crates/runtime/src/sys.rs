//! Thin, safe wrappers of system calls that neither `std` nor `nix` offers in the form needed. All `unsafe` of this crate
//! is here, in [`crate::block`] and in [`crate::shim::child`]: each call passes pointers to live local values of the kernel's own layout, and
//! each descriptor that the kernel returns is owned at once.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::unix::AsyncFd;

use crate::proto::{FDS_MAX, RECEIVE_BYTES_MAX};

/// Turns -1 into the thread's errno.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just returned this descriptor to us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The kernel's error without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// The kernel's error in the words of other runtimes: lower case, without the number.
pub(crate) fn words(error: &io::Error) -> String {
    plain(error).to_ascii_lowercase()
}

/// A path for the kernel; one with a zero byte is refused.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// As [`c_path`].
pub(crate) fn c_str(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub(crate) fn read(fd: &impl AsRawFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and its length is given.
    check(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) } as libc::c_long).map(|n| n as usize)
}

pub(crate) fn write(fd: &impl AsRawFd, buf: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and its length is given.
    check(unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) } as libc::c_long).map(|n| n as usize)
}

/// Registers a descriptor with the executor.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers the same open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

pub(crate) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain integers.
    let flags = check(libc::c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }))? as i32;
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })).map(drop)
}

pub(crate) fn shutdown_write(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) })).map(drop)
}

pub(crate) fn set_window_size(fd: RawFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure lives through the call.
    check(libc::c_long::from(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &size) })).map(drop)
}

/// `(reading end, writing end)`, both closed on exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0 as RawFd; 2];
    // SAFETY: room for two descriptors, which become owned at once.
    check(libc::c_long::from(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }))?;
    // SAFETY: as above.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A file in memory, closed on exec, of which nobody can make a program.
pub(crate) fn memory_file(name: &CStr) -> io::Result<OwnedFd> {
    /// `MFD_NOEXEC_SEAL`
    const NO_PROGRAM: libc::c_uint = 8;
    // SAFETY: the name is a live text.
    let make = |flags| own(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) }.into());
    match make(NO_PROGRAM) {
        // Before Linux 6.3.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => make(0),
        made => made,
    }
}

/// Runs `f` with a path to the file that fits a socket address however long the real one is.
fn with_short_path<T>(path: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let dir = std::fs::File::open(parent)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    f(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, mem::size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn seqpacket(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    own(libc::c_long::from(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags, 0) }))
}

/// A listening packet socket at this path (removed first).
pub(crate) fn seqpacket_listen(path: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let fd = seqpacket(libc::SOCK_NONBLOCK)?;
    with_short_path(path, |short| {
        let (address, len) = unix_address(short)?;
        // SAFETY: the address lives through the call.
        check(libc::c_long::from(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }))?;
        // SAFETY: plain integers.
        check(libc::c_long::from(unsafe { libc::listen(fd.as_raw_fd(), 128) }))
    })?;
    Ok(fd)
}

/// A connection to the packet socket at this path. The backlog is long and local: connecting never waits for long.
pub(crate) fn seqpacket_connect(path: &Path) -> io::Result<OwnedFd> {
    let fd = seqpacket(0)?;
    with_short_path(path, |short| {
        let (address, len) = unix_address(short)?;
        // SAFETY: the address lives through the call.
        check(libc::c_long::from(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }))
    })?;
    set_nonblocking(&fd)?;
    Ok(fd)
}

pub(crate) fn accept(listener: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for.
    own(libc::c_long::from(unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
    }))
}

/// Room for the control message with [`FDS_MAX`] descriptors, aligned as `cmsghdr` wants.
type Control = [u64; 8];

/// Sends one packet with descriptors beside it.
pub(crate) fn send_packet(fd: &impl AsRawFd, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let mut control: Control = [0; 8];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: all zeros is a valid `msghdr`; the pointers put into it live through the call; the control buffer has room for
    // FDS_MAX descriptors (CMSG_SPACE(16) is 32 bytes of 64), and no more are written.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            let count = fds.len().min(FDS_MAX);
            let len = (count * mem::size_of::<RawFd>()) as u32;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(len) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (i, fd) in fds.iter().take(count).enumerate() {
                data.add(i).write_unaligned(fd.as_raw_fd());
            }
        }
        check(libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) as libc::c_long).map(drop)
    }
}

/// Receives one packet; empty bytes are the end.
pub(crate) fn receive_packet(fd: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut length = 0_u8;
    // SAFETY: one byte is peeked; MSG_TRUNC makes the kernel answer the packet's whole length.
    let whole = check(unsafe { libc::recv(fd.as_raw_fd(), (&raw mut length).cast(), 1, libc::MSG_PEEK | libc::MSG_TRUNC) } as libc::c_long)? as usize;
    if whole > RECEIVE_BYTES_MAX {
        // What is not read of a packet is dropped, and the next one comes.
        // SAFETY: one byte is read.
        check(unsafe { libc::recv(fd.as_raw_fd(), (&raw mut length).cast(), 1, 0) } as libc::c_long)?;
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut bytes = vec![0_u8; whole];
    let mut control: Control = [0; 8];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut fds = Vec::new();
    // SAFETY: as in `send_packet`; the descriptors that arrived are ours and owned at once.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE((FDS_MAX * mem::size_of::<RawFd>()) as u32) as usize;
        let n = check(libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) as libc::c_long)?;
        bytes.truncate(n as usize);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / mem::size_of::<RawFd>();
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..count {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((bytes, fds))
}

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// No mount point is crossed, not even a bind mount of the same file system.
pub(crate) const RESOLVE_NO_XDEV: u64 = 0x01;
/// Symlinks are refused.
pub(crate) const RESOLVE_NO_SYMLINKS: u64 = 0x04;
/// What leads above the directory is refused.
pub(crate) const RESOLVE_BENEATH: u64 = 0x08;
/// Symlinks and `..` stay below the directory (as after a chroot).
pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;

/// openat2(2). Tried again where the kernel asks for it: a look-up that is confined cannot be sure of a `..` while anything
/// on the host is mounted or renamed, and then answers EAGAIN.
pub(crate) fn openat2(dir: &impl AsRawFd, path: &CStr, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    /// Somebody who renames all the time can hold up each try; so many in a row fail only by his intent.
    const TRIES_MAX: usize = 10_000;
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    let mut tries = 0;
    loop {
        // SAFETY: the structure lives through the call and its size is given.
        let done = own(unsafe { libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), &raw const how, mem::size_of::<OpenHow>()) });
        match done {
            Err(e) if tries < TRIES_MAX && matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {
                tries += 1;
                std::thread::yield_now();
            }
            done => return done,
        }
    }
}

/// getdents64(2): the next names of a directory, as the kernel lays them out; none at its end.
pub(crate) fn getdents(dir: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and its length is given.
    check(unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) }).map(|n| n as usize)
}

/// A copy of a mount (with all below it, if asked), attached nowhere.
pub(crate) fn open_tree(dir: RawFd, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    // SAFETY: the path lives through the call.
    own(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;

/// mount_setattr(2) on a mount's descriptor.
pub(crate) fn mount_setattr(fd: &impl AsRawFd, recursive: bool, set: u64, propagation: u64) -> io::Result<()> {
    let attr = MountAttr { set, clear: 0, propagation, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure lives through the call and its size is given.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, mem::size_of::<MountAttr>()) }).map(drop)
}

/// Shows a detached mount's files with the ids that they have in a user namespace: what is 0 on disk is the namespace's 0.
pub(crate) fn map_ids(mount: &impl AsRawFd, users: &impl AsRawFd, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let attr = MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns: users.as_raw_fd() as u64 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure lives through the call and its size is given.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, mem::size_of::<MountAttr>()) }).map(drop)
}

/// Attaches a detached mount at an opened place.
pub(crate) fn move_mount(mount: &impl AsRawFd, target: &impl AsRawFd) -> io::Result<()> {
    const FROM_EMPTY_TO_EMPTY: u32 = 0x04 | 0x40;
    // SAFETY: both paths are empty constants.
    check(unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), FROM_EMPTY_TO_EMPTY) }).map(drop)
}

/// A new file system, mounted nowhere. `flags` are `MOUNT_ATTR_*`.
pub(crate) fn new_mount(kind: &CStr, options: &[(&CStr, Option<&CStr>)], flags: u64) -> io::Result<OwnedFd> {
    let fs = file_system(kind)?;
    make_mount(&fs, kind, options, flags)
}

/// The file system of processes, of this process namespace. Older kernels (before 6.17) know only the caller's own: EINVAL.
pub(crate) fn new_proc(pids: &impl AsRawFd, flags: u64) -> io::Result<OwnedFd> {
    const SET_FD: u32 = 5;
    let fs = file_system(c"proc")?;
    // SAFETY: the key is a constant; the command takes a descriptor in place of a value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), SET_FD, c"pidns".as_ptr(), std::ptr::null::<libc::c_char>(), pids.as_raw_fd()) })?;
    make_mount(&fs, c"proc", &[], flags)
}

fn file_system(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: constant flags and a live name.
    own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1_u32) })
}

fn make_mount(fs: &OwnedFd, kind: &CStr, options: &[(&CStr, Option<&CStr>)], flags: u64) -> io::Result<OwnedFd> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CMD_CREATE: u32 = 6;
    let none = std::ptr::null::<libc::c_char>();
    // What the table of mounts calls it.
    let source = [(c"source", Some(kind))];
    let unnamed = options.iter().all(|(key, _)| *key != c"source");
    for (key, value) in source.iter().filter(|_| unnamed).chain(options) {
        let (command, value) = value.map_or((SET_FLAG, none), |v| (SET_STRING, v.as_ptr()));
        // SAFETY: key and value live through the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key.as_ptr(), value, 0) })?;
    }
    // SAFETY: the command takes no key or value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), CMD_CREATE, none, none, 0) })?;
    // SAFETY: plain integers.
    own(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1_u32, flags) })
}

/// The kind of file system an opened file is on, as `linux/magic.h` numbers them.
pub(crate) fn file_system_of(fd: &impl AsRawFd) -> io::Result<i64> {
    // SAFETY: all zeros is a valid value of this plain structure, which lives through the call.
    unsafe {
        let mut stat: libc::statfs = mem::zeroed();
        check(libc::c_long::from(libc::fstatfs(fd.as_raw_fd(), &raw mut stat)))?;
        Ok(stat.f_type)
    }
}

/// A handle of a process, by which a number that is used again cannot be meant.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Signals a process by its handle.
pub(crate) fn pidfd_signal(process: &impl AsRawFd, signal: i32) -> io::Result<()> {
    // SAFETY: no further information is given.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) }).map(drop)
}

/// Old-style mount(2).
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    // SAFETY: all texts live through the call.
    check(libc::c_long::from(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })).map(drop)
}

/// An overlay whose names among the options are relative to the present directory, by the old mount(2): the new interface
/// takes only short values before Linux 6.5, and images have up to 127 layers.
///
/// `volatile`: nothing waits for the disk on its behalf; Linux before 5.10 lacks it. The others are off whatever the kernel's
/// default is: with them the upper directory would have marks that make it useless without these very lower ones.
pub(crate) fn mount_overlay(target: &CStr, options: &str) -> io::Result<()> {
    let options = format!("{options},index=off,metacopy=off,redirect_dir=off");
    match mount(c"overlay", target, c"overlay", 0, &c_str(&format!("{options},volatile"))?) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => mount(c"overlay", target, c"overlay", 0, &c_str(&options)?),
        done => done,
    }
}

pub(crate) fn mknodat(dir: &impl AsRawFd, name: &CStr, mode: u32, device: u64) -> io::Result<()> {
    // SAFETY: the name lives through the call.
    check(libc::c_long::from(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) })).map(drop)
}

/// Changes the permission bits of what is there, to exactly these.
pub(crate) fn fchmodat(dir: &impl AsRawFd, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the name lives through the call.
    check(libc::c_long::from(unsafe { libc::fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) })).map(drop)
}

/// The extended attributes of an opened file; none where the file system has none.
pub(crate) fn xattrs(fd: &impl AsRawFd) -> Vec<(CString, Vec<u8>)> {
    /// The kernel's own limit of a list and of a value.
    const BYTES_MAX: usize = 64 * 1024;
    let mut names = vec![0_u8; BYTES_MAX];
    // SAFETY: the buffer is live and its length is given.
    let len = unsafe { libc::flistxattr(fd.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let names = names.get(..len.max(0) as usize).unwrap_or_default();
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let Ok(name) = CString::new(name) else { continue };
        let mut value = vec![0_u8; BYTES_MAX];
        // SAFETY: the name and the buffer live through the call and the buffer's length is given.
        let len = unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        if len >= 0 {
            value.truncate(len as usize);
            all.push((name, value));
        }
    }
    all
}

pub(crate) fn fsetxattr(fd: &impl AsRawFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: name and value live through the call.
    check(libc::c_long::from(unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })).map(drop)
}

/// Sets an extended attribute of a file that cannot be opened (a symlink, a device).
pub(crate) fn lsetxattr(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: name, path and value live through the call.
    check(libc::c_long::from(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })).map(drop)
}

pub(crate) fn fchownat(dir: &impl AsRawFd, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: the name lives through the call.
    check(libc::c_long::from(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, flags) })).map(drop)
}

/// Sets the modification time (seconds and nanoseconds), without following a symlink.
pub(crate) fn set_mtime(dir: &impl AsRawFd, name: &CStr, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
    let time = libc::timespec { tv_sec: seconds, tv_nsec: libc::c_long::from(nanoseconds) };
    let times = [time, time];
    // SAFETY: name and times live through the call.
    check(libc::c_long::from(unsafe { libc::utimensat(dir.as_raw_fd(), name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })).map(drop)
}

/// Loads a program of the kernel's extended machine that judges the use of devices, and attaches it to a cgroup.
pub(crate) fn attach_device_program(cgroup: &impl AsRawFd, program: &[u64]) -> io::Result<()> {
    const LOAD: i32 = 5;
    const ATTACH: i32 = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    /// The beginning of `union bpf_attr` for loading; zeros follow.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        rest: [u64; 12],
    }
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: the attributes, the program and the licence's text live through the call, and the size is given; the kernel
    // verifies the program.
    let loaded = own(unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const load, mem::size_of::<Load>()) })?;
    let attach = [cgroup.as_raw_fd() as u32, loaded.as_raw_fd() as u32, CGROUP_DEVICE, ALLOW_MULTI];
    // SAFETY: as above. The cgroup keeps the program.
    check(unsafe { libc::syscall(libc::SYS_bpf, ATTACH, attach.as_ptr(), mem::size_of_val(&attach)) }).map(drop)
}

/// Gives pages of the program's file back: they come again from the page cache when they are touched. Only ranges that
/// were never writable are named by the caller's list of mappings.
pub(crate) fn forget_pages(start: usize, length: usize) {
    // SAFETY: the range is a read-only private mapping of a file, none of whose pages was ever written: dropping them
    // changes nothing that can be read there.
    unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// Nanoseconds since the epoch, by the wall clock.
pub(crate) fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos() as u64)
}

/// Signals a process; one that is gone is no error.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: plain integers.
    unsafe { libc::kill(pid, signal) };
}
