//! The space of a tree.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::walk::{Entered, Walk};
use crate::types::DiskUsage;

/// Space and number of the files below a directory, itself not counted, as `du` counts: a file with several names once, a
/// link as a link, what is mounted not at all. One that is not there uses nothing.
///
/// What vanishes during the look is left out; directories that are moved meanwhile end it with what was found until then.
pub fn usage(dir: &Path) -> DiskUsage {
    let mut usage = DiskUsage::default();
    let _ = count(dir, &mut usage);
    usage
}

fn count(dir: &Path, usage: &mut DiskUsage) -> io::Result<()> {
    let name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = File::open(dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let Ok(mut walk) = Walk::new(&parent, &CString::new(name.as_bytes())?)? else { return Ok(()) };
    let mut seen = HashSet::new();
    while walk.depth() > 0 {
        let Some(entry) = walk.next()? else {
            walk.leave()?;
            continue;
        };
        let meta = match fstatat(walk.dir()?, entry.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            meta => meta?,
        };
        let directory = meta.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if directory && matches!(walk.enter(&entry.name)?, Entered::Mount) {
            continue;
        }
        if directory || meta.st_nlink < 2 || seen.insert((meta.st_dev, meta.st_ino)) {
            usage.inodes += 1;
            usage.bytes += meta.st_blocks as u64 * 512;
        }
    }
    Ok(())
}
