//! Whether the schemas of definitions are structural that were there at the start: an older server may have let them in. What is
//! made since is checked when it is made.
//!
//! The whole definition is read for that, and nobody waits for the condition that follows from it. So it is done after the start,
//! one definition each [`CHECK_EVERY`], and until then what the status says of it stays.

use kinds::definitions::Structure;
use machinery::Value;
use std::{collections::HashMap, time::Duration};

/// The pause between two checks: with 500 definitions a hundredth of a core for a minute.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(100);

/// What is known of the definitions that were there at the start, by their names: the state that was checked, with what was found.
#[derive(Debug, Default)]
pub(super) struct Structures(HashMap<String, Option<(State, Option<Value>)>>);

/// By what a state of a definition's spec is known: its UID and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State(String, i64);

impl State {
    pub(super) fn of(definition: &Value) -> State {
        let metadata = &definition["metadata"];
        State(super::text(metadata, "uid").to_owned(), metadata["generation"].as_i64().unwrap_or_default())
    }
}

impl Structures {
    /// Notes that a definition was there at the start.
    pub(super) fn expect(&mut self, name: &str) {
        self.0.insert(name.to_owned(), None);
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// What is known of a definition in the state that it has now. One that was changed since is to be checked again: what was
    /// wrong before may still be.
    pub(super) fn known(&mut self, name: &str, definition: &Value) -> Structure {
        let Some(known) = self.0.get_mut(name) else { return Structure::Seen(None) };
        match known {
            Some((state, found)) if *state == State::of(definition) => Structure::Seen(found.clone()),
            _ => {
                *known = None;
                Structure::Unseen
            }
        }
    }

    /// One that is to be checked.
    pub(super) fn owed(&self) -> Option<&str> {
        self.0.iter().find(|(_, known)| known.is_none()).map(|(name, _)| name.as_str())
    }

    /// Notes what was found of a state.
    pub(super) fn note(&mut self, name: &str, state: State, found: Option<Value>) {
        if let Some(known) = self.0.get_mut(name) {
            *known = Some((state, found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_there_at_the_start_is_owed_a_check_in_each_state() {
        let definition = |generation: i64| json!({"metadata": {"uid": "u", "generation": generation}});
        let mut structures = Structures::default();
        assert_eq!(structures.known("new", &definition(1)), Structure::Seen(None), "what is made since is checked when it is made");
        assert_eq!(structures.owed(), None);

        structures.expect("old");
        assert_eq!((structures.known("old", &definition(1)), structures.owed()), (Structure::Unseen, Some("old")));
        structures.note("old", State::of(&definition(1)), Some("wrong".into()));
        assert_eq!((structures.known("old", &definition(1)), structures.owed()), (Structure::Seen(Some("wrong".into())), None));

        assert_eq!((structures.known("old", &definition(2)), structures.owed()), (Structure::Unseen, Some("old")), "it was changed");
        structures.note("old", State::of(&definition(2)), None);
        assert_eq!(structures.known("old", &definition(2)), Structure::Seen(None));

        structures.forget("old");
        structures.note("old", State::of(&definition(2)), Some("late".into()));
        assert_eq!(structures.known("old", &definition(2)), Structure::Seen(None));
    }
}
