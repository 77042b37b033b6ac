//! The objects that decisions are made from: a narrow window on the store's memory, so that tests need no store.

use machinery::Value;
use std::sync::Arc;

/// The newest state of the API's objects.
pub trait Objects: Send + Sync {
    /// The object at a key (`/registry/pods/NAMESPACE/NAME`).
    fn get(&self, key: &str) -> Option<Arc<Value>>;

    /// The objects whose keys begin with a prefix, in order of their keys.
    fn list(&self, prefix: &str) -> Vec<Arc<Value>>;

    /// A number that has changed whenever an object below one of the prefixes has; it may change more often.
    fn version(&self, prefixes: &[&str]) -> u64;
}

/// The text of a field, empty if it is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The elements of a list, none if it is none.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
