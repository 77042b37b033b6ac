//! That the machine goes down, and when the last time was: for who lets pods in, for the node's status, and for metrics. The times outlive
//! the process in a file, as upstream's `graceful_node_shutdown_state`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

const FILE: &str = "graceful_node_shutdown_state";
/// Go's time of nothing.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// When pods were last ended, and when that was done.
pub type Times = (Option<SystemTime>, Option<SystemTime>);

/// That the machine goes down.
pub struct Ending {
    now: watch::Sender<bool>,
    times: Mutex<Times>,
    file: PathBuf,
}

impl Ending {
    /// It does not; the times are those of the file in this directory.
    #[must_use]
    pub fn new(root: &std::path::Path) -> Self {
        let file = root.join(FILE);
        let times = fs::read(&file).map(|bytes| read(&bytes)).unwrap_or_default();
        Self { now: watch::Sender::new(false), times: Mutex::new(times), file }
    }

    /// Whether it does.
    #[must_use]
    pub fn is_near(&self) -> bool {
        *self.now.borrow()
    }

    /// Tells of changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.now.subscribe()
    }

    /// When it last did.
    #[must_use]
    pub fn times(&self) -> Times {
        *self.times.lock()
    }

    pub(super) fn set(&self, near: bool) {
        self.now.send_replace(near);
    }

    pub(super) fn note(&self, times: Times) {
        *self.times.lock() = times;
        if let Err(error) = write(&self.file, times) {
            tracing::error!(%error, "Failed to store graceful shutdown state");
        }
    }
}

fn read(bytes: &[u8]) -> Times {
    let told: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let time = |field: &str| told[field].as_str().filter(|t| *t != NEVER).and_then(|t| machinery::time::parse(t).ok());
    (time("startTime"), time("endTime"))
}

fn write(file: &std::path::Path, (start, end): Times) -> io::Result<()> {
    let text = |time: Option<SystemTime>| time.map_or_else(|| NEVER.to_owned(), machinery::time::rfc3339_micro);
    crate::util::write_private(file, json!({"startTime": text(start), "endTime": text(end)}).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_times_outlive_the_process_and_a_broken_file_tells_none() {
        let dir = TempDir::new("shutdown-record");
        let at = |s: u64| Some(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(Ending::new(dir.path()).times(), (None, None));
        Ending::new(dir.path()).note((at(1_700_000_000), None));
        assert_eq!(Ending::new(dir.path()).times(), (at(1_700_000_000), None));
        Ending::new(dir.path()).note((at(1_700_000_000), at(1_700_000_030)));
        assert_eq!(Ending::new(dir.path()).times(), (at(1_700_000_000), at(1_700_000_030)));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Ending::new(dir.path()).times(), (None, None));
    }
}
