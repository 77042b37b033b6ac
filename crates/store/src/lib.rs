//! Revisions, transactions, history and watches behind one trait.
//!
//! The state of a resource lives once in memory: a [`Bucket`] is a persistent ordered map from key to [`Entry`] and the
//! recent changes. Reads and watches answer from there and never touch the disk. A write goes to the backend, which
//! checks its precondition, gives it the next revision, makes it durable, puts it into memory and only then answers:
//! what was acknowledged survives a crash, and what a reader sees was durable before.
//!
//! ```text
//!   put/delete ─► Backend (embedded: one thread, one fsync for all that wait) ─► Memory ─► readers, watches
//! ```
//!
//! Invariants:
//! - a revision is given to one change only, and revisions are published in order;
//! - when [`Store::revision`] says R, every change up to R is in its bucket;
//! - a watch delivers every change of its scope after its start exactly once and in order, or ends;
//! - what was acknowledged and is not there at the next start is told, and nobody starts without it by accident.
//!
//! What is kept for those who come back (history, older snapshots, indexes) ends by age, number and bytes; the committing
//! thread looks for what is over, also when there is nothing to commit.

mod disk;
mod embedded;
mod entry;
#[cfg(test)]
mod full;
mod history;
mod index;
mod indexing;
mod journal;
mod memory;
#[cfg(test)]
mod power;
mod reserve;
mod routes;
mod synced;
#[cfg(test)]
mod tests;
mod watch;

pub use disk::OpenError;
pub use entry::{Attributes, Draft, Entry, Event, Fields, FieldsOf};
pub use index::Demand;
pub use memory::{Bucket, Candidates, Snapshot};
pub use reserve::Gauge;
pub use routes::Scope;
pub use watch::{Expired, Watch};

use memory::Memory;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// What a write demands of the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key is free.
    Absent,
    /// The present entry was written at this revision.
    Revision(u64),
}

/// Why a write was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The key is taken, or its entry is another than expected, or gone. Nothing was written.
    #[error("the present state is another than expected")]
    Conflict,
    /// The disk refused. Whether the write is there will be known when the disk answers again.
    #[error("the store cannot write: {0}")]
    Io(String),
    /// The disk is full, and the reserve is used up. Nothing was written. The words are etcd's when it has no room: the API passes them on.
    #[error("etcdserver: mvcc: database space exceeded")]
    Full,
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// One write on its way to a backend.
pub(crate) struct Pending {
    bucket: Bucket,
    key: Arc<str>,
    expect: Expect,
    /// The new state; `None` deletes.
    draft: Option<Box<Draft>>,
    reply: oneshot::Sender<Result<Arc<Entry>, CommitError>>,
}

/// Makes writes durable and brings them into memory, in one order for all.
///
/// A backend owns the revisions: the embedded one counts, etcd has its own. It answers a write when memory shows it.
pub(crate) trait Backend: Send + Sync {
    fn submit(&self, write: Pending);
}

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// For how long a list at an older revision can be continued (the original compacts after five minutes).
    pub compaction: Duration,
    /// Goes on without what is damaged or missing on disk, instead of refusing to open.
    pub accept_data_loss: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { compaction: Duration::from_secs(5 * 60), accept_data_loss: false }
    }
}

/// The store. Cheap to clone; all clones are one. It closes when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    memory: Arc<Memory>,
    backend: Arc<dyn Backend>,
    reserve: Arc<Gauge>,
    /// Where it is; none if it has no disk.
    directory: Option<Arc<Path>>,
}

impl Store {
    /// Opens the embedded store in a directory, making it if it is not there.
    ///
    /// # Errors
    /// Another process uses it, the disk refuses, or what lies there is damaged.
    pub fn open(directory: &Path, options: &Options) -> Result<Store, OpenError> {
        let memory = Arc::new(Memory::new(options.compaction));
        let reserve = Arc::<Gauge>::default();
        let disk = disk::Disk::open(directory, options.accept_data_loss, &memory, Arc::clone(&reserve))?;
        let backend = embedded::Embedded::start(Some(disk), Arc::clone(&memory)).map_err(|e| OpenError::io(directory, e))?;
        Ok(Store { memory, backend: Arc::new(backend), reserve, directory: Some(directory.into()) })
    }

