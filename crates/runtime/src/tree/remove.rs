//! Removal of a tree that somebody else filled, perhaps while he still writes.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::walk::{Entered, Walk};

/// How often a directory that was emptied and is not empty is read again: somebody writes there, or the file system passed
/// over names while others went.
const AGAIN_MAX: usize = 1000;

/// Removes what is at this path, with all below it; what is not there is no error.
///
/// The path's own parents are believed (they may lead through links); from its last component on no link is followed and
/// no mount is entered: one is told as [`io::ErrorKind::ResourceBusy`] with its place, and what is mounted stays whole.
/// What had been removed until then is gone.
pub fn remove(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = match File::open(parent) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        parent => parent?,
    };
    remove_at(&parent, &CString::new(name.as_bytes())?).map_err(|e| {
        let (place, source) = match e.downcast::<Left>() {
            Ok(Left { place, source }) => (path.join(place), source),
            Err(e) => (path.to_owned(), e),
        };
        io::Error::new(source.kind(), format!("{}: {source}", place.display()))
    })
}

/// As [`remove`], by the name in an opened directory.
pub fn remove_at(parent: &File, name: &CStr) -> io::Result<()> {
    for _ in 0..AGAIN_MAX {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // A directory: Linux says EISDIR, POSIX EPERM, which is also what cannot be removed.
            Err(Errno::EISDIR) => {}
            Err(Errno::EPERM) if fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & libc::S_IFMT == libc::S_IFDIR => {}
            Err(e) => return Err(e.into()),
        }
        match Walk::new(parent, name)? {
            Ok(mut walk) => empty(&mut walk).map_err(|e| if e.get_ref().is_some_and(|e| e.is::<Left>()) { e } else { left(walk.place(), e) })?,
            Err(Entered::Mount) => return Err(mounted()),
            // Exchanged for something else since.
            Err(_) => continue,
        }
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            Err(Errno::EBUSY) => return Err(mounted()),
            Err(e) => return Err(e.into()),
        }
    }
    Err(Errno::ENOTEMPTY.into())
}

/// Removes all that is in the directory where the walk began.
fn empty(walk: &mut Walk) -> io::Result<()> {
    let mut again = 0;
    loop {
        let Some(entry) = walk.next()? else {
            let Some(name) = walk.leave()? else { return Ok(()) };
            match unlinkat(walk.dir()?, name.as_c_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTEMPTY | Errno::EEXIST) if again < AGAIN_MAX => {
                    again += 1;
                    walk.enter(&name)?;
                }
                Err(e) => return Err(at(walk, &name, e.into())),
            }
            continue;
        };
        if entry.kind != libc::DT_DIR {
            match unlinkat(walk.dir()?, entry.name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR) => {}
                Err(Errno::EPERM) if entry.kind == libc::DT_UNKNOWN => {}
                Err(e) => return Err(at(walk, &entry.name, e.into())),
            }
        }
        match walk.enter(&entry.name)? {
            Entered::Inside => {}
            Entered::Mount => return Err(at(walk, &entry.name, mounted())),
            Entered::NoDirectory => match unlinkat(walk.dir()?, entry.name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(at(walk, &entry.name, e.into())),
            },
        }
    }
}

fn mounted() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted there")
}

fn at(walk: &Walk, name: &CStr, source: io::Error) -> io::Error {
    left(walk.place().join(OsStr::from_bytes(name.to_bytes())), source)
}

fn left(place: PathBuf, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), Left { place, source })
}

/// What could not be removed, and its place below the top.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", place.display())]
struct Left {
    place: PathBuf,
    source: io::Error,
}
