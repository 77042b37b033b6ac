//! Ranges of addresses of either family, and which of them are a node's.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;

/// A node's ranges of pods.
pub(crate) fn cidrs(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    if all.is_empty() { spec.and_then(|s| s.pod_cidr.clone()).into_iter().filter(|c| !c.is_empty()).collect() } else { all }
}

/// An address as a number.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A range of addresses of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    is_ipv4: bool,
    first: u128,
    last: u128,
}

impl Range {
    pub(crate) fn parse(text: &str) -> Option<Range> {
        let (address, prefix) = text.trim().split_once('/')?;
        let (address, prefix): (IpAddr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        let (is_ipv4, number) = (address.is_ipv4(), number(address));
        let bits: u32 = if is_ipv4 { 32 } else { 128 };
        let rest = 1u128.checked_shl(bits.checked_sub(prefix)?).map_or(u128::MAX, |size| size - 1);
        Some(Range { is_ipv4, first: number & !rest, last: number | rest })
    }

    pub(crate) fn is_ipv4(self) -> bool {
        self.is_ipv4
    }

    /// Its first and its last address, as numbers.
    pub(crate) fn bounds(self) -> (u128, u128) {
        (self.first, self.last)
    }

    /// Whether all of another range lies in it.
    pub(crate) fn holds(self, other: Range) -> bool {
        self.is_ipv4 == other.is_ipv4 && self.first <= other.first && other.last <= self.last
    }

    /// Whether two ranges have addresses in common.
    pub(crate) fn overlaps(self, other: Range) -> bool {
        self.is_ipv4 == other.is_ipv4 && self.first <= other.last && other.first <= self.last
    }

    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        self.is_ipv4 == ip.is_ipv4() && (self.first..=self.last).contains(&number(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_addresses_of_their_family() {
        let range = |text: &str| Range::parse(text).expect("a range");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(range("10.244.1.7/24").contains(ip("10.244.1.255")) && !range("10.244.1.0/24").contains(ip("10.244.2.0")));
        assert!(range("fd00:1::/64").contains(ip("fd00:1::ffff")) && !range("::/0").contains(ip("10.0.0.1")));
        assert!(range("0.0.0.0/0").contains(ip("203.0.113.1")));
        assert!(range("10.0.0.0/8").holds(range("10.244.1.0/24")) && !range("10.244.1.0/24").holds(range("10.244.0.0/16")));
        assert!(!range("10.244.0.0/16").holds(range("192.0.2.0/24")) && !range("::/0").holds(range("10.0.0.0/8")));
        assert_eq!(["10.0.0.0", "10.0.0.0/33", "x/8", ""].map(Range::parse), [None; 4]);
    }
}
