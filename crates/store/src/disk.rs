//! The embedded store's disk: an LSM tree (fjall) with one keyspace. Everything is read once, at the start; from then
//! on the disk is only written.
//!
//! A value is the create revision, the revision and the place of the resourceVersion (all little endian), then the
//! JSON. Each batch also writes the revision that it ends at, so that a restart knows it even if the last change was
//! a removal.

use crate::{entry::Entry, memory::Memory};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// The key of the newest revision; objects' keys begin with a slash.
const REVISION_KEY: &str = "revision";
/// Bytes before the JSON.
const HEAD: usize = 20;
/// Reads happen at the start only, so a block cache has no use.
const CACHE_BYTES: u64 = 1 << 20;
/// What is not yet in a table lies in memory a second time, so this is small.
const MEMTABLE_BYTES: u64 = 4 << 20;
/// The least that the engine allows. The journal's file is sparse until it is written.
const JOURNAL_BYTES: u64 = 64 << 20;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store in {0} is in use by another process: stop that one first, or choose another data directory")]
    Locked(PathBuf),
    /// The disk refused.
    #[error("the store in {path} cannot be opened: {source}")]
    Io {
        /// The store's directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What lies there is not a store, or not a whole one.
    #[error("the store in {path} is damaged ({what}): put a copy in its place, or move it away to start with an empty cluster")]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What was found.
        what: String,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        OpenError::Io { path: path.to_owned(), source }
    }

    fn of(path: &Path, error: fjall::Error) -> Self {
        let path = path.to_owned();
        match error {
            fjall::Error::Locked => OpenError::Locked(path),
            fjall::Error::Io(source) => OpenError::Io { path, source },
            other => OpenError::Damaged { path, what: other.to_string() },
        }
    }
}

/// One change for the disk.
pub(crate) struct Change<'a> {
    pub(crate) key: &'a str,
    /// The new state; `None` removes.
    pub(crate) entry: Option<&'a Entry>,
}

pub(crate) struct Disk {
    directory: PathBuf,
    /// `None` after an error, until the engine could be opened again: it accepts nothing after a failed write.
    open: Option<(Database, Keyspace)>,
}

impl Disk {
    /// Opens the store and loads its objects into memory.
    pub(crate) fn open(directory: &Path, memory: &Memory) -> Result<Disk, OpenError> {
        std::fs::create_dir_all(directory).map_err(|e| OpenError::io(directory, e))?;
        let (database, keyspace) = open(directory).map_err(|e| OpenError::of(directory, e))?;
        let revision = revision(&keyspace).map_err(|e| OpenError::of(directory, e))?;
        let mut entries = Vec::new();
        // All keys that begin with a slash: the next character is `0`.
        for guard in keyspace.range("/".."0") {
            let (key, value) = guard.into_inner().map_err(|e| OpenError::of(directory, e))?;
            let entry = decode(&key, &value, memory).ok_or_else(|| OpenError::Damaged {
                path: directory.into(),
                what: format!("the object at {} cannot be read", String::from_utf8_lossy(&key)),
            })?;
            entries.push(entry);
        }
        let newest = entries.iter().map(|e| e.revision).max().unwrap_or(0);
        if newest > revision {
            let what = format!("an object has revision {newest}, the newest should be {revision}");
            return Err(OpenError::Damaged { path: directory.into(), what });
        }
        memory.load(revision, entries.into_iter());
        Ok(Disk { directory: directory.into(), open: Some((database, keyspace)) })
    }

    /// Writes changes that end at a revision, all or none, and returns when they are durable.
    pub(crate) fn write(&mut self, revision: u64, changes: &[Change<'_>]) -> Result<(), String> {
        let (database, keyspace) = self.open.as_ref().ok_or("the store is not open")?;
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for change in changes {
            match change.entry {
                Some(entry) => batch.insert(keyspace, change.key, encode(entry)),
                None => batch.remove(keyspace, change.key),
            }
        }
        batch.insert(keyspace, REVISION_KEY, revision.to_le_bytes());
        batch.commit().map_err(|error| {
            let text = describe(&error);
            tracing::error!(directory = %self.directory.display(), error = %text, "the store cannot write; it is opened anew at the next write");
            self.open = None;
            text
        })
    }

    /// Opens the engine again after an error; returns the revision that is on disk.
    pub(crate) fn reopen(&mut self) -> Result<u64, String> {
        if self.open.is_none() {
            self.open = Some(open(&self.directory).map_err(|e| describe(&e))?);
        }
        let (_, keyspace) = self.open.as_ref().ok_or("the store is not open")?;
        revision(keyspace).map_err(|e| describe(&e))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

fn open(directory: &Path) -> fjall::Result<(Database, Keyspace)> {
    let database = Database::builder(directory).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).worker_threads(1).open()?;
    let keyspace = database.keyspace("objects", || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))?;
    Ok((database, keyspace))
}

fn revision(keyspace: &Keyspace) -> fjall::Result<u64> {
    let bytes = keyspace.get(REVISION_KEY)?;
    Ok(bytes.and_then(|b| Some(u64::from_le_bytes(b.as_ref().try_into().ok()?))).unwrap_or(0))
}

/// The system's words where there are some: `No space left on device` says more than the engine's wrapping.
fn describe(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + entry.json.len());
    out.extend_from_slice(&entry.create_revision.to_le_bytes());
    out.extend_from_slice(&entry.revision.to_le_bytes());
    out.extend_from_slice(&u32::try_from(entry.hole).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&entry.json);
    out
}

fn decode(key: &[u8], value: &[u8], memory: &Memory) -> Option<Entry> {
    let number = |from: usize| Some(u64::from_le_bytes(value.get(from..from + 8)?.try_into().ok()?));
    let (create_revision, revision) = (number(0)?, number(8)?);
    let hole = u32::from_le_bytes(value.get(16..HEAD)?.try_into().ok()?) as usize;
    let json = value.get(HEAD..)?;
    let digits = json.get(hole..hole + crate::entry::decimal_len(revision))?;
    if digits != revision.to_string().as_bytes() {
        return None;
    }
    let key = std::str::from_utf8(key).ok()?;
    Some(Entry::stored(key.into(), create_revision, revision, hole, Bytes::copy_from_slice(json), Arc::clone(&memory.decoded)))
}
