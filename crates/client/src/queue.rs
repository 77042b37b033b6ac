//! The work queue of a controller: what changed, each once, never the same at two workers.
//!
//! Invariants, as client-go's `workqueue` has them: a key is in the queue at most once; a key that is added while it is
//! worked on is queued again when its worker is done; no key is worked on by two at the same time. Delays are those of
//! tokio's clock, so tests pause it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a failed key waits: doubling from `base` to `max` with each failure in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    /// client-go's `DefaultTypedControllerRateLimiter`.
    fn default() -> Self {
        Self { base: Duration::from_millis(5), max: Duration::from_secs(1000) }
    }
}

impl Backoff {
    /// The delay after this many failures before.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 2u32.checked_pow(failures.min(31)).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }
}

/// A queue of keys. Cheap to clone; all clones are the same queue.
#[derive(Debug)]
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be queued once its worker is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    /// When a key is due, and the reverse; the number breaks ties.
    due: HashMap<T, (Instant, u64)>,
    waiting: BTreeMap<(Instant, u64), T>,
    sequence: u64,
    failures: HashMap<T, u32>,
    closed: bool,
}

impl<T: Eq + Hash + Clone> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<T: Eq + Hash + Clone> WorkQueue<T> {
    /// An empty queue with this back-off.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            due: HashMap::new(),
            waiting: BTreeMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), backoff }) }
    }

    /// Queues a key.
    pub fn add(&self, key: T) {
        if self.shared.state.lock().add(key) {
            self.shared.changed.notify_one();
        }
    }

    /// Queues a key after a while; of several delays the soonest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        let due = Instant::now() + delay;
        match state.due.get(&key) {
            Some((soonest, _)) if *soonest <= due => return,
            Some(&later) => {
                state.waiting.remove(&later);
            }
            None => {}
        }
        state.sequence += 1;
        let at = (due, state.sequence);
        state.due.insert(key.clone(), at);
        state.waiting.insert(at, key);
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Queues a key again after a failure; each failure in a row doubles the delay.
    pub fn add_rate_limited(&self, key: T) {
        let delay = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = self.shared.backoff.delay(*failures);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }

    /// How often a key failed in a row.
    #[must_use]
    pub fn failures(&self, key: &T) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// A key succeeded: its next failure is the first.
    pub fn forget(&self, key: &T) {
        self.shared.state.lock().failures.remove(key);
    }

    /// The next key to work on, which must be given back with [`Self::done`]; none once the queue is shut down.
    pub async fn get(&self) -> Option<T> {
        loop {
            let changed = self.shared.changed.notified();
            let next = {
                let mut state = self.shared.state.lock();
                state.wake(Instant::now());
                if state.closed {
                    // Every waiting worker must learn of it.
                    self.shared.changed.notify_one();
                    return None;
                }
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() || !state.waiting.is_empty() {
                        // This wake-up may have been meant for more than one worker.
                        self.shared.changed.notify_one();
                    }
                    return Some(key);
                }
                state.waiting.first_key_value().map(|((due, _), _)| *due)
            };
            match next {
                Some(due) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(due) => {} },
                None => changed.await,
            }
        }
    }

    /// The work on a key is over.
    pub fn done(&self, key: &T) {
        let mut state = self.shared.state.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Keys that are ready to be worked on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    /// Whether no key is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No more keys are taken or given out.
    pub fn shut_down(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_waiters();
        self.shared.changed.notify_one();
    }
}

impl<T: Eq + Hash + Clone> State<T> {
    /// Whether a worker is to be woken.
    fn add(&mut self, key: T) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) {
            return false;
        }
        if self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Queues what is due.
    fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once_and_worked_on_by_one() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty(), "it is being worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_until_forgotten() {
        let queue = WorkQueue::default();
        let mut waits = Vec::new();
        for _ in 0..4 {
            queue.add_rate_limited("a");
            let start = Instant::now();
            assert_eq!(queue.get().await, Some("a"));
            waits.push(start.elapsed().as_millis());
            queue.done(&"a");
        }
        assert_eq!(waits, [5, 10, 20, 40]);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
        assert_eq!(Backoff::default().delay(40), Duration::from_secs(1000));
    }

    #[tokio::test(start_paused = true)]
    async fn the_soonest_of_several_delays_counts() {
        let queue = WorkQueue::default();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(1));
        queue.add_after("a", Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(100), queue.get()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn all_workers_end_when_it_is_shut_down() {
        let queue = WorkQueue::<u32>::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let q = queue.clone();
                    async move { q.get().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.shut_down();
        for worker in workers {
            assert_eq!(worker.await.ok(), Some(None));
        }
    }
}
