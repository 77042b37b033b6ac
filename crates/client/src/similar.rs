//! Events that tell the same of one object in ever other words: from the tenth on within ten minutes they are one (client-go's
//! `EventAggregator`). A set that makes a thousand pods has nine Events about them, and one about all others.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// With so many different messages a group is one event (upstream `defaultAggregateMaxEvents`).
const MESSAGES_MAX: usize = 10;
/// After so long without any the count begins anew (upstream `defaultAggregateIntervalInSeconds`).
const INTERVAL: Duration = Duration::from_secs(600);
/// Groups that are remembered (upstream `maxLruCacheEntries`).
const REMEMBERED_MAX: usize = 4096;
/// Before the message of one that stands for many.
const COMBINED: &str = "(combined from similar events): ";

/// Groups of events that differ in their messages alone.
#[derive(Debug)]
pub(crate) struct Similar<K> {
    groups: HashMap<K, Group>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Group {
    /// Messages by their hash.
    messages: HashSet<u64>,
    last: Instant,
}

impl<K> Default for Similar<K> {
    fn default() -> Self {
        Self { groups: HashMap::new(), hasher: RandomState::new() }
    }
}

impl<K: Eq + Hash> Similar<K> {
    /// The message of the event that stands for all of the group by now; none while each stands for itself.
    pub(crate) fn combined(&mut self, group: K, message: &str, now: Instant) -> Option<String> {
        if self.groups.len() >= REMEMBERED_MAX {
            self.groups.retain(|_, group| now - group.last <= INTERVAL);
            if self.groups.len() >= REMEMBERED_MAX {
                self.groups.clear();
            }
        }
        let group = self.groups.entry(group).or_insert_with(|| Group { messages: HashSet::new(), last: now });
        if now - group.last > INTERVAL {
            group.messages.clear();
        }
        group.last = now;
        let message_hash = self.hasher.hash_one(message);
        group.messages.insert(message_hash);
        if group.messages.len() < MESSAGES_MAX {
            return None;
        }
        // It never holds more.
        group.messages.remove(&message_hash);
        Some(format!("{COMBINED}{message}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tenth_message_of_ten_minutes_stands_for_all() {
        let mut similar = Similar::default();
        let mut tell = |group: &'static str, message: String| similar.combined(group, &message, Instant::now());
        for n in 0..9 {
            assert_eq!(tell("a", n.to_string()), None);
        }
        assert_eq!(tell("a", "8".to_owned()), None, "it was told before");
        assert_eq!(tell("b", "9".to_owned()), None, "about another object");
        for n in 9..12 {
            assert_eq!(tell("a", n.to_string()), Some(format!("(combined from similar events): {n}")));
        }
        tokio::time::advance(INTERVAL + Duration::from_secs(1)).await;
        assert_eq!(tell("a", "12".to_owned()), None);
    }
}
