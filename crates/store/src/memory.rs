//! The state that readers see: one bucket a resource, each a persistent map and its recent changes.

use crate::{
    Expect,
    entry::{Decoded, Entry, Event},
    history::History,
};
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

type Entries = OrdMap<Arc<str>, Arc<Entry>>;

/// The objects of one resource. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    prefix: Arc<str>,
    state: RwLock<State>,
    /// The snapshot at an older revision that was made last: the next page of a list asks for it again.
    older: Mutex<Option<(u64, Entries)>>,
    /// Tells watches the end of the history.
    signal: watch::Sender<u64>,
}

struct State {
    entries: Entries,
    /// The revision of the last change.
    last: u64,
    history: History,
}

impl Bucket {
    fn new(prefix: &str, entries: Entries, revision: u64) -> Self {
        let state = State { entries, last: revision, history: History::new(revision) };
        Bucket(Arc::new(Inner { prefix: prefix.into(), state: RwLock::new(state), older: Mutex::new(None), signal: watch::Sender::new(0) }))
    }

    /// The prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// The present entry of a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.0.state.read().entries.get(key).cloned()
    }

    /// The revision of the bucket's last change.
    pub fn last_revision(&self) -> u64 {
        self.0.state.read().last
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.state.read().entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn same(&self, other: &Bucket) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn meets(&self, key: &str, expect: Expect) -> bool {
        meets(self.get(key).as_deref(), expect)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.signal.subscribe()
    }

    pub(crate) fn history<R>(&self, read: impl FnOnce(&History) -> R) -> R {
        read(&self.0.state.read().history)
    }

    /// Brings changes into memory, all at once for readers.
    pub(crate) fn apply(&self, now: Instant, events: impl Iterator<Item = (Arc<str>, Arc<Event>)>) {
        let mut state = self.0.state.write();
        for (key, event) in events {
            state.last = event.revision;
            match &event.new {
                Some(entry) => state.entries.insert(key, Arc::clone(entry)),
                None => state.entries.remove(&*key),
            };
            state.history.push(now, event);
        }
    }

    /// Wakes the watches; called when the revision is published.
    pub(crate) fn wake(&self) {
        let end = self.history(History::end);
        self.0.signal.send_replace(end);
    }
}

/// Whether the present state is as expected.
pub(crate) fn meets(present: Option<&Entry>, expect: Expect) -> bool {
    match expect {
        Expect::Absent => present.is_none(),
        Expect::Revision(revision) => present.is_some_and(|e| e.revision == revision),
    }
}

/// The state of a bucket at one revision.
pub struct Snapshot {
    revision: u64,
    entries: Entries,
}

impl Snapshot {
    /// The revision: a watch from it misses nothing.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    /// The entries whose keys start with `prefix` and come after `after`, in order.
    pub fn range<'s>(&'s self, prefix: &'s str, after: &'s str) -> impl Iterator<Item = &'s Arc<Entry>> {
        let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        self.entries.range::<_, str>((from, Bound::Unbounded)).map(|(_, e)| e).take_while(move |e| e.key.starts_with(prefix))
    }
}

/// How often the time of a revision is noted.
const MARK_EVERY: Duration = Duration::from_secs(15);

/// All buckets and the published revision.
pub(crate) struct Memory {
    revision: AtomicU64,
    buckets: RwLock<BTreeMap<Arc<str>, Bucket>>,
    /// What was on disk and no bucket has asked for.
    unclaimed: Mutex<BTreeMap<Arc<str>, Arc<Entry>>>,
    /// When revisions were published, for compaction by age.
    marks: Mutex<VecDeque<(Instant, u64)>>,
    compaction: Duration,
    pub(crate) decoded: Arc<Decoded>,
}

impl Memory {
    pub(crate) fn new(compaction: Duration) -> Self {
        Memory {
            revision: AtomicU64::new(0),
            buckets: RwLock::default(),
            unclaimed: Mutex::default(),
            marks: Mutex::default(),
            compaction,
            decoded: Arc::default(),
        }
    }

    /// Takes what the disk had. Called once, before anybody reads.
    pub(crate) fn load(&self, revision: u64, entries: impl Iterator<Item = Entry>) {
        self.unclaimed.lock().extend(entries.map(|e| (Arc::clone(&e.key), Arc::new(e))));
        self.revision.store(revision, Ordering::Release);
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Publishes a revision whose changes are all in their buckets.
    pub(crate) fn publish(&self, now: Instant, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        let mut marks = self.marks.lock();
        if marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= MARK_EVERY.min(self.compaction)) {
            marks.push_back((now, revision));
        }
        // The newest mark that is old enough is the compacted revision; those before it say nothing more.
        while marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= self.compaction) {
            marks.pop_front();
        }
    }

    fn compacted(&self, now: Instant) -> u64 {
        let marks = self.marks.lock();
        marks.iter().rev().find(|(at, _)| now.duration_since(*at) >= self.compaction).map_or(0, |(_, revision)| *revision)
    }

    pub(crate) fn bucket(&self, prefix: &str) -> Bucket {
        if let Some(bucket) = self.buckets.read().get(prefix) {
            return bucket.clone();
        }
        let mut buckets = self.buckets.write();
        if let Some(bucket) = buckets.get(prefix) {
            return bucket.clone();
        }
        let mut unclaimed = self.unclaimed.lock();
        let mut mine = unclaimed.split_off(prefix);
        let end = mine.keys().find(|k| !k.starts_with(prefix)).cloned();
        if let Some(end) = end {
            unclaimed.append(&mut mine.split_off(&end));
        }
        let bucket = Bucket::new(prefix, mine.into_iter().collect(), self.revision());
        buckets.insert(prefix.into(), bucket.clone());
        bucket
    }

    pub(crate) fn bucket_of(&self, key: &str) -> Option<Bucket> {
        let buckets = self.buckets.read();
        let (prefix, bucket) = buckets.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        key.starts_with(&**prefix).then(|| bucket.clone())
    }

    pub(crate) fn snapshot(&self, bucket: &Bucket) -> Snapshot {
        // The revision first: what it covers is then in the state that is read after it.
        let published = self.revision();
        let state = bucket.0.state.read();
        Snapshot { revision: published.max(state.last), entries: state.entries.clone() }
    }

    pub(crate) fn snapshot_at(&self, bucket: &Bucket, at: u64) -> Option<Snapshot> {
        let published = self.revision();
        if at < self.compacted(Instant::now()) {
            return None;
        }
        let state = bucket.0.state.read();
        if at >= state.last {
            return Some(Snapshot { revision: at.min(published.max(state.last)), entries: state.entries.clone() });
        }
        if at < state.history.complete_after() {
            return None;
        }
        let mut older = bucket.0.older.lock();
        if let Some((revision, entries)) = &*older
            && *revision == at
        {
            return Some(Snapshot { revision: at, entries: entries.clone() });
        }
        let mut entries = state.entries.clone();
        for event in state.history.back_to(at) {
            match (&event.old, &event.new) {
                (Some(old), _) => {
                    entries.insert(Arc::clone(&old.key), Arc::clone(old));
                }
                (None, Some(new)) => {
                    entries.remove(&*new.key);
                }
                (None, None) => {}
            }
        }
        *older = Some((at, entries.clone()));
        Some(Snapshot { revision: at, entries })
    }
}
