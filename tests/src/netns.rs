//! A machine beside the cluster: a network namespace with a link to the host and a route by it to everywhere.

use crate::process;
use std::{path::PathBuf, process::Command, time::Duration};

/// Requests to the kernel; each takes a moment.
const LIMIT: Duration = Duration::from_secs(20);
/// The link's two ends, in the range that is set aside for such tests (RFC 2544).
const HOST: &str = "198.18.77.1";
const OWN: &str = "198.18.77.2";

/// The namespace; it goes with this value.
pub struct Beside {
    name: String,
}

fn ip(line: &str) -> process::Output {
    process::run(Command::new("ip").args(crate::words(line)), &[], LIMIT)
}

impl Beside {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        let pid = std::process::id();
        let (name, link) = (format!("knarr-test-{pid}"), format!("kt{pid}"));
        ip(&format!("netns add {name}")).assert_ok();
        let beside = Self { name: name.clone() };
        for line in [
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {HOST}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {OWN}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {HOST}"),
        ] {
            ip(&line).assert_ok();
        }
        beside
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
