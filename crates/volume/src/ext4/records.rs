//! The structures on the disk, each as its bytes with its checksum. Numbers are little-endian but for the journal's.

use super::Identity;
use super::checksum::crc32c;
use super::geometry::{BLOCK_BYTES, BLOCKS_PER_GROUP, DESCRIPTOR_BYTES, GROUPS_PER_FLEX, Geometry, INODE_BYTES};
use super::layout::{JOURNAL, LOST_FOUND};

const BLOCK: usize = BLOCK_BYTES as usize;
/// Where the superblock is in the first block; in others it is at the begin.
pub(super) const SUPERBLOCK_AT: usize = 1024;
pub(super) const SUPERBLOCK_BYTES: usize = 1024;
/// Extents for which an inode has room.
pub(super) const INODE_EXTENTS: usize = 4;
/// Bytes of an extent, and of the head before them.
const EXTENT_BYTES: usize = 12;
/// Extents for which a block has room, beside the head and the checksum.
const LEAF_EXTENTS: usize = (BLOCK - EXTENT_BYTES - 4) / EXTENT_BYTES;
const EXTENT_MAGIC: u16 = 0xF30A;
/// At the end of each block of a directory, in the form of an entry that is none.
const TAIL_BYTES: usize = 12;
const TAIL_KIND: u8 = 0xDE;
const KIND_DIRECTORY: u8 = 2;
/// An inode's bytes beyond the 128 of ext2 that have a meaning.
const EXTRA_BYTES: u16 = 32;
const USES_EXTENTS: u32 = 0x8_0000;

const COMPATIBLE: u32 = feature::HAS_JOURNAL | feature::EXT_ATTR | feature::DIR_INDEX;
const INCOMPATIBLE: u32 = feature::FILETYPE | feature::META_BG | feature::EXTENTS | feature::WIDE | feature::FLEX_BG;
const READ_ONLY_COMPATIBLE: u32 =
    feature::SPARSE_SUPER | feature::LARGE_FILE | feature::HUGE_FILE | feature::DIR_NLINK | feature::EXTRA_ISIZE | feature::METADATA_CSUM;

mod feature {
    pub(super) const HAS_JOURNAL: u32 = 0x4;
    pub(super) const EXT_ATTR: u32 = 0x8;
    pub(super) const DIR_INDEX: u32 = 0x20;

    pub(super) const FILETYPE: u32 = 0x2;
    pub(super) const META_BG: u32 = 0x10;
    pub(super) const EXTENTS: u32 = 0x40;
    pub(super) const WIDE: u32 = 0x80;
    pub(super) const FLEX_BG: u32 = 0x200;

    pub(super) const SPARSE_SUPER: u32 = 0x1;
    pub(super) const LARGE_FILE: u32 = 0x2;
    pub(super) const HUGE_FILE: u32 = 0x8;
    pub(super) const DIR_NLINK: u32 = 0x20;
    pub(super) const EXTRA_ISIZE: u32 = 0x40;
    pub(super) const METADATA_CSUM: u32 = 0x400;
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The lower and the upper half of a number, which old structures hold apart.
pub(super) fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// Bits of which the first are set, and those for which there is nothing.
pub(super) fn bitmap(used: u64, there: u64, bits: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let mut set = |from: u64, to: u64| {
        let (mut at, to) = (from, to);
        while at < to {
            if at.is_multiple_of(8) && to - at >= 8 {
                bytes[(at / 8) as usize] = 0xff;
                at += 8;
            } else {
                bytes[(at / 8) as usize] |= 1 << (at % 8);
                at += 1;
            }
        }
    };
    set(0, used);
    set(there, bits);
    bytes
}

/// Blocks of a file that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first, counted in the file.
    pub(super) logical: u64,
    /// The first, counted in the file system.
    pub(super) start: u64,
    /// How many: at most a group's.
    pub(super) length: u64,
}

fn extent_head(to: &mut [u8], count: usize, room: usize, depth: u16) {
    put16(to, 0, EXTENT_MAGIC);
    put16(to, 2, count as u16);
    put16(to, 4, room as u16);
    put16(to, 6, depth);
}

