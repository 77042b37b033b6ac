//! Warnings of addresses and ranges that are written otherwise than they should be (`apimachinery/pkg/util/validation`).

use crate::{groups::checks, rules, tree};
use machinery::{Value, field::Path, quote::Quoted};
use std::net::IpAddr;

/// What is said of an address.
pub(crate) fn of_ip(text: &str, path: &Path, out: &mut Vec<String>) {
    let Some(ip) = rules::lenient_ip(text) else { return };
    let (shown, strict) = (Quoted(text), text.parse::<IpAddr>().is_ok());
    if !strict || rules::is_mapped(ip) {
        let right = ip.to_canonical().to_string();
        out.push(format!("{path}: non-standard IP address {shown} is invalid: use {}", Quoted(&right)));
    } else if ip.is_ipv6() && ip.to_string() != text {
        out.push(format!("{path}: IPv6 address {shown} should be in RFC 5952 canonical format ({})", Quoted(&ip.to_string())));
    }
}

/// What is said of a range.
pub(crate) fn of_cidr(text: &str, path: &Path, out: &mut Vec<String>) {
    let Some(range) = checks::lenient_cidr(text) else { return };
    let shown = Quoted(text);
    let whole = range.to_string();
    let ambiguous = range.has_host_bits();
    if ambiguous {
        let single = format!("{}/{}", range.address, if range.address.is_ipv6() { 128 } else { 32 });
        out.push(format!("{path}: CIDR value {shown} is ambiguous in this context (should be {} or {}?)", Quoted(&whole), Quoted(&single)));
    }
    let strict = text.split_once('/').is_some_and(|(ip, length)| ip.parse::<IpAddr>().is_ok() && (length == "0" || !length.starts_with('0')));
    if !strict || rules::is_mapped(range.address) {
        out.push(format!("{path}: non-standard CIDR value {shown} is invalid: use {}", Quoted(&whole)));
    } else if !ambiguous && range.address.is_ipv6() && whole != text {
        out.push(format!("{path}: IPv6 CIDR value {shown} should be in RFC 5952 canonical format ({})", Quoted(&whole)));
    }
}

/// What is said of where a load balancer is reached.
pub(crate) fn of_balancer(obj: &Value) -> Vec<String> {
    let (mut out, path) = (Vec::new(), Path::root("status").child("loadBalancer").child("ingress"));
    for (at, point) in tree::list(&obj["status"]["loadBalancer"], "ingress").iter().enumerate() {
        of_ip(tree::text(point, "ip"), &path.index(at), &mut out);
    }
    out
}

/// What is said of each address of a list of them.
pub(crate) fn of_ips(owner: &Value, list: &str, path: &Path, out: &mut Vec<String>) {
    for (at, ip) in tree::list(owner, list).iter().enumerate() {
        of_ip(ip.as_str().unwrap_or_default(), &path.child(list).index(at), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_should_be_written_in_one_way() {
        let path = Path::root("p");
        let told = |what: fn(&str, &Path, &mut Vec<String>), text: &str| {
            let mut out = Vec::new();
            what(text, &path, &mut out);
            out
        };
        for right in ["10.0.0.1", "fd00::1", "x"] {
            assert!(told(of_ip, right).is_empty(), "{right}");
        }
        assert_eq!(told(of_ip, "FD00::1"), ["p: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"]);
        assert_eq!(told(of_ip, "010.0.0.1"), ["p: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\""]);
        assert_eq!(told(of_ip, "::ffff:1.2.3.4"), ["p: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\""]);
        for (text, right) in [("::ffff:01.2.3.4", "1.2.3.4"), ("fd00::00001", "fd00::1"), ("::00000", "::")] {
            assert_eq!(told(of_ip, text), [format!("p: non-standard IP address \"{text}\" is invalid: use \"{right}\"")]);
        }
        for none in ["::g", "1::2::3", "::10000", "::1.2.3.256", "1.2.3.4:5"] {
            assert!(told(of_ip, none).is_empty(), "{none}");
        }
        assert!(told(of_cidr, "10.0.0.0/8").is_empty());
        assert_eq!(told(of_cidr, "FD00::/64"), ["p: IPv6 CIDR value \"FD00::/64\" should be in RFC 5952 canonical format (\"fd00::/64\")"]);
        let ambiguous = "p: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)";
        assert_eq!(told(of_cidr, "10.0.0.1/8"), [ambiguous]);
    }
}
