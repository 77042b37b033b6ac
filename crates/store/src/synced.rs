//! What tells at the start whether the disk still has what it had: the revision that was acknowledged last, in a file of its
//! own, and a digest of all objects.
//!
//! The file is written after the batch is durable and before its writers are answered, and not synced: it outlives a killed
//! process, and after a loss of power it may tell an earlier revision, never a later one. The digest is the sum of a hash of
//! each object's key and revision, so that a change costs two hashes, whatever there is.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

const FILE: &str = "acknowledged";
/// The revision and a check of it.
const BYTES: usize = 16;

pub(crate) struct Synced(File);

impl Synced {
    /// Opens the file in a directory, and tells the revision that it has; zero if there was none or it is half-written.
    pub(crate) fn open(directory: &Path) -> std::io::Result<(Synced, u64)> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(FILE))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((Synced(file), read(&bytes).unwrap_or(0)))
    }

    /// Tells that everything up to a revision is durable.
    pub(crate) fn tell(&self, revision: u64) {
        let mut bytes = [0; BYTES];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&revision.to_le_bytes());
        second.copy_from_slice(&scatter(revision).to_le_bytes());
        if let Err(error) = self.0.write_all_at(&bytes, 0) {
            tracing::warn!(%error, revision, "what is durable cannot be noted; a damage of the store may not be noticed");
        }
    }
}

fn read(bytes: &[u8]) -> Option<u64> {
    let number = |from: usize| Some(u64::from_le_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
    let (revision, check) = (number(0)?, number(8)?);
    (check == scatter(revision)).then_some(revision)
}

/// The digest with an object more.
pub(crate) fn add(digest: u64, key: &str, revision: u64) -> u64 {
    digest.wrapping_add(hash(key, revision))
}

/// The digest with an object less.
pub(crate) fn take(digest: u64, key: &str, revision: u64) -> u64 {
    digest.wrapping_sub(hash(key, revision))
}

/// FNV-1a of the key, scattered with the revision. It lies on disk, so it stays as it is.
fn hash(key: &str, revision: u64) -> u64 {
    let fnv = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    scatter(fnv ^ scatter(revision))
}

/// The last steps of splitmix64: every bit of the number decides on every bit of the result.
fn scatter(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
