//! What a ResourceSlice says of its devices: names, attributes, capacities, taints, counters, nodes, conditions of binding
//! (`pkg/apis/resource/validation`, `pkg/apis/resource/v1` for what its types declare).
//!
//! Upstream checks part by hand and leaves part to what the types declare, which is told behind all else. On an update a device's
//! capacities and taints are looked at again only if they were changed.

use super::{
    device_claims::{check_identifier, check_taint, check_taint_declared, counted, twice, within},
    device_policies,
};
use crate::{pod, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};
use std::collections::HashSet;

/// Devices of a slice at most, and where one of them has taints or consumes counters.
const DEVICES_MAX: usize = 128;
const ADVANCED_MAX: usize = 64;
/// Attributes and capacities of a device.
const ENTRIES_MAX: usize = 32;
/// Bytes of a name of one before it is shortened where an error names its place.
const SHOWN_BYTES_MAX: usize = 96;
const TAINTS_MAX: usize = 16;
/// Sets of counters in a slice, those from which a device consumes, and the counters in one.
const SETS_MAX: usize = 8;
const CONSUMED_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
/// Conditions of binding, and of its failure.
const CONDITIONS_MAX: usize = 4;
/// Bytes of the value of an attribute.
const VALUE_BYTES_MAX: usize = 64;
/// The ways in which an attribute can have a value, in upstream's order.
const VALUES: [&str; 8] = ["int", "bool", "string", "version", "ints", "bools", "strings", "versions"];
const ONE_PLACE: &str =
    "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

/// Checks devices and counters. `old` is the spec before an update.
pub(super) fn check(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let devices = tree::list(spec, "devices");
    let advanced = devices.iter().map(fields).any(|device| !tree::empty(&device["taints"]) || !tree::empty(&device["consumesCounters"]));
    let (each, place) = (spec["perDeviceNodeSelection"] == true, path.child("devices"));
    let devices = counted(spec, "devices", if advanced { ADVANCED_MAX } else { DEVICES_MAX }, path, errors);
    for (at, device) in devices.iter().enumerate() {
        let before = old.and_then(|old| tree::list(old, "devices").iter().find(|before| before["name"] == device["name"]));
        check_device(device, before, each, &place.index(at), errors);
    }
    let mut seen = HashSet::new();
    let names = devices.iter().map(|device| tree::text(device, "name")).enumerate();
    errors.extend(names.filter(|(_, name)| !seen.insert(*name)).map(|(at, name)| Error::duplicate(&place.index(at), name)));
    for (at, set) in within(spec, "sharedCounters", SETS_MAX).iter().enumerate() {
        check_number(set, &path.child("sharedCounters").index(at), errors);
    }
}

/// What the types declare.
pub(super) fn check_declared(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let is_new = |field: &str| old.is_none_or(|old| old[field] != spec[field]);
    if is_new("devices") {
        for (at, device) in tree::list(spec, "devices").iter().enumerate() {
            check_device_declared(device, &path.child("devices").index(at), errors);
        }
    }
    if is_new("sharedCounters") {
        check_counters_declared(spec, ("sharedCounters", "CounterSet", "name", SETS_MAX), path, errors);
    }
}

/// What is said of a device: v1beta1 has it one level deeper.
fn fields(device: &Value) -> &Value {
    if device["basic"].is_object() { &device["basic"] } else { device }
}

fn check_device(device: &Value, old: Option<&Value>, each: bool, path: &Path, errors: &mut ErrorList) {
    let name = tree::text(device, "name");
    rules::name(name, &path.child("name"), names::dns1123_label(name), errors);
    let (device, old) = (fields(device), old.map(fields));
    let entries = [&device["attributes"], &device["capacity"]].iter().map(|map| map.as_object().map_or(0, serde_json::Map::len)).sum::<usize>();
    if entries > ENTRIES_MAX {
        errors.push(Error::invalid(path, entries, format!("the total number of attributes and capacities must not exceed {ENTRIES_MAX}")));
    }
    for (name, attribute) in tree::entries(device, "attributes") {
        qualified(name, &path.child("attributes"), errors);
        check_version(attribute, &path.child("attributes").key(shortened(name)), errors);
    }
    let changed = |field: &str| old.is_none_or(|old| old[field] != device[field]);
    if changed("capacity") {
        let shared = device["allowMultipleAllocations"] == true;
        for (name, capacity) in tree::entries(device, "capacity") {
            qualified(name, &path.child("capacity"), errors);
            device_policies::check(capacity, shared, &path.child("capacity").key(shortened(name)).child("requestPolicy"), errors);
        }
    }
    if changed("taints") {
        for (at, taint) in counted(device, "taints", TAINTS_MAX, path, errors).iter().enumerate() {
            check_taint(taint, &path.child("taints").index(at), errors);
        }
    }
    for (at, consumed) in within(device, "consumesCounters", CONSUMED_MAX).iter().enumerate() {
        check_number(consumed, &path.child("consumesCounters").index(at), errors);
    }
    check_place(device, each, path, errors);
    check_conditions(device, path, errors);
}

