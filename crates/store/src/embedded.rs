//! The embedded backend: one thread that takes all writes that wait, makes them durable with one fsync, brings them
//! into memory and answers. While it waits for the disk the next writes gather: the slower the disk, the larger the batch.
//!
//! A batch that the disk refused is in doubt: it may be there after all. The thread then opens the store anew and looks at
//! the revision on disk before it takes any other write; meanwhile every writer is told the disk's error. A disk that then has
//! less than was acknowledged is not written on: reads go on from memory, and every writer is told what is lost.
//!
//! A disk without room is none of that as long as the reserve lasts ([`crate::reserve`]); once it is used up, writers are told so, and those who
//! come when there is room again are served.

use crate::{
    Backend, CommitError, Pending,
    disk::{self, Change, Disk, WriteError},
    entry::{Entry, Event},
    memory::{Bucket, Memory, meets},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Writes in one batch at most, so that the first of them does not wait for thousands.
const BATCH_MAX: usize = 512;
/// How often what is over in memory is given back: history, snapshots and indexes that nobody asks for.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// After so long it is looked again whether what the disk has lost is back.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub(crate) struct Embedded {
    queue: Mutex<Option<mpsc::Sender<Pending>>>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Starts the thread. Without a disk, writes are only in memory.
    pub(crate) fn start(disk: Option<Disk>, memory: Arc<Memory>) -> std::io::Result<Self> {
        let (queue, writes) = mpsc::channel();
        let mut committer = Committer { disk, memory, doubt: None, lost: None };
        let run = move || {
            let mut forgotten = Instant::now();
            loop {
                match writes.recv_timeout(committer.rest()) {
                    Ok(first) => {
                        let rest = writes.try_iter().take(BATCH_MAX - 1);
                        committer.commit(std::iter::once(first).chain(rest).collect());
                    }
                    Err(RecvTimeoutError::Timeout) => committer.look_for_room(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if forgotten.elapsed() >= FORGET_EVERY {
                    forgotten = Instant::now();
                    committer.memory.forget(forgotten);
                }
            }
        };
        let thread = std::thread::Builder::new().name("store".into()).stack_size(machinery::json::STACK_BYTES).spawn(run)?;
        Ok(Embedded { queue: Mutex::new(Some(queue)), thread: Some(thread) })
    }
}

impl Backend for Embedded {
    fn submit(&self, write: Pending) {
        // A dropped write tells its waiter that the store is closed.
        if let Some(queue) = &*self.queue.lock() {
            let _ = queue.send(write);
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.lock().take();
        // Whoever opens the store next must find it unlocked.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// A write that has its revision.
struct Step {
    bucket: Bucket,
    key: Arc<str>,
    event: Arc<Event>,
}

impl Step {
    /// What the writer is told: the new state, or the last one.
    fn entry(&self) -> Option<Arc<Entry>> {
        self.event.new.as_ref().or(self.event.deleted.as_ref()).cloned()
    }
}

type Events = Vec<(Arc<str>, Arc<Event>)>;
type Reply = oneshot::Sender<Result<Arc<Entry>, CommitError>>;

struct Committer {
    disk: Option<Disk>,
    memory: Arc<Memory>,
    /// What the disk refused last, if it may be there nevertheless.
    doubt: Option<Vec<Step>>,
    /// That the disk has lost what was acknowledged: when that was seen last, and how it is told.
    lost: Option<(Instant, String)>,
}

impl Committer {
    /// How long to wait for the next write.
    fn rest(&self) -> Duration {
        if self.disk.as_ref().is_some_and(Disk::is_short_of_room) { disk::LOOK_FOR_ROOM } else { FORGET_EVERY }
    }

    fn look_for_room(&mut self) {
        if let Some(disk) = self.disk.as_mut() {
            disk.look_for_room();
        }
    }

    fn commit(&mut self, writes: Vec<Pending>) {
        self.look_for_room();
        if let Err(error) = self.recover() {
            for write in writes {
                let _ = write.reply.send(Err(CommitError::Io(error.clone())));
            }
            return;
        }
        let (steps, replies, refused) = self.plan(writes);
        let outcome = self.persist(&steps);
        let Err(error) = outcome else {
            let entries: Vec<_> = steps.iter().map(Step::entry).collect();
            self.publish(steps);
            for (reply, entry) in replies.into_iter().zip(entries) {
                let _ = reply.send(entry.ok_or(CommitError::Closed));
            }
            // Those that lost are told when what they lost to can be read.
            for reply in refused {
                let _ = reply.send(Err(CommitError::Conflict));
            }
            return;
        };
        let told = match error {
            WriteError::Full => CommitError::Full,
            WriteError::Doubt(text) => {
                self.doubt = Some(steps);
                CommitError::Io(text)
            }
        };
        for reply in replies.into_iter().chain(refused) {
            let _ = reply.send(Err(told.clone()));
        }
    }

    /// Gives revisions to the writes whose preconditions hold. Later ones see the earlier ones of the same batch.
    fn plan(&self, writes: Vec<Pending>) -> (Vec<Step>, Vec<Reply>, Vec<Reply>) {
        let mut revision = self.memory.revision();
        let mut overlay: HashMap<Arc<str>, Option<Arc<Entry>>> = HashMap::new();
        let (mut steps, mut replies, mut refused) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()), Vec::new());
        for Pending { bucket, key, expect, draft, reply } in writes {
            let present = overlay.get(&key).cloned().unwrap_or_else(|| bucket.get(&key));
            if !meets(present.as_deref(), expect) || (draft.is_none() && present.is_none()) {
                refused.push(reply);
                continue;
            }
            revision += 1;
            let created = present.as_ref().map_or(revision, |e| e.create_revision);
            let new = draft.map(|d| d.into_entry(Arc::clone(&key), created, revision, &self.memory.decoded));
            let deleted = match (&new, &present) {
                (None, Some(present)) => Some(Arc::new(present.at_removal(revision))),
                _ => None,
            };
            overlay.insert(Arc::clone(&key), new.clone());
            steps.push(Step { bucket, key, event: Arc::new(Event { revision, new, old: present, deleted }) });
            replies.push(reply);
        }
        (steps, replies, refused)
    }

    fn persist(&mut self, steps: &[Step]) -> Result<(), WriteError> {
        let (Some(disk), Some(last)) = (self.disk.as_mut(), steps.last()) else { return Ok(()) };
        let changes: Vec<Change<'_>> =
            steps.iter().map(|s| Change { key: &s.key, entry: s.event.new.as_deref(), replaces: s.event.old.as_ref().map(|e| e.revision) }).collect();
        disk.write(last.event.revision, &changes)
    }

    /// Brings steps into memory, publishes their last revision, wakes watches.
    fn publish(&self, steps: Vec<Step>) {
        let Some(revision) = steps.last().map(|s| s.event.revision) else { return };
        let now = Instant::now();
        let mut buckets: Vec<(Bucket, Events)> = Vec::new();
        for Step { bucket, key, event } in steps {
            match buckets.iter_mut().find(|(b, _)| b.same(&bucket)) {
                Some((_, events)) => events.push((key, event)),
                None => buckets.push((bucket, vec![(key, event)])),
            }
        }
        let mut touched = Vec::with_capacity(buckets.len());
        for (bucket, events) in buckets {
            bucket.apply(now, events.into_iter());
            touched.push(bucket);
        }
        self.memory.publish(now, revision);
        for bucket in touched {
            bucket.wake();
        }
    }

    /// After a refused batch: opens the store again and finds out whether the batch is there.
    fn recover(&mut self) -> Result<(), String> {
        let Some(disk) = self.disk.as_mut() else { return Ok(()) };
        if disk.is_open() && self.doubt.is_none() {
            return Ok(());
        }
        // Opening reads all that is there; writers who try again and again are told what was found.
        if let Some((_, why)) = self.lost.as_ref().filter(|(seen, _)| seen.elapsed() < LOOK_AGAIN) {
            return Err(why.clone());
        }
        let on_disk = disk.reopen()?;
        let published = self.memory.revision();
        if on_disk < published {
            // What was acknowledged is not there: a write upon it would hide that from the next start.
            let why = format!("the disk has lost what was acknowledged: it ends at revision {on_disk}, and {published} was told");
            tracing::error!(on_disk, published, "the store takes no more writes: the disk has lost what was acknowledged");
            disk.close();
            self.lost = Some((Instant::now(), why.clone()));
            return Err(why);
        }
        self.lost = None;
        let steps = self.doubt.take().unwrap_or_default();
        if steps.last().is_some_and(|s| s.event.revision == on_disk) {
            tracing::info!(revision = on_disk, "the last batch before the disk's error is there");
            self.publish(steps);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draft, Expect};
    use serde_json::json;
    use std::{fs, path::Path};

    const KEY: &str = "/registry/pods/a";

    fn write(committer: &mut Committer, expect: Expect) -> Result<Arc<Entry>, CommitError> {
        let bucket = committer.memory.bucket("/registry/pods/");
        let (reply, mut answer) = oneshot::channel();
        let draft = Some(Box::new(Draft::new(json!({"metadata": {"name": "a"}}), None, Vec::new())));
        committer.commit(vec![Pending { bucket, key: KEY.into(), expect, draft, reply }]);
        answer.try_recv().expect("an answer")
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a directory");
        for file in fs::read_dir(from).expect("a directory").filter_map(Result::ok) {
            let place = to.join(file.file_name());
            if file.path().is_dir() {
                copy(&file.path(), &place);
            } else {
                fs::copy(file.path(), place).expect("a copy");
            }
        }
    }

    #[test]
    fn a_disk_that_lost_what_was_acknowledged_is_not_written_on() {
        let root = std::env::temp_dir().join(format!("store-lost-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&root);
        let (directory, before) = (root.join("data"), root.join("before"));
        let memory = Arc::new(Memory::new(Duration::from_secs(60)));
        let open = |memory: &Memory| Disk::open(&directory, false, memory, Arc::default()).expect("a store");
        let mut committer = Committer { disk: Some(open(&memory)), memory: Arc::clone(&memory), doubt: None, lost: None };
        let first = write(&mut committer, Expect::Absent).expect("written");
        copy(&directory, &before);
        let second = write(&mut committer, Expect::Revision(first.revision)).expect("written");
        // As a file system that came back from an earlier state of itself, after an error that closed the store.
        committer.disk.as_mut().expect("a disk").close();
        committer.doubt = Some(Vec::new());
        fs::remove_dir_all(&directory).expect("removed");
        copy(&before, &directory);
        for _ in 0..2 {
            let refused = write(&mut committer, Expect::Revision(second.revision)).expect_err("nothing is written upon a loss");
            assert!(refused.to_string().contains("lost what was acknowledged"), "{refused}");
        }
        assert_eq!(memory.revision(), second.revision, "readers still see what was told");
        drop(committer);
        let _ = fs::remove_dir_all(root);
    }
}
