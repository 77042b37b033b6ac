//! What a controller has done and has not yet seen come back through its informers (upstream `ControllerExpectations` and
//! `UIDTrackingControllerExpectations`). While something is missing the controller must not act on what it reads: it
//! would create or delete twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use client::{Delta, Object, ObjectKey, WorkQueue};
use parking_lot::Mutex;
use tokio::time::Instant;

/// After this an expectation is given up: an event was lost (upstream `ExpectationsTimeout`).
const TIMEOUT: Duration = Duration::from_secs(300);

/// By the key of the owner.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    owners: Mutex<HashMap<ObjectKey, Expected>>,
}

#[derive(Debug)]
struct Expected {
    creations: i64,
    /// UIDs, so that a deletion that is seen twice (marked, then gone) counts once.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// Whether everything was seen, or it is no longer to be waited for.
    pub(crate) fn satisfied(&self, owner: &ObjectKey) -> bool {
        match self.owners.lock().get(owner) {
            Some(e) => (e.creations <= 0 && e.deletions.is_empty()) || e.since.elapsed() > TIMEOUT,
            None => true,
        }
    }

    pub(crate) fn expect(&self, owner: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let creations = i64::try_from(creations).unwrap_or(i64::MAX);
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.owners.lock().insert(owner.clone(), expected);
    }

    /// A creation was seen, or failed.
    pub(crate) fn created(&self, owner: &ObjectKey) {
        if let Some(e) = self.owners.lock().get_mut(owner) {
            e.creations -= 1;
        }
    }

    /// A deletion was seen, or failed.
    pub(crate) fn deleted(&self, owner: &ObjectKey, uid: &str) {
        if let Some(e) = self.owners.lock().get_mut(owner) {
            e.deletions.remove(uid);
        }
    }

    /// An owner changed: it is worked on, and nothing is expected any more of one that is gone.
    pub(crate) fn heard_owner<K: Object>(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<K>) {
        if let Delta::Deleted(owner) = change {
            self.forget(&owner.key());
        }
        queue.add(change.object().key());
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.owners.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_was_done_but_not_for_ever() {
        let (all, a) = (Expectations::default(), ObjectKey::new("n", "a"));
        assert!(all.satisfied(&a));
        all.expect(&a, 2, []);
        all.created(&a);
        assert!(!all.satisfied(&a));
        all.created(&a);
        assert!(all.satisfied(&a));
        all.expect(&a, 0, ["u".to_owned(), "v".to_owned()]);
        all.deleted(&a, "u");
        all.deleted(&a, "u");
        assert!(!all.satisfied(&a), "one deletion seen twice is one");
        tokio::time::advance(TIMEOUT + Duration::from_secs(1)).await;
        assert!(all.satisfied(&a));
    }
}
