//! Room on the disk that is the store's whatever others do: a file whose blocks are there before they are needed.
//!
//! A pod's writable layer, its volumes and its logs lie where the store does, and until the kubelet has evicted a pod that fills the disk
//! the API must take writes (its eviction is some of them). Room that is given back to the file system is taken first by who fills it, so
//! none is given back: batches that the engine has no room for are appended to this file, and brought into the engine when there is room
//! again. Meanwhile the engine is closed; readers never notice, since they read memory.
//!
//! A record tells the revision before its batch, and counts only behind one that ends there. So what an earlier shortage left in the file is
//! known by its revisions, and so is a batch that the engine has after all: whichever of the two steps a crash comes between, each change is
//! there once. A record is durable before its writers are answered. On a file system that writes nothing in place (btrfs without its
//! preallocation, ZFS) the room is not certain; where blocks cannot be had beforehand there is no reserve, which is told.
//!
//! No health check tells of it: upstream's asks whether etcd can be read, and etcd without room can. `/metrics` and the log do.

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
};
use std::{
    fs::{File, OpenOptions},
    hash::Hasher as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use xxhash_rust::xxh3::Xxh3;

/// The file's name in the store's directory.
pub(crate) const FILE: &str = "reserve";
/// Some thousand writes of some kilobytes: what evicting a node's pods takes, several times.
pub(crate) const BYTES: u64 = 32 << 20;
/// The reserve is made, and left, when so much is free besides: a table and a journal of the engine's have room then.
pub(crate) const ROOM_BYTES: u64 = 32 << 20;
/// What is small: an eviction, a status, a lease.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Checksum, and the length of what follows.
const HEAD: usize = 16;
/// Revision before, revision after, digest, number of changes.
const FIXED: usize = 28;
/// The length of a removed key's value.
const REMOVED: u32 = u32::MAX;

/// How much of a store's reserve there is, for whoever asks.
#[derive(Debug, Default)]
pub struct Gauge {
    bytes: AtomicU64,
    used_bytes: AtomicU64,
}

impl Gauge {
    /// What can be written when the disk is full; zero while there is no reserve.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What was written since the disk is full; zero while it is not.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

/// One batch as it stands in the reserve.
pub(crate) struct Record {
    /// The revision before it.
    pub(crate) base: u64,
    pub(crate) revision: u64,
    /// Of all objects after it.
    pub(crate) digest: u64,
    /// Keys with their values; `None` removes.
    pub(crate) changes: Vec<(String, Option<Vec<u8>>)>,
}

/// Why a batch is not in the reserve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the reserve has no room for it")]
    Full,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

pub(crate) struct Reserve {
    file: File,
    /// Where the next record goes; zero if the reserve is not in use.
    at: u64,
    /// The file system cannot give blocks beforehand, which was told.
    without: bool,
    gauge: Arc<Gauge>,
}

impl Reserve {
    /// Opens the reserve of a directory, and has its blocks if there is room for them. What is in it is [`Reserve::records`].
    pub(crate) fn open(directory: &Path, gauge: Arc<Gauge>) -> std::io::Result<Reserve> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(FILE))?;
        // Its name is to be there after a loss of power, as what will be acknowledged in it.
        File::open(directory)?.sync_all()?;
        let mut reserve = Reserve { file, at: 0, without: false, gauge };
        reserve.make();
        Ok(reserve)
    }

    /// Where the last batch ends that was told.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.at
    }

    /// Whether batches go here.
    pub(crate) fn in_use(&self) -> bool {
        self.at > 0
    }

    /// Whether it has all its blocks, or never will.
    pub(crate) fn is_made(&self) -> bool {
        self.without || self.gauge.bytes() == BYTES
    }

    /// Has the blocks, if they were had before or there is room for them. That takes nothing when they are there.
    pub(crate) fn make(&mut self) {
        let had = self.file.metadata().map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta).saturating_mul(512));
        if had < BYTES && self.free() < BYTES + ROOM_BYTES {
            return;
        }
        let length = i64::try_from(BYTES).unwrap_or(i64::MAX);
        match fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Ok(()) => self.gauge.bytes.store(BYTES, Ordering::Relaxed),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.without = true;
                tracing::warn!("the file system of the store gives no room beforehand: when it is full, nothing can be written");
            }
            Err(error) => tracing::warn!(%error, "the store's reserve cannot be made; it is tried again"),
        }
    }

    /// What is free on the file system, for this process.
    pub(crate) fn free(&self) -> u64 {
        // What only root may use counts: the store is root's.
        fstatvfs(&self.file).map_or(0, |all| all.blocks_free() * all.fragment_size())
    }

    /// Appends a batch, and returns when it is durable.
    pub(crate) fn append<'a>(
        &mut self,
        (base, revision, digest): (u64, u64, u64),
        changes: impl ExactSizeIterator<Item = (&'a str, Option<Vec<u8>>)>,
    ) -> Result<(), Refused> {
        let mut largest = 0;
        let bytes = encode((base, revision, digest), changes.inspect(|(_, value)| largest = largest.max(value.as_ref().map_or(0, Vec::len))));
        let end = self.at.saturating_add(bytes.len() as u64);
        // The last quarter is for small writes, however many come at once: the evictions that make room again.
        let kept = if largest > SMALL_BYTES_MAX { BYTES / 4 } else { 0 };
        if end > self.gauge.bytes().saturating_sub(kept) {
            return Err(Refused::Full);
        }
        self.file.write_all_at(&bytes, self.at)?;
        self.file.sync_data()?;
        self.take_up(end);
        Ok(())
    }

    /// Says that the reserve is in use up to a place.
    pub(crate) fn take_up(&mut self, end: u64) {
        self.at = end;
        self.gauge.used_bytes.store(end, Ordering::Relaxed);
    }

    /// What stands in the reserve, in order, each with the place where it ends.
    pub(crate) fn records(&self) -> Vec<(Record, u64)> {
        let mut out: Vec<(Record, u64)> = Vec::new();
        loop {
            let (at, last) = out.last().map_or((0, None), |(record, end)| (*end, Some(record.revision)));
            match self.record(at) {
                Some((record, end)) if last.is_none_or(|last| last == record.base) => out.push((record, end)),
                _ => return out,
            }
        }
    }

    fn record(&self, at: u64) -> Option<(Record, u64)> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, at).ok()?;
        let (sum, length) = head.split_at(8);
        let (sum, length) = (u64::from_le_bytes(sum.try_into().ok()?), u64::from_le_bytes(length.try_into().ok()?));
        if length < FIXED as u64 || length > BYTES {
            return None;
        }
        let mut body = vec![0; usize::try_from(length).ok()?];
        self.file.read_exact_at(&mut body, at + HEAD as u64).ok()?;
        if checksum(&body) != sum {
            return None;
        }
        Some((decode(&body)?, at + HEAD as u64 + length))
    }

    /// All of it is in the engine. The blocks stay; the first record is none any more, so that nobody reads the others.
    pub(crate) fn leave(&mut self) {
        self.take_up(0);
        if let Err(error) = self.file.write_all_at(&[0; HEAD], 0).and_then(|()| self.file.sync_data()) {
            // Their revisions say as well that they are in the engine.
            tracing::warn!(%error, "the store's reserve cannot be cleared");
        }
    }
}

