//! The drivers of this node by their names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::Driver;

/// The drivers of this node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Drivers(Arc<Inner>);

struct Inner {
    by_name: RwLock<BTreeMap<String, Arc<dyn Driver>>>,
    changes: watch::Sender<()>,
}

impl Default for Drivers {
    fn default() -> Self {
        Self(Arc::new(Inner { by_name: RwLock::default(), changes: watch::Sender::new(()) }))
    }
}

impl Drivers {
    /// Takes a driver in, in the place of a former one of this name.
    pub fn add(&self, name: impl Into<String>, driver: Arc<dyn Driver>) {
        self.0.by_name.write().insert(name.into(), driver);
        self.0.changes.send_replace(());
    }

    /// Forgets a driver; whether it was known.
    pub fn remove(&self, name: &str) -> bool {
        let known = self.0.by_name.write().remove(name).is_some();
        if known {
            self.0.changes.send_replace(());
        }
        known
    }

    /// A driver.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Driver>> {
        self.0.by_name.read().get(name).cloned()
    }

    /// All, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<dyn Driver>)> {
        self.0.by_name.read().iter().map(|(name, driver)| (name.clone(), driver.clone())).collect()
    }

    /// Told when one comes or goes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.by_name.read().keys()).finish()
    }
}