fn put_extents(to: &mut [u8], extents: &[Extent], room: usize) {
    extent_head(to, extents.len(), room, 0);
    for (extent, place) in extents.iter().zip(to[EXTENT_BYTES..].chunks_exact_mut(EXTENT_BYTES)) {
        let (low, high) = halves(extent.start);
        put32(place, 0, extent.logical as u32);
        put16(place, 4, extent.length as u16);
        put16(place, 6, high as u16);
        put32(place, 8, low);
    }
}

/// The map of a file whose extents its inode has room for.
pub(super) fn extent_root(extents: &[Extent]) -> [u8; 60] {
    let mut map = [0; 60];
    put_extents(&mut map, extents, INODE_EXTENTS);
    map
}

/// The map of a file whose extents are in one block.
pub(super) fn extent_root_of_leaf(leaf: u64) -> [u8; 60] {
    let mut map = [0; 60];
    extent_head(&mut map, 1, INODE_EXTENTS, 1);
    let (low, high) = halves(leaf);
    put32(&mut map, EXTENT_BYTES + 4, low);
    put16(&mut map, EXTENT_BYTES + 8, high as u16);
    map
}

/// That block.
pub(super) fn extent_leaf(extents: &[Extent], inode_seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put_extents(&mut block, extents, LEAF_EXTENTS);
    let end = EXTENT_BYTES * (LEAF_EXTENTS + 1);
    let sum = crc32c(inode_seed, &block[..end]);
    put32(&mut block, end, sum);
    block
}

/// A file's or directory's inode.
pub(super) struct Inode {
    pub(super) mode: u16,
    pub(super) links: u16,
    pub(super) bytes: u64,
    /// Blocks that it takes.
    pub(super) blocks: u64,
    pub(super) map: [u8; 60],
}

impl Inode {
    /// Writes it to its place in the first block of the first table.
    pub(super) fn encode(&self, table: &mut [u8], number: u32, made_s: u64, inode_seed: u32) {
        let at = (number as usize - 1) * INODE_BYTES as usize;
        let inode = &mut table[at..at + INODE_BYTES as usize];
        let (low, high) = halves(self.bytes);
        let (seconds, epoch) = time(made_s);
        put16(inode, 0x00, self.mode);
        put32(inode, 0x04, low);
        for moment in [0x08, 0x0C, 0x10, 0x90] {
            put32(inode, moment, seconds);
        }
        for extra in [0x84, 0x88, 0x8C, 0x94] {
            put32(inode, extra, epoch);
        }
        put16(inode, 0x1A, self.links);
        // In sectors of 512 bytes.
        put32(inode, 0x1C, (self.blocks * BLOCK_BYTES / 512) as u32);
        put32(inode, 0x20, USES_EXTENTS);
        inode[0x28..0x28 + 60].copy_from_slice(&self.map);
        put32(inode, 0x6C, high);
        put16(inode, 0x80, EXTRA_BYTES);
        let sum = crc32c(inode_seed, inode);
        put16(inode, 0x7C, sum as u16);
        put16(inode, 0x82, (sum >> 16) as u16);
    }
}

/// Seconds in 32 bits that have a sign, and how often they went round (the two lowest bits of the extra field).
fn time(seconds: u64) -> (u32, u32) {
    let low = seconds as u32;
    let signed = i64::from(low as i32);
    (low, ((seconds as i64 - signed) >> 32) as u32 & 3)
}

fn put_entry(to: &mut [u8], inode: u32, length: usize, name: &[u8]) {
    put32(to, 0, inode);
    put16(to, 4, length as u16);
    to[6] = name.len() as u8;
    if inode > 0 {
        to[7] = KIND_DIRECTORY;
    }
    to[8..8 + name.len()].copy_from_slice(name);
}

fn close_directory(mut block: Vec<u8>, inode_seed: u32) -> Vec<u8> {
    let end = BLOCK - TAIL_BYTES;
    let sum = crc32c(inode_seed, &block[..end]);
    let tail = &mut block[end..];
    put16(tail, 4, TAIL_BYTES as u16);
    tail[7] = TAIL_KIND;
    put32(tail, 8, sum);
    block
}

