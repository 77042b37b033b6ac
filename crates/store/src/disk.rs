//! The embedded store's disk: an LSM tree (fjall) with one keyspace. Everything is read once, at the start; from then
//! on the disk is only written.
//!
//! A value is the create revision, the revision and the place of the resourceVersion (all little endian), then the
//! JSON; the highest bit of the place says that its keys are in the original's order. Each batch also writes the revision
//! that it ends at, so that a restart knows it even if the last change was a removal, and a digest of what there is then.
//!
//! The engine cuts its journal silently where the structure of a record is damaged, and all that comes after is gone. So two
//! things are compared at the start: the digest with what was read (something in the middle is missing), and the last
//! revision with the one that was acknowledged last ([`Synced`]; the end is missing). What does not fit is told, and the
//! store opens without it only when it is told to; the journals as they were found are kept aside before that.
//!
//! A disk that others have filled is written on all the same: what the engine has no room for goes into the [`reserve`](crate::reserve), and
//! from there into the engine when there is room again.

use crate::{
    entry::{self, Entry},
    journal,
    memory::Memory,
    reserve::{self, Gauge, Refused, Reserve},
    synced::{self, Synced},
};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// The key of the newest revision; objects' keys begin with a slash.
const REVISION_KEY: &str = "revision";
/// The key of the digest of all objects at that revision.
const DIGEST_KEY: &str = "digest";
/// Says of the place of the resourceVersion that the object's keys are in the original's order.
const IN_ORDER: u32 = 1 << 31;
/// The file that the engine locks while it has the store open.
const LOCK: &str = "lock";
/// The file by which the engine knows a store; it is written last of what a store begins with, before anything can be put into it.
const MARKER: &str = "version";
/// What it says: three letters, and the number of the engine's format.
const MARKED: &[u8] = b"FJL\x03";
/// Where the engine has its tables.
const KEYSPACES: &str = "keyspaces";
/// Where the journals of a damaged store are kept as they were found.
const DAMAGED: &str = "damaged";
/// Bytes before the JSON.
const HEAD: usize = 20;
/// Reads happen at the start only, so a block cache has no use.
const CACHE_BYTES: u64 = 1 << 20;
/// What is not yet in a table lies in memory a second time, so this is small.
const MEMTABLE_BYTES: u64 = 4 << 20;
/// The least that the engine allows. The journal's file is sparse until it is written.
pub(crate) const JOURNAL_BYTES: u64 = 64 << 20;
/// What is as long as this is held where the engine has read it. It has a block of its own there, but for some thousand bytes; short objects
/// share one, and each would hold it for all.
const SHARED_BYTES_MIN: usize = 32 << 10;
/// How much of the reserve goes into the engine in one batch.
const RETURN_BYTES: usize = 4 << 20;
/// How often it is looked whether there is room again.
pub(crate) const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

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
    #[error(
        "the store in {path} is damaged: {what}. Put a copy in its place, move it away to start with an empty cluster, or start with \
         --accept-data-loss to go on with what is there"
    )]
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
            // That nothing can be written says nothing of what is there; a file that is missing does.
            fjall::Error::Storage(fjall::LsmError::Io(source)) if is_refused(&source) => OpenError::Io { path, source },
            other => OpenError::Damaged { path, what: other.to_string() },
        }
    }
}

/// Whether the disk takes nothing.
fn is_refused(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied)
}

/// One change for the disk.
pub(crate) struct Change<'a> {
    pub(crate) key: &'a str,
    /// The new state; `None` removes.
    pub(crate) entry: Option<&'a Entry>,
    /// The revision of the state before, if there was one.
    pub(crate) replaces: Option<u64>,
}

/// Why a write is not done.
pub(crate) enum WriteError {
    /// There is no room, nor reserve: nothing of it is there.
    Full,
    /// The disk refused; it may be there.
    Doubt(String),
}

