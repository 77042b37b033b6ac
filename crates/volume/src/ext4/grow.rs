//! Growing a file system that is not mounted.
//!
//! The kernel grows one that is mounted, but only for who has `CAP_SYS_RESOURCE`, which root in a container often lacks. This needs
//! no right at all: the blocks that change are computed ([`plan`]), and whoever has the file writes them down, then to their
//! places, so that a crash leaves the one or the other. They are few: new groups are marked as not begun, like those of a new
//! file system, and have their bitmaps and tables within themselves.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};

use super::checksum::crc32c;
use super::geometry::{BLOCK_BYTES, BLOCKS_PER_GROUP, DESCRIPTOR_BYTES, GROUPS_PER_META, Geometry, has_superblock};
use super::records::{self, BLOCKS_NOT_BEGUN, Descriptor, SUPERBLOCK_AT, SUPERBLOCK_BYTES, halves, put16, put32};

const BLOCK: usize = BLOCK_BYTES as usize;

/// How a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was unmounted, and has so many blocks.
    Clean(u64),
    /// Its journal is to be replayed: it has been mounted, or is. It has so many blocks, or more by what is in the journal.
    Unfinished(u64),
    /// The kernel noted errors.
    Damaged,
    /// It is none, or none of those that are made here.
    Unknown,
}

/// Blocks that change, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes(BTreeMap<u64, Vec<u8>>);

impl Changes {
    /// Writes them to their places.
    ///
    /// # Errors
    /// What is written to fails.
    pub fn apply(&self, to: &mut (impl Write + Seek)) -> io::Result<()> {
        // The superblock, which is in the first block, last.
        for (block, bytes) in self.0.iter().rev() {
            to.seek(SeekFrom::Start(block * BLOCK_BYTES))?;
            to.write_all(bytes)?;
        }
        to.flush()
    }
}

fn read_block(from: &mut (impl Read + Seek), block: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; BLOCK];
    from.seek(SeekFrom::Start(block * BLOCK_BYTES))?;
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn get64(bytes: &[u8], low_at: usize, high_at: usize) -> u64 {
    u64::from(get32(bytes, low_at)) | u64::from(get32(bytes, high_at)) << 32
}

fn judge(superblock: &[u8]) -> State {
    const CLEAN: u16 = 1;
    const ERRORS: u16 = 2;
    const META_BG: u32 = 0x10;
    const NEEDS_RECOVERY: u32 = 0x4;
    let incompatible = get32(superblock, 0x60);
    let sum = crc32c(!0, &superblock[..SUPERBLOCK_BYTES - 4]);
    if get16(superblock, 0x38) != 0xEF53 || sum != get32(superblock, SUPERBLOCK_BYTES - 4) || incompatible & META_BG == 0 || get32(superblock, 0x104) != 0 {
        return State::Unknown;
    }
    let blocks = get64(superblock, 0x04, 0x150);
    match get16(superblock, 0x3A) {
        state if state & ERRORS != 0 => State::Damaged,
        state if state & CLEAN == 0 || incompatible & NEEDS_RECOVERY != 0 => State::Unfinished(blocks),
        _ => State::Clean(blocks),
    }
}

/// How a file system is that is not mounted.
///
/// # Errors
/// It cannot be read.
pub fn state(from: &mut (impl Read + Seek)) -> io::Result<State> {
    Ok(judge(&read_block(from, 0)?[SUPERBLOCK_AT..SUPERBLOCK_AT + SUPERBLOCK_BYTES]))
}

/// What changes when one that is [`State::Clean`] is to be of this geometry. Nothing where it has as many blocks, or where it is not
/// clean. The file has its new size already, with zeros at the end.
///
/// # Errors
/// It cannot be read, or does not fit.
pub fn plan(from: &mut (impl Read + Seek), to: &Geometry) -> io::Result<Changes> {
    let first = read_block(from, 0)?;
    let superblock = &first[SUPERBLOCK_AT..SUPERBLOCK_AT + SUPERBLOCK_BYTES];
    let State::Clean(blocks) = judge(superblock) else { return Ok(Changes::default()) };
    if blocks >= to.blocks {
        return Ok(Changes::default());
    }
    if u64::from(get32(superblock, 0x28)) != to.inodes_per_group {
        return Err(io::Error::other("the file system is of another make"));
    }
    let seed = crc32c(!0, &superblock[0x68..0x78]);
    let growth = Growth { old: Geometry { blocks, ..*to }, new: to, seed };
    let mut changes = Changes::default();
    let added = growth.descriptors(from, &mut changes)?;
    growth.superblocks(first, added, &mut changes);
    Ok(changes)
}

