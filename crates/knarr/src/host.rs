//! What this machine is called, and where others reach it.

use std::net::IpAddr;

/// A node's name is also the value of a label (`kubernetes.io/hostname`), which has no more bytes.
pub const NAME_MAX: usize = 63;

/// What the host is called, in lower case.
pub fn called() -> String {
    nix::unistd::gethostname().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// The same as a node's name.
pub fn name() -> String {
    as_node(&called())
}

/// A text as the name of a node, which has letters, digits, and hyphens and dots between them: a host may be called `My_Laptop`.
fn as_node(text: &str) -> String {
    let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' };
    let text: String = text.to_lowercase().chars().map(fits).collect();
    let labels = text.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
    let name = cut(&labels.collect::<Vec<_>>().join("."), NAME_MAX).to_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// The beginning of a node's name that is one itself and has at most so many bytes.
pub fn cut(name: &str, most: usize) -> &str {
    name.get(..most).map_or(name, |begins| begins.trim_end_matches(['-', '.']))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_called_as_no_node_may_be_has_a_node_all_the_same() {
        let long = "a".repeat(NAME_MAX);
        for (called, node) in [
            ("vm", "vm"),
            ("My_Laptop", "my-laptop"),
            ("host.Example.COM", "host.example.com"),
            ("-odd-.-.x.", "odd.x"),
            ("Büro", "b-ro"),
            ("_", "node"),
            ("", "node"),
            (&format!("{long}b"), &long),
            (&format!("{}.b", &long[..NAME_MAX - 1]), &long[..NAME_MAX - 1]),
        ] {
            assert_eq!(as_node(called), node);
            assert!(machinery::names::dns1123_subdomain(node).is_empty() && machinery::names::label_value(node).is_empty(), "{node}");
        }
        assert_eq!((cut("ab-c", 3), cut("ab-c", 4)), ("ab", "ab-c"));
    }
}
