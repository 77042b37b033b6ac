//! Pod network, service proxy and DNS of one node.
//!
//! Nothing here starts another program: links, addresses, routes, rules and connection tracking are spoken to over
//! netlink. Everything that is made on the host carries the cluster's mark (`knarr-<mark>` in the alias of a link and in
//! the name of a table), so that clusters side by side never touch each other's and a crashed one can be cleared away.
//!
//! - [`pod`]: a point-to-point link per pod, addresses, ports of the host, egress.
//! - [`mesh`]: pods of other machines, by VXLAN or routes.
//! - [`proxy`]: Services as nftables maps, from the informers' memory.
//! - [`dns`]: the cluster's names, from the same memory.
//! - [`worker`]: further nodes of this machine, each a network namespace.
//! - [`nft`], [`netlink`], [`link`], [`ethtool`], [`conntrack`]: the kernel's languages.

mod cidr;
pub mod conntrack;
pub mod dns;
pub mod ethtool;
mod host;
pub mod lane;
pub mod link;
mod mark;
pub mod mesh;
pub mod netlink;
pub mod netns;
pub mod nft;
mod part;
pub mod pod;
pub mod proxy;
mod ranges;
mod sysctl;
pub mod worker;

pub use cidr::Net;
pub use mark::Mark;
pub use part::Part;

use std::io;

use client::Meta;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Why the network could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused; `what` names the step, `kernel` is its extended acknowledgement if it sent one.
    #[error("{what}: {source}{}", if kernel.is_empty() { String::new() } else { format!(" ({kernel})") })]
    Kernel {
        /// The step that failed.
        what: String,
        /// The errno.
        source: io::Error,
        /// The kernel's own words (netlink extended ack), or empty.
        kernel: String,
    },
    /// No address is left in the pod range.
    #[error("no free address in the pod range {0}")]
    Exhausted(String),
    /// A configuration that cannot work.
    #[error("{0}")]
    Config(String),
    /// The network's worker has ended.
    #[error("the network has been shut down")]
    Closed,
}

impl Error {
    /// An I/O error of a named step.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Kernel { what: what.into(), source, kernel: String::new() }
    }

    /// The errno, if the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An index of EndpointSlices: `NAMESPACE/NAME` of their Service. Proxy and DNS share it.
pub(crate) const BY_SERVICE: &str = "service";

/// The value of [`BY_SERVICE`].
pub(crate) fn service_of_slice(slice: &EndpointSlice) -> Vec<String> {
    slice.label(proxy::SERVICE_NAME).map(|name| format!("{}/{name}", slice.namespace())).into_iter().collect()
}
