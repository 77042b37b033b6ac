//! What is counted of a resource beside the requests for it: what the store has written of it, and what watches were sent.
//!
//! Each is counted where it happens with an atomic or two, and is told by the resource's names when `/metrics` is read.

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of durations, in seconds, as upstream's.
pub(crate) const BOUNDS_S: [f64; 23] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Upper bounds of the sizes of what watches are sent, in bytes.
pub(crate) const EVENT_BOUNDS: [u64; 8] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 17];

/// What is done to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Create,
    Update,
    Delete,
}

impl Done {
    pub(crate) const ALL: [Done; 3] = [Done::Create, Done::Update, Done::Delete];

    /// As upstream's storage names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Done::Create => "create",
            Done::Update => "update",
            Done::Delete => "delete",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Written,
    /// Somebody was faster.
    Nothing,
    Failed,
}

/// What the store was asked to write.
#[derive(Debug, Default)]
pub(crate) struct Written([OnceLock<Box<Spread>>; 3]);

/// How long writes took.
#[derive(Debug, Default)]
struct Spread {
    buckets: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
    /// Those that have changed something.
    changes: AtomicU64,
    failed: AtomicU64,
}

/// The same at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Writes {
    pub(crate) count: u64,
    pub(crate) sum_s: f64,
    pub(crate) buckets: [u64; BOUNDS_S.len()],
    pub(crate) failed: u64,
    pub(crate) changes: u64,
}

impl Written {
    /// One more.
    pub(crate) fn note(&self, done: Done, came: Came, took: Duration) {
        let spread = self.0[done as usize].get_or_init(Box::default);
        let at = BOUNDS_S.partition_point(|bound| *bound < took.as_secs_f64());
        spread.buckets[at].fetch_add(1, Relaxed);
        spread.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        // Changes are counted themselves: as a difference of what is read one after the other they would seem to become fewer at times.
        let of_it = match came {
            Came::Written => &spread.changes,
            Came::Nothing => return,
            Came::Failed => &spread.failed,
        };
        of_it.fetch_add(1, Relaxed);
    }

    /// All of one sort; none if there was none.
    pub(crate) fn of(&self, done: Done) -> Option<Writes> {
        let spread = self.0[done as usize].get()?;
        // Each is read once, so that no bucket has more than there are of all.
        let all: [u64; BOUNDS_S.len() + 1] = array::from_fn(|at| spread.buckets[at].load(Relaxed));
        Some(Writes {
            count: all.iter().sum(),
            sum_s: spread.sum_us.load(Relaxed) as f64 / 1e6,
            buckets: array::from_fn(|at| all[at]),
            failed: spread.failed.load(Relaxed),
            changes: spread.changes.load(Relaxed),
        })
    }
}

/// What watches were sent, by its size.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    buckets: [AtomicU64; EVENT_BOUNDS.len() + 1],
    sum: AtomicU64,
    left_behind: AtomicU64,
}

impl Watched {
    /// A watch has ended because its client was too slow for what happened.
    pub(crate) fn leave_behind(&self) {
        self.left_behind.fetch_add(1, Relaxed);
    }

    /// How many have ended so.
    pub(crate) fn left_behind(&self) -> u64 {
        self.left_behind.load(Relaxed)
    }

    /// An event of so many bytes.
    pub(crate) fn note(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.buckets[EVENT_BOUNDS.partition_point(|bound| *bound < bytes)].fetch_add(1, Relaxed);
        self.sum.fetch_add(bytes, Relaxed);
    }

    /// How many there were in each bucket, the last being that without a bound, and their bytes.
    pub(crate) fn told(&self) -> ([u64; EVENT_BOUNDS.len() + 1], u64) {
        (array::from_fn(|at| self.buckets[at].load(Relaxed)), self.sum.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_by_what_was_done_and_what_came_of_it() {
        let written = Written::default();
        for (came, ms) in [(Came::Written, 5), (Came::Nothing, 30), (Came::Failed, 100_000)] {
            written.note(Done::Update, came, Duration::from_millis(ms));
        }
        let updates = written.of(Done::Update).expect("some");
        assert_eq!((updates.count, updates.failed, updates.changes), (3, 1, 1));
        assert_eq!((updates.buckets[0], updates.buckets[2], updates.buckets.iter().sum::<u64>()), (1, 1, 2), "the third is beyond all bounds");
        assert!((updates.sum_s - 100.035).abs() < 1e-6, "{}", updates.sum_s);
        assert_eq!(written.of(Done::Create), None);
    }

    #[test]
    fn events_are_told_by_their_size() {
        let watched = Watched::default();
        [100, 1024, 1025, 1 << 20].into_iter().for_each(|bytes| watched.note(bytes));
        let (buckets, sum) = watched.told();
        assert_eq!((buckets[0], buckets[1], buckets[8], sum), (2, 1, 1, 100 + 1024 + 1025 + (1 << 20)));
    }
}
