//! The work queue of a controller: what changed, each once, never the same at two workers.
//!
//! Invariants, as client-go's `workqueue` has them: a key is in the queue at most once; a key that is added while it is
//! worked on is queued again when its worker is done; no key is worked on by two at the same time. Delays are those of
//! tokio's clock, so tests pause it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue_metrics::{Busy, QueueMetrics, Told};

/// How long a failed key waits: doubling from `base` to `max` with each failure in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::USUAL
    }
}

impl Backoff {
    /// client-go's `DefaultTypedControllerRateLimiter`.
    pub const USUAL: Self = Self { base: Duration::from_millis(5), max: Duration::from_secs(1000) };

    /// The delay after this many failures before.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 2u32.checked_pow(failures.min(31)).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }
}

/// In the place of a delay that no clock can tell: objects may ask for any number of seconds.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

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
    /// What counts what happens here, if anything does.
    told: OnceLock<Told>,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be queued once its worker is done; since when.
    dirty: HashMap<T, Instant>,
    /// With workers, since when.
    working: HashMap<T, Instant>,
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
            dirty: HashMap::new(),
            working: HashMap::new(),
            due: HashMap::new(),
            waiting: BTreeMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), backoff, told: OnceLock::new() }) }
    }

    /// Counts the keys that wait and what happens from now on, under this name. The first name stays.
    pub fn measure(&self, metrics: &QueueMetrics, name: &str)
    where
        T: Send + Sync + 'static,
    {
        if self.shared.told.get().is_none() {
            let told = metrics.queue(name, Arc::downgrade(&self.shared) as _);
            // A key is added either before, and counted here, or after, and counted by itself.
            let state = self.shared.state.lock();
            // Another thread may have been quicker: then it is that one's.
            if self.shared.told.get().is_none() {
                told.adds.add(state.dirty.len() as u64);
                told.depth.add(i64::try_from(state.dirty.len()).unwrap_or(i64::MAX));
                let _ = self.shared.told.set(told);
            }
        }
    }

    /// Queues a key.
    pub fn add(&self, key: T) {
        if self.shared.state.lock().add(key, Instant::now(), self.shared.told.get()) {
            self.shared.changed.notify_one();
        }
    }

    /// Queues a key after a while; of several delays the soonest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        if let Some(told) = self.shared.told.get() {
            told.retries.inc();
        }
        if delay.is_zero() {
            drop(state);
            return self.add(key);
        }
        let now = Instant::now();
        let due = now.checked_add(delay).unwrap_or(now + FAR);
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
                let now = Instant::now();
                state.wake(now, self.shared.told.get());
                if state.closed {
                    // Every waiting worker must learn of it.
                    self.shared.changed.notify_one();
                    return None;
                }
                if let Some(key) = state.ready.pop_front() {
                    let since = state.dirty.remove(&key);
                    state.working.insert(key.clone(), now);
                    if let Some(told) = self.shared.told.get() {
                        told.depth.add(-1);
                        told.waited.took(since.map(|since| now - since).unwrap_or_default());
                    }
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
        if let (Some(since), Some(told)) = (state.working.remove(key), self.shared.told.get()) {
            told.worked.took(since.elapsed());
        }
        if state.dirty.contains_key(key) {
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

impl<T: Send + Sync> Busy for Shared<T> {
    fn working(&self) -> (Duration, Duration) {
        let (state, now) = (self.state.lock(), Instant::now());
        let each = state.working.values().map(|since| now - *since);
        each.fold((Duration::ZERO, Duration::ZERO), |(all, longest), one| (all + one, longest.max(one)))
    }
}

impl<T: Eq + Hash + Clone> State<T> {
    /// Whether a worker is to be woken.
    fn add(&mut self, key: T, now: Instant, told: Option<&Told>) -> bool {
        if self.closed || self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        if let Some(told) = told {
            told.adds.inc();
            told.depth.add(1);
        }
        if self.working.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Queues what is due.
    fn wake(&mut self, now: Instant, told: Option<&Told>) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key, now, told);
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
        // No clock goes so far.
        queue.add_after("a", Duration::MAX);
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
    async fn what_happens_is_counted_under_the_original_s_names() {
        let (registry, queue) = (instruments::Registry::default(), WorkQueue::default());
        queue.measure(&QueueMetrics::new(&registry), "letters");
        let samples = || {
            let of = |line: &&str| !line.starts_with('#') && !line.contains("_bucket{");
            let text = registry.text();
            let short = |line: &str| line.trim_start_matches("workqueue_").replace("{name=\"letters\"}", "");
            text.lines().filter(of).map(short).collect::<Vec<_>>()
        };
        queue.add("a");
        queue.add("a");
        queue.add("b");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(
            samples(),
            [
                "adds_total 3",
                // One is ready, one will be when its worker is done.
                "depth 2",
                "longest_running_processor_seconds 2",
                "queue_duration_seconds_sum 3",
                "queue_duration_seconds_count 1",
                "retries_total 0",
                "unfinished_work_seconds 2",
                "work_duration_seconds_sum 0",
                "work_duration_seconds_count 0",
            ]
        );
        queue.add_rate_limited("a");
        queue.done(&"a");
        assert_eq!((queue.get().await, queue.get().await), (Some("b"), Some("a")));
        queue.done(&"b");
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = samples();
        assert_eq!(now[..2], ["adds_total 3", "depth 0"], "the failure's turn has not come");
        assert_eq!(
            now[2..],
            [
                "longest_running_processor_seconds 1",
                "queue_duration_seconds_sum 10",
                "queue_duration_seconds_count 3",
                "retries_total 1",
                "unfinished_work_seconds 1",
                "work_duration_seconds_sum 2",
                "work_duration_seconds_count 2",
            ]
        );
        drop(queue);
        assert!(!registry.text().contains("unfinished_work_seconds{"), "nobody works on it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_before_it_was_measured_is_counted_too() {
        let (registry, queue) = (instruments::Registry::default(), WorkQueue::default());
        queue.add("a");
        queue.measure(&QueueMetrics::new(&registry), "letters");
        let has = |line: &str| registry.text().lines().any(|l| l == line);
        assert!(has(r#"workqueue_depth{name="letters"} 1"#) && has(r#"workqueue_adds_total{name="letters"} 1"#), "{}", registry.text());
        assert_eq!(queue.get().await, Some("a"));
        assert!(has(r#"workqueue_depth{name="letters"} 0"#), "{}", registry.text());
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
