//! A machine beside the cluster: a network namespace with a link to the host and a route by it to everywhere.

use crate::process;
use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Requests to the kernel; each takes a moment.
const LIMIT: Duration = Duration::from_secs(20);
/// Where the links' ends are: half of the range that is set aside for such tests (RFC 2544), in blocks of four addresses.
const RANGE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
const BLOCKS: u32 = 1 << 14;
/// As many as a process may make: its blocks follow from its number.
const BLOCKS_EACH: u32 = 16;
/// Those that were made here.
static MADE: AtomicU32 = AtomicU32::new(0);

/// The namespace; it goes with this value.
pub struct Beside {
    name: String,
    base: Ipv4Addr,
}

/// Runs `ip` with these words.
pub fn ip(line: &str) -> process::Output {
    process::run(Command::new("ip").args(crate::words(line)), &[], LIMIT)
}

impl Beside {
    /// Makes it, with addresses that no other has: the kernel remembers for minutes what became of connections that never came to be, and
    /// an address that is used again at the same port would be led to a pod of the cluster before.
    #[must_use]
    pub fn new() -> Self {
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        let block = (std::process::id() * BLOCKS_EACH + nth) % BLOCKS;
        Self::make(nth, Ipv4Addr::from_bits(RANGE.to_bits() + block * 4))
    }

    /// Makes it with the block of four addresses that begins here.
    #[must_use]
    pub fn at(base: Ipv4Addr) -> Self {
        Self::make(MADE.fetch_add(1, Ordering::Relaxed), base)
    }

    fn make(nth: u32, base: Ipv4Addr) -> Self {
        let pid = std::process::id();
        let (name, link) = (format!("knarr-test-{pid}-{nth}"), format!("kt{pid}-{nth}"));
        ip(&format!("netns add {name}")).assert_ok();
        let beside = Self { name: name.clone(), base };
        let (host, own) = (beside.host(), beside.own());
        for line in [
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {host}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {own}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {host}"),
        ] {
            ip(&line).assert_ok();
        }
        beside
    }

    /// The host's address on the link.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + 1)
    }

    /// Its own address.
    #[must_use]
    pub fn own(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + 2)
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Default for Beside {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Its link goes with it.
        ip(&format!("netns del {}", self.name));
    }
}
