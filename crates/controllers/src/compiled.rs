//! What is worked out from an object once and not at each use: selectors, what a template demands of nodes.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Object, ObjectKey};
use parking_lot::Mutex;

/// By the object's key: the state that it was worked out from, and the result.
#[derive(Debug)]
pub(crate) struct Compiled<T> {
    known: Mutex<HashMap<ObjectKey, (State, Arc<T>)>>,
}

impl<T> Default for Compiled<T> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

/// A kind with a generation changes what is compiled only with it; of others every revision counts.
#[derive(Debug, PartialEq)]
struct State {
    uid: String,
    version: String,
}

impl State {
    fn of(object: &impl Object) -> Self {
        let version = object.meta().generation.map_or_else(|| object.resource_version().to_owned(), |g| g.to_string());
        Self { uid: object.uid().to_owned(), version }
    }
}

impl<T> Compiled<T> {
    /// What follows from this state of the object.
    pub(crate) fn get<K: Object>(&self, object: &K, make: impl FnOnce(&K) -> T) -> Arc<T> {
        let (key, state) = (object.key(), State::of(object));
        if let Some((_, known)) = self.known.lock().get(&key).filter(|(of, _)| *of == state) {
            return known.clone();
        }
        let made = Arc::new(make(object));
        self.known.lock().insert(key, (state, made.clone()));
        made
    }

    /// The object is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.known.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_worked_out_once_for_each_generation() {
        let pod = |uid: &str, generation: i64| -> Pod {
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p", "uid": uid, "generation": generation}})).unwrap_or_default()
        };
        let (compiled, made) = (Compiled::<i64>::default(), std::cell::Cell::new(0));
        let get = |p: &Pod| {
            let make = |p: &Pod| {
                made.set(made.get() + 1);
                p.metadata.generation.unwrap_or(0)
            };
            (*compiled.get(p, make), made.get())
        };
        assert_eq!(get(&pod("a", 1)), (1, 1));
        assert_eq!(get(&pod("a", 1)), (1, 1));
        assert_eq!(get(&pod("a", 2)), (2, 2));
        assert_eq!(get(&pod("b", 2)), (2, 3), "another of the same name");
    }
}
