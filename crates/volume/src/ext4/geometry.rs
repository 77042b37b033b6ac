//! Where things lie in a file system: numbers alone.
//!
//! Blocks have 4 KiB, groups 32768 of them. In each group first comes a copy of the superblock (groups 0, 1 and the powers of
//! 3, 5 and 7), then the block of group descriptors, if the group is the first, second or last of the 64 whose descriptors are
//! in one block (`meta_bg`: it grows without a limit and nothing must be set aside). In every sixteenth group come behind that
//! the bitmaps and tables of inodes of all sixteen (`flex_bg`). So what a group begins with is all that is taken of it.
//!
//! **What it holds is what it was asked for.** Tables, journal and the blocks that the kernel sets aside take some per cent of a
//! small file system; they are added to the size, so that a claim of 100 MiB takes 100 MiB of data.

use serde::{Deserialize, Serialize};

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 4096;
/// The smallest file system.
pub const BYTES_MIN: u64 = 1 << 20;
/// The largest: what a file of ext4 can have.
pub const BYTES_MAX: u64 = (1 << 44) - BLOCK_BYTES;

/// As many as a bitmap of one block has bits.
pub(super) const BLOCKS_PER_GROUP: u64 = 32768;
/// As above.
const INODES_PER_GROUP_MAX: u64 = 32768;
pub(super) const INODE_BYTES: u64 = 256;
const INODES_PER_BLOCK: u64 = BLOCK_BYTES / INODE_BYTES;
pub(super) const DESCRIPTOR_BYTES: u64 = 64;
/// Groups whose descriptors are in one block.
pub(super) const GROUPS_PER_META: u64 = BLOCK_BYTES / DESCRIPTOR_BYTES;
pub(super) const GROUPS_PER_FLEX: u64 = 16;
/// A last group that has fewer blocks beside its own tables is not worth it (as in mke2fs; the kernel wants as many).
const LAST_GROUP_SPARE: u64 = 50;
/// Blocks that the kernel keeps for what it has promised: at most so many, and this part of all (`ext4_calculate_resv_clusters`).
const RESERVED_MAX: u64 = 4096;
const RESERVED_PART: u64 = 50;
/// Blocks of the directories that are there at first, and of a journal's extents.
const FIRST_BLOCKS: u64 = 7;
/// Sizes that are tried until one holds what is asked for; each is nearer by what was missing.
const TRIES: usize = 64;

/// A size that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a file system has from {BYTES_MIN} to {BYTES_MAX} bytes")]
pub struct OutOfRange;

/// What the place of everything follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// All blocks.
    pub blocks: u64,
    /// Inodes of each group.
    pub inodes_per_group: u64,
    /// Blocks of the journal; 0: there is none.
    pub journal_blocks: u64,
}

/// Bytes for which there is one inode, by the file system's size: mke2fs's types floppy, small, default, big and huge.
fn inode_ratio(bytes: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    match bytes / MIB {
        0..3 => 8192,
        3..512 => 4096,
        512..0x40_0000 => 16384,
        0x40_0000..0x100_0000 => 32768,
        _ => 65536,
    }
}

/// Blocks of a journal, by the file system's: as mke2fs has it.
fn journal_blocks(blocks: u64) -> u64 {
    const K: u64 = 1024;
    match blocks {
        0..2048 => 0,
        2048..32768 => 1024,
        32768..0x4_0000 => 4 * K,
        0x4_0000..0x8_0000 => 8 * K,
        0x8_0000..0x40_0000 => 16 * K,
        0x40_0000..0x80_0000 => 32 * K,
        0x80_0000..0x100_0000 => 64 * K,
        0x100_0000..0x200_0000 => 128 * K,
        _ => 256 * K,
    }
}

