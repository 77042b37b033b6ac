//! What a node has of a family of addresses; in a cluster of both families it has two such parts, the first family's first.

use std::net::IpAddr;

use crate::cidr::Net;
use crate::nft::Family;

/// A node's part of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The range of its pods; the first address is the node's.
    pub pod_cidr: Net,
    /// All nodes' pods, which know each other by their own addresses.
    pub cluster_cidr: Net,
    /// The Services. (Others: [`crate::pod::PodNetwork::lead_services`].)
    pub service_cidr: Net,
}

impl Part {
    /// Which family it is of.
    pub fn family(&self) -> Family {
        self.pod_cidr.family()
    }

    /// The node's address.
    pub fn node_ip(&self) -> IpAddr {
        self.pod_cidr.first()
    }
}
