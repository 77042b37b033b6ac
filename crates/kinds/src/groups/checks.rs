//! Checks that several groups share: addresses and ranges, webhooks, signers, conditions, names of drivers.

use crate::{meta, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quote::Quoted,
};
use std::{collections::HashSet, net::IpAddr};

/// A field is what it was, where upstream says so by declaration: such errors do not show the value, nor that it is empty.
pub(super) fn fixed(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if new != old && !(tree::empty(new) && tree::empty(old)) {
        errors.push(Error::invalid(path, Value::Null, rules::IMMUTABLE).shown_as("null"));
    }
}

pub(super) use rules::ip;

/// Checks an address that must be written in the one way that is right.
pub(super) fn canonical_ip(text: &str, path: &Path, errors: &mut ErrorList) -> Option<IpAddr> {
    let address = ip(text, path, errors)?;
    let canonical = address.to_string();
    if canonical != text {
        errors.push(Error::invalid(path, text, format!("must be in canonical form ({canonical:?})")));
    }
    Some(address)
}

/// An address's bits as one number, and how many there are.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

/// A range of addresses: the first one, and the length of the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// That which it is written with.
    pub(crate) address: IpAddr,
    pub(super) length: u8,
}

impl Cidr {
    /// The bits below the prefix.
    fn host_mask(length: u8, width: u8) -> u128 {
        let host = width.saturating_sub(length);
        if host >= 128 { u128::MAX } else { (1 << host) - 1 }
    }

    /// Whether the address has bits below the prefix.
    pub(crate) fn has_host_bits(self) -> bool {
        let (value, width) = bits(self.address);
        value & Self::host_mask(self.length, width) != 0
    }

    /// Whether another range lies in this one and is smaller.
    pub(super) fn holds_strictly(self, other: Cidr) -> bool {
        let ((own, width), (theirs, others)) = (bits(self.address), bits(other.address));
        let mask = Self::host_mask(self.length, width);
        width == others && self.length < other.length && own & !mask == theirs & !mask
    }
}

impl std::fmt::Display for Cidr {
    /// The range in the one way that is right.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mask = !Self::host_mask(self.length, bits(self.address).1);
        let first: IpAddr = match self.address {
            IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() & (mask as u32)).into(),
            IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() & mask).into(),
        };
        write!(f, "{first}/{}", self.length)
    }
}

/// A range, however it is written.
pub(crate) fn lenient_cidr(text: &str) -> Option<Cidr> {
    let (ip, length) = text.split_once('/')?;
    let address = rules::lenient_ip(ip)?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = length.parse().ok().filter(|_| digits)?;
    (length <= bits(address).1).then_some(Cidr { address, length })
}

/// Whether a range is one of IPv6 addresses; none if it is no range.
pub(crate) fn family_of(text: &str) -> Option<bool> {
    lenient_cidr(text).map(|range| range.address.is_ipv6() && !rules::is_mapped(range.address))
}

/// Checks a range; what it is unless it is none.
pub(crate) fn cidr(text: &str, path: &Path, errors: &mut ErrorList) -> Option<Cidr> {
    let parsed = text.split_once('/').and_then(|(ip, _)| Some((ip, lenient_cidr(text)?)));
    let Some((ip, range)) = parsed else {
        errors.push(Error::invalid(path, text, rules::BAD_CIDR));
        return None;
    };
    let detail = if ip.parse::<IpAddr>().is_err() || text.len() != ip.len() + 1 + range.length.to_string().len() {
        "must not have leading 0s in IP or prefix length"
    } else if rules::is_mapped(range.address) {
        "must not have an IPv4-mapped IPv6 address"
    } else if range.has_host_bits() {
        "must not have bits set beyond the prefix length"
    } else {
        return Some(range);
    };
    errors.push(Error::invalid(path, text, detail));
    None
}

/// Checks a range that must be written in the one way that is right.
pub(super) fn canonical_cidr(text: &str, path: &Path, errors: &mut ErrorList) -> Option<Cidr> {
    let range = cidr(text, path, errors)?;
    let canonical = range.to_string();
    if canonical != text {
        errors.push(Error::invalid(path, text, format!("must be in canonical form ({canonical:?})")));
    }
    Some(range)
}

