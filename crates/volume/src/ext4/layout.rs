//! What is written where: the superblock and its copies, descriptors, bitmaps, the first inodes with their directories, and the
//! journal.

use std::io;

use super::Identity;
use super::checksum::crc32c;
use super::geometry::{BLOCK_BYTES, BLOCKS_PER_GROUP, DESCRIPTOR_BYTES, GROUPS_PER_META, Geometry, has_superblock};
use super::records::{self, Descriptor, Extent, Inode, Superblock};

pub(super) const ROOT: u32 = 2;
pub(super) const JOURNAL: u32 = 8;
/// The first that is not reserved: where e2fsck puts what it finds.
pub(super) const LOST_FOUND: u32 = 11;
/// The directory that was asked for.
pub(super) const DIRECTORY: u32 = 12;
/// As mke2fs makes it, so that e2fsck need not look for room.
const LOST_FOUND_BLOCKS: u64 = 4;

/// Takes a block's bytes.
type Put<'p> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'p;

/// A file system that is to be written.
pub(super) struct Layout<'a> {
    geometry: &'a Geometry,
    identity: &'a Identity,
    /// What all sums of metadata begin with.
    seed: u32,
    root: u64,
    lost_found: u64,
    directory: Option<u64>,
    journal: Vec<Extent>,
    /// The block of the journal's extents, where its inode has no room for them.
    journal_leaf: Option<u64>,
    /// Up to where blocks are taken.
    end: Cursor,
}

/// Gives blocks in their order, without those that groups begin with.
#[derive(Clone, Copy)]
struct Cursor {
    group: u64,
    /// Within the group.
    next: u64,
}

impl Cursor {
    fn new(geometry: &Geometry) -> Self {
        Self { group: 0, next: geometry.taken(0) }
    }

    /// The next blocks that lie side by side in one group, at most so many.
    fn run(&mut self, geometry: &Geometry, most: u64) -> (u64, u64) {
        while self.next >= geometry.blocks_of(self.group) {
            self.group += 1;
            self.next = geometry.taken(self.group);
        }
        let length = most.min(geometry.blocks_of(self.group) - self.next);
        let start = geometry.first_block(self.group) + self.next;
        self.next += length;
        (start, length)
    }

    /// The next that lie side by side, wherever: few, of which a group that is not full has as many.
    fn blocks(&mut self, geometry: &Geometry, count: u64) -> u64 {
        loop {
            let (start, length) = self.run(geometry, count);
            if length == count {
                return start;
            }
        }
    }
}

impl<'a> Layout<'a> {
    pub(super) fn new(geometry: &'a Geometry, identity: &'a Identity) -> Self {
        let mut cursor = Cursor::new(geometry);
        let root = cursor.blocks(geometry, 1);
        let lost_found = cursor.blocks(geometry, LOST_FOUND_BLOCKS);
        let directory = (!identity.directory.is_empty()).then(|| cursor.blocks(geometry, 1));
        let mut journal = Vec::new();
        let (mut begun, mut leaf, mut logical) = (cursor, None, 0);
        while logical < geometry.journal_blocks {
            let (start, length) = cursor.run(geometry, geometry.journal_blocks - logical);
            journal.push(Extent { logical, start, length });
            logical += length;
            if journal.len() > records::INODE_EXTENTS && leaf.is_none() {
                // Begin again, with a block for the extents before it.
                leaf = Some(begun.blocks(geometry, 1));
                cursor = begun;
                journal.clear();
                logical = 0;
            }
        }
        let seed = crc32c(!0, &identity.uuid);
        Self { geometry, identity, seed, root, lost_found, directory, journal, journal_leaf: leaf, end: cursor }
    }

    pub(super) fn write(&self, put: &mut Put<'_>) -> io::Result<()> {
        self.write_directories(put)?;
        self.write_journal(put)?;
        self.write_inodes(put)?;
        let mut free = 0;
        for meta in 0..self.geometry.groups().div_ceil(GROUPS_PER_META) {
            free += self.write_descriptors(meta, put)?;
        }
        self.write_superblocks(free, put)
    }

    /// Blocks at the begin of a group that are taken.
    pub(super) fn used(&self, group: u64) -> u64 {
        match group.cmp(&self.end.group) {
            std::cmp::Ordering::Less => self.geometry.blocks_of(group),
            std::cmp::Ordering::Equal => self.end.next,
            std::cmp::Ordering::Greater => self.geometry.taken(group),
        }
    }

    fn last_inode(&self) -> u32 {
        if self.directory.is_some() { DIRECTORY } else { LOST_FOUND }
    }

    /// The sum with which an inode's own metadata begins. Generations are 0.
    fn inode_seed(&self, inode: u32) -> u32 {
        crc32c(crc32c(self.seed, &inode.to_le_bytes()), &[0; 4])
    }

    fn write_directories(&self, put: &mut Put<'_>) -> io::Result<()> {
        let own = self.directory.map(|_| (DIRECTORY, self.identity.directory.as_bytes()));
        let in_root = [(LOST_FOUND, &b"lost+found"[..])].into_iter().chain(own);
        put(self.root, &records::directory(ROOT, ROOT, in_root, self.inode_seed(ROOT)))?;
        let none = || std::iter::empty::<(u32, &[u8])>();
        put(self.lost_found, &records::directory(LOST_FOUND, ROOT, none(), self.inode_seed(LOST_FOUND)))?;
        for more in 1..LOST_FOUND_BLOCKS {
            put(self.lost_found + more, &records::empty_directory_block(self.inode_seed(LOST_FOUND)))?;
        }
        self.directory.map_or(Ok(()), |at| put(at, &records::directory(DIRECTORY, ROOT, none(), self.inode_seed(DIRECTORY))))
    }

