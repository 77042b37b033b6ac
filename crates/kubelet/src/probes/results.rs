//! What probes found.

/// What the probes of a container found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeded, or there is none.
    pub ready: bool,
    /// The startup probe gave up: the container is to be killed.
    pub startup_failed: bool,
    /// The liveness probe failed: the container is to be killed.
    pub liveness_failed: bool,
}