impl Geometry {
    /// Of a file system that takes at most so many bytes.
    ///
    /// # Errors
    /// It is too small or too large.
    pub fn of(bytes: u64) -> Result<Self, OutOfRange> {
        if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
            return Err(OutOfRange);
        }
        let blocks = bytes / BLOCK_BYTES;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let inodes = bytes / inode_ratio(bytes);
        let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK).min(INODES_PER_GROUP_MAX);
        let first = Self { blocks, inodes_per_group, journal_blocks: journal_blocks(blocks) };
        Ok(first.trimmed())
    }

    /// Of the file system that holds so many bytes of files.
    ///
    /// # Errors
    /// There is none.
    pub fn holding(bytes: u64) -> Result<Self, OutOfRange> {
        nearest(bytes, BYTES_MIN, Self::of)
    }

    /// Of this one, grown until it holds so many bytes of files; the same where it does.
    ///
    /// # Errors
    /// It would be too large.
    pub fn grown(&self, bytes: u64) -> Result<Self, OutOfRange> {
        let grown = nearest(bytes, self.bytes(), |size| match size {
            0..=BYTES_MAX => Ok(Self { blocks: size / BLOCK_BYTES, ..*self }.trimmed()),
            _ => Err(OutOfRange),
        })?;
        Ok(if grown.blocks > self.blocks { grown } else { *self })
    }

    /// Without a last group that is too small for what lies in it.
    fn trimmed(mut self) -> Self {
        let (last, rest) = (self.blocks / BLOCKS_PER_GROUP, self.blocks % BLOCKS_PER_GROUP);
        if last > 0 && rest > 0 && rest < self.least(last) {
            self.blocks -= rest;
        }
        self
    }

    /// Blocks that a last group must have.
    fn least(&self, group: u64) -> u64 {
        self.head(group) + 2 + self.table_blocks() + LAST_GROUP_SPARE
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES
    }

    /// Bytes of files that it holds, when it is new.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let heads: u64 = (0..self.groups()).map(|g| self.head(g)).sum();
        let tables = self.groups() * (2 + self.table_blocks());
        let reserved = (self.blocks / RESERVED_PART).min(RESERVED_MAX);
        self.blocks.saturating_sub(heads + tables + self.journal_blocks + reserved + FIRST_BLOCKS) * BLOCK_BYTES
    }

    pub(super) fn groups(&self) -> u64 {
        self.blocks.div_ceil(BLOCKS_PER_GROUP)
    }

    pub(super) fn inodes(&self) -> u64 {
        self.groups() * self.inodes_per_group
    }

    /// Blocks of a group's table of inodes.
    pub(super) fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    pub(super) fn first_block(&self, group: u64) -> u64 {
        group * BLOCKS_PER_GROUP
    }

    /// Blocks of a group, of which the last may have fewer.
    pub(super) fn blocks_of(&self, group: u64) -> u64 {
        (self.blocks - self.first_block(group)).min(BLOCKS_PER_GROUP)
    }

    /// Blocks at the begin of a group that are not for files, without bitmaps and tables.
    pub(super) fn head(&self, group: u64) -> u64 {
        u64::from(has_superblock(group)) + u64::from(has_descriptors(group))
    }

    /// The block of descriptors in a group that has one.
    pub(super) fn descriptors_at(&self, group: u64) -> Option<u64> {
        has_descriptors(group).then(|| self.first_block(group) + u64::from(has_superblock(group)))
    }

    /// Blocks at the begin of a group that are not for files.
    pub(super) fn taken(&self, group: u64) -> u64 {
        let flex = if group.is_multiple_of(GROUPS_PER_FLEX) { self.flex_members(group) * (2 + self.table_blocks()) } else { 0 };
        self.head(group) + flex
    }

    fn flex_members(&self, first: u64) -> u64 {
        (self.groups() - first).min(GROUPS_PER_FLEX)
    }

    /// Where a group's own are: the bitmap of its blocks, that of its inodes, and their table.
    pub(super) fn tables_at(&self, group: u64) -> (u64, u64, u64) {
        let first = group - group % GROUPS_PER_FLEX;
        let (members, member) = (self.flex_members(first), group - first);
        let start = self.first_block(first) + self.head(first);
        (start + member, start + members + member, start + 2 * members + member * self.table_blocks())
    }
}