/// The name of an attribute or a capacity: an identifier of C, with a domain before it or not.
fn qualified(name: &str, path: &Path, errors: &mut ErrorList) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [own] => check_identifier(own, path, errors),
        [domain, own] => {
            if domain.is_empty() {
                errors.push(Error::invalid(path, "", "the domain must not be empty"));
            } else {
                rules::driver_name(domain, path, errors);
            }
            if own.is_empty() {
                errors.push(Error::invalid(path, "", "the name must not be empty"));
            } else {
                check_identifier(own, path, errors);
            }
        }
        _ => {}
    }
}

/// A key as the place of an error has it: of a long one the middle is left out.
fn shortened(key: &str) -> String {
    const ELLIPSIS: &str = "...";
    if key.len() <= SHOWN_BYTES_MAX {
        return key.to_owned();
    }
    let left = SHOWN_BYTES_MAX - ELLIPSIS.len();
    let [head, tail] = [&key.as_bytes()[..left.div_ceil(2)], &key.as_bytes()[key.len() - left / 2..]].map(String::from_utf8_lossy);
    format!("{head}{ELLIPSIS}{tail}")
}

fn check_version(attribute: &Value, path: &Path, errors: &mut ErrorList) {
    let too_long = |field: &str, text: &str, errors: &mut ErrorList| {
        if text.len() > VALUE_BYTES_MAX {
            errors.push(Error::too_long(&path.child(field), VALUE_BYTES_MAX));
        }
    };
    if let Some(text) = attribute["string"].as_str() {
        too_long("string", text, errors);
    }
    if let Some(version) = attribute["version"].as_str() {
        if !is_semantic(version) {
            errors.push(Error::invalid(&path.child("version"), version, "must be a string compatible with semver.org spec 2.0.0"));
        }
        too_long("version", version, errors);
    }
}