    /// A store without a disk, for tests and trials: nothing outlives the process.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn in_memory(options: &Options) -> std::io::Result<Store> {
        let memory = Arc::new(Memory::new(options.compaction));
        let backend = embedded::Embedded::start(None, Arc::clone(&memory))?;
        Ok(Store { memory, backend: Arc::new(backend), reserve: Arc::default(), directory: None })
    }

    /// What there is to write on when the disk is full, and how much of it is used.
    pub fn reserve(&self) -> &Gauge {
        &self.reserve
    }

    /// How much room it takes on its disk, as far as that can be seen; none if it has no disk. Each file is looked at.
    pub fn size_bytes(&self) -> Option<u64> {
        self.directory.as_deref().map(room_of)
    }

    /// The newest published revision.
    pub fn revision(&self) -> u64 {
        self.memory.revision()
    }

    /// The bucket of a resource: all keys under `prefix`, which ends with a slash. No bucket's prefix may contain another's.
    pub fn bucket(&self, prefix: &str) -> Bucket {
        self.memory.bucket(prefix)
    }

    /// The bucket that holds a key or a longer prefix, if there is one.
    pub fn bucket_of(&self, key: &str) -> Option<Bucket> {
        self.memory.bucket_of(key)
    }

    /// The newest state of a bucket, or the one at a revision; `None` if that is older than what is remembered.
    pub fn snapshot(&self, bucket: &Bucket, at: Option<u64>) -> Option<Snapshot> {
        match at {
            Some(at) => self.memory.snapshot_at(bucket, at),
            None => Some(self.memory.snapshot(bucket)),
        }
    }

    /// The newest state of a bucket, and where an index knows it, the only entries that can meet the demands. `fields` tells
    /// the selectable fields of an object. An index that would help is made for the next time.
    pub fn snapshot_for(&self, bucket: &Bucket, demands: &[Demand<'_>], fields: &FieldsOf) -> (Snapshot, Option<Candidates>) {
        self.memory.snapshot_for(bucket, demands, fields)
    }

    /// The changes of a bucket, or a part of it, after a revision.
    ///
    /// # Errors
    /// The bucket's history begins later.
    pub fn watch(&self, bucket: &Bucket, from: u64, scope: Scope, fields: &FieldsOf) -> Result<Watch, Expired> {
        Watch::new(Arc::clone(&self.memory), bucket.clone(), from, scope, fields)
    }

    /// Writes an entry and returns it when it is durable and in memory.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn put(&self, bucket: &Bucket, key: &str, expect: Expect, draft: Draft) -> Result<Arc<Entry>, CommitError> {
        self.submit(bucket, key, expect, Some(Box::new(draft))).await
    }

    /// Deletes an entry; returns its last state, at the revision of the deletion.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn delete(&self, bucket: &Bucket, key: &str, expect: Expect) -> Result<Arc<Entry>, CommitError> {
        self.submit(bucket, key, expect, None).await
    }

    async fn submit(&self, bucket: &Bucket, key: &str, expect: Expect, draft: Option<Box<Draft>>) -> Result<Arc<Entry>, CommitError> {
        // What cannot succeed any more is told at once, without waiting for the disk.
        if !bucket.meets(key, expect) {
            return Err(CommitError::Conflict);
        }
        let (reply, answer) = oneshot::channel();
        self.backend.submit(Pending { bucket: bucket.clone(), key: key.into(), expect, draft, reply });
        answer.await.unwrap_or(Err(CommitError::Closed))
    }
}

/// How much room a directory takes with all that is in it. What goes away meanwhile takes none.
fn room_of(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let room = |file: std::fs::DirEntry| match file.metadata() {
        Ok(metadata) if metadata.is_dir() => room_of(&file.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    files.map(room).sum()
}
