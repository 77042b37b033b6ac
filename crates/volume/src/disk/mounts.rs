//! The host's mounts, as the kernel lists them.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::mounts::{Mounted, all};

/// Mounts on one another at one place at most: each try adds one.
const STACKED_MAX: usize = 1000;
/// Tries more where something is in use.
const BUSY_MAX: usize = 20;
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// The kernel names places by their real paths. What is mounted there may not answer: only what is above is looked at.
fn real(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// What is mounted at a place, on top.
pub(super) fn at(path: &Path) -> io::Result<Option<Mounted>> {
    let path = match real(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        path => path?,
    };
    Ok(all()?.into_iter().rfind(|mounted| mounted.at == path))
}

/// Takes away all that is mounted at a place. Blocks: what is in use is asked for a few times more, since a process that another thread
/// has just forked holds all that was open here until it has begun its own program.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    let mut busy = 0;
    for _ in 0..STACKED_MAX + BUSY_MAX {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) if busy < BUSY_MAX => {
                busy += 1;
                thread::sleep(BUSY_WAIT);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EBUSY.into())
}

/// Shows a directory or file at another place.
pub(super) fn bind(from: &Path, to: &Path, readonly: bool) -> io::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    if readonly { restrict(to) } else { Ok(()) }
}

/// Makes what is mounted at a place read-only there.
pub(super) fn restrict(at: &Path) -> io::Result<()> {
    runtime::mounts::remount(at, MsFlags::MS_RDONLY)
}
