//! What strangers size ends before the disk does: a kilobyte of an image may unpack to a terabyte, and a registry may send without
//! an end. containerd goes on until the disk is full and leaves the rest to the kubelet, which looks every ten seconds; here the disk
//! holds the cluster's own store as well.

use std::io;
use std::os::fd::AsFd;

use nix::sys::statvfs::fstatvfs;

/// Of a file system this part stays free: half of what the kubelet's eviction wants (`nodefs.available<10%`).
const RESERVED_PART: u64 = 20;
/// But no more than the store and what else the node writes for itself may need: of a large disk a part that small is a lot, and
/// somebody else's files may have taken the rest.
const RESERVED_BYTES_MAX: u64 = 2 << 30;
/// Bytes between two looks.
const LOOK_BYTES: u64 = 16 << 20;

/// Counts what is written, and looks at the disk from time to time.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// What may be written before the next look.
    left: u64,
}

impl Space {
    /// To be called before so many bytes are written to this file system.
    pub(crate) fn take(&mut self, to: &impl AsFd, bytes: u64) -> io::Result<()> {
        if let Some(left) = self.left.checked_sub(bytes) {
            self.left = left;
            return Ok(());
        }
        let free = room(to)?;
        if free < bytes {
            return Err(full());
        }
        // Never more than there is, however seldom one looks.
        self.left = (free - bytes).min(LOOK_BYTES);
        Ok(())
    }
}

/// Whether so many bytes may be written at once.
pub(crate) fn fits(to: &impl AsFd, bytes: u64) -> io::Result<()> {
    if room(to)? < bytes { Err(full()) } else { Ok(()) }
}

/// Bytes that may still be written.
fn room(to: &impl AsFd) -> io::Result<u64> {
    let of = fstatvfs(to)?;
    // A file system without a size (an overlay of one, some network ones) tells none.
    if of.blocks() == 0 {
        return Ok(u64::MAX);
    }
    // Empty files take no blocks: where their number is laid out in advance, a part of it stays free as well.
    if of.files() != 0 && of.files_available() <= of.files() / RESERVED_PART {
        return Ok(0);
    }
    let unit = of.fragment_size();
    let [all, free] = [of.blocks(), of.blocks_available()].map(|n| n.saturating_mul(unit));
    Ok(free.saturating_sub(reserved(all)))
}

/// Of a file system of this size.
fn reserved(bytes: u64) -> u64 {
    (bytes / RESERVED_PART).min(RESERVED_BYTES_MAX)
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the disk is full: its last twentieth, or 2 GiB of a large one, stays free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_with_little_left_takes_images_still() {
        assert_eq!(reserved(64 << 20), (64 << 20) / 20);
        assert_eq!(reserved(40 << 30), 2 << 30);
        // 4 % of it are 160 GiB.
        assert_eq!(reserved(4 << 40), 2 << 30);
    }

    #[test]
    fn a_look_lasts_for_a_while_and_no_longer_than_there_is_room() {
        let disk = std::fs::File::open("/var/tmp").unwrap();
        let mut space = Space::default();
        space.take(&disk, 1).unwrap();
        assert!(space.left > 0 && space.left <= LOOK_BYTES);
        let left = space.left;
        space.take(&disk, 10).unwrap();
        assert_eq!(space.left, left - 10, "without a look");
        assert_eq!(space.take(&disk, u64::MAX).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fits(&disk, u64::MAX).unwrap_err().kind(), io::ErrorKind::StorageFull);
        fits(&disk, 1).unwrap();
    }
}