/// The smallest size that holds so many bytes, as near as trying finds it; none below `least`.
fn nearest(bytes: u64, least: u64, of: impl Fn(u64) -> Result<Geometry, OutOfRange>) -> Result<Geometry, OutOfRange> {
    let mut size = bytes.max(least).checked_next_multiple_of(BLOCK_BYTES).ok_or(OutOfRange)?;
    for _ in 0..TRIES {
        let geometry = of(size)?;
        let missing = bytes.saturating_sub(geometry.capacity());
        if missing == 0 {
            return Ok(geometry);
        }
        // A last group that is too small was left out: it is to be large enough.
        let wanted = size / BLOCK_BYTES;
        let group = wanted / BLOCKS_PER_GROUP;
        size = match geometry.blocks < wanted {
            true => (geometry.first_block(group) + geometry.least(group)) * BLOCK_BYTES,
            false => size + missing.next_multiple_of(BLOCK_BYTES),
        };
    }
    Err(OutOfRange)
}

/// Whether a group has a copy of the superblock (`sparse_super`).
pub(super) fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| std::iter::successors(Some(base), |p| p.checked_mul(base)).take_while(|p| *p <= group).any(|p| p == group);
    group <= 1 || [3, 5, 7].into_iter().any(power_of)
}

/// Whether a group has the block of descriptors of its 64, or a copy of it.
fn has_descriptors(group: u64) -> bool {
    matches!(group % GROUPS_PER_META, 0 | 1) || group % GROUPS_PER_META == GROUPS_PER_META - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_it_holds() {
        let mib = 1 << 20;
        for megabytes in [1, 2, 7, 8, 16, 100, 127, 128, 129, 130, 255, 500, 511, 512, 1000, 1024, 2048, 8190, 10_240, 65_536, 1 << 20, 7 << 20] {
            let asked = megabytes * mib;
            let geometry = Geometry::holding(asked).unwrap();
            let capacity = geometry.capacity();
            assert!(capacity >= asked, "{megabytes} MiB: {capacity}");
            // Up to a group's tables more, where a group begins.
            assert!(capacity <= asked + asked / 20 + 9 * mib, "{megabytes} MiB: {capacity} of {geometry:?}");
            let (larger, group) = (geometry.grown(asked * 2).unwrap(), geometry.inodes_per_group);
            assert!(larger.capacity() >= asked * 2 && larger.inodes_per_group == group, "{megabytes} MiB");
            assert_eq!(geometry.grown(asked).unwrap(), geometry, "{megabytes} MiB");
            for more in [1, BLOCK_BYTES, 5 * BLOCK_BYTES, mib] {
                let grown = geometry.grown(capacity + more).unwrap();
                assert!(grown.capacity() >= capacity + more && grown.blocks > geometry.blocks, "{megabytes} MiB and {more}: {grown:?}");
            }
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert!(Geometry::holding(0).is_ok(), "the smallest");
        assert_eq!(Geometry::of(BYTES_MIN - 1), Err(OutOfRange));
        assert_eq!(Geometry::holding(1 << 60), Err(OutOfRange));
        assert_eq!(Geometry::holding(u64::MAX), Err(OutOfRange));
        let small = Geometry::holding(1 << 20).unwrap();
        assert_eq!(small.grown(1 << 60), Err(OutOfRange));
        assert_eq!(small.grown(u64::MAX), Err(OutOfRange));
    }

    #[test]
    fn no_group_is_smaller_than_what_lies_in_it() {
        // Around the begin of each of the first groups, by single blocks.
        for group in 1..20 {
            for blocks in (group * BLOCKS_PER_GROUP).saturating_sub(3)..group * BLOCKS_PER_GROUP + 700 {
                let geometry = Geometry::of(blocks * BLOCK_BYTES).unwrap();
                let last = geometry.groups() - 1;
                assert!(geometry.taken(last) < geometry.blocks_of(last), "{blocks}: {geometry:?}");
                assert!(geometry.blocks <= blocks);
            }
        }
    }

    #[test]
    fn copies_of_the_superblock_are_in_few_groups() {
        let some: Vec<u64> = (0..130).filter(|g| has_superblock(*g)).collect();
        assert_eq!(some, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }
}