struct Growth<'a> {
    old: Geometry,
    new: &'a Geometry,
    seed: u32,
}

impl Growth<'_> {
    /// Descriptors of the last group there was, if it has more blocks now, and of those after it; answers how many blocks became
    /// free.
    fn descriptors(&self, from: &mut (impl Read + Seek), changes: &mut Changes) -> io::Result<u64> {
        let (last, mut free) = (self.old.groups() - 1, 0);
        for meta in last / GROUPS_PER_META..self.new.groups().div_ceil(GROUPS_PER_META) {
            let first = meta * GROUPS_PER_META;
            let groups = first..(first + GROUPS_PER_META).min(self.new.groups());
            let primary = self.new.descriptors_at(first).unwrap_or_default();
            let mut block = if first <= last { read_block(from, primary)? } else { vec![0; BLOCK] };
            for (group, place) in groups.clone().zip(block.chunks_exact_mut(DESCRIPTOR_BYTES as usize)) {
                free += match group.cmp(&last) {
                    std::cmp::Ordering::Less => 0,
                    std::cmp::Ordering::Equal => self.lengthen(group, place, from, changes)?,
                    std::cmp::Ordering::Greater => self.begin(group, place, changes),
                };
            }
            for at in groups.filter_map(|group| self.new.descriptors_at(group)) {
                changes.0.insert(at, block.clone());
            }
        }
        Ok(free)
    }

    fn lengthen(&self, group: u64, descriptor: &mut [u8], from: &mut (impl Read + Seek), changes: &mut Changes) -> io::Result<u64> {
        let (had, has) = (self.old.blocks_of(group), self.new.blocks_of(group));
        if get16(descriptor, 0x12) & BLOCKS_NOT_BEGUN == 0 {
            let at = get64(descriptor, 0x00, 0x20);
            let mut bitmap = read_block(from, at)?;
            for bit in had..has {
                bitmap[(bit / 8) as usize] &= !(1 << (bit % 8));
            }
            let sum = crc32c(self.seed, &bitmap);
            put16(descriptor, 0x18, sum as u16);
            put16(descriptor, 0x38, (sum >> 16) as u16);
            changes.0.insert(at, bitmap);
        }
        let free = u64::from(get16(descriptor, 0x0C)) + has - had;
        put16(descriptor, 0x0C, free as u16);
        records::seal(descriptor, group, self.seed);
        Ok(has - had)
    }

    fn begin(&self, group: u64, place: &mut [u8], changes: &mut Changes) -> u64 {
        let (head, blocks) = (self.new.head(group), self.new.blocks_of(group));
        let used = head + 2 + self.new.table_blocks();
        let start = self.new.first_block(group) + head;
        let mut descriptor = Descriptor {
            block_bitmap: start,
            inode_bitmap: start + 1,
            inode_table: start + 2,
            free_blocks: blocks - used,
            free_inodes: self.new.inodes_per_group,
            directories: 0,
            block_sum: None,
            inode_sum: None,
        };
        if group + 1 == self.new.groups() {
            let bitmap = records::bitmap(used, blocks, BLOCKS_PER_GROUP);
            descriptor.block_sum = Some(crc32c(self.seed, &bitmap));
            changes.0.insert(start, bitmap);
        }
        place.copy_from_slice(&descriptor.encode(group, self.seed));
        blocks - used
    }

    fn superblocks(&self, mut first: Vec<u8>, added: u64, changes: &mut Changes) {
        let inodes = (self.new.groups() - self.old.groups()) * self.new.inodes_per_group;
        let superblock = &mut first[SUPERBLOCK_AT..SUPERBLOCK_AT + SUPERBLOCK_BYTES];
        let free = get64(superblock, 0x0C, 0x158) + added;
        for (low_at, high_at, value) in [(0x04, 0x150, self.new.blocks), (0x0C, 0x158, free)] {
            let (low, high) = halves(value);
            put32(superblock, low_at, low);
            put32(superblock, high_at, high);
        }
        let free_inodes = u64::from(get32(superblock, 0x10)) + inodes;
        put32(superblock, 0x00, self.new.inodes() as u32);
        put32(superblock, 0x10, free_inodes as u32);
        // What the kernel noted of blocks that are not for files: it counts them anew.
        put32(superblock, 0x248, 0);
        for group in (1..self.new.groups()).filter(|group| has_superblock(*group)) {
            let mut copy = superblock.to_vec();
            put16(&mut copy, 0x5A, group as u16);
            records::seal_superblock(&mut copy);
            copy.resize(BLOCK, 0);
            changes.0.insert(self.new.first_block(group), copy);
        }
        records::seal_superblock(superblock);
        changes.0.insert(0, first);
    }
}