/// Several messages about one value as one error, as upstream joins them.
pub(super) fn joined(value: &str, path: &Path, problems: &[String], errors: &mut ErrorList) {
    if !problems.is_empty() {
        errors.push(Error::invalid(path, value, problems.join(",")));
    }
}

/// A name of at least `segments` parts.
pub(super) fn domain(name: &str, segments: usize, path: &Path, errors: &mut ErrorList) {
    let problems = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !problems.is_empty() {
        joined(name, path, &problems, errors);
    } else if name.split('.').count() < segments {
        let word = if segments == 3 { "three" } else { "two" };
        errors.push(Error::invalid(path, name, format!("should be a domain with at least {word} segments separated by dots")));
    }
}

/// The least time, in seconds, that a pod may ask a certificate for.
pub(crate) const CERTIFICATE_MIN_S: i64 = 60 * 60;

/// The longest: a day of Kubernetes' own signers, 91 days of others.
pub(crate) fn certificate_max_s(signer: &str) -> i64 {
    let domain = signer.split('/').next().unwrap_or_default();
    let days = if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") { 1 } else { 91 };
    days * 24 * 60 * 60
}

/// Annotations that a signer is told and nobody vouches for: each key has a domain in front.
pub(crate) fn user_annotations(annotations: &Value, path: &Path, errors: &mut ErrorList) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        let key = names::lower(key);
        if key.is_empty() {
            errors.push(Error::required(path, ""));
            continue;
        }
        let mut problems = names::qualified_name(&key);
        if problems.is_empty() && !key.contains('/') {
            problems.push("must be a domain-prefixed key (such as \"acme.io/foo\")".to_owned());
        }
        errors.extend(problems.into_iter().map(|problem| Error::invalid(path, key.as_str(), problem)));
    }
    if bytes > meta::ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, meta::ANNOTATIONS_BYTES_MAX));
    }
}

/// The longest name of a signer.
const SIGNER_MAX_BYTES: usize = 571;

/// The name of a signer: `example.com/name`.
pub(crate) fn signer_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let (Some((domain, rest)), 1) = (name.split_once('/'), name.matches('/').count()) else {
        errors.push(Error::invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"));
        return;
    };
    if domain.len() > names::SUBDOMAIN_MAX_BYTES {
        errors.push(Error::too_long(path, names::SUBDOMAIN_MAX_BYTES));
    }
    let labels = |whole: &str, check: fn(&str) -> Vec<String>, errors: &mut ErrorList| {
        let bad = whole.split('.').map(|label| (label, check(label))).find(|(_, problems)| !problems.is_empty());
        let (label, problems) = bad.unwrap_or_default();
        errors.extend(problems.into_iter().map(|m| Error::invalid(path, whole, format!("validating label {}: {m}", Quoted(label)))));
    };
    labels(domain, names::dns1123_label, errors);
    if !domain.contains('.') {
        errors.push(Error::invalid(path, domain, "should be a domain with at least two segments separated by dots"));
    }
    labels(rest, names::dns1123_subdomain, errors);
    if name.len() > SIGNER_MAX_BYTES {
        errors.push(Error::too_long(path, SIGNER_MAX_BYTES));
    }
}

/// A selector, if there is one.
pub(super) fn selector(owner: &Value, key: &str, path: &Path, errors: &mut ErrorList) {
    if owner[key].is_object() {
        rules::label_selector(&owner[key], &path.child(key), errors);
    }
}

/// Labels or a node selector as a map.
pub(super) fn texts<'v>(owner: &'v Value, key: &str) -> impl Iterator<Item = (usize, &'v str)> {
    tree::list(owner, key).iter().enumerate().map(|(at, v)| (at, v.as_str().unwrap_or_default()))
}

/// Whether a list of texts has a `*`.
pub(super) fn has_wildcard(owner: &Value, key: &str) -> bool {
    tree::list(owner, key).iter().any(|v| v == "*")
}

