//! The program's allocator: jemalloc.
//!
//! glibc's was measured beside it, mimalloc and snmalloc (docs/performance.md): writes of pods cost 40 % less CPU with each of the three,
//! and of them jemalloc alone holds no more memory than glibc, at rest and after load. `.cargo/config.toml` has its settings.

/// Whoever allocates.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Gives pages that were freed back to the system from a thread of the allocator's own, also while nothing is allocated: without
/// it the pages of a load stay until the next one. Not for the faces that must have no threads (shim, unpack, demo).
pub fn return_in_background() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "what is freed goes back to the system only when more is allocated");
    }
}
