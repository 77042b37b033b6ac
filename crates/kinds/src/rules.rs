//! Checks that many kinds share (`pkg/apis/core/validation`, `apimachinery/pkg/apis/meta/v1/validation`).

use crate::{internal, name_rule::NameRule, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    labels::Selector,
    names,
    quantity::Quantity,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::IntErrorKind;

/// How many errors of one kind are told that each show a whole list: as many of them as the list has items would be its square.
pub(crate) const LISTS_TOLD_MAX: usize = 16;
/// What is said of a field that may not change.
pub(crate) const IMMUTABLE: &str = "field is immutable";
/// What is said of a number below zero.
pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";

/// A number, if given, is not negative.
pub(crate) fn not_negative(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = value.as_i64().filter(|n| *n < 0) {
        errors.push(Error::invalid(path, number, NEGATIVE));
    }
}

/// Several fields of an object, if given, are not negative.
pub(crate) fn all_not_negative(spec: &Value, path: &Path, fields: &[&str], errors: &mut ErrorList) {
    for field in fields {
        if spec[*field].as_i64().is_some_and(|n| n < 0) {
            not_negative(&spec[*field], &path.child(field), errors);
        }
    }
}

/// A number, if given, is greater than zero.
pub(crate) fn positive(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(number) = value.as_i64().filter(|n| *n <= 0) {
        errors.push(Error::invalid(path, number, "must be greater than 0"));
    }
}

/// A text is there.
pub(crate) fn required(owner: &Value, path: &Path, field: &str, errors: &mut ErrorList) -> bool {
    let missing = tree::empty(&owner[field]);
    if missing {
        errors.push(Error::required(&path.child(field), ""));
    }
    !missing
}

/// A field is what it was.
pub(crate) fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let same = new == old || (tree::empty(new) && tree::empty(old));
    if !same {
        errors.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// A part of a form that [`internal`] knows is what it was; the message shows that form, and a plain text as Go quotes it.
pub(crate) fn immutable_part(form: &str, new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if !internal::same(form, new, old) {
        let error = Error::invalid(path, new.clone(), IMMUTABLE);
        let plain = form == "s" && new.is_string();
        errors.push(if plain { error } else { error.shown_as(internal::text(form, new)) });
    }
}

/// An error whose value is of a type of its own upstream: such a text is shown as JSON, and not as Go quotes a plain one.
pub(crate) fn typed(error: Error) -> Error {
    let shown = String::from_utf8_lossy(&machinery::json::encode(&error.value)).into_owned();
    error.shown_as(shown)
}

/// A word, of a type of its own upstream, is none of those allowed.
#[must_use]
pub fn not_supported(path: &Path, word: impl Into<Value>, allowed: &[impl AsRef<str>]) -> Error {
    typed(Error::not_supported(path, word, allowed))
}

/// A value is one of those allowed; an absent one is required.
pub(crate) fn one_of(value: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if let Some(text) = unlisted(value, path, allowed, errors) {
        errors.push(not_supported(path, text, allowed));
    }
}

/// The same of a value that is a plain text upstream.
pub(crate) fn one_of_plain(value: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if let Some(text) = unlisted(value, path, allowed, errors) {
        errors.push(Error::not_supported(path, text, allowed));
    }
}

/// A word that is none of those allowed; an absent one is told.
fn unlisted<'v>(value: &'v Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) -> Option<&'v str> {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        errors.push(Error::required(path, ""));
    }
    Some(text).filter(|text| !text.is_empty() && !allowed.contains(text))
}

/// Messages about a value become errors.
pub(crate) fn name(value: &str, path: &Path, problems: Vec<String>, errors: &mut ErrorList) {
    errors.extend(problems.into_iter().map(|m| Error::invalid(path, value, m)));
}

/// The same messages as upstream's declared rules have them, which count bytes.
pub(crate) fn in_bytes(problems: Vec<String>) -> Vec<String> {
    let told = |problem: String| match problem.strip_prefix("must be no more than ").and_then(|rest| rest.strip_suffix(" characters")) {
        Some(most) => format!("must be no more than {most} bytes"),
        None => problem,
    };
    problems.into_iter().map(told).collect()
}

/// A name of most kinds, or the beginning of one.
pub(crate) fn name_or_prefix(value: &str, path: &Path, errors: &mut ErrorList) {
    name(value, path, NameRule::Subdomain.check(value, true), errors);
}

