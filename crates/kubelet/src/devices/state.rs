//! What is prepared on this node, in memory and on disk.
//!
//! The file tells which drivers have to be asked to take back what for which pods, and what containers get; not how far a claim has come: a new
//! process has each prepared again for the next pod that begins, as upstream does. What drivers wrote to volatile directories may be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::util;

/// The file, by upstream's name.
const FILE: &str = "dra_manager_state";

/// How far a claim has come, as far as this process knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its drivers may have been asked.
    #[default]
    Known,
    /// They have prepared it.
    Prepared,
    /// They are asked to take it back.
    Unpreparing,
}

/// A device of a claim: for which of its requests, and what containers get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Its pool.
    pub pool: String,
    /// Its name there.
    pub device: String,
    /// Of which requests of the claim; none: of all.
    pub requests: Vec<String>,
    /// What containers get (Container Device Interface).
    pub cdi: Vec<String>,
    /// Which share of it, where several claims have one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The UIDs of the pods that have it.
    pub pods: BTreeSet<String>,
    /// Its drivers, with what they have prepared.
    pub drivers: BTreeMap<String, Vec<Given>>,
    #[serde(skip)]
    pub stage: Stage,
}

/// All claims. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct State(Arc<Inner>);

struct Inner {
    file: PathBuf,
    all: Mutex<Vec<Record>>,
    /// Held from before a change to after it is on disk.
    writing: Mutex<()>,
}

impl State {
    /// What a former process left. A file that makes no sense is set aside: drivers are asked again by each pod.
    ///
    /// # Errors
    /// The disk does not give it: it may hold devices of pods that run, which nobody else may be given.
    pub(super) fn read(root: &Path) -> io::Result<Self> {
        let file = root.join(FILE);
        let all = match fs::read(&file).map(|bytes| serde_json::from_slice::<Vec<Record>>(&bytes)) {
            Ok(Ok(all)) => all,
            Ok(Err(error)) => {
                tracing::warn!(%error, file = %file.display(), "what was prepared of devices cannot be read");
                let _ = fs::rename(&file, file.with_extension("broken"));
                Vec::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self(Arc::new(Inner { file, all: Mutex::new(all), writing: Mutex::default() })))
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.0.all.lock())
    }

    /// Changes what is known, and writes it down: both are done to the end, whoever waits for it. What fails changes nothing.
    ///
    /// # Errors
    /// The change's, or it could not be written.
    pub(super) async fn change<T, F>(&self, change: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(&mut Vec<Record>) -> Result<T, String> + Send + 'static,
    {
        let own = Arc::clone(&self.0);
        util::blocking(move || own.change(change)).await
    }
}

impl Inner {
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Record>) -> Result<T, String>) -> Result<T, String> {
        let _alone = self.writing.lock();
        let before = self.all.lock().clone();
        let mut next = before.clone();
        let result = change(&mut next)?;
        let failed = |error: &dyn std::fmt::Display| format!("checkpoint ResourceClaim state: {error}");
        let bytes = |all: &[Record]| serde_json::to_vec(all).map_err(|error| failed(&error));
        let fresh = bytes(&next)?;
        if fresh != bytes(&before)? {
            util::write_private(&self.file, &fresh).map_err(|error| failed(&error))?;
        }
        *self.all.lock() = next;
        Ok(result)
    }
}