pub(crate) struct Disk {
    directory: PathBuf,
    /// `None` after an error, until the engine could be opened again: it accepts nothing after a failed write.
    open: Option<(Database, Keyspace)>,
    /// Of the objects on disk.
    digest: u64,
    /// Where what is on disk ends.
    revision: u64,
    synced: Synced,
    reserve: Reserve,
    /// Something had no room in the reserve: what little room there may be elsewhere is tried.
    used_up: bool,
    /// When it was looked for room last.
    looked: Instant,
}

impl Disk {
    /// Opens the store and loads its objects into memory. With `accept_loss` it goes on with what is there of a damaged one.
    pub(crate) fn open(directory: &Path, accept_loss: bool, memory: &Memory, gauge: Arc<Gauge>) -> Result<Disk, OpenError> {
        let io = |e| OpenError::io(directory, e);
        let damaged = |what: String| OpenError::Damaged { path: directory.into(), what };
        make_private(directory).map_err(io)?;
        let (synced, acknowledged) = Synced::open(directory).map_err(io)?;
        remove_unmade(directory, acknowledged, accept_loss)?;
        let journals = Journals::read(directory).map_err(io)?;
        journals.cut_torn(directory).map_err(io)?;
        let (database, keyspace) = match open(directory) {
            Ok(opened) => opened,
            Err(error) => {
                let error = OpenError::of(directory, error);
                let OpenError::Damaged { what, .. } = &error else { return Err(error) };
                let aside = journals.keep(directory).map_err(io)?;
                let what = format!("{what}; its journals are kept in {}", aside.display());
                if !accept_loss {
                    return Err(damaged(what));
                }
                tracing::error!(directory = %directory.display(), what, "the store is damaged; it is opened with what comes before the damage");
                journals.open_before_the_damage(directory).ok_or_else(|| damaged(what))?
            }
        };
        let fault = |e| OpenError::of(directory, e);
        let mut entries = read_all(directory, &keyspace, memory)?;
        let mut revision = number(&keyspace, REVISION_KEY).map_err(fault)?.unwrap_or(0);
        let mut told = number(&keyspace, DIGEST_KEY).map_err(fault)?;
        let mut missing = Vec::new();
        let mut reserve = Reserve::open(directory, gauge).map_err(io)?;
        let mut found = reserve.records();
        found.retain(|(record, _)| record.revision > revision);
        // The engine ends where a record ends. One that begins before that and goes beyond it was refused, and others were taken since.
        if found.first().is_some_and(|(first, _)| first.base < revision) {
            found.clear();
        }
        match found.first() {
            Some((first, _)) if first.base > revision => {
                missing.push(format!("the changes from revision {} to {} are gone, upon which the reserve's rest", revision + 1, first.base));
            }
            _ => {
                entries = upon(entries, &found, memory).map_err(damaged)?;
                if let Some((last, end)) = found.last() {
                    (revision, told) = (last.revision, Some(last.digest));
                    reserve.take_up(*end);
                }
            }
        }
        let digest = entries.iter().fold(0, |digest, entry| synced::add(digest, &entry.key, entry.revision));
        let newest = entries.iter().map(|e| e.revision).max().unwrap_or(0);
        if revision < acknowledged {
            missing.push(format!("the {} changes from revision {} to {acknowledged} were acknowledged and are gone", acknowledged - revision, revision + 1));
        }
        if newest > revision || told.is_some_and(|told| told != digest) {
            missing.push(format!("changes before revision {revision} are missing among the {} objects that are there", entries.len()));
        }
        let rests = found.first().map_or(0, |(first, _)| first.base);
        // What is appended next goes upon what is there, also where what was acknowledged is gone.
        let ends_at = revision;
        let revision = revision.max(newest).max(acknowledged).max(rests);
        let open = Some((database, keyspace));
        let mut disk = Disk { directory: directory.into(), open, digest, revision: ends_at, synced, reserve, used_up: false, looked: Instant::now() };
        if !missing.is_empty() {
            let aside = journals.keep(directory).map_err(io)?;
            let what = format!("{}; its journals as they were found are kept in {}", missing.join(", and "), aside.display());
            if !accept_loss {
                return Err(damaged(what));
            }
            tracing::error!(directory = %directory.display(), what, "the store goes on with what is there");
            if !disk.reserve.in_use() && !found.is_empty() {
                fs::copy(directory.join(reserve::FILE), aside.join(reserve::FILE)).map_err(io)?;
                disk.reserve.leave();
            }
            // From here on it is whole, and a revision that was told is not given again.
            disk.write(revision, &[]).map_err(|error| damaged(error.to_string()))?;
        }
        make_private(directory).map_err(io)?;
        memory.load(revision, entries.into_iter());
        Ok(disk)
    }

