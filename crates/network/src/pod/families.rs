//! What the network has of each family: IPv4 always, IPv6 where the node has a range of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::firewall::Pods;
use super::{Inner, Others, PodAddresses, State};
use crate::cidr::{Cidr, Net};
use crate::nft::Family;

impl Inner {
    /// Those of all nodes: what is of further nodes of this machine is passed on here.
    pub(super) fn pods(&self) -> Vec<Pods> {
        // They reach this one's address, its DNS, and its ports that lead to others.
        self.families().iter().filter_map(|family| Some(Pods { range: self.cluster_of(*family)?, gateway: self.gateway_of(*family)? })).collect()
    }

    /// The families that pods have.
    pub(super) fn families(&self) -> &'static [Family] {
        if self.config.ipv6.is_some() { &Family::ALL } else { &[Family::V4] }
    }

    /// The node's address of a family.
    pub(super) fn gateway_of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(self.gateway.into()),
            Family::V6 => self.config.ipv6.map(|v6| v6.node_ip()),
        }
    }

    /// All nodes' pods of a family.
    pub(super) fn cluster_of(&self, family: Family) -> Option<Net> {
        match family {
            Family::V4 => Some(self.cluster().into()),
            Family::V6 => self.config.ipv6.map(|v6| v6.cluster_cidr),
        }
    }

    /// A pod's address of a family. `ipv6`: whether it has one of that.
    pub(super) fn pod_of(&self, family: Family, address: Ipv4Addr, ipv6: bool) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(address.into()),
            Family::V6 if ipv6 => self.config.ipv6?.pod(self.config.pod_cidr.offset(address)?),
            Family::V6 => None,
        }
    }

    /// The families of which this host may pass on what is not pods'.
    pub(super) fn routers(&self, state: &State, others: &Others) -> BTreeSet<Family> {
        Family::ALL.into_iter().filter(|family| !state.switched.contains(family) || others.pass_on(*family)).collect()
    }

    /// All nodes' pods of IPv4.
    pub(super) fn cluster(&self) -> Cidr {
        self.config.cluster_cidr.unwrap_or(self.config.pod_cidr)
    }

    /// The Services' ranges that the node was told.
    pub(super) fn own_services(&self) -> Vec<Net> {
        self.config.service_cidr.map(Net::from).into_iter().chain(self.config.ipv6.map(|v6| v6.service_cidr)).collect()
    }

    /// What a pod is told of its addresses.
    pub(super) fn answer(&self, address: Ipv4Addr, ipv6: bool) -> PodAddresses {
        let ips = Family::ALL.into_iter().filter_map(|family| self.pod_of(family, address, ipv6)).collect();
        PodAddresses { ips, gateway: self.gateway }
    }
}

/// All addresses of a family.
pub(crate) fn everything(family: Family) -> Net {
    Net::new(family.unspecified(), 0)
}