/// The block of a directory with these directories in it.
pub(super) fn directory<'n>(own: u32, parent: u32, within: impl IntoIterator<Item = (u32, &'n [u8])>, inode_seed: u32) -> Vec<u8> {
    let entries: Vec<(u32, &[u8])> = [(own, &b"."[..]), (parent, &b".."[..])].into_iter().chain(within).collect();
    let (mut block, mut at) = (vec![0; BLOCK], 0);
    for (place, (inode, name)) in entries.iter().enumerate() {
        let least = (8 + name.len()).next_multiple_of(4);
        // The last one takes what is left.
        let length = if place + 1 == entries.len() { BLOCK - TAIL_BYTES - at } else { least };
        put_entry(&mut block[at..], *inode, length, name);
        at += length;
    }
    close_directory(block, inode_seed)
}

/// A further block of a directory, with room and nothing else.
pub(super) fn empty_directory_block(inode_seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put_entry(&mut block, 0, BLOCK - TAIL_BYTES, b"");
    close_directory(block, inode_seed)
}

/// The first block of a journal in which nothing is.
pub(super) fn journal_superblock(blocks: u64, uuid: &[u8; 16]) -> Vec<u8> {
    const MAGIC: u32 = 0xC03B_3998;
    const SUPERBLOCK_V2: u32 = 4;
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, value: u32| block[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0x00, MAGIC);
    put(0x04, SUPERBLOCK_V2);
    put(0x0C, BLOCK_BYTES as u32);
    put(0x10, blocks as u32);
    // The first block of the log, and the first transaction that is to come.
    put(0x14, 1);
    put(0x18, 1);
    put(0x40, 1);
    block[0x30..0x40].copy_from_slice(uuid);
    block
}

/// What is known of a group.
pub(super) struct Descriptor {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
    pub(super) directories: u64,
    /// Sums of the bitmaps; one that was not written has none.
    pub(super) block_sum: Option<u32>,
    pub(super) inode_sum: Option<u32>,
}

impl Descriptor {
    pub(super) fn encode(&self, group: u64, seed: u32) -> [u8; DESCRIPTOR_BYTES as usize] {
        const INODES_NOT_BEGUN: u16 = 0x1;
        const TABLE_ZEROED: u16 = 0x4;
        let mut bytes = [0; DESCRIPTOR_BYTES as usize];
        for (at, value) in [(0x00, self.block_bitmap), (0x04, self.inode_bitmap), (0x08, self.inode_table)] {
            let (low, high) = halves(value);
            put32(&mut bytes, at, low);
            put32(&mut bytes, at + 0x20, high);
        }
        // Each is at most a group's, which 16 bits hold; behind the last used one no inode was ever used.
        for (at, value) in [(0x0C, self.free_blocks), (0x0E, self.free_inodes), (0x10, self.directories), (0x1C, self.free_inodes)] {
            put16(&mut bytes, at, value as u16);
        }
        let inodes = if self.inode_sum.is_none() { INODES_NOT_BEGUN } else { 0 };
        let blocks = if self.block_sum.is_none() { BLOCKS_NOT_BEGUN } else { 0 };
        put16(&mut bytes, 0x12, inodes | blocks | TABLE_ZEROED);
        for (at, sum) in [(0x18, self.block_sum), (0x1A, self.inode_sum)] {
            let sum = sum.unwrap_or_default();
            put16(&mut bytes, at, sum as u16);
            put16(&mut bytes, at + 0x20, (sum >> 16) as u16);
        }
        seal(&mut bytes, group, seed);
        bytes
    }
}

/// The flag of a group whose bitmap of blocks follows from where its tables are.
pub(super) const BLOCKS_NOT_BEGUN: u16 = 0x2;

/// Puts a descriptor's own sum into it.
pub(super) fn seal(descriptor: &mut [u8], group: u64, seed: u32) {
    put16(descriptor, 0x1E, 0);
    let sum = crc32c(crc32c(seed, &(group as u32).to_le_bytes()), descriptor);
    put16(descriptor, 0x1E, sum as u16);
}

