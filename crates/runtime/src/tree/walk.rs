//! A walk through a tree of any depth with a bounded number of descriptors.
//!
//! The directories from the top to the present place are a list on the heap. Only the lowest [`OPEN_MAX`] of them are open;
//! one above is found again by `..` from its child, and is believed only when device and inode are those which were
//! entered: a directory that somebody moves meanwhile ends the walk with an error instead of leading it elsewhere.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::{Whence, lseek};

use crate::sys;

/// Directories open at a time. Few trees are deeper, so few directories are opened twice.
const OPEN_MAX: usize = 32;
/// Some thousand names come with one call of the kernel.
const NAMES_BYTES: usize = 32 << 10;
/// Bytes of a place as it is told in an error.
const PLACE_BYTES_MAX: usize = 1024;

/// A name in a directory.
pub(super) struct Entry {
    pub(super) name: CString,
    /// `DT_DIR` and so on, or `DT_UNKNOWN`.
    pub(super) kind: u8,
    /// Where the directory goes on after it.
    next: i64,
}

struct Level {
    /// Its name in the directory above.
    name: CString,
    /// Device and inode.
    identity: (u64, u64),
    /// None: closed, to be found again by `..`.
    dir: Option<File>,
    /// Read and not yet given out, last first. Kept for open directories alone: what a closed one has is read again.
    names: Vec<Entry>,
    /// Where to read on in a directory that is opened again.
    at: i64,
}

pub(super) struct Walk {
    levels: Vec<Level>,
    buffer: Vec<u8>,
}

/// What happened at the way down.
pub(super) enum Entered {
    Inside,
    /// The name is no directory, or is gone.
    NoDirectory,
    /// Something is mounted there.
    Mount,
}

impl Walk {
    /// Begins at a directory, by its name in an opened one.
    pub(super) fn new(parent: &File, name: &CStr) -> io::Result<Result<Walk, Entered>> {
        let mut walk = Walk { levels: Vec::new(), buffer: vec![0; NAMES_BYTES] };
        match open_child(parent, name)? {
            Ok(dir) => walk.push(dir, name).map(|_| Ok(walk)),
            Err(why) => Ok(Err(why)),
        }
    }

    /// The directory where the walk is.
    pub(super) fn dir(&self) -> io::Result<&File> {
        let dir = self.levels.last().and_then(|level| level.dir.as_ref());
        dir.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The next name where the walk is; none at the directory's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        if level.names.is_empty() {
            let Some(dir) = &level.dir else { return Err(io::ErrorKind::NotFound.into()) };
            let n = sys::getdents(dir, &mut self.buffer)?;
            level.names = entries(&self.buffer[..n]);
            level.names.reverse();
        }
        let entry = level.names.pop();
        if let Some(entry) = &entry {
            level.at = entry.next;
        }
        Ok(entry)
    }

    /// Goes down into a directory.
    pub(super) fn enter(&mut self, name: &CStr) -> io::Result<Entered> {
        match open_child(self.dir()?, name)? {
            Ok(dir) => self.push(dir, name),
            Err(why) => Ok(why),
        }
    }

    fn push(&mut self, dir: File, name: &CStr) -> io::Result<Entered> {
        let meta = dir.metadata()?;
        self.levels.push(Level { name: name.to_owned(), identity: (meta.dev(), meta.ino()), dir: Some(dir), names: Vec::new(), at: 0 });
        if let Some(far) = self.levels.len().checked_sub(OPEN_MAX + 1) {
            self.levels[far].dir = None;
            self.levels[far].names = Vec::new();
        }
        Ok(Entered::Inside)
    }

    /// Goes up, and answers the name of the directory that was left; none when that was the top one.
    pub(super) fn leave(&mut self) -> io::Result<Option<CString>> {
        let Some(left) = self.levels.pop() else { return Ok(None) };
        let Some(above) = self.levels.last_mut() else { return Ok(None) };
        if above.dir.is_none() {
            let child = left.dir.ok_or(io::ErrorKind::NotFound)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let dir = File::from(sys::openat2(&child, c"..", flags, 0, sys::RESOLVE_NO_SYMLINKS | sys::RESOLVE_NO_XDEV)?);
            let meta = dir.metadata()?;
            if (meta.dev(), meta.ino()) != above.identity {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a directory was moved meanwhile"));
            }
            lseek(&dir, above.at, Whence::SeekSet)?;
            above.dir = Some(dir);
        }
        Ok(Some(left.name))
    }

    /// How many directories deep the walk is: 1 at the top.
    pub(super) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Where the walk is, below its top, in a length that can be shown.
    pub(super) fn place(&self) -> PathBuf {
        let mut text: Vec<u8> = Vec::new();
        for level in self.levels.iter().skip(1) {
            if text.len() + level.name.as_bytes().len() > PLACE_BYTES_MAX {
                text.extend_from_slice("/…".as_bytes());
                break;
            }
            if !text.is_empty() {
                text.push(b'/');
            }
            text.extend_from_slice(level.name.as_bytes());
        }
        std::ffi::OsString::from_vec(text).into()
    }
}

/// Opens a directory of its own, neither through a link nor through a mount.
fn open_child(parent: &File, name: &CStr) -> io::Result<Result<File, Entered>> {
    const WITHIN: u64 = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS | sys::RESOLVE_NO_XDEV;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    match sys::openat2(parent, name, flags, 0, WITHIN) {
        Ok(fd) => Ok(Ok(File::from(fd))),
        Err(e) => match e.raw_os_error() {
            Some(libc::EXDEV) => Ok(Err(Entered::Mount)),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(Err(Entered::NoDirectory)),
            _ => Err(e),
        },
    }
}

/// The records of getdents64(2): inode, position of the next one, length, kind, name. `.` and `..` are left out.
fn entries(mut bytes: &[u8]) -> Vec<Entry> {
    const NAME_AT: usize = 19;
    let mut list = Vec::new();
    while bytes.len() > NAME_AT {
        let (mut next, mut length) = ([0; 8], [0; 2]);
        next.copy_from_slice(&bytes[8..16]);
        length.copy_from_slice(&bytes[16..18]);
        let length = usize::from(u16::from_ne_bytes(length));
        if length <= NAME_AT || length > bytes.len() {
            break;
        }
        if let Ok(name) = CStr::from_bytes_until_nul(&bytes[NAME_AT..length])
            && name != c"."
            && name != c".."
        {
            list.push(Entry { name: name.to_owned(), kind: bytes[18], next: i64::from_ne_bytes(next) });
        }
        bytes = &bytes[length..];
    }
    list
}
