//! Ranges of addresses, and from which of them Services are given theirs (KEP 1880, upstream's `MetaAllocator`): those of the
//! ServiceCIDRs that are ready and not to go, the server's own first; of families that the server itself has. Which they are is read anew for each write.
//!
//! An address that an IPAddress of somebody else stands for is not given, as upstream's allocator, which takes an address by making
//! that object.

use super::{families::Family, objects};
use crate::{storage, world::World};
use machinery::{Value, tree};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// The server's own range.
const OWN: &str = "kubernetes";

/// A block of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    network: IpAddr,
    prefix: u8,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Range {
    pub(crate) fn new(network: IpAddr, prefix: u8) -> Self {
        Self { network, prefix }
    }

    fn parse(text: &str) -> Option<Self> {
        let (network, prefix) = text.split_once('/')?;
        let (network, prefix): (IpAddr, u8) = (network.parse().ok()?, prefix.parse().ok()?);
        // Upstream makes no allocator of an IPv6 range beyond 2^64 addresses.
        let lengths = if network.is_ipv4() { 0..=32 } else { 64..=128 };
        lengths.contains(&prefix).then_some(Self { network, prefix })
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.network)
    }

    pub(super) fn size(&self) -> u128 {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        // Upstream does not go beyond 2^64 addresses either.
        1u128 << u32::from(bits - self.prefix.min(bits)).min(64)
    }

    pub(super) fn at(&self, offset: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(offset as u32)).into(),
            IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).wrapping_add(offset)).into(),
        }
    }

    pub(super) fn offset(&self, ip: IpAddr) -> Option<u128> {
        let offset = match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => u128::from(u32::from(ip).checked_sub(u32::from(network))?),
            (IpAddr::V6(network), IpAddr::V6(ip)) => u128::from(ip).checked_sub(u128::from(network))?,
            _ => return None,
        };
        (offset < self.size()).then_some(offset)
    }

    /// Whether an address can be given: neither the network's own nor, in IPv4, the broadcast address.
    pub(super) fn gives(&self, ip: IpAddr) -> bool {
        self.offset(ip).is_some_and(|o| o > 0 && (ip.is_ipv6() || o + 1 < self.size()))
    }
}

/// What one write may choose from.
pub(crate) struct Offer<'w> {
    pub(super) ranges: Vec<Range>,
    /// It is only tried: nothing is taken, and what would be given is a guess.
    pub(super) rehearsed: bool,
    world: Option<&'w World>,
}

impl<'w> Offer<'w> {
    /// As the objects are now; of the families of the server's own ranges.
    pub(crate) fn of(world: &'w World) -> Self {
        let own = world.services().own();
        let objects = world.list(("networking.k8s.io", "v1", "servicecidrs"), "");
        let ranges = offered(own, objects.iter().map(|object| &**object));
        Self { ranges, rehearsed: false, world: Some(world) }
    }

    /// The same, for a write that is only tried if so.
    pub(crate) fn rehearsed(self, rehearsed: bool) -> Self {
        Self { rehearsed, ..self }
    }

    #[cfg(test)]
    pub(super) fn fixed(ranges: &[Range]) -> Self {
        Self { ranges: ranges.to_vec(), rehearsed: false, world: None }
    }

    /// Whether an IPAddress of this name is there.
    pub(super) fn is_shown(&self, ip: IpAddr) -> bool {
        self.world.is_some_and(|world| objects::is_there(world, ip))
    }

    /// How many IPAddresses there are.
    pub(super) fn shown(&self) -> u128 {
        let count = self.world.and_then(|world| objects::row(world).map(|row| storage::count(world.store(), &row)));
        count.map_or(0, |count| count as u128)
    }
}

fn offered<'v>(own: &[Range], objects: impl Iterator<Item = &'v Value>) -> Vec<Range> {
    let (mut first, mut rest, mut is_there) = (Vec::new(), Vec::new(), false);
    for object in objects {
        let is_own = tree::text(&object["metadata"], "name") == OWN;
        is_there |= is_own;
        if !is_ready(object) {
            continue;
        }
        for range in tree::texts(&object["spec"]["cidrs"])
            .iter()
            .filter_map(|text| Range::parse(text))
            .filter(|range| own.iter().any(|own| own.family() == range.family()))
        {
            let list = if is_own { &mut first } else { &mut rest };
            list.push(range);
        }
    }
    if !is_there {
        // It is made at the start, after the first Services.
        first.extend(own);
    }
    rest.retain(|range| !first.contains(range));
    first.extend(rest);
    first
}

/// One of which nothing is told is ready: nobody may be there to tell it.
fn is_ready(object: &Value) -> bool {
    let told = tree::items(&object["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    tree::text(&object["metadata"], "deletionTimestamp").is_empty() && told.is_none_or(|c| c["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(text: &str) -> Range {
        Range::parse(text).expect(text)
    }

    #[test]
    fn what_is_offered_is_ready_and_stays() {
        let own = range("10.96.0.0/16");
        let object = |name: &str, cidrs: &[&str], extra: Value| {
            let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
            machinery::patch::merge(&mut object, &extra);
            object
        };
        let ready = |is: &str| json!({"status": {"conditions": [{"type": "Ready", "status": is}]}});
        let of = |objects: &[Value]| offered(&[own], objects.iter());
        assert_eq!(of(&[]), [own], "before the object is there");
        let kubernetes = object(OWN, &["10.96.0.0/16"], ready("True"));
        let extra = object("extra", &["10.1.0.0/24", "fd00::/112"], json!({}));
        assert_eq!(of(&[extra.clone(), kubernetes.clone()]), [own, range("10.1.0.0/24")], "the own one first, and one family");
        let both = [own, range("fd00:96::/112")];
        let dual = |objects: &[Value]| offered(&both, objects.iter());
        assert_eq!(dual(&[]), both);
        assert_eq!(dual(&[extra.clone(), kubernetes.clone()]), [own, range("10.1.0.0/24"), range("fd00::/112")]);
        assert_eq!(of(&[object("extra", &["10.1.0.0/24"], ready("False")), kubernetes.clone()]), [own]);
        let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(of(&[object("extra", &["10.1.0.0/24"], ending.clone()), kubernetes]), [own]);
        assert_eq!(of(&[extra, object(OWN, &["10.96.0.0/16"], ending)]), [range("10.1.0.0/24")], "the own one is to go");
    }

    #[test]
    fn a_range_gives_what_lies_within() {
        let narrow = range("10.1.0.0/30");
        let gives = |text: &str| narrow.gives(text.parse().expect(text));
        assert!(gives("10.1.0.1") && gives("10.1.0.2"));
        for not in ["10.1.0.0", "10.1.0.3", "10.1.0.4", "fd00::1"] {
            assert!(!gives(not), "{not}");
        }
        assert!(range("fd00::/126").gives("fd00::3".parse().expect("an address")));
        for bad in ["", "10.1.0.0", "10.1.0.0/33", "::/129", "fd00::/63", "x/8"] {
            assert_eq!(Range::parse(bad), None, "{bad}");
        }
    }
}
