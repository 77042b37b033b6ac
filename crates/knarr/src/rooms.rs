//! The threads of the process, in three rooms that do not starve each other: the API (the runtime that `main` makes), the
//! components of the control plane, and the node.
//!
//! A component that computes for long, or a node with a hundred pods in trouble, holds its own threads alone; a client of the
//! API does not notice. A request from one room to the API is handled by the API's threads (`local.rs`).

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of a room: two, so that one that is held does not hold the rest of its room. Each costs memory.
const THREADS: usize = 2;
/// Bytes of a worker's stack; the deepest path (a patch of a nested object) needs a fraction.
const STACK_BYTES: usize = 1 << 20;

/// A room's runtime.
pub fn runtime(name: &str) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(THREADS).thread_stack_size(STACK_BYTES).thread_name(format!("knarr-{name}")).enable_all().build()
}

/// A room beside that of the API. Its tasks end with it; nobody waits for them.
#[derive(Debug)]
pub struct Room {
    /// Where its tasks are started.
    pub handle: Handle,
    runtime: Option<Runtime>,
}

impl Room {
    /// Opens it.
    pub fn open(name: &str) -> std::io::Result<Room> {
        let runtime = runtime(name)?;
        Ok(Room { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // A plain drop would wait, which no task may.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