    /// Writes changes that end at a revision, all or none, and returns when they are durable.
    pub(crate) fn write(&mut self, revision: u64, changes: &[Change<'_>]) -> Result<(), WriteError> {
        let mut digest = self.digest;
        for change in changes {
            if let Some(replaced) = change.replaces {
                digest = synced::take(digest, change.key, replaced);
            }
            if let Some(entry) = change.entry {
                digest = synced::add(digest, change.key, entry.revision);
            }
        }
        if self.reserve.in_use() {
            self.write_to_reserve(revision, digest, changes).map_err(|refused| match refused {
                Refused::Full => {
                    self.used_up = true;
                    WriteError::Full
                }
                Refused::Io(error) => WriteError::Doubt(error.to_string()),
            })?;
        } else {
            self.write_to_engine(revision, digest, changes)?;
        }
        (self.digest, self.revision) = (digest, revision);
        self.synced.tell(revision);
        Ok(())
    }

    fn write_to_engine(&mut self, revision: u64, digest: u64, changes: &[Change<'_>]) -> Result<(), WriteError> {
        let (database, keyspace) = self.open.as_ref().ok_or_else(|| WriteError::Doubt("the store is not open".into()))?;
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for change in changes {
            match change.entry {
                Some(entry) => batch.insert(keyspace, change.key, encode(entry)),
                None => batch.remove(keyspace, change.key),
            }
        }
        batch.insert(keyspace, REVISION_KEY, revision.to_le_bytes());
        batch.insert(keyspace, DIGEST_KEY, digest.to_le_bytes());
        let Err(error) = batch.commit() else { return Ok(()) };
        let text = describe(&error);
        self.open = None;
        if self.is_full(&error) {
            match self.write_to_reserve(revision, digest, changes) {
                Ok(()) => {
                    tracing::error!(directory = %self.directory.display(), error = %text, "the store's disk is full; it writes into its reserve");
                    return Ok(());
                }
                Err(refused) => {
                    // What may stand there was told to nobody.
                    self.reserve.leave();
                    tracing::error!(%refused, "the store's disk is full, and its reserve is of no use");
                }
            }
        }
        tracing::error!(directory = %self.directory.display(), error = %text, "the store cannot write; it is opened anew at the next write");
        Err(WriteError::Doubt(text))
    }

    fn write_to_reserve(&mut self, revision: u64, digest: u64, changes: &[Change<'_>]) -> Result<(), Refused> {
        self.reserve.append((self.revision, revision, digest), changes.iter().map(|change| (change.key, change.entry.map(encode))))
    }

    /// Whether a write failed since there is no room. The engine does not tell why its own thread, which writes tables, has failed before.
    fn is_full(&self, error: &fjall::Error) -> bool {
        if matches!(error, fjall::Error::Poisoned) {
            return self.reserve.free() < reserve::ROOM_BYTES;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
            }
            cause = error.source();
        }
        false
    }

    /// Whether batches go into the reserve.
    pub(crate) fn is_short_of_room(&self) -> bool {
        self.reserve.in_use()
    }

    /// Looks whether there is room again: for what went into the reserve, and for the reserve itself.
    pub(crate) fn look_for_room(&mut self) {
        if self.looked.elapsed() < LOOK_FOR_ROOM || (self.reserve.is_made() && !self.reserve.in_use()) {
            return;
        }
        self.looked = Instant::now();
        if self.reserve.in_use() {
            self.leave_reserve();
        }
        if !self.reserve.is_made() {
            self.reserve.make();
        }
    }

    fn leave_reserve(&mut self) {
        if self.reserve.free() < if self.used_up { RETURN_BYTES as u64 } else { reserve::ROOM_BYTES } {
            return;
        }
        match self.bring_back() {
            Ok(()) => {
                self.reserve.leave();
                self.used_up = false;
                tracing::info!(directory = %self.directory.display(), revision = self.revision, "there is room for the store again; its reserve is whole");
            }
            Err(error) => {
                self.open = None;
                tracing::warn!(directory = %self.directory.display(), error, "what is in the store's reserve cannot be brought back yet");
            }
        }
    }

    /// Brings what is in the reserve into the engine.
    fn bring_back(&mut self) -> Result<(), String> {
        if self.open.is_none() {
            self.open = Some(open(&self.directory).map_err(|e| describe(&e))?);
        }
        let (database, keyspace) = self.open.as_ref().ok_or("the store is not open")?;
        let on_disk = number(keyspace, REVISION_KEY).map_err(|e| describe(&e))?.unwrap_or_default();
        let mut records = self.reserve.records();
        // What stands behind the last that was told is in doubt, and nobody's.
        let told = self.reserve.used_bytes();
        records.retain(|(record, end)| record.revision > on_disk && *end <= told);
        if records.first().map_or(on_disk, |(first, _)| first.base) > on_disk || records.last().map_or(on_disk, |(last, _)| last.revision) != self.revision {
            return Err(format!("the disk has lost what was acknowledged: it ends at revision {on_disk}, and {} was told", self.revision));
        }
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            let (mut bytes, mut end) = (0, (0, 0));
            while let Some((record, _)) = records.next_if(|_| bytes < RETURN_BYTES) {
                end = (record.revision, record.digest);
                for (key, value) in record.changes {
                    bytes += key.len() + value.as_ref().map_or(0, Vec::len);
                    match value {
                        Some(value) => batch.insert(keyspace, key, value),
                        None => batch.remove(keyspace, key),
                    }
                }
            }
            batch.insert(keyspace, REVISION_KEY, end.0.to_le_bytes());
            batch.insert(keyspace, DIGEST_KEY, end.1.to_le_bytes());
            batch.commit().map_err(|e| describe(&e))?;
        }
        Ok(())
    }

    /// Opens the engine again after an error; returns the revision that is on disk.
    pub(crate) fn reopen(&mut self) -> Result<u64, String> {
        // What the reserve refused is not there: the next record takes its place.
        if self.reserve.in_use() {
            return Ok(self.revision);
        }
        if self.open.is_none() {
            self.open = Some(open(&self.directory).map_err(|e| describe(&e))?);
        }
        let (_, keyspace) = self.open.as_ref().ok_or("the store is not open")?;
        if let Some(digest) = number(keyspace, DIGEST_KEY).map_err(|e| describe(&e))? {
            self.digest = digest;
        }
        self.revision = number(keyspace, REVISION_KEY).map(Option::unwrap_or_default).map_err(|e| describe(&e))?;
        Ok(self.revision)
    }

    /// Writes nothing more until it is reopened.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Whether it takes writes.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some() || self.reserve.in_use()
    }
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WriteError::Full => f.write_str("there is no room"),
            WriteError::Doubt(text) => f.write_str(text),
        }
    }
}