    fn write_journal(&self, put: &mut Put<'_>) -> io::Result<()> {
        let Some(first) = self.journal.first() else { return Ok(()) };
        put(first.start, &records::journal_superblock(self.geometry.journal_blocks, &self.identity.uuid))?;
        self.journal_leaf.map_or(Ok(()), |at| put(at, &records::extent_leaf(&self.journal, self.inode_seed(JOURNAL))))
    }

    fn journal_inode(&self) -> Inode {
        let blocks = self.geometry.journal_blocks;
        let map = match self.journal_leaf {
            Some(leaf) => records::extent_root_of_leaf(leaf),
            None => records::extent_root(&self.journal),
        };
        let taken = blocks + u64::from(self.journal_leaf.is_some());
        Inode { mode: 0o100_600, links: 1, bytes: blocks * BLOCK_BYTES, blocks: taken, map }
    }

    /// All that are used lie in one block.
    fn write_inodes(&self, put: &mut Put<'_>) -> io::Result<()> {
        let directory = |mode: u16, links, at, count| {
            let map = records::extent_root(&[Extent { logical: 0, start: at, length: count }]);
            Inode { mode: 0o040_000 | mode, links, bytes: count * BLOCK_BYTES, blocks: count, map }
        };
        let mut block = vec![0; BLOCK_BYTES as usize];
        let mut set = |number: u32, inode: &Inode| inode.encode(&mut block, number, self.identity.made_s, self.inode_seed(number));
        set(ROOT, &directory(0o755, 3 + u16::from(self.directory.is_some()), self.root, 1));
        set(LOST_FOUND, &directory(0o700, 2, self.lost_found, LOST_FOUND_BLOCKS));
        if let Some(at) = self.directory {
            set(DIRECTORY, &directory(0o777, 2, at, 1));
        }
        if !self.journal.is_empty() {
            set(JOURNAL, &self.journal_inode());
        }
        let (.., table) = self.geometry.tables_at(0);
        put(table, &block)
    }

    /// Writes the descriptors of 64 groups, their copies, and the bitmaps that do not follow from them; answers how many blocks are
    /// free.
    fn write_descriptors(&self, meta: u64, put: &mut Put<'_>) -> io::Result<u64> {
        let first = meta * GROUPS_PER_META;
        let groups = first..(first + GROUPS_PER_META).min(self.geometry.groups());
        let (mut block, mut free) = (vec![0; BLOCK_BYTES as usize], 0);
        for (group, place) in groups.clone().zip(block.chunks_exact_mut(DESCRIPTOR_BYTES as usize)) {
            let descriptor = self.describe(group, put)?;
            free += descriptor.free_blocks;
            place.copy_from_slice(&descriptor.encode(group, self.seed));
        }
        for at in groups.filter_map(|group| self.geometry.descriptors_at(group)) {
            put(at, &block)?;
        }
        Ok(free)
    }

    fn describe(&self, group: u64, put: &mut Put<'_>) -> io::Result<Descriptor> {
        let geometry = self.geometry;
        let (block_bitmap, inode_bitmap, inode_table) = geometry.tables_at(group);
        let (blocks, used) = (geometry.blocks_of(group), self.used(group));
        let inodes_used = if group == 0 { u64::from(self.last_inode()) } else { 0 };
        let directories = if group == 0 { u64::from(self.last_inode() - LOST_FOUND) + 2 } else { 0 };
        let mut descriptor = Descriptor {
            block_bitmap,
            inode_bitmap,
            inode_table,
            free_blocks: blocks - used,
            free_inodes: geometry.inodes_per_group - inodes_used,
            directories,
            block_sum: None,
            inode_sum: None,
        };
        // What lies in a group that is not begun is what it begins with, and the last one's end is in its bitmap.
        if used > geometry.head(group) || group + 1 == geometry.groups() {
            let bitmap = records::bitmap(used, blocks, BLOCKS_PER_GROUP);
            descriptor.block_sum = Some(crc32c(self.seed, &bitmap));
            put(block_bitmap, &bitmap)?;
        }
        if inodes_used > 0 {
            let bitmap = records::bitmap(inodes_used, geometry.inodes_per_group, BLOCKS_PER_GROUP);
            descriptor.inode_sum = Some(crc32c(self.seed, &bitmap[..(geometry.inodes_per_group / 8) as usize]));
            put(inode_bitmap, &bitmap)?;
        }
        Ok(descriptor)
    }

    fn write_superblocks(&self, free_blocks: u64, put: &mut Put<'_>) -> io::Result<()> {
        let geometry = self.geometry;
        let superblock = Superblock {
            geometry,
            identity: self.identity,
            free_blocks,
            free_inodes: geometry.inodes() - u64::from(self.last_inode()),
            journal: (!self.journal.is_empty()).then(|| self.journal_inode()),
        };
        // The first last: until it is there, there is no file system.
        for group in (0..geometry.groups()).rev().filter(|group| has_superblock(*group)) {
            put(geometry.first_block(group), &superblock.block(group))?;
        }
        Ok(())
    }
}
