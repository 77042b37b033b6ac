//! A range of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::Error;

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
}