/// Whether a text is a version of semver.org's specification 2.0.0.
fn is_semantic(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, ahead) = text.split_once('-').map_or((text, None), |(core, ahead)| (core, Some(ahead)));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_ahead = |part: &str| is_word(part) && (is_number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && ahead.is_none_or(|ahead| ahead.split('.').all(is_ahead))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

/// How many counters are in a set or are consumed from one.
fn check_number(set: &Value, path: &Path, errors: &mut ErrorList) {
    let number = set["counters"].as_object().map_or(0, serde_json::Map::len);
    if number > COUNTERS_MAX {
        errors.push(Error::too_many(&path.child("counters"), number, COUNTERS_MAX));
    }
}

/// On which nodes a device is, where that is said of each.
fn check_place(device: &Value, each: bool, path: &Path, errors: &mut ErrorList) {
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    if !each {
        if fields.iter().any(|field| !device[field].is_null()) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.push(Error::invalid(path, Value::Null, detail));
        }
        return;
    }
    let mut given = Vec::new();
    match device["nodeName"].as_str() {
        Some("") => errors.push(Error::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(node) => {
            given.push("`nodeName`");
            rules::name(node, &path.child("nodeName"), names::dns1123_subdomain(node), errors);
        }
        None => {}
    }
    if !device["nodeSelector"].is_null() {
        given.push("`nodeSelector`");
        pod::node_selector(&device["nodeSelector"], &path.child("nodeSelector"), errors);
    }
    match device["allNodes"].as_bool() {
        Some(true) => given.push("`allNodes`"),
        Some(false) => errors.push(Error::invalid(&path.child("allNodes"), false, "must be either unset or set to true")),
        None => {}
    }
    match given.len() {
        0 => errors.push(Error::required(path, ONE_PLACE)),
        1 => {}
        _ => errors.push(Error::invalid(path, format!("{{{}}}", given.join(", ")), ONE_PLACE)),
    }
}

/// The conditions for which binding a pod waits, and those that end it.
pub(super) fn check_conditions(owner: &Value, path: &Path, errors: &mut ErrorList) {
    const FIELDS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    let [wanted, failures] = FIELDS.map(|field| tree::list(owner, field));
    let texts = |list: &'_ [Value]| -> Vec<(usize, String)> { list.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).enumerate().collect() };
    for (field, list) in FIELDS.into_iter().zip([wanted, failures]).filter(|(_, list)| list.len() <= CONDITIONS_MAX) {
        for (at, text) in texts(list) {
            rules::name(&text, &path.child(field).index(at), names::qualified_name(&text), errors);
        }
    }
    let mut seen = HashSet::new();
    let twice = texts(wanted).into_iter().filter(|(_, text)| !seen.insert(text.clone()));
    errors.extend(twice.map(|(at, text)| Error::duplicate(&path.child(FIELDS[0]).index(at), text)));
    let mut failing = HashSet::new();
    for (at, text) in texts(failures) {
        let place = path.child(FIELDS[1]).index(at);
        if !failing.insert(text.clone()) {
            errors.push(Error::duplicate(&place, text.as_str()));
        }
        if seen.contains(&text) {
            errors.push(Error::invalid(&place, text, "bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    for (missing, (none, some)) in [(0, (wanted, failures)), (1, (failures, wanted))] {
        if none.is_empty() && !some.is_empty() {
            let detail = format!("{} are required to use {}", FIELDS[missing], FIELDS[1 - missing]);
            errors.push(Error::invalid(&path.child(FIELDS[missing]), Value::Null, detail));
        }
    }
}

/// How many of them there may be, which the types declare.
pub(super) fn check_conditions_declared(owner: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["bindingConditions", "bindingFailureConditions"] {
        counted(owner, field, CONDITIONS_MAX, path, errors);
    }
}

fn check_device_declared(device: &Value, path: &Path, errors: &mut ErrorList) {
    let path = &if device["basic"].is_object() { path.child("basic") } else { path.clone() };
    let device = fields(device);
    for (name, attribute) in tree::entries(device, "attributes") {
        let given: Vec<&str> = VALUES.into_iter().filter(|field| !attribute[field].is_null()).collect();
        let (place, all) = (path.child("attributes").key(name), VALUES.map(|field| format!("`{field}`")).join(", "));
        match given.len() {
            0 => errors.push(Error::invalid(&place, "", format!("must specify one of: {all}"))),
            1 => {}
            _ => errors.push(Error::invalid(&place, format!("{{{}}}", given.join(", ")), format!("must specify exactly one of: {all}"))),
        }
    }
    check_counters_declared(device, ("consumesCounters", "DeviceCounterConsumption", "counterSet", CONSUMED_MAX), path, errors);
    for (at, taint) in tree::list(device, "taints").iter().enumerate() {
        check_taint_declared(taint, &path.child("taints").index(at), errors);
    }
    check_conditions_declared(device, path, errors);
}

/// Sets of counters: where they stand, their type, the field that names one, how many there may be.
fn check_counters_declared(owner: &Value, (list, kind, key, most): (&str, &str, &str, usize), path: &Path, errors: &mut ErrorList) {
    let (sets, path) = (counted(owner, list, most, path, errors), path.child(list));
    twice("resource.k8s.io/v1", kind, sets, |set| tree::text(set, key).to_owned(), &path, errors);
    for (at, set) in sets.iter().enumerate() {
        let place = path.index(at);
        if rules::required(set, &place, key, errors) {
            let name = tree::text(set, key);
            rules::name(name, &place.child(key), rules::in_bytes(names::dns1123_label(name)), errors);
        }
        if rules::required(set, &place, "counters", errors) {
            for (name, _) in tree::entries(set, "counters") {
                rules::name(name, &place.child("counters"), rules::in_bytes(names::dns1123_label(name)), errors);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic() {
        for right in ["0.0.0", "1.2.3-rc.1+b.01", "1.0.0--", "1.0.0-0a.00b", "10.20.30+001", "1.0.0-a+b-c"] {
            assert!(is_semantic(right), "{right}");
        }
        for wrong in ["", "1.0", "v1.0.0", "1.0.00", "1.0.0-01", "1.0.0-a..b", "1.0.0-", "1.0.0+", "1.0.0+a+b", "1.0.0.0", "1.0.0-ä", "1.+.0"] {
            assert!(!is_semantic(wrong), "{wrong}");
        }
    }

    #[test]
    fn long_keys_lose_their_middle() {
        assert_eq!(shortened("a/b"), "a/b");
        let long = format!("{}é{}", "a".repeat(46), "b".repeat(60));
        assert!(shortened(&long).starts_with("aaa") && shortened(&long).ends_with("bbb") && shortened(&long).contains("..."));
        assert_eq!(shortened(&"x".repeat(97)).len(), SHOWN_BYTES_MAX);
    }
}
