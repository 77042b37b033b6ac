//! What this server remembers of quotas between charges.

use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// What this server knows of each quota by its UID.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Page>>>>);

/// The revision that this server wrote last, and how often somebody else had written in between.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) epoch: u64,
}

impl Ledger {
    /// The page of a quota. Its lock is held over a charge, so that the page follows the quota.
    pub(crate) fn page(&self, uid: &str) -> Arc<tokio::sync::Mutex<Page>> {
        Arc::clone(self.0.lock().entry(uid.to_owned()).or_default())
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// The UIDs of the quotas that have a page.
    pub(crate) fn known(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}
