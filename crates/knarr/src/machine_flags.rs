//! Flags of `knarr up` for nodes of other machines.

use crate::cluster::NodePrefixes;
use clap::Args;
use network::mesh::Kind;
use std::{net::IpAddr, path::PathBuf};

/// How nodes of other machines reach this one, and it reaches them.
#[derive(Debug, Default, Args)]
pub struct MachineFlags {
    /// Address of this machine at which nodes of other machines reach the cluster (`knarr token create` tells them how), of the Services'
    /// first family; behind it, in a cluster of both families, one of the other (A,B), by which their routes go; kept for the next start
    #[arg(long, value_delimiter = ',')]
    pub advertise_address: Vec<IpAddr>,
    /// How pods of several machines are joined: vxlan, routes (where all machines share a link), none (by somebody else); kept for the
    /// next start [default: vxlan]
    #[arg(long)]
    pub pod_network: Option<Kind>,
    /// Bits of the prefix of each node's range of pods, chosen at the first start, of a cluster of one family [default: 24, of IPv6 64]
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// The same of IPv4 [default: 24]
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// The same of IPv6 [default: 64]
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// Further authorities (PEM) of kubelets' certificates, which then name the node or the address that is dialled; those of the
    /// cluster's own authority name the node as `system:node:NAME`
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
}

impl MachineFlags {
    /// What is said of the prefixes of nodes' ranges.
    pub fn node_prefixes(&self) -> NodePrefixes {
        NodePrefixes { only: self.node_cidr_mask_size, ipv4: self.node_cidr_mask_size_ipv4, ipv6: self.node_cidr_mask_size_ipv6 }
    }
}
