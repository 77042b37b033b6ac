//! What could not be converted, and how that is told.

use std::sync::Arc;
use store::Entry;

/// An object that was not converted.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub(crate) key: Arc<str>,
    pub(super) revision: u64,
    why: String,
}

impl Unread {
    pub(crate) fn new(entry: &Entry, why: String) -> Unread {
        Unread { key: Arc::clone(&entry.key), revision: entry.revision, why }
    }

    /// As upstream's decoder of what is stored says it.
    pub(crate) fn undecodable(&self) -> String {
        format!("object not decodable revision={}: {}", self.revision, self.why)
    }

    /// As upstream's storage says it of a key.
    pub(crate) fn corrupt(&self, key: &str) -> String {
        format!("StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {}", self.undecodable())
    }
}
