//! What a node has of IPv6 beside its IPv4: of a cluster of two families the second.

use std::net::IpAddr;

use crate::cidr::Net;

/// A node's IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// The range of its pods; the first address is the node's.
    pub pod_cidr: Net,
    /// All nodes' pods.
    pub cluster_cidr: Net,
    /// The Services.
    pub service_cidr: Net,
}

impl Ipv6 {
    /// The node's address.
    pub fn node_ip(&self) -> IpAddr {
        self.pod_cidr.first()
    }

    /// The address of the pod at this place of the node's range: the one that it has in the range of IPv4 as well.
    pub(crate) fn pod(&self, offset: u32) -> Option<IpAddr> {
        self.pod_cidr.nth(offset)
    }
}
