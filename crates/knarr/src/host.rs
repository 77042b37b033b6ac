//! What this machine is called, and where others reach it.

use std::net::IpAddr;

/// The host's name as a node's: lower case, first label kept whole.
pub fn name() -> String {
    let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// Addresses at which other machines may reach this one.
pub fn addresses() -> std::io::Result<Vec<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?.filter_map(|i| {
        let address = i.address?;
        address.as_sockaddr_in().map(|a| a.ip().into()).or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    let local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    Ok(all.filter(|ip| !ip.is_loopback() && !local(ip)).collect())
}
