//! Proxies by the environment, as Go's programs read it: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, or the same in small
//! letters. This machine itself is never reached by a proxy.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};

/// Which hosts are reached by which proxy.
#[derive(Debug, Default, Clone)]
pub(crate) struct Proxies {
    plain: Option<Proxy>,
    secure: Option<Proxy>,
    none_for: Vec<Exception>,
}

/// A proxy to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    /// Spoken to with TLS.
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authorization: Option<HeaderValue>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone)]
enum Exception {
    All,
    Network(IpAddr, u32),
    /// A name and what lies below it; with a dot before it, only what lies below.
    Domain(String, Option<u16>),
}

impl Proxies {
    pub(crate) fn from_environment() -> Result<Proxies, String> {
        let of = |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).unwrap_or_default();
        Self::new(&of("HTTP_PROXY"), &of("HTTPS_PROXY"), &of("NO_PROXY"))
    }

    fn new(plain: &str, secure: &str, none_for: &str) -> Result<Proxies, String> {
        let entries = none_for.split([',', ' ']).filter(|e| !e.is_empty());
        Ok(Proxies { plain: Proxy::parse(plain)?, secure: Proxy::parse(secure)?, none_for: entries.map(Exception::parse).collect() })
    }

    pub(super) fn choose(&self, secure: bool, host: &str, port: u16) -> Option<&Proxy> {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let own = host == "localhost" || host.ends_with(".localhost") || address.is_some_and(|a| a.is_loopback());
        if own || self.none_for.iter().any(|e| e.fits(&host, address, port)) {
            return None;
        }
        if secure { self.secure.as_ref() } else { self.plain.as_ref() }
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Option<Proxy>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        // The text may have a password.
        let bad = || "the proxy in the environment is none: http://[USER:PASSWORD@]HOST[:PORT] is expected".to_owned();
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| bad())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            other => return Err(format!("proxies of the kind {} are not supported", other.unwrap_or_default())),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host().to_owned();
        let authorization = match authority.as_str().rsplit_once('@') {
            Some((user, _)) => {
                let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(percent_decoded(user)))).map_err(|_| bad())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        if host.is_empty() {
            return Err(bad());
        }
        Ok(Some(Proxy { secure, host, port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }), authorization }))
    }
}

impl Exception {
    fn parse(text: &str) -> Exception {
        if text == "*" {
            return Exception::All;
        }
        let (net, bits) = text.split_once('/').map_or((text, None), |(net, bits)| (net, bits.parse::<u32>().ok()));
        if let Ok(address) = net.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            return Exception::Network(address, bits.unwrap_or(whole).min(whole));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (text, None),
        };
        Exception::Domain(name.trim_start_matches('*').to_ascii_lowercase(), port)
    }

    fn fits(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match (self, address) {
            (Exception::All, _) => true,
            (Exception::Network(IpAddr::V4(net), bits), Some(IpAddr::V4(a))) => (u32::from(*net) ^ u32::from(a)).checked_shr(32 - bits).unwrap_or(0) == 0,
            (Exception::Network(IpAddr::V6(net), bits), Some(IpAddr::V6(a))) => (u128::from(*net) ^ u128::from(a)).checked_shr(128 - bits).unwrap_or(0) == 0,
            (Exception::Network(..), _) => false,
            (Exception::Domain(name, of_port), _) => {
                let below = host.strip_suffix(name.trim_start_matches('.')).is_some_and(|rest| rest.ends_with('.'));
                of_port.is_none_or(|p| p == port) && (host == name || below)
            }
        }
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses() {
        let none = "10.0.0.0/8, example.com,.only.below,192.168.1.7,port.example:5000,fd00::/8";
        let proxies = Proxies::new("proxy.lan:3128", "http://me:p%40ss@proxy.lan", none).unwrap();
        let by = |secure, host: &str, port| proxies.choose(secure, host, port).map(|p| (p.host.as_str(), p.port));
        assert_eq!(by(false, "quay.io", 80), Some(("proxy.lan", 3128)));
        assert_eq!(by(true, "quay.io", 443), Some(("proxy.lan", 80)));
        assert_eq!(proxies.secure.as_ref().unwrap().authorization.as_ref().unwrap(), &format!("Basic {}", STANDARD.encode("me:p@ss")));
        for direct in ["10.1.2.3", "example.com", "a.Example.com", "x.only.below", "192.168.1.7", "localhost", "127.9.9.9", "[::1]", "[fd12::1]"] {
            assert_eq!(by(true, direct, 443), None, "{direct}");
        }
        for indirect in ["11.1.2.3", "notexample.com", "only.below", "192.168.1.8", "[2001:db8::1]"] {
            assert!(by(true, indirect, 443).is_some(), "{indirect}");
        }
        assert!(by(true, "port.example", 443).is_some() && by(true, "port.example", 5000).is_none());
        assert!(Proxies::new("", "http://p", "*").unwrap().choose(true, "quay.io", 443).is_none());
        assert!(Proxies::new("", "", "").unwrap().choose(true, "quay.io", 443).is_none());
        assert!(Proxies::new("", "socks5://p", "").unwrap_err().contains("socks5"));
    }
}