/// The name of a CSI driver, in any case.
pub(crate) fn driver_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > names::LABEL_MAX_BYTES {
        errors.push(Error::too_long(path, names::LABEL_MAX_BYTES));
    }
    errors.extend(names::dns1123_subdomain(&names::lower(name)).into_iter().map(|m| Error::invalid(path, name, m)));
}

/// A port's number.
pub(crate) fn port(number: i64, path: &Path, errors: &mut ErrorList) {
    errors.extend(names::port_number(number).into_iter().map(|m| Error::invalid(path, number, m)));
}

/// A text, if it is given, is one of those allowed.
pub(crate) fn supported(value: &Value, path: &Path, allowed: &[&str], errors: &mut ErrorList) {
    if let Some(text) = value.as_str().filter(|t| !allowed.contains(t)) {
        errors.push(not_supported(path, text, allowed));
    }
}

/// What an annotation says in JSON, nothing where it is empty; the error is what Go's decoder says of it.
pub(crate) fn told(text: &str, go_type: &str, fits: impl FnOnce(&Value) -> bool) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_null() || fits(&value) => Ok(value),
        Ok(other) => Err(format!("json: cannot unmarshal {} into Go value of type {go_type}", machinery::tree::json_type(&other))),
        // What only this reader refuses (its depth, a number beyond all floats) stands where Go's looks at nothing.
        Err(_) => machinery::json::syntax_error(text.as_bytes()).map_or(Ok(Value::Null), Err),
    }
}

/// Checks labels.
pub fn labels(labels: &Value, path: &Path, errors: &mut ErrorList) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(names::qualified_name(key).into_iter().map(|m| Error::invalid(path, key.as_str(), m)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(names::label_value(value).into_iter().map(|m| Error::invalid(path, value, m)));
    }
}

/// Checks a `LabelSelector`.
pub(crate) fn label_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    if !tree::empty(&selector["matchLabels"]) {
        labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    }
    for (at, term) in tree::list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let (operator, values) = (tree::text(term, "operator"), tree::list(term, "values"));
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(Error::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(Error::forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(typed(Error::invalid(&path.child("operator"), other, "not a valid selector operator"))),
        }
        name(tree::text(term, "key"), &path.child("key"), names::qualified_name(tree::text(term, "key")), errors);
        for (at, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            name(value, &path.child("values").index(at), names::label_value(value), errors);
        }
    }
}

/// The selector of a workload (`what`): there, not empty, and true of its own template's labels. Whether it is one at all: where it is
/// not, the original does not look at the template.
pub(crate) fn workload_selector(spec: &Value, path: &Path, what: &str, errors: &mut ErrorList) -> bool {
    let (selector, place) = (&spec["selector"], path.child("selector"));
    let labels = &spec["template"]["metadata"]["labels"];
    if selector.is_null() {
        // The original is silent for daemon sets: it selects nothing, its own pods included.
        if what != "daemonset" {
            errors.push(Error::required(&place, ""));
        }
        errors.push(foreign_labels(labels, path));
        return true;
    }
    label_selector(selector, &place, errors);
    let empty = tree::empty(&selector["matchLabels"]) && tree::empty(&selector["matchExpressions"]);
    if empty {
        errors.push(
            Error::invalid(&place, selector.clone(), format!("empty selector is invalid for {what}"))
                .shown_as(internal::text("metav1.LabelSelector", selector)),
        );
    }
    match Selector::from_label_selector(selector) {
        Err(_) if what == "daemonset" => {}
        Err(_) => {
            let detail = if what == "statefulset" { "" } else { "invalid label selector" };
            errors.push(Error::invalid(&place, selector.clone(), detail).shown_as(internal::text("metav1.LabelSelector", selector)));
            return false;
        }
        Ok(parsed) if !empty && !parsed.matches(|key| labels.get(key).and_then(Value::as_str)) => errors.push(foreign_labels(labels, path)),
        Ok(_) => {}
    }
    true
}

fn foreign_labels(labels: &Value, path: &Path) -> Error {
    let path = path.child("template").child("metadata").child("labels");
    Error::invalid(&path, labels.clone(), "`selector` does not match template `labels`")
}