/// Puts a superblock's own sum into it.
pub(super) fn seal_superblock(bytes: &mut [u8]) {
    let sum = crc32c(!0, &bytes[..SUPERBLOCK_BYTES - 4]);
    put32(bytes, SUPERBLOCK_BYTES - 4, sum);
}

/// The file system's own numbers.
pub(super) struct Superblock<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) identity: &'a Identity,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
    pub(super) journal: Option<Inode>,
}

impl Superblock<'_> {
    /// The block with it in a group.
    pub(super) fn block(&self, group: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        let at = if group == 0 { SUPERBLOCK_AT } else { 0 };
        let bytes = &mut block[at..at + SUPERBLOCK_BYTES];
        self.counts(bytes);
        self.properties(bytes);
        put16(bytes, 0x5A, group as u16);
        if let Some(journal) = &self.journal {
            // A copy, for e2fsck to find the journal when its inode is damaged.
            put32(bytes, 0xE0, JOURNAL);
            bytes[0xFD] = 1;
            bytes[0x10C..0x10C + 60].copy_from_slice(&journal.map);
            let (low, high) = halves(journal.bytes);
            put32(bytes, 0x148, high);
            put32(bytes, 0x14C, low);
        }
        seal_superblock(bytes);
        block
    }

    fn counts(&self, bytes: &mut [u8]) {
        let geometry = self.geometry;
        for (low_at, high_at, value) in [(0x04, 0x150, geometry.blocks), (0x0C, 0x158, self.free_blocks)] {
            let (low, high) = halves(value);
            put32(bytes, low_at, low);
            put32(bytes, high_at, high);
        }
        put32(bytes, 0x00, geometry.inodes() as u32);
        put32(bytes, 0x10, self.free_inodes as u32);
        // Blocks have 1024 bytes shifted by so much, and clusters are blocks.
        put32(bytes, 0x18, 2);
        put32(bytes, 0x1C, 2);
        put32(bytes, 0x20, BLOCKS_PER_GROUP as u32);
        put32(bytes, 0x24, BLOCKS_PER_GROUP as u32);
        put32(bytes, 0x28, geometry.inodes_per_group as u32);
    }

    fn properties(&self, bytes: &mut [u8]) {
        const MAGIC: u16 = 0xEF53;
        const CLEAN: u16 = 1;
        const READ_ONLY_ON_ERRORS: u16 = 2;
        const NEVER: u16 = 0xFFFF;
        const HALF_MD4: u8 = 1;
        const CRC32C: u8 = 1;
        const USER_XATTR_AND_ACL: u32 = 0xC;
        const SIGNED_HASH: u32 = 1;
        let (made, _) = halves(self.identity.made_s);
        for moment in [0x30, 0x40, 0x108] {
            put32(bytes, moment, made);
        }
        put16(bytes, 0x36, NEVER);
        put16(bytes, 0x38, MAGIC);
        put16(bytes, 0x3A, CLEAN);
        put16(bytes, 0x3C, READ_ONLY_ON_ERRORS);
        // The revision that has what follows.
        put32(bytes, 0x4C, 1);
        put32(bytes, 0x54, LOST_FOUND);
        put16(bytes, 0x58, INODE_BYTES as u16);
        let journal = if self.journal.is_some() { 0 } else { feature::HAS_JOURNAL };
        put32(bytes, 0x5C, COMPATIBLE & !journal);
        put32(bytes, 0x60, INCOMPATIBLE);
        put32(bytes, 0x64, READ_ONLY_COMPATIBLE);
        bytes[0x68..0x78].copy_from_slice(&self.identity.uuid);
        bytes[0xEC..0xFC].copy_from_slice(&self.identity.hash_seed);
        bytes[0xFC] = HALF_MD4;
        put16(bytes, 0xFE, DESCRIPTOR_BYTES as u16);
        put32(bytes, 0x100, USER_XATTR_AND_ACL);
        put16(bytes, 0x15C, EXTRA_BYTES);
        put16(bytes, 0x15E, EXTRA_BYTES);
        put32(bytes, 0x160, SIGNED_HASH);
        bytes[0x174] = GROUPS_PER_FLEX.ilog2() as u8;
        bytes[0x175] = CRC32C;
    }
}
