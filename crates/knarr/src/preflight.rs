//! What a machine must have before anything is made on it. Each thing that is missing is told with what to do.

use anyhow::bail;
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
};

/// Where control groups are mounted.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// Checks rights and kernel for a node.
pub fn node() -> anyhow::Result<()> {
    root()?;
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    overlay(&filesystems)?;
    if filesystems.split_whitespace().all(|f| f != "cgroup" && f != "cgroup2") {
        bail!("this kernel has no control groups (CONFIG_CGROUPS): knarr needs them for the pods' limits");
    }
    runtime::check_host(Path::new(CGROUPS))?;
    nftables()
}

/// Checks that this is root.
pub fn root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("knarr must be root to make namespaces, mounts and rules: run it with sudo")
}

fn overlay(filesystems: &str) -> anyhow::Result<()> {
    let has = |text: &str| text.split_whitespace().any(|f| f == "overlay");
    if has(filesystems) {
        return Ok(());
    }
    // It may be a module that nobody has used yet.
    let _ = std::process::Command::new("modprobe").arg("overlay").output();
    if has(&std::fs::read_to_string("/proc/filesystems").unwrap_or_default()) {
        return Ok(());
    }
    bail!("this kernel has no overlayfs (CONFIG_OVERLAY_FS; try `modprobe overlay`): knarr needs it for the containers' file systems")
}

fn nftables() -> anyhow::Result<()> {
    match network::netlink::Socket::open(network::netlink::NETFILTER).and_then(|mut socket| network::nft::tables(&mut socket, network::nft::Family::V4)) {
        Ok(_) => Ok(()),
        Err(error) => bail!("this kernel has no nftables (CONFIG_NF_TABLES and its nat and masquerade parts; try `modprobe nf_tables`): {error}"),
    }
}

/// Binds a port of the API server, or says who is in the way.
pub fn listen(ip: IpAddr, port: u16) -> anyhow::Result<tokio::net::TcpListener> {
    Ok(tokio::net::TcpListener::from_std(free(ip, port)?)?)
}

/// As [`listen`], outside of a runtime.
pub fn free(ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    let listener = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
    match listener {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("the API server's port {address} is in use by another program: end that one, or choose another with --port")
        }
        Err(error) => bail!("the API server cannot listen on {address}: {error}"),
    }
}

/// Refuses an address at which another program has the kubelet's port: a machine may be a node of another cluster, too, but by another address.
pub fn kubelet(ip: IpAddr) -> anyhow::Result<()> {
    taken(SocketAddr::new(ip, kubelet::PORT))
}

fn taken(kubelet: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(kubelet) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "the kubelet's port {kubelet} is in use by another program: this machine is a node already. End that one, or give this one another address (--node-ip)"
            )
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_one_node_at_an_address() {
        let other = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = other.local_addr().unwrap();
        assert!(taken(at).unwrap_err().to_string().contains("--node-ip"));
        drop(other);
        taken(at).unwrap();
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_what_to_do() {
        let taken = listen([127, 0, 0, 1].into(), 0).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen([127, 0, 0, 1].into(), port).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port} is in use")) && error.contains("--port"), "{error}");
    }
}
