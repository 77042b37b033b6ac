//! What was converted, by the revision at which it lies, and what is being converted for whoever hears of a change.
//!
//! A change is heard by many watches at once: the first asks, the others wait for the same answer, and a failure is theirs alone who
//! have waited for it. What is kept is bounded by bytes; the oldest goes first, and who needs it asks again.

use super::unread::Unread;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use store::Entry;

/// Bytes of JSON that are kept for a version whatever the others keep.
const SHARE: usize = 1024 * 1024;
/// Bytes that all versions together keep beyond their shares. A list of more than is kept would be asked about each time from its
/// beginning: what it needs first would be what went first.
const TOGETHER_MAX: usize = 256 * 1024 * 1024;
/// What all versions keep.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// One object's conversion.
type Work = BoxFuture<'static, Result<Arc<Entry>, Unread>>;
/// The same, for all who wait for it.
pub(super) type Asked = Shared<Work>;

#[derive(Default)]
pub(super) struct Known(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// A revision is one object's.
    entries: HashMap<u64, Arc<Entry>>,
    order: VecDeque<u64>,
    bytes: usize,
    asked: HashMap<u64, WeakShared<Work>>,
}

impl Inner {
    fn gone(&mut self, entry: &Entry) {
        self.bytes -= entry.json.len();
        KEPT.fetch_sub(entry.json.len(), Ordering::Relaxed);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Known {
    pub(super) fn get(&self, revision: u64) -> Option<Arc<Entry>> {
        self.0.lock().entries.get(&revision).cloned()
    }

    pub(super) fn keep(&self, entry: &Arc<Entry>) {
        let mut inner = self.0.lock();
        if let Some(before) = inner.entries.insert(entry.revision, Arc::clone(entry)) {
            inner.gone(&before);
        } else {
            inner.order.push_back(entry.revision);
        }
        inner.bytes += entry.json.len();
        KEPT.fetch_add(entry.json.len(), Ordering::Relaxed);
        while inner.bytes > SHARE && KEPT.load(Ordering::Relaxed) > TOGETHER_MAX {
            let Some(oldest) = inner.order.pop_front().and_then(|revision| inner.entries.remove(&revision)) else { break };
            inner.gone(&oldest);
        }
    }

    /// The conversion of a revision that is under way, or one that begins.
    pub(super) fn asked(&self, revision: u64, begin: impl FnOnce() -> Work) -> Asked {
        let mut inner = self.0.lock();
        if let Some(asked) = inner.asked.get(&revision).and_then(WeakShared::upgrade) {
            return asked;
        }
        inner.asked.retain(|_, asked| asked.upgrade().is_some());
        let asked = begin().shared();
        if let Some(weak) = asked.downgrade() {
            inner.asked.insert(revision, weak);
        }
        asked
    }
}
