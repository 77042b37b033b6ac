//! The state that readers see: one bucket a resource, each a persistent map and its recent changes.

use crate::{
    Expect,
    entry::{Decoded, Entries, Entry, Event},
    history::History,
    index::{Indexes, Keys},
    routes::Routes,
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

/// How many entries a namespace has, by the prefix of its keys.
type Counts = OrdMap<Arc<str>, usize>;

/// The objects of one resource. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    prefix: Arc<str>,
    state: RwLock<State>,
    /// The snapshots at older revisions that were made last: the next pages of lists ask for them again.
    older: Mutex<Vec<Older>>,
    /// Tells watches of the whole bucket the end of the history.
    signal: watch::Sender<u64>,
}

/// Older snapshots that a bucket remembers: as many lists are paged through at once without undoing changes for each page.
const OLDER_MAX: usize = 4;
/// An older snapshot that nobody asked for so long is forgotten, and with it the objects that it alone holds.
const OLDER_UNUSED_MAX: Duration = Duration::from_secs(60);

struct Older {
    revision: u64,
    content: Content,
    used: Instant,
}

/// What a bucket holds at one revision.
#[derive(Clone, Default)]
struct Content {
    entries: Entries,
    counts: Counts,
}

impl Content {
    fn insert(&mut self, key: Arc<str>, entry: Arc<Entry>) {
        let namespace = namespace(&key);
        if self.entries.insert(Arc::clone(&key), entry).is_none() {
            match self.counts.get_mut(namespace) {
                Some(count) => *count += 1,
                None => {
                    self.counts.insert(namespace.into(), 1);
                }
            }
        }
    }

    fn remove(&mut self, key: &str) {
        if self.entries.remove(key).is_none() {
            return;
        }
        let namespace = namespace(key);
        match self.counts.get_mut(namespace) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.counts.remove(namespace);
            }
        }
    }
}

/// A key without its last part.
fn namespace(key: &str) -> &str {
    key.rfind('/').map_or("", |slash| key.split_at(slash + 1).0)
}

pub(crate) struct State {
    content: Content,
    /// The revision at which it was made.
    begun: u64,
    /// The revision of the last change.
    last: u64,
    /// The same of the last change that is published, which watches tell.
    told: u64,
    pub(crate) history: History,
    pub(crate) indexes: Indexes,
    pub(crate) routes: Routes,
}

impl Bucket {
    fn new(prefix: &str, entries: BTreeMap<Arc<str>, Arc<Entry>>, revision: u64, age_max: Duration) -> Self {
        let mut content = Content::default();
        entries.into_iter().for_each(|(key, entry)| content.insert(key, entry));
        let history = History::new(revision, age_max);
        let state = State { content, begun: revision, last: revision, told: revision, history, indexes: Indexes::default(), routes: Routes::default() };
        let (older, signal) = (Mutex::default(), watch::Sender::new(0));
        Bucket(Arc::new(Inner { prefix: prefix.into(), state: RwLock::new(state), older, signal }))
    }

    /// The prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// The present entry of a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.0.state.read().content.entries.get(key).cloned()
    }

    /// The revision of the bucket's last change that is published: a watch tells it at once.
    pub fn last_revision(&self) -> u64 {
        self.0.state.read().told
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.state.read().content.entries.len()
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

    pub(crate) fn write<R>(&self, write: impl FnOnce(&mut State) -> R) -> R {
        write(&mut self.0.state.write())
    }

    /// What readers see of a state when all up to `published` is published.
    pub(crate) fn shown(&self, state: &State, published: u64) -> Snapshot {
        Snapshot { revision: published.max(state.last), changed: state.last, prefix: Arc::clone(&self.0.prefix), content: state.content.clone() }
    }

    /// The entries at the bucket's last change, and its revision.
    pub(crate) fn entries(&self) -> (Entries, u64) {
        let state = self.0.state.read();
        (state.content.entries.clone(), state.last)
    }

    /// Gives back what is too old or not used.
    pub(crate) fn forget(&self, now: Instant) {
        let forgotten = std::mem::take(&mut *self.0.older.lock());
        let (kept, forgotten): (Vec<_>, Vec<_>) = forgotten.into_iter().partition(|o| now.duration_since(o.used) < OLDER_UNUSED_MAX);
        self.0.older.lock().extend(kept);
        drop(forgotten);
        self.write(|state| {
            state.history.forget(now);
            state.indexes.forget(now);
        });
    }

    /// Brings changes into memory, all at once for readers.
    pub(crate) fn apply(&self, now: Instant, events: impl Iterator<Item = (Arc<str>, Arc<Event>)>) {
        let mut state = self.0.state.write();
        for (key, event) in events {
            state.last = event.revision;
            match &event.new {
                Some(entry) => state.content.insert(key, Arc::clone(entry)),
                None => state.content.remove(&key),
            }
            state.indexes.apply(&event);
            state.routes.tell(&event);
            state.history.push(now, event);
        }
    }

    /// How many changes and older snapshots are remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> (u64, usize) {
        (self.history(|h| h.end() - h.begin()), self.0.older.lock().len())
    }

    /// Wakes the watches; called when the revision is published.
    pub(crate) fn wake(&self) {
        let (end, touched) = self.write(|state| {
            state.told = state.last;
            (state.history.end(), state.routes.touched())
        });
        self.0.signal.send_replace(end);
        for queue in touched {
            queue.signal.notify_one();
        }
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
    changed: u64,
    prefix: Arc<str>,
    content: Content,
}

