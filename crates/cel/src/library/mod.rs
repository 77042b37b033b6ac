//! The libraries, one file each.

use crate::decl::Library;

/// Every library, with the versions that may use it.
pub fn all() -> Vec<Library> {
    Vec::new()
}
