//! Waits between restarts that grow: upstream's `flowcontrol.Backoff`, as a pure value. They are measured by a clock that nobody sets.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// First wait.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest wait.
pub const MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Instant,
}

/// Waits by key (a container's name and hash, an image).
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

/// A wait that still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its whole length.
    pub delay: Duration,
    /// When it is over.
    pub until: Instant,
}

impl Backoff {
    /// What has not failed for twice the longest wait starts anew.
    fn expired(entry: &Entry, event: Instant) -> bool {
        event.saturating_duration_since(entry.updated) > 2 * MAX
    }

    /// Whether an event at `event` (a container's end) must still be waited for at `now`.
    #[must_use]
    pub fn waiting(&self, key: &str, event: Instant, now: Instant) -> Option<Wait> {
        let entry = self.entries.get(key).filter(|e| !Self::expired(e, event))?;
        let until = event + entry.delay;
        (now < until).then_some(Wait { delay: entry.delay, until })
    }

    /// Counts one more restart: the next wait is twice as long. What was counted long ago is forgotten, however long ago that ended which is
    /// started again (upstream's `GC`).
    pub fn next(&mut self, key: &str, now: Instant) -> Duration {
        let delay = match self.entries.get(key).filter(|e| !Self::expired(e, now)) {
            Some(e) => (e.delay * 2).min(MAX),
            None => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
        delay
    }

    /// Forgets a key: its next failure starts anew.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_five_minutes_and_begin_anew_after_ten() {
        let zero = Instant::now();
        let at = |s| zero + Duration::from_secs(s);
        let mut b = Backoff::default();
        assert_eq!(b.waiting("c", at(0), at(0)), None);
        let mut seen = Vec::new();
        let mut t = 0;
        for _ in 0..7 {
            let d = b.next("c", at(t));
            seen.push(d.as_secs());
            t += d.as_secs();
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        let wait = b.waiting("c", at(t), at(t + 1)).unwrap();
        assert_eq!((wait.delay, wait.until), (MAX, at(t + 300)));
        assert_eq!(b.waiting("c", at(t), at(t + 300)), None);
        assert_eq!(b.waiting("c", at(t + 601), at(t + 601)), None);
        assert_eq!(b.next("c", at(t + 601)), INITIAL);
    }
}
