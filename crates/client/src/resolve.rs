//! Names to addresses without the C library's resolver, which cannot be linked statically.
//!
//! Known are IP literals, `localhost` and `/etc/hosts`: an API server is named by one of them in every kubeconfig that
//! knarr or kubeadm writes. Any other name is an error that says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Result};

/// Bytes of the hosts file that are looked at.
const HOSTS_MAX: usize = 1 << 20;

/// The addresses of a host, in the order to try them.
pub(crate) async fn resolve(host: &str) -> Result<Vec<IpAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    if bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let hosts = tokio::fs::read("/etc/hosts").await.unwrap_or_default();
    let found = lookup(&String::from_utf8_lossy(&hosts[..hosts.len().min(HOSTS_MAX)]), bare);
    if found.is_empty() {
        return Err(Error::Transport(format!(
            "cannot resolve {bare:?}: it is neither an IP address nor localhost nor in /etc/hosts, and DNS is not asked; name the server by its address"
        )));
    }
    Ok(found)
}

/// The addresses that a hosts file (hosts(5)) gives a name.
fn lookup(hosts: &str, name: &str) -> Vec<IpAddr> {
    let entries = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn a_hosts_file_has_aliases_and_comments() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1\tapi.example api # 10.0.0.2 api\n::1 API\n";
        assert_eq!(lookup(hosts, "api").len(), 2);
        assert!(lookup(hosts, "apis").is_empty());
    }
}
