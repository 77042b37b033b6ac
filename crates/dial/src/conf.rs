//! The two files that say how names are found: resolv.conf(5) and hosts(5).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The port of DNS.
const PORT: u16 = 53;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// The name servers, all that are written there.
    pub servers: Vec<SocketAddr>,
    /// The domains in which a short name is looked for.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it stands first.
    pub ndots: usize,
}

impl Conf {
    /// Reads the text of a `resolv.conf`; what is not understood is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().and_then(server)),
                Some("search") => out.search = words.map(str::to_owned).collect(),
                Some("domain") => out.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|w| w.strip_prefix("ndots:")?.parse().ok()).next_back();
                    out.ndots = ndots.unwrap_or(out.ndots);
                }
                _ => {}
            }
        }
        out
    }

    /// The full names that a name may stand for, in the order to try.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut all: Vec<String> = self.search.iter().map(|domain| format!("{name}.{}", domain.trim_end_matches('.'))).collect();
        let dots = name.matches('.').count();
        all.insert(if dots >= self.ndots { 0 } else { all.len() }, name.to_owned());
        all
    }
}

/// A server's address; one that is of a link names it (`fe80::1%eth0`, as routers announce themselves), by its name or number.
fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, link)) = word.split_once('%') else { return word.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, PORT)) };
    let number = || std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?.trim().parse().ok();
    let scope = link.parse().ok().or_else(|| (!link.contains('/')).then(number)?)?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

/// The addresses that a hosts file gives a name, in its order.
pub(crate) fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let entries = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_file() {
        let conf = Conf::parse("search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5 timeout:1\n");
        assert_eq!((conf.servers.as_slice(), conf.ndots), (&["10.96.0.10:53".parse().unwrap()][..], 5));
        let all = ["backend.shop.svc.cluster.local", "backend.svc.cluster.local", "backend.cluster.local", "backend"];
        assert_eq!(conf.candidates("backend"), all);
        assert_eq!(conf.candidates("backend."), ["backend"]);
    }

    #[test]
    fn a_machines_file() {
        let conf = Conf::parse("# nameserver 9.9.9.9\nnameserver 10.0.0.1 ; here\ndomain old.example\nsearch a.example b.example.\nnameserver fd00::1\n");
        assert_eq!(conf.servers, ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert_eq!(conf.candidates("x"), ["x.a.example", "x.b.example", "x"]);
        assert_eq!(conf.candidates("x.y"), ["x.y", "x.y.a.example", "x.y.b.example"]);
    }

    #[test]
    fn a_server_of_a_link() {
        let conf = Conf::parse("nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%no-such-link\nnameserver 10.0.0.1%lo\n");
        assert_eq!(conf.servers, ["[fe80::1%1]:53".parse().unwrap(), "[fe80::2%7]:53".parse().unwrap()]);
    }

    #[test]
    fn a_hosts_file_has_aliases_and_comments() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1\tapi.example api # 10.0.0.2 apis\n::1 API\n";
        assert_eq!(in_hosts(hosts, "Api"), [IpAddr::from([10, 0, 0, 1]), "::1".parse().unwrap()]);
        assert!(in_hosts(hosts, "apis").is_empty());
    }
}