fn checksum(body: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.write(body);
    sum.finish()
}

fn encode<'a>((base, revision, digest): (u64, u64, u64), changes: impl ExactSizeIterator<Item = (&'a str, Option<Vec<u8>>)>) -> Vec<u8> {
    let length_of = |length: usize| u32::try_from(length).unwrap_or(REMOVED).to_le_bytes();
    let mut out = vec![0; HEAD];
    for number in [base, revision, digest] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&length_of(changes.len()));
    for (key, value) in changes {
        out.extend_from_slice(&length_of(key.len()));
        out.extend_from_slice(&value.as_ref().map_or(REMOVED.to_le_bytes(), |value| length_of(value.len())));
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&value.unwrap_or_default());
    }
    let (head, body) = out.split_at_mut(HEAD);
    head[..8].copy_from_slice(&checksum(body).to_le_bytes());
    head[8..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    out
}

fn decode(body: &[u8]) -> Option<Record> {
    let mut rest = body;
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken)
    };
    let mut numbers = [0; 3];
    for number in &mut numbers {
        *number = u64::from_le_bytes(take(8)?.try_into().ok()?);
    }
    let count = u32::from_le_bytes(take(4)?.try_into().ok()?);
    let mut changes = Vec::new();
    for _ in 0..count {
        let key = u32::from_le_bytes(take(4)?.try_into().ok()?) as usize;
        let value = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let key = std::str::from_utf8(take(key)?).ok()?.to_owned();
        let value = if value == REMOVED { None } else { Some(take(value as usize)?.to_vec()) };
        changes.push((key, value));
    }
    let [base, revision, digest] = numbers;
    Some(Record { base, revision, digest, changes })
}
