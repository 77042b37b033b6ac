//! The recent changes of one bucket, by position. Bounded by number, bytes and age.

use crate::entry::Event;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Changes that are kept whatever their age, so that a client that comes back after a night without changes goes on.
const EVENTS_MIN: usize = 64;
/// Changes that are kept at most.
const EVENTS_MAX: usize = 20_000;
/// Bytes of former states that are kept at most.
const BYTES_MAX: usize = 32 << 20;
/// How long changes are kept: longer than a client's pause between two watches.
const AGE_MAX: Duration = Duration::from_secs(150);

pub(crate) struct History {
    events: VecDeque<(Instant, Arc<Event>)>,
    /// Position of the first event.
    base: u64,
    bytes: usize,
    /// Every change after this revision is here.
    complete_after: u64,
}

impl History {
    /// An empty history that begins after a revision.
    pub(crate) fn new(complete_after: u64) -> Self {
        History { events: VecDeque::new(), base: 0, bytes: 0, complete_after }
    }

    pub(crate) fn complete_after(&self) -> u64 {
        self.complete_after
    }

    /// Position after the last event.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.events.len() as u64
    }

    pub(crate) fn push(&mut self, now: Instant, event: Arc<Event>) {
        self.bytes += size(&event);
        self.events.push_back((now, event));
        while let Some((at, _)) = self.events.front() {
            let old = self.events.len() > EVENTS_MIN && now.duration_since(*at) > AGE_MAX;
            if !old && self.events.len() <= EVENTS_MAX && self.bytes <= BYTES_MAX {
                break;
            }
            let Some((_, event)) = self.events.pop_front() else { break };
            self.bytes -= size(&event);
            self.base += 1;
            self.complete_after = event.revision;
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
    pub(crate) fn read(&self, position: u64, limit: usize) -> Option<impl Iterator<Item = Arc<Event>>> {
        let at = usize::try_from(position.checked_sub(self.base)?).ok()?;
        Some(self.events.range(at.min(self.events.len())..).take(limit).map(|(_, e)| Arc::clone(e)))
    }

    /// The events after a revision, the newest first.
    pub(crate) fn back_to(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().rev().map(|(_, e)| e).take_while(move |e| e.revision > revision)
    }
}

/// What an event keeps in memory that the present state does not.
fn size(event: &Event) -> usize {
    256 + [&event.old, &event.deleted].into_iter().flatten().map(|e| e.json.len()).sum::<usize>()
}
