//! What all that builds a container's file system does with mounts, directories and terminals.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use super::{Step, process};
use crate::sys;

pub(super) const AT_FDCWD: RawFd = libc::AT_FDCWD;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 8;
pub(super) const NO_ALL: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// The user's side of a new terminal, and the controlling one.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) peer: OwnedFd,
}

impl Terminal {
    /// Both sides, by the opened `ptmx` of a devpts.
    pub(super) fn of(master: OwnedFd) -> io::Result<Terminal> {
        process::set_blocking(&master)?;
        let peer = process::terminal_peer(&master)?;
        Ok(Terminal { master, peer })
    }
}

pub(super) fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(File::from(fd.try_clone()?).metadata()?.is_dir())
}

pub(super) fn attach_at(tree: &OwnedFd, place: &OwnedFd, target: &str) -> Step<()> {
    sys::move_mount(tree, place).map_err(|e| format!("error mounting to rootfs at {target:?}: {}", sys::words(&e)))
}

pub(super) fn fresh(kind: &CStr, options: &[(&CStr, Option<&CStr>)], flags: u64, target: &str) -> Step<OwnedFd> {
    sys::new_mount(kind, options, flags).map_err(|e| format!("new {kind:?} for {target}: {e}"))
}

/// A directory of the container's own on the host.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
