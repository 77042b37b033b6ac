//! The recent changes of one bucket, by position. Bounded by number, bytes and age.
//!
//! Watches go on from here, and a list at an older revision (the next page of a long one) is the present state with these
//! changes undone. So changes are kept for as long as such a list may be continued; only a bucket that changes by more than
//! [`BYTES_MAX`] in that time forgets earlier, and then the page is answered as the original answers after a compaction:
//! 410 with a token to go on without consistency.

use crate::entry::Event;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Changes that are kept whatever their age, so that a client that comes back after a night without changes goes on.
const EVENTS_MIN: usize = 64;
/// Changes that are kept at most.
const EVENTS_MAX: usize = 100_000;
/// Bytes of changes that are kept at most: what they take themselves, and the former states that only they hold.
const BYTES_MAX: usize = 64 << 20;
/// What an event takes in memory without its objects.
const EVENT_BYTES: usize = 128;

pub(crate) struct History {
    events: VecDeque<(Instant, Arc<Event>)>,
    /// Position of the first event.
    base: u64,
    bytes: usize,
    /// Every change after this revision is here.
    complete_after: u64,
    age_max: Duration,
}

impl History {
    /// An empty history that begins after a revision.
    pub(crate) fn new(complete_after: u64, age_max: Duration) -> Self {
        History { events: VecDeque::new(), base: 0, bytes: 0, complete_after, age_max }
    }

    pub(crate) fn complete_after(&self) -> u64 {
        self.complete_after
    }

    /// Position after the last event.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.events.len() as u64
    }

    #[cfg(test)]
    pub(crate) fn begin(&self) -> u64 {
        self.base
    }

    pub(crate) fn push(&mut self, now: Instant, event: Arc<Event>) {
        self.bytes += size(&event);
        self.events.push_back((now, event));
        self.forget(now);
    }

    /// Forgets what is too old or too much.
    pub(crate) fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.events.front() {
            let old = self.events.len() > EVENTS_MIN && now.duration_since(*at) > self.age_max;
            if !old && self.events.len() <= EVENTS_MAX && self.bytes <= BYTES_MAX {
                break;
            }
            let Some((_, event)) = self.events.pop_front() else { break };
            self.bytes -= size(&event);
            self.base += 1;
            self.complete_after = event.revision;
        }
        if self.events.capacity() > 1024 && self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }

    /// The position of the first event after a revision; `None` if earlier ones are forgotten.
    pub(crate) fn after(&self, revision: u64) -> Option<u64> {
        if revision < self.complete_after {
            return None;
        }
        Some(self.base + self.events.partition_point(|(_, e)| e.revision <= revision) as u64)
    }

    /// Up to `limit` events from a position; `None` if it is forgotten.
    pub(crate) fn read(&self, position: u64, limit: usize) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let at = usize::try_from(position.checked_sub(self.base)?).ok()?;
        Some(self.events.range(at.min(self.events.len())..).take(limit).map(|(_, e)| e))
    }

    /// The events after a revision, the newest first.
    pub(crate) fn back_to(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().rev().map(|(_, e)| e).take_while(move |e| e.revision > revision)
    }
}

/// What an event keeps in memory that the present state does not.
pub(crate) fn size(event: &Event) -> usize {
    EVENT_BYTES + [&event.old, &event.deleted].into_iter().flatten().map(|e| e.json.len()).sum::<usize>()
}