/// The engine's objects with what the reserve has upon them, in the order of their keys.
fn upon(entries: Vec<Entry>, records: &[(reserve::Record, u64)], memory: &Memory) -> Result<Vec<Entry>, String> {
    if records.is_empty() {
        return Ok(entries);
    }
    let mut all: BTreeMap<Arc<str>, Entry> = entries.into_iter().map(|entry| (Arc::clone(&entry.key), entry)).collect();
    for (key, value) in records.iter().flat_map(|(record, _)| &record.changes) {
        match value {
            Some(value) => {
                let entry = decode(key.as_bytes(), value, None, memory).ok_or_else(|| format!("the object at {key} cannot be read in the reserve"))?;
                all.insert(Arc::clone(&entry.key), entry);
            }
            None => drop(all.remove(key.as_str())),
        }
    }
    Ok(all.into_values().collect())
}

fn read_all(directory: &Path, keyspace: &Keyspace, memory: &Memory) -> Result<Vec<Entry>, OpenError> {
    let mut entries = Vec::new();
    // All keys that begin with a slash: the next character is `0`.
    for guard in keyspace.range("/".."0") {
        let (key, value) = guard.into_inner().map_err(|e| OpenError::of(directory, e))?;
        let shared = (value.len() >= SHARED_BYTES_MIN).then(|| Bytes::from_owner(value.clone()).slice(HEAD..));
        let entry = decode(&key, &value, shared, memory)
            .ok_or_else(|| OpenError::Damaged { path: directory.into(), what: format!("the object at {} cannot be read", String::from_utf8_lossy(&key)) })?;
        entries.push(entry);
    }
    Ok(entries)
}

