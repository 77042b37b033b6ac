//! A reader of one bucket's changes: a position in its history, or a queue that only what concerns it comes into.
//!
//! Nothing is told before its revision is published: who reads on from what a watch told finds it.

use crate::{
    entry::{Event, FieldsOf},
    history::History,
    memory::{Bucket, Memory},
    routes::{self, Next, Queue, Scope},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::watch;

/// Events taken from the history at a time: one lock for so many.
const BATCH: usize = 64;

/// The history no longer holds what a watch asks for; it is complete after this revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes before revision {0} are forgotten")]
pub struct Expired(pub u64);

/// The changes of a bucket, in order.
pub struct Watch {
    memory: Arc<Memory>,
    bucket: Bucket,
    source: Source,
}

enum Source {
    /// All changes.
    History {
        signal: watch::Receiver<u64>,
        /// Events that are taken and not yet told.
        taken: VecDeque<Arc<Event>>,
        /// Position of the next event that is not taken.
        next: u64,
    },
    /// Those of a scope.
    Routed(Scope, Arc<Queue>),
}

impl Watch {
    pub(crate) fn new(memory: Arc<Memory>, bucket: Bucket, from: u64, scope: Scope, fields: &FieldsOf) -> Result<Watch, Expired> {
        let expired = |history: &History| Expired(history.complete_after());
        if scope == Scope::Bucket {
            let signal = bucket.subscribe();
            let next = bucket.history(|h| h.after(from).ok_or_else(|| expired(h)))?;
            let source = Source::History { signal, taken: VecDeque::new(), next };
            return Ok(Watch { memory, bucket, source });
        }
        // Under one lock: no change comes between what history has and what the queue gets.
        let queue = bucket.write(|state| {
            let position = state.history.after(from).ok_or_else(|| expired(&state.history))?;
            let events = state.history.read(position, usize::MAX).into_iter().flatten();
            let queue = Arc::new(Queue::new(events.filter(|event| routes::concerns(&scope, event, fields)).cloned().collect()));
            state.routes.add(&scope, Arc::clone(&queue), fields);
            // What is in the history and not yet published is told by a wake-up that is still to come.
            if queue.newest().is_some_and(|newest| newest > memory.revision()) {
                state.routes.touch(&queue);
            }
            Ok(queue)
        })?;
        Ok(Watch { memory, bucket, source: Source::Routed(scope, queue) })
    }

    /// The next change. Cancelling the call loses nothing.
    ///
    /// # Errors
    /// This reader was too slow: changes that it has not seen are forgotten.
    pub async fn next(&mut self) -> Result<Arc<Event>, Expired> {
        let Watch { memory, bucket, source } = self;
        match source {
            Source::Routed(_, queue) => loop {
                match queue.pop(memory.revision()) {
                    Next::Event(event) => return Ok(event),
                    Next::Lost => return Err(Expired(bucket.history(History::complete_after))),
                    // A wake-up between the look and the wait is kept.
                    Next::Nothing => queue.signal.notified().await,
                }
            },
            Source::History { signal, taken, next } => loop {
                if let Some(event) = taken.pop_front() {
                    return Ok(event);
                }
                signal.borrow_and_update();
                let published = memory.revision();
                let read = bucket.history(|h| match h.read(*next, BATCH) {
                    Some(events) => {
                        taken.extend(events.take_while(|event| event.revision <= published).cloned());
                        Ok(())
                    }
                    None => Err(Expired(h.complete_after())),
                });
                read?;
                *next += taken.len() as u64;
                // The sender lives as long as the bucket, which this reader holds.
                if taken.is_empty() && signal.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            },
        }
    }

    /// The revision up to which this reader has been told everything.
    pub fn passed(&self) -> Option<u64> {
        // The revision first: what it covers is then in the history or the queue.
        let revision = self.memory.revision();
        let at_end = match &self.source {
            Source::History { taken, next, .. } => taken.is_empty() && self.bucket.history(History::end) == *next,
            Source::Routed(_, queue) => queue.is_empty(),
        };
        at_end.then_some(revision)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Source::Routed(scope, queue) = &self.source {
            self.bucket.write(|state| state.routes.remove(scope, queue));
        }
    }
}
