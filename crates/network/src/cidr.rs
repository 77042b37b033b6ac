//! Ranges of addresses: of IPv4 ([`Cidr`]), which is what pods of this node have, and of either family ([`Net`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Error;
use crate::nft::Family;

/// A range of IPv4 addresses by its first address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// The range that this address lies in.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = Self::bits(prefix);
        Self { base: Ipv4Addr::from_bits(address.to_bits() & mask), prefix }
    }

    fn bits(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    /// The first address, which names the range.
    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    /// The length of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bits that are the same in all of its addresses.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Self::bits(self.prefix))
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & Self::bits(self.prefix) == self.base.to_bits()
    }

    /// Whether two ranges have addresses in common.
    pub fn overlaps(self, other: Cidr) -> bool {
        let wider = if self.prefix <= other.prefix { self } else { other };
        let narrower = if self.prefix <= other.prefix { other } else { self };
        wider.contains(narrower.base)
    }

    /// How many addresses it has.
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The place of an address in the range.
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| address.to_bits() - self.base.to_bits())
    }

    /// The address at an offset, if it lies in the range.
    pub fn nth(self, offset: u32) -> Option<Ipv4Addr> {
        (u64::from(offset) < self.size()).then(|| Ipv4Addr::from_bits(self.base.to_bits() + offset))
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Config(format!("{text:?} is not an IPv4 range"));
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let prefix = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?;
        Ok(Self::new(address.parse().map_err(|_| wrong())?, prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// A range of addresses of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    base: IpAddr,
    prefix: u8,
}

impl Net {
    /// The range that this address lies in.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(Self::bits(address));
        Self { base: masked(address, prefix), prefix }
    }

    pub(crate) fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
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

    /// Whether two ranges have addresses in common.
    pub fn overlaps(self, other: Net) -> bool {
        self.holds(other) || other.holds(self)
    }
}

/// An address without the bits behind a prefix.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & Cidr::bits(prefix)).into(),
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl Net {
    /// The same as a range of IPv4, if it is one.
    pub fn ipv4(self) -> Option<Cidr> {
        match self.base {
            IpAddr::V4(base) => Some(Cidr { base, prefix: self.prefix }),
            IpAddr::V6(_) => None,
        }
    }
}

impl From<Cidr> for Net {
    fn from(range: Cidr) -> Self {
        Self { base: range.base.into(), prefix: range.prefix }
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
    fn ranges() {
        let range: Cidr = "10.244.3.9/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.244.0.0/16");
        assert!(range.contains([10, 244, 255, 255].into()) && !range.contains([10, 245, 0, 0].into()));
        for (other, common) in [("10.0.0.0/8", true), ("10.244.7.0/24", true), ("10.245.0.0/16", false), ("0.0.0.0/0", true)] {
            let other: Cidr = other.parse().unwrap();
            assert_eq!((range.overlaps(other), other.overlaps(range)), (common, common), "{other}");
        }
        assert_eq!(range.nth(257), Some([10, 244, 1, 1].into()));
        assert_eq!(range.nth(65536), None);
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains([1, 2, 3, 4].into()));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err() && "x/8".parse::<Cidr>().is_err());
    }

    #[test]
    fn ranges_of_either_family() {
        let net = |text: &str| text.parse::<Net>().unwrap();
        assert_eq!(net("fd00:10:244:1::7/64").to_string(), "fd00:10:244:1::/64");
        assert_eq!(net("fd00::/64").first(), "fd00::1".parse::<IpAddr>().unwrap());
        assert!(net("fd00::/16").holds(net("fd00:1::/32")) && !net("fd00:1::/32").holds(net("fd00::/16")) && net("fd00:1::/32").overlaps(net("fd00::/16")));
        assert!(net("::/0").contains("fd00::1".parse().unwrap()) && !net("::/0").contains("10.0.0.1".parse().unwrap()));
        assert!(!net("0.0.0.0/0").overlaps(net("::/0")) && net("10.1.0.0/16") == Net::from("10.1.2.3/16".parse::<Cidr>().unwrap()));
        assert_eq!((net("fd00::/60").mask(), net("10.0.0.0/12").mask()), ("ffff:ffff:ffff:fff0::".parse().unwrap(), "255.240.0.0".parse().unwrap()));
        assert_eq!((net("fd00::/124").nth(15), net("fd00::/124").nth(16)), (Some("fd00::f".parse().unwrap()), None));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", ""] {
            assert!(wrong.parse::<Net>().is_err(), "{wrong}");
        }
    }
}