/// Makes a directory, and gives it and what lies in it to its owner alone, whatever the umask was when it was made: Secrets
/// are in there. Files that the engine makes later are behind the directory's own 0700.
fn make_private(directory: &Path) -> std::io::Result<()> {
    if !directory.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    make_content_private(directory)
}

/// The engine (this process's, or another's that has the store open) makes and removes files while this looks at them: what
/// has gone meanwhile is nobody's.
fn make_content_private(directory: &Path) -> std::io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for file in fs::read_dir(directory)? {
        let file = file?;
        let private = || {
            let kind = file.file_type()?;
            if kind.is_dir() {
                make_content_private(&file.path())?;
            } else if kind.is_file() && file.metadata()?.mode() & 0o7777 != 0o600 {
                fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600))?;
            }
            Ok(())
        };
        unless_gone(private())?;
    }
    Ok(())
}

/// The outcome of looking at a file, if it is still there.
pub(crate) fn unless_gone<T>(outcome: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// What a journal holds: the rest of its file, which was made long beforehand, is empty. How much the file takes of the disk does not tell:
/// it may be compressed there. What was never written is a hole, and is not read.
pub(crate) fn written(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mut end = 0;
    loop {
        match lseek(&file, end, Whence::SeekData) {
            Ok(data) => end = lseek(&file, data, Whence::SeekHole)?,
            // Nothing but a hole follows.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        }
    }
    file.rewind()?;
    // A journal may be 64 MB: what grows is copied again and again.
    let mut bytes = Vec::with_capacity(usize::try_from(end).unwrap_or(0));
    file.take(end.unsigned_abs()).read_to_end(&mut bytes)?;
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok(bytes)
}

/// The engine's journals as they are found, since it cuts them when it opens.
struct Journals(Vec<(PathBuf, Vec<u8>)>);

impl Journals {
    fn read(directory: &Path) -> std::io::Result<Journals> {
        let mut found = Vec::new();
        for file in fs::read_dir(directory)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "jnl") {
                // Another process may have the store open, and remove what it has written to tables.
                if let Some(bytes) = unless_gone(written(&path))? {
                    found.push((path, bytes));
                }
            }
        }
        // The newest last: their names are numbers.
        found.sort_by_key(|(path, _)| path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<u64>().ok()));
        Ok(Journals(found))
    }

    /// Cuts what a loss of power left of the batch that was under way; see [`journal`]. Of a store that is open it is the batch that is
    /// being written: the engine's own lock tells, and is held meanwhile. What has an end may be a batch that was acknowledged and is
    /// damaged, or several: a copy is kept.
    fn cut_torn(&self, directory: &Path) -> std::io::Result<()> {
        let Some((path, bytes)) = self.0.last() else { return Ok(()) };
        let Some(whole) = journal::torn_at(bytes) else { return Ok(()) };
        let Some(lock) = unless_gone(fs::File::open(directory.join(LOCK)))? else { return Ok(()) };
        if lock.try_lock().is_err() || written(path)? != *bytes {
            return Ok(());
        }
        if bytes.get(whole..).is_some_and(journal::has_end) {
            let aside = self.keep(directory)?;
            tracing::warn!(journal = %path.display(), kept = %aside.display(), "what is cut from the journal's end may have been written whole; it is kept");
        }
        tracing::info!(journal = %path.display(), whole, "the write that was under way when the power was lost is left out");
        let file = fs::OpenOptions::new().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()
    }

    /// Writes them into a directory of their own, which is returned; copies of an earlier damage stay. The engine has cut them
    /// when a start was refused before: what is kept already is not kept a second time.
    fn keep(&self, directory: &Path) -> std::io::Result<PathBuf> {
        let place = |n: u32| directory.join(format!("{DAMAGED}-{n}"));
        if let Some(kept) = (0..).map(place).take_while(|path| path.exists()).find(|path| self.are_kept(path)) {
            return Ok(kept);
        }
        let aside = (0..).map(place).find(|path| !path.exists()).unwrap_or_default();
        fs::DirBuilder::new().mode(0o700).create(&aside)?;
        for (path, bytes) in &self.0 {
            let copy = aside.join(path.file_name().unwrap_or_default());
            fs::write(&copy, bytes)?;
            fs::File::open(&copy)?.sync_all()?;
        }
        make_private(&aside)?;
        // The copy is there before the original is cut.
        fs::File::open(&aside)?.sync_all()?;
        fs::File::open(directory)?.sync_all()?;
        Ok(aside)
    }

    /// Whether a directory has all that is written in them.
    fn are_kept(&self, aside: &Path) -> bool {
        self.0.iter().all(|(path, bytes)| {
            let kept = fs::read(aside.join(path.file_name().unwrap_or_default()));
            kept.is_ok_and(|kept| kept.starts_with(bytes))
        })
    }

    /// Opens the store with as much of its journals as the engine accepts: it takes any beginning of a good one. What comes after
    /// the damage rests on what is lost, so the journals behind the damaged one are left out as well.
    fn open_before_the_damage(&self, directory: &Path) -> Option<(Database, Keyspace)> {
        let opened = (0..self.0.len()).rev().find_map(|damaged| self.open_with_part(directory, damaged));
        if opened.is_none() {
            // The damage is not in them: whoever mends what it is in needs them whole.
            for (path, bytes) in &self.0 {
                if let Err(error) = fs::write(path, bytes) {
                    tracing::error!(path = %path.display(), %error, "a journal could not be written back; its copy is kept aside");
                }
            }
        }
        opened
    }

    /// Opens the store with as much of one journal as the engine accepts, and none of those behind it; none if the damage is in one
    /// before.
    fn open_with_part(&self, directory: &Path, damaged: usize) -> Option<(Database, Keyspace)> {
        let (path, bytes) = self.0.get(damaged)?;
        for (later, _) in self.0.get(damaged + 1..)? {
            fs::write(later, []).ok()?;
        }
        let with = |length: usize| {
            fs::write(path, bytes.get(..length)?).ok()?;
            open(directory).ok()
        };
        with(0)?;
        let (mut good, mut bad) = (0, bytes.len());
        while bad - good > 1 {
            let middle = usize::midpoint(good, bad);
            match with(middle) {
                Some(_) => good = middle,
                None => bad = middle,
            }
        }
        with(good)
    }
}

