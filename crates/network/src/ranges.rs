//! The Services' ranges as the cluster has them now: those that the node was told at its start, and those of every ServiceCIDR
//! (KEP-1880), ready or about to go: a Service may have an address of any of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use client::Informer;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::cidr::Net;
use crate::nft::Family;

/// The Services' ranges.
#[derive(Clone)]
pub(crate) struct ServiceRanges {
    own: Vec<Net>,
    objects: Informer<ServiceCIDR>,
}

impl ServiceRanges {
    /// Those told at the start, and those of the objects.
    pub(crate) fn new(own: impl IntoIterator<Item = Net>, objects: Informer<ServiceCIDR>) -> Self {
        Self { own: own.into_iter().collect(), objects }
    }

    /// Those told at the start.
    pub(crate) fn own(&self) -> &[Net] {
        &self.own
    }

    /// All of them as they are now.
    pub(crate) fn now(&self) -> BTreeSet<Net> {
        let objects = self.objects.list();
        let told = objects.iter().flat_map(|o| o.spec.iter()).flat_map(|spec| spec.cidrs.iter().flatten());
        told.filter_map(|text| text.parse().ok()).chain(self.own.iter().copied()).collect()
    }

    /// Those of a family as they are now.
    pub(crate) fn of(&self, family: Family) -> BTreeSet<Net> {
        self.now().into_iter().filter(|range| range.family() == family).collect()
    }

    /// Whether an address lies in one of them.
    pub(crate) fn hold(&self, address: IpAddr) -> bool {
        self.own.iter().any(|range| range.contains(address)) || self.now().iter().any(|range| range.contains(address))
    }

    /// The objects themselves.
    pub(crate) fn objects(&self) -> &Informer<ServiceCIDR> {
        &self.objects
    }
}

/// Addresses that are machines'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machines {
    /// This machine's.
    pub(crate) here: BTreeSet<IpAddr>,
    /// Those of all nodes' machines ([`crate::mesh::machines`]).
    pub(crate) nodes: BTreeSet<IpAddr>,
}

/// So many nodes' addresses are left out of a range; of one with more in it nothing is led.
const LEFT_OUT_MAX: usize = 16;

impl Machines {
    /// What of a range is led: not an address of a node's machine, and nothing of a range in which this machine itself is.
    fn leave(&self, range: Net) -> Result<Vec<Net>, String> {
        if let Some(ip) = self.here.iter().find(|ip| range.contains(**ip)) {
            return Err(format!("this machine's address {ip}"));
        }
        let inside: Vec<IpAddr> = self.nodes.iter().copied().filter(|ip| range.contains(*ip)).collect();
        if inside.len() > LEFT_OUT_MAX {
            return Err(format!("the addresses of {} nodes", inside.len()));
        }
        Ok(inside.iter().fold(vec![range], |left, ip| left.into_iter().flat_map(|part| part.without(*ip)).collect()))
    }
}

/// Those among them by which packets may be led away or dropped. Whoever may write ServiceCIDRs may write any range into one; what
/// would take pods' or machines' own addresses leads nowhere, and the log says so: a node that led another's address to itself would not
/// reach it any more, and if the API server is there, would not hear that the range has gone. Of nodes' machines, which are where their Node
/// says, only the addresses themselves are left out: a node that lies takes no more than those from a range. The cluster's own ranges are
/// whole in any case: an address that a machine gets in one (of a private network, say) is the machine's all the same, the others stay the
/// Services'.
pub(crate) fn apart(ranges: &BTreeSet<Net>, own: &[Net], pods: Option<Net>, machines: &Machines) -> BTreeSet<Net> {
    let led = |range: &Net| {
        if own.contains(range) {
            return vec![*range];
        }
        let of_pods = pods.filter(|pods| pods.overlaps(*range)).map(|pods| format!("the pods' range {pods}"));
        let left = of_pods.map_or_else(|| machines.leave(*range), Err);
        left.unwrap_or_else(|in_the_way| {
            tracing::warn!(%range, "a range of Services is not led to them: in it is {in_the_way}");
            Vec::new()
        })
    };
    ranges.iter().flat_map(led).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    #[test]
    fn every_object_counts_whatever_its_state() {
        let object = |name: &str, cidrs: &[&str]| -> ServiceCIDR {
            let status =
                json!({"conditions": [{"type": "Ready", "status": "False", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}, "status": status})).unwrap()
        };
        let objects = Informer::fixed([object("kubernetes", &["10.96.0.0/16"]), object("more", &["10.97.0.0/24", "fd00:97::/112", "nonsense"])]);
        let ranges = ServiceRanges::new([net("10.96.0.0/16")], objects);
        assert_eq!(ranges.now(), BTreeSet::from(["10.96.0.0/16", "10.97.0.0/24", "fd00:97::/112"].map(net)));
        for (ip, holds) in [("10.96.7.7", true), ("10.97.0.9", true), ("fd00:97::9", true), ("10.97.1.0", false)] {
            assert_eq!(ranges.hold(ip.parse().unwrap()), holds, "{ip}");
        }
    }

    #[test]
    fn nobodys_own_addresses_are_led_away() {
        let ranges = BTreeSet::from(["10.97.0.0/24", "10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0", "fd00:97::/112"].map(net));
        let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect();
        let machines = Machines { here: ips(&["192.168.77.1", "10.97.0.9"]), nodes: ips(&["198.51.100.7"]) };
        let led = |own: &[Net]| apart(&ranges, own, Some(net("10.244.0.0/16")), &machines);
        assert_eq!(led(&[]), BTreeSet::from([net("fd00:97::/112")]));
        assert_eq!(led(&[net("10.97.0.0/24")]), BTreeSet::from(["10.97.0.0/24", "fd00:97::/112"].map(net)), "the cluster's own leads to it");
    }

    #[test]
    fn a_node_that_says_it_is_there_takes_its_own_address_alone() {
        let range = net("198.51.100.0/24");
        let led = |nodes: &[IpAddr]| {
            let machines = Machines { here: BTreeSet::new(), nodes: nodes.iter().copied().collect() };
            apart(&BTreeSet::from([range]), &[], None, &machines)
        };
        let claimed = [7, 99].map(|last| IpAddr::from([198, 51, 100, last]));
        let left = led(&claimed);
        for last in 0..=255 {
            let ip = IpAddr::from([198, 51, 100, last]);
            assert_eq!(left.iter().filter(|part| part.contains(ip)).count(), usize::from(!claimed.contains(&ip)), "{ip}");
        }
        let many: Vec<IpAddr> = (1..=17).map(|last| IpAddr::from([198, 51, 100, last])).collect();
        assert!(led(&many).is_empty() && !led(&many[1..]).is_empty(), "a range among so many machines is theirs");
    }
}
