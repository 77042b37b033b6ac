//! Versions of Kubernetes, by which libraries come and go.

/// A minor version: 37 of 1.37.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// What was always there.
    pub const FIRST: Version = Version(0);
    /// What new expressions may use in this version of knarr: no more than the version before can read (it must be possible to go back).
    pub const NEW: Version = Version(36);
    /// What stored expressions may use: all that there is.
    pub const STORED: Version = Version(u32::MAX);
}
