//! Ports of the host at which the node's own processes listen: the API, the kubelet, DNS.

use std::net::IpAddr;

/// A port that is the node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPort {
    /// The address at which it listens; none: all.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
}

impl OwnPort {
    /// Whether a pod's port of the host would take it: as between two pods, one of all addresses meets one of any.
    pub fn meets(&self, host_ip: Option<IpAddr>, host_port: u16, protocol: &str) -> bool {
        self.port == host_port && self.protocol == protocol && (self.ip.is_none() || host_ip.is_none() || self.ip == host_ip)
    }
}
