//! A reader of one bucket's changes: a position in its history.

use crate::{
    entry::Event,
    history::History,
    memory::{Bucket, Memory},
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
    signal: watch::Receiver<u64>,
    /// Events that are taken and not yet told.
    taken: VecDeque<Arc<Event>>,
    /// Position of the next event that is not taken.
    next: u64,
}

impl Watch {
    pub(crate) fn new(memory: Arc<Memory>, bucket: Bucket, from: u64) -> Result<Watch, Expired> {
        let signal = bucket.subscribe();
        let next = bucket.history(|h| h.after(from).ok_or(Expired(h.complete_after())))?;
        Ok(Watch { memory, bucket, signal, taken: VecDeque::new(), next })
    }

    /// The next change. Cancelling the call loses nothing.
    ///
    /// # Errors
    /// This reader was too slow: changes that it has not seen are forgotten.
    pub async fn next(&mut self) -> Result<Arc<Event>, Expired> {
        loop {
            if let Some(event) = self.taken.pop_front() {
                return Ok(event);
            }
            self.signal.borrow_and_update();
            let (next, taken) = (self.next, &mut self.taken);
            let read = self.bucket.history(|h| match h.read(next, BATCH) {
                Some(events) => {
                    taken.extend(events);
                    Ok(())
                }
                None => Err(Expired(h.complete_after())),
            });
            read?;
            self.next += self.taken.len() as u64;
            // The sender lives as long as the bucket, which this reader holds.
            if self.taken.is_empty() && self.signal.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The revision up to which this reader has been told everything.
    pub fn passed(&self) -> Option<u64> {
        let revision = self.memory.revision();
        let at_end = self.taken.is_empty() && self.bucket.history(History::end) == self.next;
        at_end.then_some(revision)
    }
}
