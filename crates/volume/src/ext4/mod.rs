//! A formatter for ext4: what mke2fs makes, of the one kind that knarr uses, without a program of the host.
//!
//! It writes only what is not zero, to something that is zero: a fresh sparse file. Groups in which nothing lies are marked as
//! not begun (their bitmaps follow from the marks), and tables of inodes as zeroed already, so that the kernel zeroes none after
//! mounting either. All metadata has checksums. Nobody has blocks reserved: who writes is most often not root.
//!
//! The features are those that Linux 4.4 and later mounts and grows while it is mounted: journal, extents, 64 bit, flexible and
//! meta block groups, checksums of metadata, large directories and files.

mod checksum;
mod geometry;
mod grow;
mod layout;
mod records;
#[cfg(test)]
mod tests;

use std::io::{self, Seek, SeekFrom, Write};

pub use geometry::{BLOCK_BYTES, BYTES_MAX, BYTES_MIN, Geometry, OutOfRange};
pub use grow::{Changes, State, plan, state};
use layout::Layout;

/// What makes a file system this one.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// By which names in directories are hashed.
    pub hash_seed: [u8; 16],
    /// When it is made, in seconds since 1970.
    pub made_s: u64,
    /// A directory that is in it from the beginning, for everybody to write in; empty: none.
    pub directory: String,
}

/// Writes an empty file system to what is all zeros and has [`Geometry::bytes`].
///
/// # Errors
/// What is written to fails.
pub fn format(to: &mut (impl Write + Seek), geometry: &Geometry, identity: &Identity) -> io::Result<()> {
    let layout = Layout::new(geometry, identity);
    layout.write(&mut |block, bytes: &[u8]| {
        to.seek(SeekFrom::Start(block * BLOCK_BYTES))?;
        to.write_all(bytes)
    })?;
    to.flush()
}

/// The bytes of an empty file system that are not free, as (where, how many): what must be zero before [`format()`].
#[must_use]
pub fn taken(geometry: &Geometry, identity: &Identity) -> Vec<(u64, u64)> {
    let layout = Layout::new(geometry, identity);
    let zones = (0..geometry.groups()).map(|group| (geometry.first_block(group) * BLOCK_BYTES, layout.used(group) * BLOCK_BYTES));
    zones.filter(|(_, bytes)| *bytes > 0).collect()
}
