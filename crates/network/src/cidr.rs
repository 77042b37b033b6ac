//! Ranges of addresses of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Error;
use crate::nft::Family;

/// A range of addresses of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    base: IpAddr,
    prefix: u8,
}

impl Net {
    /// The range that this address lies in.
    pub fn new(address: impl Into<IpAddr>, prefix: u8) -> Self {
        let address = address.into();
        let prefix = prefix.min(Self::bits(address));
        Self { base: masked(address, prefix), prefix }
    }

    pub(crate) fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// All addresses of a family.
    pub fn everything(family: Family) -> Self {
        Self { base: family.unspecified(), prefix: 0 }
    }

    /// One address alone.
    pub fn one(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self { base: address, prefix: Self::bits(address) }
    }

    /// The first address, which names the range.
    pub fn base(self) -> IpAddr {
        self.base
    }

    /// The length of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(self) -> bool {
        self.base.is_ipv4()
    }

    /// Its family.
    pub fn family(self) -> Family {
        Family::of(self.base)
    }

    /// The bits that are the same in all of its addresses.
    pub fn mask(self) -> IpAddr {
        match self.base {
            IpAddr::V4(_) => masked(Ipv4Addr::BROADCAST.into(), self.prefix),
            IpAddr::V6(_) => masked(Ipv6Addr::from_bits(u128::MAX).into(), self.prefix),
        }
    }

    /// The place of an address in the range; none: it is not in it, or is further than anything has its place.
    pub fn offset(self, address: IpAddr) -> Option<u32> {
        match (self.base, address) {
            _ if !self.contains(address) => None,
            (IpAddr::V4(base), IpAddr::V4(ip)) => Some(ip.to_bits() - base.to_bits()),
            (IpAddr::V6(base), IpAddr::V6(ip)) => u32::try_from(ip.to_bits() - base.to_bits()).ok(),
            _ => None,
        }
    }

    /// The highest place but one, which is the last that a host of the range may have (of IPv4 the last is everybody's).
    pub(crate) fn last_place(self) -> u32 {
        let rest = u32::from(Self::bits(self.base) - self.prefix);
        1_u32.checked_shl(rest).unwrap_or(u32::MAX).saturating_sub(2)
    }

    /// The part with this number (from 0) of those that the range has with a longer prefix.
    pub fn part(self, number: u32, prefix: u8) -> Option<Self> {
        let rest = Self::bits(self.base).checked_sub(prefix)?;
        let fits = prefix >= self.prefix && 1_u64.checked_shl((prefix - self.prefix).into()).is_none_or(|all| u64::from(number) < all);
        let base: IpAddr = match self.base {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | number.checked_shl(rest.into()).unwrap_or(0)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | u128::from(number).checked_shl(rest.into()).unwrap_or(0)).into(),
        };
        fits.then_some(Self { base, prefix })
    }

    /// The address at an offset, if it lies in the range.
    pub fn nth(self, offset: u32) -> Option<IpAddr> {
        let address: IpAddr = match self.base {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().checked_add(offset)?).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().checked_add(offset.into())?).into(),
        };
        self.contains(address).then_some(address)
    }

    /// The address after the one that names it: the node's, of a node's range.
    pub fn first(self) -> IpAddr {
        match self.base {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(1)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(1)).into(),
        }
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && masked(address, self.prefix) == self.base
    }

    /// Whether all of another lies in it.
    pub fn holds(self, other: Net) -> bool {
        self.prefix <= other.prefix && self.contains(other.base)
    }

    /// The range but for one address: the largest ranges that together are the rest of it.
    pub(crate) fn without(self, address: IpAddr) -> Vec<Self> {
        if !self.contains(address) {
            return vec![self];
        }
        // Of each half the address is in the one, and the other is whole.
        let half = |prefix| {
            let with = Self::new(address, prefix);
            let bit = Self::bits(address) - prefix;
            let base: IpAddr = match with.base {
                IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ (1 << bit)).into(),
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ (1 << bit)).into(),
            };
            Self { base, prefix }
        };
        (self.prefix + 1..=Self::bits(address)).map(half).collect()
    }

    /// Whether two ranges have addresses in common.
    pub fn overlaps(self, other: Net) -> bool {
        self.holds(other) || other.holds(self)
    }
}