/// A quantity; `None` if it is none.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// The quantities of a resource list by name.
pub(crate) fn quantities(value: &Value) -> BTreeMap<&str, Quantity> {
    value.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), quantity(v)?))).collect()
}

/// Quantities that may not be negative.
pub(crate) fn quantity_not_negative(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(quantity) = quantity(value).filter(|q| *q < Quantity::ZERO) {
        errors.push(Error::invalid(path, quantity.to_string(), NEGATIVE));
    }
}

/// A percentage or a number that is not negative; the percentage is at most 100 if `capped`.
pub(crate) fn int_or_percent(value: &Value, path: &Path, capped: bool, errors: &mut ErrorList) {
    match value {
        Value::String(text) if percent(text).is_none() => {
            let detail = names::regex_error("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", &["1%", "93%"]);
            errors.push(typed(Error::invalid(path, text.as_str(), detail)));
        }
        Value::String(_) if capped => at_most_all(value, path, errors),
        Value::Number(_) => not_negative(value, path, errors),
        _ => {}
    }
}

/// The number of a percentage; one that is too large is as large as can be.
fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// A percentage is no more than 100.
pub(crate) fn at_most_all(value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(text) = value.as_str().filter(|text| percent(text).is_some_and(|percent| percent > 100)) {
        errors.push(Error::invalid(path, text, "must not be greater than 100%"));
    }
}

/// Whether a number or percentage is zero.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        // A text that is neither a percentage nor a number counts as none; a number that is too large is one.
        Value::String(text) => match (percent(text), text.parse::<i64>()) {
            (Some(percent), _) => percent == 0,
            (None, Ok(number)) => number == 0,
            (None, Err(why)) => !matches!(why.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow),
        },
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

/// A workload's count of collisions only grows.
pub(crate) fn collisions(status: &Value, old: &Value, errors: &mut ErrorList) {
    let number = |v: &Value| v["collisionCount"].as_i64();
    // One that was not there may become anything.
    if number(old).is_some_and(|old| number(status).is_none_or(|new| new < old)) {
        errors.push(Error::invalid(&Path::root("status.collisionCount"), number(status).unwrap_or(0), "cannot be decremented"));
    }
}

/// An address as older versions of Go read it: any of its numbers may have leading zeros.
pub(crate) fn lenient_ip(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return lenient_octets(text).map(IpAddr::V4);
    }
    let plain = |part: &str| match part.trim_start_matches('0') {
        _ if part.contains('.') => lenient_octets(part).map(|octets| octets.to_string()),
        "" if !part.is_empty() => Some("0".to_owned()),
        digits => Some(digits.to_owned()),
    };
    text.split(':').map(plain).collect::<Option<Vec<_>>>()?.join(":").parse().ok()
}

fn lenient_octets(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        *octet = part.trim_start_matches('0').parse().or_else(|e| if part.bytes().all(|b| b == b'0') { Ok(0) } else { Err(e) }).ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// An IPv4 address inside an IPv6 one.
pub(crate) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Checks an address; what it is unless it is none. It must mean the same to everybody: leading zeros make octal numbers for
/// some, and an IPv4 address inside an IPv6 one passes by what is checked of the other family.
pub(crate) fn ip(text: &str, path: &Path, errors: &mut ErrorList) -> Option<IpAddr> {
    let Some(address) = lenient_ip(text) else {
        errors.push(Error::invalid(path, text, BAD_IP));
        return None;
    };
    if text.parse::<IpAddr>().is_err() {
        errors.push(Error::invalid(path, text, "must not have leading 0s"));
        return None;
    }
    if is_mapped(address) {
        errors.push(Error::invalid(path, text, "must not be an IPv4-mapped IPv6 address"));
        return None;
    }
    Some(address)
}

/// An address that traffic can be sent to from elsewhere; a text that is none is told of, too.
pub(crate) fn endpoint_ip(text: &str, path: &Path, errors: &mut ErrorList) {
    let Some(ip) = lenient_ip(text) else {
        errors.push(Error::invalid(path, text, "must be a valid IP address"));
        return;
    };
    let ip = ip.to_canonical();
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    for (wrong, detail) in [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ] {
        if wrong {
            errors.push(Error::invalid(path, text, detail));
        }
    }
}

/// What is said of a text that is no address.
pub(crate) const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// What is said of a text that is no range of addresses.
pub(crate) const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
