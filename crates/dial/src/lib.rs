//! How a host is reached, and how many hosts may reach us ([`guests`]).
//!
//! Its name is found as a C library would find it: `/etc/hosts`, then the servers and search domains of `/etc/resolv.conf`.
//! The C library itself is not asked: its resolver cannot be linked statically. And where a host need not prove who it is, TLS
//! takes any certificate. What every server above has is here as well: how a WebSocket's handshake is answered, and a HEAD over
//! HTTP/2 ([`head`]).
//!
//! Nothing is kept between two lookups, and nothing runs in between: whoever asks often remembers for himself.

mod ask;
mod conf;
pub mod guests;
pub mod head;
mod tls;
pub mod websocket;

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use ask::{ask_tcp, ask_udp};
pub use conf::Conf;
pub use tls::{requested, server_provider, unverified};

/// How long a server may take for its answer, as resolv.conf(5) has it.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Bytes of a file of the host that are looked at.
const FILE_MAX: u64 = 1 << 20;

/// The addresses of a host (a name, or an IP address in brackets or not), IPv4 first; never none. Where the hosts file does
/// not tell, name servers are asked, each for as long as `answer_max`.
///
/// # Errors
///
/// The name is known to nobody (`NotFound`), or no server had an answer.
pub async fn addresses(host: &str, answer_max: Duration) -> io::Result<Vec<IpAddr>> {
    let name = host.trim_matches(['[', ']']);
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let known = known(name, &text("/etc/hosts"));
    if !known.is_empty() {
        return Ok(known);
    }
    ask::addresses(name, &Conf::parse(&text("/etc/resolv.conf")), answer_max).await
}

/// What this machine knows by itself: the hosts file's names, and `localhost` and what lies below it (RFC 6761).
fn known(name: &str, hosts: &str) -> Vec<IpAddr> {
    let mut found = conf::in_hosts(hosts, name);
    found.sort_by_key(IpAddr::is_ipv6);
    let lower = name.to_ascii_lowercase();
    if found.is_empty() && (lower == "localhost" || lower.ends_with(".localhost")) {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

/// Such files are short and in the page cache: another thread for them would cost more than reading does.
fn text(path: &str) -> String {
    let mut bytes = Vec::new();
    // A file that cannot be read says nothing: a container may well have none.
    let _ = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_stand_for_themselves() {
        for (host, address) in [("192.0.2.1", "192.0.2.1"), ("[::1]", "::1")] {
            assert_eq!(addresses(host, ANSWER_MAX).await.unwrap(), [address.parse::<IpAddr>().unwrap()]);
        }
    }

    #[test]
    fn the_hosts_file_is_heard_before_localhost_is_guessed() {
        let hosts = "::1 registry.localhost\n192.0.2.7 registry.localhost\n";
        assert_eq!(known("registry.localhost", hosts), [IpAddr::from([192, 0, 2, 7]), Ipv6Addr::LOCALHOST.into()]);
        assert_eq!(known("LocalHost", hosts), [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
        assert!(known("host.example", hosts).is_empty());
    }
}
