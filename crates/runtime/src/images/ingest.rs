//! Blobs on their way: `ingest/HEX`, locked by the transfer that writes it until its layer is unpacked.
//!
//! One that nobody holds is the beginning of a blob, from where the next pull goes on, and it may be that there is none: so
//! such files go when they are old ([`KEPT_MAX`]), when they are many ([`KEPT_BYTES_MAX`]), or when their image cannot be had
//! at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use super::archive::EXPANDED;
use super::reference::is_hex;
use crate::files::is_free;

/// The kubelet tries again after five minutes at most.
const KEPT_MAX: Duration = Duration::from_secs(3600);
/// The youngest ones are kept up to this size.
const KEPT_BYTES_MAX: u64 = 2 << 30;

/// A blob's file, held.
pub(crate) type Held = Flock<File>;

/// Opens a blob's file to go on with; none while somebody else holds it.
pub(crate) fn open(path: &Path) -> io::Result<Option<Held>> {
    let file = File::options().create(true).read(true).append(true).mode(0o600).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // Removed between the opening and the lock.
        Ok(held) if held.metadata()?.nlink() == 0 => Ok(None),
        Ok(held) => Ok(Some(held)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e.into()),
    }
}

/// Removes what nobody holds and is old or too much.
pub(super) fn sweep(ingest: &Path) {
    let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(ingest).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(EXPANDED)) {
            // Who made it was killed before it had no name any more.
            let _ = fs::remove_file(entry.path());
        }
        if entry.file_name().to_str().is_some_and(is_hex) {
            kept.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.blocks() * 512, entry.path()));
        }
    }
    kept.sort_by(|a, b| b.cmp(a));
    let mut bytes = 0;
    for (changed, size, path) in kept {
        bytes += size;
        // A clock that was set back makes a file young, not old: the sum bounds those.
        let old = changed.elapsed().is_ok_and(|age| age > KEPT_MAX);
        if old || bytes > KEPT_BYTES_MAX {
            discard(&path);
        }
    }
}

/// Removes a blob, unless somebody holds it.
pub(crate) fn discard(path: &Path) {
    if is_free(path) {
        let _ = fs::remove_file(path);
    }
}
