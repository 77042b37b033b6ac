//! Addresses: of hosts, networks, cards, mailboxes and resources, as Go's standard library reads them.

use crate::regexp::Regex;
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

/// What may be in a part of a name: letters and symbols of all scripts.
fn is_name_letter(text: &str) -> bool {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[a-zA-Z0-9\p{S}\p{L}-]*$").ok());
    PATTERN.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// Labels and a domain of letters, or one label (`strfmt.IsHostname`): a label alone may have a hyphen as its second character only.
pub(super) fn is_hostname(text: &str) -> bool {
    if text.len() > 255 || text.split('.').any(|part| part.len() > 63) || !text.split('.').all(is_name_letter) {
        return false;
    }
    let Some((labels, top)) = text.rsplit_once('.') else {
        let mut letters = text.chars();
        let first = letters.next().is_some_and(|c| c != '-');
        let rest = letters.as_str();
        return first && !rest.strip_prefix('-').unwrap_or(rest).contains('-');
    };
    let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    labels.split('.').all(label) && top.chars().count() >= 2 && top.chars().all(char::is_alphabetic)
}

/// An address as older versions of Go read it: octets may have leading zeros.
pub(super) fn is_ip(text: &str) -> bool {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().is_ok()
            || text
                .rsplit_once(':')
                .is_some_and(|(front, tail)| tail.contains('.') && is_lenient_ipv4(tail) && format!("{front}:0.0.0.0").parse::<Ipv6Addr>().is_ok());
    }
    is_lenient_ipv4(text)
}

pub(super) fn is_strict_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_lenient_ipv4(text: &str) -> bool {
    let octet = |part: &str| {
        let digits = part.trim_start_matches('0');
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u8>().is_ok())
    };
    text.split('.').count() == 4 && text.split('.').all(octet)
}

pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = if address.contains(':') { 128 } else { 32 };
    is_ip(address) && !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u16>().is_ok_and(|length| length <= most)
}

/// Six, eight or twenty bytes, with colons or hyphens between each, or dots between pairs.
pub(super) fn is_mac(text: &str) -> bool {
    let parts = |separator: char, digits: usize| {
        let good = text.split(separator).all(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()));
        let bytes = text.split(separator).count() * digits / 2;
        good && matches!(bytes, 6 | 8 | 20)
    };
    match text.as_bytes().get(2) {
        Some(b':') => parts(':', 2),
        Some(b'-') => parts('-', 2),
        _ => text.as_bytes().get(4) == Some(&b'.') && parts('.', 4),
    }
}

/// A mailbox, with a name in front or without (`net/mail`).
pub(super) fn is_email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    match text.strip_suffix('>').and_then(|front| front.rsplit_once('<')) {
        Some((name, mailbox)) => is_phrase(name.trim_matches([' ', '\t'])) && is_mailbox(mailbox),
        None => is_mailbox(text),
    }
}

fn is_atom(text: &str, dots: bool) -> bool {
    let letter = |c: char| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (dots && c == '.');
    !text.is_empty() && text.chars().all(letter)
}

fn is_dotted(text: &str) -> bool {
    text.split('.').all(|part| is_atom(part, false))
}

fn is_quoted(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('"').filter(|rest| !rest.is_empty()).and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    let good = inside.chars().all(|c| {
        let before = escaped;
        escaped = c == '\\' && !before;
        before || (c != '"' && (c == '\t' || !c.is_control()))
    });
    good && !escaped
}

fn is_phrase(text: &str) -> bool {
    text.is_empty() || is_quoted(text) || text.split([' ', '\t']).filter(|word| !word.is_empty()).all(|word| is_quoted(word) || is_atom(word, true))
}

fn is_mailbox(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let known = literal.map_or_else(|| is_dotted(domain), |inside| is_strict_ip(inside.strip_prefix("IPv6:").unwrap_or(inside)));
    known && (is_dotted(local) || (is_quoted(local) && local.len() > 2))
}

/// What a request line may name (`net/url.ParseRequestURI`).
pub(super) fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = split_scheme(text) else { return false };
    let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    let (authority, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        Some(after) => after.split_at(after.find('/').unwrap_or(after.len())),
        None => ("", rest),
    };
    is_authority(authority) && is_escaped(path)
}

/// The scheme, empty without one, and the rest; `None` for a colon in front.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return None,
            b':' => return Some((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Some(("", text))
}

/// Each percent sign has two digits.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

fn is_authority(text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
    let user_good = user.chars().all(|c| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c)) && is_escaped(user);
    let port_good = |port: &str| port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let host_good = match host.strip_prefix('[') {
        Some(inside) => inside.rsplit_once(']').is_some_and(|(address, port)| {
            let address = address.split_once("%25").map_or(address, |(address, _)| address);
            port_good(port) && address.parse::<Ipv6Addr>().is_ok()
        }),
        None => {
            let at = host.find(':').unwrap_or(host.len());
            let (name, port) = host.split_at(at);
            let letter = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=[]<>\"%".contains(c);
            // Of what is ASCII only the percent sign itself is escaped in a host.
            let escapes = name
                .split('%')
                .skip(1)
                .all(|after| after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).is_some_and(|byte| byte >= 0x80 || byte == 0x25));
            port_good(port) && name.chars().all(letter) && escapes
        }
    };
    user_good && host_good
}
