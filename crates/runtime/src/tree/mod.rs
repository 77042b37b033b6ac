//! Trees of files that somebody else fills: an image's layers, a container's writable layer, a volume.
//!
//! Whoever fills such a tree chooses its links, its names and its depth, and may change it while it is looked at. So nothing
//! here follows a path by its text alone: every step goes by an opened directory, a link is resolved within the tree or
//! refused ([`Root`]), and a walk ([`remove`], [`usage`], [`give`]) needs neither a stack frame nor a descriptor for each level, never
//! follows a link and never enters a mount. Knows nothing of images, pods or the API.

mod give;
mod remove;
mod root;
mod usage;
mod walk;

pub use give::{give, is_not_given};
pub use remove::{remove, remove_at};
pub use root::{Links, Root};
pub use usage::usage;

#[cfg(test)]
mod tests;