/// Removes what the engine has laid down for a store that it never came to make, because it was killed or had no room: it makes its first
/// journal before its marker, and refuses to make one that is there. Nothing is in such a store. One whose marker is gone otherwise has
/// something, and the engine would make a new one over it; with `accept_loss` it is marked again.
fn remove_unmade(directory: &Path, acknowledged: u64, accept_loss: bool) -> Result<(), OpenError> {
    let io = |e| OpenError::io(directory, e);
    let marker = directory.join(MARKER);
    let is_made = || Ok(unless_gone(fs::metadata(&marker))?.is_some_and(|found| found.len() >= MARKED.len() as u64));
    if is_made().map_err(io)? {
        return Ok(());
    }
    // Made if it is not there: of two that begin at once one would remove what the other makes.
    let lock = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK)).map_err(io)?;
    if lock.try_lock().is_err() {
        return Err(OpenError::Locked(directory.to_owned()));
    }
    // Its maker may have come to its end meanwhile.
    if is_made().map_err(io)? {
        return Ok(());
    }
    let journals = Journals::read(directory).map_err(io)?.0;
    let has_tables = unless_gone(fs::read_dir(directory.join(KEYSPACES))).map_err(io)?.is_some_and(|mut found| found.next().is_some());
    let has_some = has_tables || journals.iter().any(|(_, bytes)| !bytes.is_empty());
    if acknowledged > 0 || has_some {
        let what = format!("its file {MARKER:?}, without which a new store would be made over it, is gone or cut");
        if !accept_loss {
            return Err(OpenError::Damaged { path: directory.to_owned(), what });
        }
        tracing::error!(directory = %directory.display(), what, "the store is damaged; it is opened with what is there");
    }
    if has_some {
        // As lasting as the engine makes it: a cut of the power would take it again, and what is acknowledged by then is refused with it.
        let mark = || {
            fs::write(&marker, MARKED)?;
            fs::File::open(&marker)?.sync_all()?;
            fs::File::open(directory)?.sync_all()
        };
        return mark().map_err(io);
    }
    for path in journals.iter().map(|(path, _)| path).chain([&marker]) {
        unless_gone(fs::remove_file(path)).map_err(io)?;
    }
    Ok(())
}