/// An address without the bits behind a prefix.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into(),
    }
}

impl FromStr for Net {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Config(format!("{text:?} is not a range of addresses"));
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|p| *p <= Self::bits(address)).ok_or_else(wrong)?;
        Ok(Self::new(address, prefix))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_either_family() {
        let net = |text: &str| text.parse::<Net>().unwrap();
        assert_eq!(net("fd00:10:244:1::7/64").to_string(), "fd00:10:244:1::/64");
        assert_eq!(net("fd00::/64").first(), "fd00::1".parse::<IpAddr>().unwrap());
        assert!(net("fd00::/16").holds(net("fd00:1::/32")) && !net("fd00:1::/32").holds(net("fd00::/16")) && net("fd00:1::/32").overlaps(net("fd00::/16")));
        assert!(net("::/0").contains("fd00::1".parse().unwrap()) && !net("::/0").contains("10.0.0.1".parse().unwrap()));
        assert!(!net("0.0.0.0/0").overlaps(net("::/0")) && net("10.1.0.0/16") == net("10.1.2.3/16"));
        assert_eq!(Family::ALL.map(Net::everything), [net("0.0.0.0/0"), net("::/0")]);
        assert_eq!((net("fd00::/60").mask(), net("10.0.0.0/12").mask()), ("ffff:ffff:ffff:fff0::".parse().unwrap(), "255.240.0.0".parse().unwrap()));
        assert_eq!((net("fd00::/124").nth(15), net("fd00::/124").nth(16)), (Some("fd00::f".parse().unwrap()), None));
        for (range, address, place) in [
            ("10.244.3.0/24", "10.244.3.7", Some(7)),
            ("10.244.3.0/24", "10.244.4.7", None),
            ("fd00:1::/64", "fd00:1::1:0", Some(65536)),
            ("fd00:1::/64", "fd00:1::1:0:0", None),
            ("fd00:1::/64", "10.0.0.1", None),
        ] {
            assert_eq!(net(range).offset(address.parse().unwrap()), place, "{address} in {range}");
        }
        assert_eq!(["10.0.0.0/24", "10.0.0.0/32", "fd00::/120", "fd00::/64"].map(|range| net(range).last_place()), [254, 0, 254, u32::MAX - 2]);
        let part = |range: &str, number, prefix| net(range).part(number, prefix).map(|part| part.to_string()).unwrap_or_default();
        assert_eq!([part("10.244.0.0/16", 3, 24), part("10.244.0.0/16", 256, 24)], ["10.244.3.0/24", ""]);
        assert_eq!([part("fd00:1::/56", 255, 64), part("fd00:1::/56", 256, 64), part("fd00::/64", 0, 64)], ["fd00:1:0:ff::/64", "", "fd00::/64"]);
        assert_eq!([part("fd00::/64", 0, 63), part("10.0.0.0/8", 0, 33), part("::/0", 7, 128)], ["", "", "::7/128"]);
        let without = |range: &str, ip: &str| net(range).without(ip.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(without("10.0.0.4/30", "10.0.0.6"), ["10.0.0.4/31", "10.0.0.7/32"]);
        assert_eq!(
            (without("fd00::/126", "fd00::"), without("10.0.0.7/32", "10.0.0.7")),
            (vec!["fd00::2/127".to_owned(), "fd00::1/128".to_owned()], Vec::new())
        );
        assert_eq!((without("10.0.0.0/8", "fd00::1"), without("::/0", "fd00::1").len()), (vec!["10.0.0.0/8".to_owned()], 128));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", ""] {
            assert!(wrong.parse::<Net>().is_err(), "{wrong}");
        }
    }
}
