//! The objects that decisions are made from: a narrow window on the store's memory, so that tests need no store.

use machinery::Value;
use std::{ops::ControlFlow, sync::Arc};

/// The newest state of the API's objects.
pub trait Objects: Send + Sync {
    /// The object at a key (`/registry/pods/NAMESPACE/NAME`).
    fn get(&self, key: &str) -> Option<Arc<Value>>;

    /// What has changed below a kind's prefix after a mark of an earlier call; without one, everything.
    fn changes(&self, prefix: &str, since: Option<u64>) -> Changes;

    /// Visits the objects below a prefix whose `spec.nodeName` is `node`, until a visit says that it is enough. Nothing is
    /// decoded but what the visitor looks into.
    fn on_node(&self, prefix: &str, node: &str, visit: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>);

    /// A number that has changed whenever an object below one of the prefixes has; it may change more often.
    fn version(&self, prefixes: &[&str]) -> u64;
}

/// What has changed below a prefix.
#[derive(Debug)]
pub struct Changes {
    /// Where the next call goes on.
    pub mark: u64,
    /// These are all objects that there are: what is not among them is gone.
    pub whole: bool,
    /// Keys and their present objects, in order; none for what is gone.
    pub objects: Vec<(Arc<str>, Option<Arc<Value>>)>,
}

/// An object that is passed by.
pub struct Seen<'a> {
    /// Its key.
    pub key: &'a Arc<str>,
    /// Changes with the object.
    pub revision: u64,
    /// The object itself, decoded when it is called.
    pub value: &'a dyn Fn() -> Arc<Value>,
}
