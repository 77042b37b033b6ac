//! Where an API server is, and by which of its addresses this machine is seen from there.

use anyhow::{Context as _, bail};
use http::Uri;
use network::{Net, mesh::Kind};
use std::{
    fmt,
    net::{IpAddr, SocketAddr, UdpSocket},
    str::FromStr,
};

/// Of API servers, unless the address says another.
const PORT: u16 = 6443;

/// An API server's address: `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// A name or an address; of IPv6 in brackets.
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address of an API server, such as https://HOST:{PORT}");
        let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() || whole.contains('@') {
            return Err(wrong());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        Ok(Server { host: host.to_ascii_lowercase(), port: uri.port_u16().unwrap_or(PORT) })
    }
}

impl Server {
    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

/// The address of this machine by which it reaches one of these servers: nothing is sent for it. A server of this very machine is no way:
/// its further nodes are made otherwise.
pub async fn own_address(servers: &[Server]) -> anyhow::Result<IpAddr> {
    let here = addresses()?;
    let mut why = None;
    for server in servers {
        let bare = server.host.trim_start_matches('[').trim_end_matches(']');
        let found = match dial::addresses(bare, dial::ANSWER_MAX).await {
            Ok(found) => found,
            Err(error) => {
                why = Some(format!("{}: {error}", server.host));
                continue;
            }
        };
        for ip in found {
            if ip.is_loopback() || here.contains(&ip) {
                bail!("{server} is on this machine: a node of the control plane's own machine is added there, by `knarr node add`");
            }
            match toward((ip, server.port).into()) {
                Ok(own) => return Ok(own),
                Err(error) => why = Some(format!("{ip}: {error}")),
            }
        }
    }
    bail!("this machine has no way to the API server ({})", why.unwrap_or_default())
}

fn toward(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

/// Refuses addresses that are none of a node's: one, or one of each family. `own` and `ranges` are as in [`check`].
pub fn check_all(ips: &[IpAddr], own: &[IpAddr], ranges: &[Net]) -> anyhow::Result<()> {
    match ips {
        [_] => {}
        [one, other] if one.is_ipv4() != other.is_ipv4() => {}
        _ => bail!("--node-ip takes one address, or one of each family"),
    }
    ips.iter().try_for_each(|ip| check(*ip, own, ranges))
}

/// Puts a node's addresses in order: that of the cluster's first family comes first, since by it machines lead to each other.
pub fn put_in_order(ips: &mut [IpAddr], first: Net, kind: Kind) -> anyhow::Result<()> {
    ips.sort_by_key(|ip| ip.is_ipv4() != first.is_ipv4());
    match ips.first().filter(|ip| kind == Kind::Vxlan && ip.is_ipv4() != first.is_ipv4()) {
        Some(other) => bail!("{other} is not of the cluster's first family ({first}), by which machines reach each other: say one of it by --node-ip"),
        None => Ok(()),
    }
}

/// Refuses an address by which no other machine reaches this one: `own` are this machine's, `ranges` those of pods and Services.
fn check(ip: IpAddr, own: &[IpAddr], ranges: &[Net]) -> anyhow::Result<()> {
    let ask = "say another by --node-ip";
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        bail!(
            "{ip} is not reached from other machines, so it cannot be the node's address: {ask} (or join by an address of the API server that is not this machine's alone)"
        );
    }
    if let Some(range) = ranges.iter().find(|range| range.contains(ip)) {
        bail!("{ip} lies in the cluster's own range {range}, so it cannot be the node's address: {ask}");
    }
    if !own.contains(&ip) {
        bail!("this machine has no address {ip}: {ask}");
    }
    Ok(())
}

/// Whether a machine whose address was this has moved: it has it no more, and `now` another way to the API server. No way at all is no
/// other address, and a machine may have several.
pub fn has_moved(was: IpAddr, now: Option<IpAddr>, own: &[IpAddr]) -> bool {
    now.is_some_and(|now| now != was) && !own.contains(&was)
}

/// The addresses of this machine by which others may reach it.
pub fn addresses() -> anyhow::Result<Vec<IpAddr>> {
    crate::host::addresses().context("this machine's addresses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_are_made_alike() {
        let text = |text: &str| text.parse::<Server>().map(|s| s.to_string());
        assert_eq!(text("https://192.0.2.1:7443/").unwrap(), "https://192.0.2.1:7443");
        assert_eq!(text("API.example.com").unwrap(), "https://api.example.com:6443");
        assert_eq!(text("[2001:db8::1]").unwrap(), "https://[2001:db8::1]:6443");
        for wrong in ["http://192.0.2.1", "https://", "https://a/path", "https://me@a", "https://a?b", ""] {
            assert!(text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_that_cannot_work_is_refused() {
        let own: Vec<IpAddr> = ["192.0.2.2", "192.0.2.8", "10.244.0.1", "2001:db8::2"].map(|ip| ip.parse().unwrap()).to_vec();
        let ranges: Vec<Net> = ["10.244.0.0/16", "10.96.0.0/16"].map(|r| r.parse().unwrap()).to_vec();
        let all = |ips: &[&str]| check_all(&ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>(), &own, &ranges);
        let check = |ip: &str| all(&[ip]);
        check("192.0.2.2").unwrap();
        all(&["2001:db8::2", "192.0.2.2"]).unwrap();
        assert!(all(&["192.0.2.2", "192.0.2.8"]).unwrap_err().to_string().contains("one of each family") && all(&[]).is_err());
        assert!(all(&["192.0.2.2", "2001:db8::3"]).unwrap_err().to_string().contains("no address 2001:db8::3"));
        for (ip, why) in [
            ("127.0.0.1", "not reached"),
            ("::1", "not reached"),
            ("0.0.0.0", "not reached"),
            ("224.0.0.1", "not reached"),
            ("10.244.0.1", "10.244.0.0/16"),
            ("192.0.2.3", "no address"),
        ] {
            assert!(check(ip).unwrap_err().to_string().contains(why), "{ip}");
        }
    }

    #[test]
    fn the_first_address_is_of_the_clusters_first_family() {
        let put = |ips: &[&str], first: &str, kind| {
            let mut ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            put_in_order(&mut ips, first.parse().unwrap(), kind).map(|()| ips.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (v4, v6) = ("10.244.0.0/16", "fd00:244::/56");
        for (ips, first, expected) in [
            (&["192.0.2.2", "2001:db8::2"][..], v4, &["192.0.2.2", "2001:db8::2"][..]),
            (&["192.0.2.2", "2001:db8::2"], v6, &["2001:db8::2", "192.0.2.2"]),
            (&["2001:db8::2", "192.0.2.2"], v4, &["192.0.2.2", "2001:db8::2"]),
            (&["2001:db8::2"], v6, &["2001:db8::2"]),
        ] {
            assert_eq!(put(ips, first, Kind::Vxlan).unwrap(), expected, "{first}");
        }
        let why = put(&["192.0.2.2"], v6, Kind::Vxlan).unwrap_err().to_string();
        assert!(why.contains("192.0.2.2 is not of the cluster's first family (fd00:244::/56)") && why.contains("--node-ip"), "{why}");
        assert_eq!(put(&["192.0.2.2"], v6, Kind::Routes).unwrap(), ["192.0.2.2"], "routes go by each family's own");
    }

    #[test]
    fn a_machine_with_two_links_has_not_moved() {
        let [old, new, third]: [IpAddr; 3] = ["192.0.2.2", "198.51.100.2", "203.0.113.2"].map(|ip| ip.parse().unwrap());
        assert!(has_moved(old, Some(new), &[new, third]));
        assert!(!has_moved(old, Some(new), &[old, new]) && !has_moved(old, None, &[new]) && !has_moved(old, Some(old), &[old]));
    }

    #[tokio::test]
    async fn a_server_of_this_machine_is_no_way_to_another() {
        let of = async |server: &str| own_address(&[server.parse().unwrap()]).await.map_err(|error| error.to_string());
        assert!(of("https://127.0.0.1:1").await.unwrap_err().contains("`knarr node add`"));
        assert!(of("https://nobody.invalid").await.unwrap_err().contains("nobody.invalid"));
        for own in addresses().unwrap() {
            let server = SocketAddr::new(own, 6443).to_string();
            assert!(of(&server).await.unwrap_err().contains("on this machine"), "{server}");
        }
    }
}
