//! What a controller has done and has not yet seen come back through its informers (upstream `ControllerExpectations` and
//! `UIDTrackingControllerExpectations`). While something is missing the controller must not act on what it reads: it
//! would create or delete twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use client::{Delta, Object, ObjectKey, WorkQueue};
use parking_lot::Mutex;
use tokio::time::Instant;

/// After this an expectation is given up: an event was lost (upstream `ExpectationsTimeout`). The owner is looked at again then,
/// whoever else asks for it.
const TIMEOUT: Duration = Duration::from_secs(300);

/// By the UID of the owner: one of the same name has nothing to wait for. Only what is outstanding is here.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    owners: Mutex<HashMap<String, Expected>>,
}

#[derive(Debug)]
struct Expected {
    creations: usize,
    /// UIDs, so that a deletion that is seen twice (marked, then gone) counts once.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expected {
    fn is_met(&self) -> bool {
        self.creations == 0 && self.deletions.is_empty()
    }
}

impl Expectations {
    /// Whether everything was seen, or it is no longer to be waited for.
    pub(crate) fn satisfied(&self, owner: &str) -> bool {
        self.owners.lock().get(owner).is_none_or(|e| e.since.elapsed() > TIMEOUT)
    }

    /// When an owner whose expectations are not met is to be looked at if nothing is heard before.
    pub(crate) fn look_again(&self, owner: &str) -> Option<Duration> {
        let owners = self.owners.lock();
        // What is given up is waited for no more: an owner that has nothing to do then would be looked at without end.
        let open = owners.get(owner).filter(|e| e.since.elapsed() <= TIMEOUT)?;
        Some((TIMEOUT + Duration::from_secs(1)).saturating_sub(open.since.elapsed()))
    }

    pub(crate) fn expect(&self, owner: &str, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        let mut owners = self.owners.lock();
        // What was given up, of owners that are gone as well.
        owners.retain(|_, e| e.since.elapsed() <= TIMEOUT);
        if expected.is_met() {
            owners.remove(owner);
        } else {
            owners.insert(owner.to_owned(), expected);
        }
    }

    /// A creation was seen, or failed.
    pub(crate) fn created(&self, owner: &str) {
        self.seen(owner, |e| e.creations = e.creations.saturating_sub(1));
    }

    /// A deletion was seen, or failed.
    pub(crate) fn deleted(&self, owner: &str, uid: &str) {
        self.seen(owner, |e| {
            e.deletions.remove(uid);
        });
    }

    fn seen(&self, owner: &str, what: impl FnOnce(&mut Expected)) {
        let mut owners = self.owners.lock();
        let Some(expected) = owners.get_mut(owner) else { return };
        what(expected);
        if expected.is_met() {
            owners.remove(owner);
        }
    }

    /// An owner changed: it is worked on, and nothing is expected any more of one that is gone.
    pub(crate) fn heard_owner<K: Object>(&self, queue: &WorkQueue<ObjectKey>, change: &Delta<K>) {
        if let Delta::Deleted(owner) = change {
            self.forget(owner.uid());
        }
        queue.add(change.object().key());
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &str) {
        self.owners.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_was_done_but_not_for_ever() {
        let (all, a) = (Expectations::default(), "uid of a");
        assert!(all.satisfied(a) && all.look_again(a).is_none());
        all.expect(a, 2, []);
        all.created(a);
        assert!(!all.satisfied(a));
        assert!(all.satisfied("of another with its name"));
        all.created(a);
        assert!(all.satisfied(a) && all.look_again(a).is_none());
        all.created(a);
        all.expect(a, 0, ["u".to_owned(), "v".to_owned()]);
        all.deleted(a, "u");
        all.deleted(a, "u");
        assert!(!all.satisfied(a), "one deletion seen twice is one");
        // Nothing more is heard: the owner is looked at by itself, and is then free to act.
        let again = all.look_again(a).unwrap_or_default();
        assert!(again > TIMEOUT);
        tokio::time::advance(again).await;
        assert!(all.satisfied(a) && all.look_again(a).is_none(), "it is looked at once, also if it then expects nothing new");
        all.expect("uid of b", 1, []);
        assert!(!all.owners.lock().contains_key(a), "what was given up is forgotten");
        all.expect("uid of b", 0, []);
        assert!(all.satisfied("uid of b"));
    }
}