impl Snapshot {
    /// The revision: a watch from it misses nothing.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// From this revision on the bucket was as it is here.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.content.entries.get(key)
    }

    /// How many entries there are below a prefix that is the bucket's or a namespace's.
    pub fn count(&self, prefix: &str) -> usize {
        if *prefix == *self.prefix { self.content.entries.len() } else { self.content.counts.get(prefix).copied().unwrap_or(0) }
    }

    /// The entries whose keys start with `prefix` and come after `after`, in order.
    pub fn range<'s>(&'s self, prefix: &'s str, after: &'s str) -> impl Iterator<Item = &'s Arc<Entry>> {
        let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        self.content.entries.range::<_, str>((from, Bound::Unbounded)).map(|(_, e)| e).take_while(move |e| e.key.starts_with(prefix))
    }
}

/// What an index knows of a snapshot: the only keys that can meet what was demanded.
pub struct Candidates(pub(crate) Keys);

impl Candidates {
    /// The candidates whose keys start with `prefix` and come after `after`, in order.
    pub fn range<'c>(&'c self, snapshot: &'c Snapshot, prefix: &'c str, after: &'c str) -> impl Iterator<Item = &'c Arc<Entry>> {
        let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        let keys = self.0.range::<_, str>((from, Bound::Unbounded)).take_while(move |key| key.starts_with(prefix));
        keys.filter_map(|key| snapshot.get(key))
    }
}

/// How often the time of a revision is noted.
const MARK_EVERY: Duration = Duration::from_secs(15);

/// All buckets and the published revision.
pub(crate) struct Memory {
    revision: AtomicU64,
    /// The revision of what the disk had.
    loaded: AtomicU64,
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
            loaded: AtomicU64::new(0),
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
        self.loaded.store(revision, Ordering::Release);
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
        // One by one: there are as many buckets as resources, and putting the others together again would go through all that is there.
        let below = unclaimed.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).map(|(key, _)| key).take_while(|key| key.starts_with(prefix));
        let below: Vec<Arc<str>> = below.cloned().collect();
        let mine = below.into_iter().filter_map(|key| unclaimed.remove_entry(&key)).collect();
        // As long as a list can be continued, and until the next mark.
        let age_max = self.compaction + 2 * MARK_EVERY;
        let bucket = Bucket::new(prefix, mine, self.revision(), age_max);
        buckets.insert(prefix.into(), bucket.clone());
        bucket
    }

    pub(crate) fn bucket_of(&self, key: &str) -> Option<Bucket> {
        let buckets = self.buckets.read();
        let (prefix, bucket) = buckets.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        key.starts_with(&**prefix).then(|| bucket.clone())
    }

    /// Gives back what is too old or not used, in all buckets.
    pub(crate) fn forget(&self, now: Instant) {
        let buckets: Vec<Bucket> = self.buckets.read().values().cloned().collect();
        buckets.iter().for_each(|bucket| bucket.forget(now));
    }

    pub(crate) fn snapshot(&self, bucket: &Bucket) -> Snapshot {
        // The revision first: what it covers is then in the state that is read after it.
        let published = self.revision();
        bucket.shown(&bucket.0.state.read(), published)
    }

    pub(crate) fn snapshot_at(&self, bucket: &Bucket, at: u64) -> Option<Snapshot> {
        let (published, now) = (self.revision(), Instant::now());
        if at < self.compacted(now) {
            return None;
        }
        let prefix = Arc::clone(&bucket.0.prefix);
        if let Some(older) = bucket.0.older.lock().iter_mut().find(|older| older.revision == at) {
            older.used = now;
            return Some(Snapshot { revision: at, changed: at, prefix, content: older.content.clone() });
        }
        // What is to be undone is taken under the lock, and undone without it.
        let (mut content, events) = {
            let state = bucket.0.state.read();
            if at >= state.last {
                return Some(Snapshot { revision: at.min(published.max(state.last)), changed: state.last, prefix, content: state.content.clone() });
            }
            // Without a bucket nothing is written: what it began with was there from the opening on.
            let known = if at >= self.loaded.load(Ordering::Acquire) { at.max(state.begun) } else { at };
            if known < state.history.complete_after() {
                return None;
            }
            (state.content.clone(), state.history.back_to(at).cloned().collect::<Vec<_>>())
        };
        for event in events {
            match (&event.old, &event.new) {
                (Some(old), _) => content.insert(Arc::clone(&old.key), Arc::clone(old)),
                (None, Some(new)) => content.remove(&new.key),
                (None, None) => {}
            }
        }
        let mut older = bucket.0.older.lock();
        if older.len() >= OLDER_MAX
            && let Some(longest) = (0..older.len()).min_by_key(|at| older[*at].used)
        {
            older.remove(longest);
        }
        older.push(Older { revision: at, content: content.clone(), used: now });
        Some(Snapshot { revision: at, changed: at, prefix, content })
    }
}
