//! What the network has of each family: one or two parts, the first family's first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::firewall::Pods;
use super::{Inner, Others, PodAddresses, State};
use crate::Part;
use crate::cidr::Net;
use crate::nft::Family;

impl Inner {
    /// Those of all nodes: what is of further nodes of this machine is passed on here.
    pub(super) fn pods(&self) -> Vec<Pods> {
        // They reach this one's address, its DNS, and its ports that lead to others.
        self.config.parts.iter().map(|part| Pods { range: part.cluster_cidr, gateway: part.node_ip() }).collect()
    }

    /// The families that pods have.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + use<'_> {
        self.config.parts.iter().map(Part::family)
    }

    /// Whether pods have addresses of a family.
    pub(super) fn has(&self, family: Family) -> bool {
        self.part(family).is_some()
    }

    /// What the node has of a family.
    pub(super) fn part(&self, family: Family) -> Option<&Part> {
        self.config.parts.iter().find(|part| part.family() == family)
    }

    /// The node's address of a family.
    pub(super) fn gateway_of(&self, family: Family) -> Option<IpAddr> {
        self.part(family).map(Part::node_ip)
    }

    /// A pod's address of a family, by its address of the first. `both`: whether it has one of the second as well.
    pub(super) fn pod_of(&self, family: Family, address: IpAddr, both: bool) -> Option<IpAddr> {
        if Family::of(address) == family {
            return Some(address);
        }
        let first = self.part(Family::of(address))?;
        self.part(family).filter(|_| both)?.pod_cidr.nth(first.pod_cidr.offset(address)?)
    }

    /// A pod's addresses, by that of the first family.
    pub(super) fn addresses_of(&self, address: IpAddr, both: bool) -> Vec<IpAddr> {
        self.families().filter_map(|family| self.pod_of(family, address, both)).collect()
    }

    /// The families of which this host may pass on what is not pods'.
    pub(super) fn routers(&self, state: &State, others: &Others) -> BTreeSet<Family> {
        Family::ALL.into_iter().filter(|family| !state.told.switched.contains(family) || others.pass_on(*family)).collect()
    }

    /// The Services' ranges that the node was told.
    pub(super) fn own_services(&self) -> Vec<Net> {
        self.config.parts.iter().map(|part| part.service_cidr).collect()
    }

    /// What a pod is told of its addresses.
    pub(super) fn answer(&self, address: IpAddr, both: bool) -> PodAddresses {
        PodAddresses { ips: self.addresses_of(address, both), gateway: self.gateway }
    }
}
