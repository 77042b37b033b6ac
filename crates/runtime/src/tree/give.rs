//! A tree for a group.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{Gid, fchownat};

use super::walk::{Entered, Walk};

/// Reading and writing for the group; what is in a directory is to be the group's as well, and can be reached.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// Gives all files below a directory, and the directory itself at last, to a group that may read and write them. A link is given and not
/// followed, what is mounted below is left alone, and a file that cannot be changed (a file system without owners) holds up no other, as
/// with upstream's `changeFilePermission`.
///
/// `done` counts while it goes on. `stop` ends it with [`io::ErrorKind::Interrupted`]; the top is not the group's then, so whoever looks at
/// the top alone begins anew.
pub fn give(dir: &Path, group: u32, done: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let top = File::open(dir)?;
    let Ok(mut walk) = Walk::new(&top, c".")? else { return Err(io::ErrorKind::NotADirectory.into()) };
    while walk.depth() > 0 {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let Some(entry) = walk.next()? else {
            // A directory comes after what is in it: if this is ended in between, it tells that it was not.
            if let Some(left) = walk.leave()? {
                one(walk.dir()?, &left, group)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            continue;
        };
        let meta = match look(walk.dir()?, &entry.name) {
            Err(Errno::ENOENT) => continue,
            meta => meta?,
        };
        if meta.st_mode & libc::S_IFMT == libc::S_IFDIR && !matches!(walk.enter(&entry.name)?, Entered::NoDirectory) {
            continue;
        }
        one(walk.dir()?, &entry.name, group)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    one(&top, c".", group)?;
    done.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Whether a directory is not yet the group's as [`give`] leaves it (upstream's `requiresPermissionChange`).
pub fn is_not_given(dir: &Path, group: u32) -> bool {
    let Ok(meta) = std::fs::metadata(dir) else { return true };
    meta.gid() != group || !meta.is_dir() || meta.permissions().mode() & DIRECTORY != DIRECTORY
}

fn look(dir: &File, name: &CStr) -> Result<FileStat, Errno> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// By the handle of what is there: another that takes its place meanwhile, a link say, is not changed for it.
fn one(dir: &File, name: &CStr, group: u32) -> io::Result<()> {
    let file = match openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        file => File::from(file?),
    };
    // Before it is given: the kernel takes setuid and setgid from a file that is, and the original gives them back.
    let meta = file.metadata()?;
    let empty: &CStr = c"";
    let _ = fchownat(&file, empty, None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH);
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode() & 0o7777 | if meta.is_dir() { DIRECTORY } else { FILE };
    let _ = std::fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), std::fs::Permissions::from_mode(mode));
    Ok(())
}
