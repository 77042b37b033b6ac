//! In which way somebody has last acted as another: he does it the same way again, most likely, so that is tried first, and its refusal is
//! the one that he is told (upstream's `modeIndexCache`). Nothing is allowed by it.

use parking_lot::Mutex;
use std::collections::HashMap;

/// Users that are remembered, as many as upstream remembers.
const USERS_MAX: usize = 10_000;

/// The number of the way by the name of the real user.
#[derive(Debug, Default)]
pub(crate) struct Impersonators(Mutex<HashMap<String, usize>>);

impl Impersonators {
    /// The way in which a user has last succeeded.
    pub(crate) fn last(&self, user: &str) -> Option<usize> {
        self.0.lock().get(user).copied()
    }

    /// Notes that a user has succeeded in a way.
    pub(crate) fn succeeded(&self, user: &str, way: usize) {
        let mut users = self.0.lock();
        // It is rebuilt by one refusal more each.
        if users.len() >= USERS_MAX && !users.contains_key(user) {
            users.clear();
        }
        users.insert(user.to_owned(), way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_way_is_remembered_and_the_memory_bounded() {
        let all = Impersonators::default();
        all.succeeded("a", 4);
        all.succeeded("a", 3);
        assert_eq!((all.last("a"), all.last("b")), (Some(3), None));
        (0..USERS_MAX).for_each(|n| all.succeeded(&n.to_string(), 1));
        assert!(all.0.lock().len() <= USERS_MAX);
        assert_eq!(all.last(&(USERS_MAX - 1).to_string()), Some(1));
    }
}