/// A `*` stands alone.
pub(super) fn wildcard_alone(owner: &Value, key: &str, what: &str, path: &Path, errors: &mut ErrorList) {
    if has_wildcard(owner, key) && tree::list(owner, key).len() > 1 {
        errors.push(Error::invalid(&path.child(key), owner[key].clone(), format!("if '*' is present, must not specify other {what}")));
    }
}

/// Where a webhook is called: either a URL or a service.
pub(super) fn client_config(config: &Value, path: &Path, errors: &mut ErrorList) {
    match (&config["url"], &config["service"]) {
        (Value::String(url), Value::Null) => webhook_url(url, &path.child("url"), errors),
        (Value::Null, service @ Value::Object(_)) => webhook_service(service, &path.child("service"), errors),
        _ => errors.push(Error::required(path, "exactly one of url or service is required")),
    }
}

fn webhook_url(url: &str, path: &Path, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    if let Some(why) = kubecel::library::urls::problem(url) {
        errors.push(Error::required(path, format!("url must be a valid URL: {why}{FORM}")));
        return;
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let is_scheme = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let (scheme, rest) = rest.split_once(':').filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", rest));
    let scheme = scheme.to_ascii_lowercase();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // What is behind a scheme and no path (`mailto:a`) names no host.
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if scheme != "https" {
        errors.push(Error::invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if host.is_empty() {
        errors.push(Error::invalid(path, host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        errors.push(Error::invalid(path, user, "user information is not permitted in the URL"));
    }
    for (part, what) in [(fragment, "fragments are"), (query, "query parameters are")] {
        if !part.is_empty() {
            errors.push(Error::invalid(path, part, format!("{what} not permitted in the URL")));
        }
    }
}

fn webhook_service(service: &Value, path: &Path, errors: &mut ErrorList) {
    // Upstream calls its check with name and namespace in each other's place, so a missing one is reported as the other.
    for (field, reported) in [("namespace", "name"), ("name", "namespace")] {
        if tree::empty(&service[field]) {
            errors.push(Error::required(&path.child(reported), ""));
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    let problems = names::port_number(port);
    if !problems.is_empty() {
        errors.push(Error::invalid(&path.child("port"), port, format!("port is not valid: {}", problems.join(", "))));
    }
    webhook_path(tree::text(service, "path"), &path.child("path"), errors);
}

fn webhook_path(url: &str, path: &Path, errors: &mut ErrorList) {
    if matches!(url, "" | "/") {
        return;
    }
    if url == "//" {
        errors.push(Error::invalid(path, url, "segment[0] may not be empty"));
        return;
    }
    if !url.starts_with('/') {
        errors.push(Error::invalid(path, url, "must start with a '/'"));
    }
    // Upstream cuts off the first byte: what it leaves of a longer character is no name either.
    let rest = url.get(1..).unwrap_or(url);
    for (at, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(path, url, format!("segment[{at}] may not be empty")));
            continue;
        }
        errors.extend(names::dns1123_subdomain(step).into_iter().map(|m| Error::invalid(path, url, format!("segment[{at}]: {m}"))));
    }
}

/// Checks conditions of the common form (`meta/v1 Condition`).
pub(super) fn conditions(status: &Value, path: &Path, errors: &mut ErrorList) {
    let path = path.child("conditions");
    let mut seen = HashSet::new();
    for (at, condition) in tree::list(status, "conditions").iter().enumerate() {
        let (place, kind) = (path.index(at), tree::text(condition, "type"));
        if !seen.insert(kind) {
            errors.push(Error::duplicate(&place, kind));
        }
        if kind.is_empty() {
            errors.push(Error::required(&place.child("type"), "is required"));
        } else {
            rules::name(kind, &place.child("type"), names::qualified_name(kind), errors);
        }
        rules::one_of(&condition["status"], &place.child("status"), &["False", "True", "Unknown"], errors);
        if let Some(generation) = condition["observedGeneration"].as_i64().filter(|n| *n < 0) {
            errors.push(Error::invalid(&place.child("observedGeneration"), generation, "must be greater than or equal to zero"));
        }
        if condition["lastTransitionTime"].is_null() {
            errors.push(Error::required(&place.child("lastTransitionTime"), ""));
        }
        reason(tree::text(condition, "reason"), &place.child("reason"), errors);
        if tree::text(condition, "message").len() > 32 * 1024 {
            errors.push(Error::too_long(&place.child("message"), 32 * 1024));
        }
    }
}

fn reason(reason: &str, path: &Path, errors: &mut ErrorList) {
    if reason.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    let edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !(reason.starts_with(|c: char| c.is_ascii_alphabetic()) && reason.chars().all(inner) && reason.ends_with(edge)) {
        let message = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
        let detail =
            names::regex_error(message, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"]);
        errors.push(Error::invalid(path, reason, detail));
    }
    if reason.len() > 1024 {
        errors.push(Error::too_long(path, 1024));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(check: impl Fn(&mut ErrorList)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors);
        errors.into_iter().map(|e| e.detail).collect()
    }

    #[test]
    fn addresses_and_ranges() {
        let ip_of = |text: &str| {
            said(|e| {
                canonical_ip(text, &Path::root("x"), e);
            })
        };
        for good in ["10.0.0.1", "fd00::1", "::"] {
            assert!(ip_of(good).is_empty(), "{good}");
        }
        assert_eq!(ip_of("10.0.0.01"), ["must not have leading 0s"]);
        assert_eq!(ip_of("::ffff:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(ip_of("FD00::1"), ["must be in canonical form (\"fd00::1\")"]);
        for bad in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.4%x", "a"] {
            assert_eq!(ip_of(bad), [rules::BAD_IP], "{bad}");
        }
        let cidr_of = |text: &str| {
            said(|e| {
                cidr(text, &Path::root("x"), e);
            })
        };
        for good in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0", "1.2.3.4/32"] {
            assert!(cidr_of(good).is_empty(), "{good}");
        }
        assert_eq!(cidr_of("10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(cidr_of("10.0.0.0/08"), ["must not have leading 0s in IP or prefix length"]);
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "/8"] {
            assert_eq!(cidr_of(bad), [rules::BAD_CIDR], "{bad}");
        }
        let range = |text: &str| cidr(text, &Path::root("x"), &mut ErrorList::new()).unwrap();
        assert!(range("10.0.0.0/8").holds_strictly(range("10.1.0.0/16")) && !range("10.0.0.0/8").holds_strictly(range("10.0.0.0/8")));
        assert!(!range("10.0.0.0/8").holds_strictly(range("11.0.0.0/16")) && !range("0.0.0.0/0").holds_strictly(range("fd00::/16")));
    }

    #[test]
    fn webhooks_and_signers() {
        let url = |text: &str| said(|e| webhook_url(text, &Path::root("x"), e)).len();
        assert_eq!([url("https://a/b"), url("http://a"), url("https://u@a"), url("https://a#f"), url("https://a?q"), url("x")], [0, 1, 1, 1, 1, 2]);
        // Without a path behind its scheme a URL has no host, and a scheme still.
        let mut opaque = ErrorList::new();
        webhook_url("x:%zz", &Path::root("x"), &mut opaque);
        assert_eq!((opaque.len(), &opaque[0].value), (2, &Value::from("x")));
        assert_eq!([url("https:a"), url("HTTPS://a:b@c/")], [1, 1]);
        let path = |text: &str| said(|e| webhook_path(text, &Path::root("x"), e)).len();
        assert_eq!([path("/a/b/"), path("a"), path("/a//b"), path("/A"), path("//"), path("é")], [0, 2, 1, 1, 1, 2]);
        let signer = |text: &str| said(|e| signer_name(text, &Path::root("x"), e)).len();
        assert_eq!([signer("a.io/b"), signer("a/b"), signer("a.io"), signer("a.io/b/c"), signer("A.io/b"), signer("")], [0, 1, 1, 1, 1, 1]);
    }
}