fn open(directory: &Path) -> fjall::Result<(Database, Keyspace)> {
    let database = Database::builder(directory).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).worker_threads(1).open()?;
    let keyspace = database.keyspace("objects", || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))?;
    Ok((database, keyspace))
}

fn number(keyspace: &Keyspace, key: &str) -> fjall::Result<Option<u64>> {
    let bytes = keyspace.get(key)?;
    Ok(bytes.and_then(|b| Some(u64::from_le_bytes(b.as_ref().try_into().ok()?))))
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
    out.extend_from_slice(&(u32::try_from(entry.hole).unwrap_or(0) | IN_ORDER).to_le_bytes());
    out.extend_from_slice(&entry.json);
    out
}

/// `shared` is the JSON in the engine's memory, if that is to be held instead of a copy.
fn decode(key: &[u8], value: &[u8], shared: Option<Bytes>, memory: &Memory) -> Option<Entry> {
    let number = |from: usize| Some(u64::from_le_bytes(value.get(from..from + 8)?.try_into().ok()?));
    let (create_revision, revision) = (number(0)?, number(8)?);
    let place = u32::from_le_bytes(value.get(16..HEAD)?.try_into().ok()?);
    let json = value.get(HEAD..)?;
    let (json, hole) = if place & IN_ORDER != 0 {
        (shared.unwrap_or_else(|| Bytes::copy_from_slice(json)), (place & !IN_ORDER) as usize)
    } else {
        let (json, hole) = entry::put_in_order(json)?;
        (json.into(), hole)
    };
    let digits = json.get(hole..hole + entry::decimal_len(revision))?;
    if digits != revision.to_string().as_bytes() {
        return None;
    }
    let key = std::str::from_utf8(key).ok()?;
    Some(Entry::stored(key.into(), create_revision, revision, hole, json, Arc::clone(&memory.decoded)))
}
