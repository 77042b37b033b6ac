//! Images, snapshots, sandboxes, containers and the shim. Knows OCI; knows nothing of the API.
//!
//! [`Runtime`] is what the kubelet drives. Each sandbox has one **shim** process (this same program, re-executed; see
//! [`shim_main`]), which is in the pod's namespaces, is the parent of its containers, writes their logs and keeps their
//! state, so that nothing is lost when the process with the [`Runtime`] dies. A container's file systems are mounted in its
//! own mount namespace only: they vanish with its last process, and the host's mount table never sees them.

mod apparmor;
pub mod block;
mod caps;
mod cgroup;
mod devices;
mod error;
mod files;
#[cfg(test)]
mod fuzz;
mod hooks;
mod images;
mod launch;
mod layers;
pub mod mounts;
mod offline;
mod prepare;
mod process;
mod proto;
mod readings;
mod registry;
mod runtime;
mod seccomp;
mod shim;
mod shimclient;
mod shims;
mod stream;
mod sys;
pub mod tree;
mod types;
mod user;
mod users;

pub use apparmor::{apparmor_default, apparmor_enabled};
pub use error::{Error, Result};
pub use images::unpack_main;
pub use offline::Images;
pub use prepare::check_host;
pub use readings::of_machine;
pub use runtime::Runtime;
pub use shim::shim_main;
pub use stream::{AttachSession, ExecSession, Stream, Terminal};
pub use types::*;
