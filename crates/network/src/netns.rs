//! Doing one thing in another network namespace.
//!
//! A namespace belongs to a thread, so the work runs on a short-lived thread that ends there and never returns to a pool:
//! no thread of the process can be left in the wrong namespace, whatever fails. A socket keeps the namespace it was
//! opened in, so usually only the opening happens here.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result};

/// Runs `work` on a thread of the network namespace at `path` and waits for it.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(path).map_err(|e| Error::io(format!("open network namespace {}", path.display()), e))?;
    on_thread(|| {
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| Error::io("enter network namespace", e.into()))?;
        work()
    })
}

/// Runs `work` on a thread in a new, empty network namespace, which lives as long as something holds it.
pub fn fresh<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::io("make a network namespace", e.into()))?;
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::io("start a thread", e))?;
        thread.join().unwrap_or_else(|_| Err(Error::Closed))
    })
}
