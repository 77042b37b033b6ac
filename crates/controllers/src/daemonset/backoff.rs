//! A node where a set's pods fail again and again (the kubelet refuses them) gets the next one later each time (upstream
//! `failedPodsBackoff`): else one misfit set is a storm of creations and deletions.

use std::collections::HashMap;
use std::time::Duration;

use client::Backoff;
use parking_lot::Mutex;
use tokio::time::Instant;

/// As upstream's `BackoffManager` of the controller: one second to a quarter of an hour.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(15 * 60) };

/// The failures of one set on one node.
#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// One that is so old that the next is the first again.
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.last) > BACKOFF.max * 2
    }
}

/// By the set's UID, the generation that it had when the pod was made, and the node's name: a set that was changed may be a misfit no
/// longer, and begins anew.
#[derive(Debug, Default)]
pub(super) struct FailedPods {
    known: Mutex<HashMap<(String, i64, String), Failures>>,
}

impl FailedPods {
    /// How long a set's failed pod on a node is still to be left; none if it may be replaced now, which is then noted.
    pub(super) fn held_back(&self, (set_uid, generation): (&str, i64), node: &str) -> Option<Duration> {
        let now = Instant::now();
        let mut known = self.known.lock();
        let key = (set_uid.to_owned(), generation, node.to_owned());
        match known.get_mut(&key).filter(|f| !f.is_over(now)) {
            Some(failures) => {
                let left = (failures.last + BACKOFF.delay(failures.count - 1)).saturating_duration_since(now);
                if !left.is_zero() {
                    return Some(left);
                }
                *failures = Failures { count: failures.count.saturating_add(1), last: now };
            }
            None => {
                known.retain(|_, f| !f.is_over(now));
                known.insert(key, Failures { count: 1, last: now });
            }
        }
        None
    }

    /// The set is gone.
    pub(super) fn forget(&self, set_uid: &str) {
        self.known.lock().retain(|(uid, ..), _| uid != set_uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_failure_waits_longer_for_its_own_node() {
        let failed = FailedPods::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(failed.held_back(("u", 1), "a"), None, "its time has come");
            let left = failed.held_back(("u", 1), "a").unwrap_or_default();
            waits.push(left.as_secs());
            tokio::time::advance(left).await;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(failed.held_back(("u", 1), "b"), None, "another node");
        assert_eq!(failed.held_back(("u", 2), "a"), None, "another spec");
        tokio::time::advance(BACKOFF.max * 2 + Duration::from_secs(1)).await;
        assert_eq!(failed.held_back(("u", 1), "a"), None);
        assert_eq!(failed.held_back(("u", 1), "a"), Some(Duration::from_secs(1)), "long ago is forgotten");
        failed.forget("u");
        assert_eq!(failed.held_back(("u", 1), "a"), None);
    }
}
