//! What the host's own network is, and what its kernel does in a worker of its own, moments after it was asked: that is waited for.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::link;
use crate::netlink::Socket;
use crate::{Error, Result};

/// Used where the host has no default route.
const DEFAULT_MTU: u32 = 1500;
/// Between two looks at what the kernel does in a worker of its own.
const KERNEL_LOOK: Duration = Duration::from_micros(200);
/// A link of which both ends are up has a carrier long before, and a new address its local route.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the host's end passes packets. It was brought up before the pod's end, and the kernel acts on a carrier that
/// came later in a worker of its own: until then what the host sends is lost without a word. Newer kernels act at once when
/// they are asked; older ones within moments.
pub(crate) fn wait_active(route: &mut Socket, name: &str) -> Result<()> {
    wait(&format!("link {name} does not come up"), || match link::find(route, name)? {
        Some(link) => Ok(link.active),
        None => Err(Error::Config(format!("link {name} is gone"))),
    })
}

/// Waits until a namespace takes what is sent to addresses that it was just given.
pub(crate) fn wait_local(route: &mut Socket, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
    // Of IPv4 an address is local when it is acknowledged.
    let mut later = addresses.into_iter().filter(IpAddr::is_ipv6);
    later.try_for_each(|address| wait(&format!("address {address} does not become local"), || link::is_local(route, address)))
}

/// Waits for what the kernel does in a worker of its own, moments after it was asked, and tells nobody.
fn wait(otherwise: &str, mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_done()? {
        if begun.elapsed() >= KERNEL_TIMEOUT {
            return Err(Error::Config(otherwise.into()));
        }
        std::thread::sleep(KERNEL_LOOK);
    }
    Ok(())
}

/// The addresses of this host.
pub(crate) fn addresses() -> Result<BTreeSet<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs().map_err(|e| Error::io("list this host's addresses", e.into()))?;
    let of = |a: nix::sys::socket::SockaddrStorage| a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())).or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())));
    Ok(all.filter_map(|i| of(i.address?)).collect())
}

/// The MTU of the link of the host's default route: of IPv4's, or where there is none, of IPv6's.
pub(crate) fn default_mtu(route: &mut Socket) -> u32 {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let name = default_link(&read("route")).or_else(|| default_link6(&read("ipv6_route")));
    let link = name.and_then(|name| link::find(route, &name).ok().flatten());
    link.map_or(DEFAULT_MTU, |l| l.mtu)
}

/// The link of the default route in `/proc/net/route`.
fn default_link(table: &str) -> Option<String> {
    let mut lines = table.lines().skip(1).map(str::split_ascii_whitespace);
    lines.find_map(|mut w| Some((w.next()?, w.next()?)).filter(|(_, to)| *to == "00000000").map(|(name, _)| name.to_owned()))
}

/// The same in `/proc/net/ipv6_route`, where what leads nowhere goes by loopback.
fn default_link6(table: &str) -> Option<String> {
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut to_everywhere = lines.filter(|words| words.first().is_some_and(|to| to.bytes().all(|b| b == b'0')) && words.get(1) == Some(&"00"));
    to_everywhere.find_map(|words| words.last().filter(|name| **name != "lo").map(|name| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_everywhere_is_found_in_both_tables() {
        let v4 = "Iface\tDestination\tGateway\neth1\t0000F40A\t00000000\neth0\t00000000\t0100A8C0\n";
        assert_eq!(default_link(v4).as_deref(), Some("eth0"));
        let line = |to: &str, prefix: &str, link: &str| format!("{to} {prefix} {0} 00 {0} 00000400 00000001 00000000 00000001 {link:>8}\n", "0".repeat(32));
        let zeros = "0".repeat(32);
        let v6 = [line("fd00010002440000", "40", "knarr"), line(&zeros, "00", "lo"), line(&zeros, "80", "x"), line(&zeros, "00", "eth2")].concat();
        assert_eq!((default_link6(&v6).as_deref(), default_link6("")), (Some("eth2"), None));
    }
}
