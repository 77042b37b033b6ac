//! What is said of a claim when devices are allocated to it: the results, who has reserved them, what their drivers tell of them
//! (`validateResourceClaimStatusUpdate`, and what the types declare).

use super::{
    checks,
    device_claims::{
        Requests, check_driver_declared, check_references_declared, check_tolerations, check_tolerations_declared, config, counted, driver_declared, named,
        reference, references, twice, within,
    },
    device_slices::{check_conditions, check_conditions_declared},
    devices::pool_name,
};
use crate::{internal, pod, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    json, names,
};
use std::collections::HashSet;

/// As which version's items are shown.
const VERSION: &str = "resource.k8s.io/v1";
const RESULTS_MAX: usize = 32;
/// Configurations of claim and class together.
const CONFIGS_MAX: usize = 64;
const RESERVED_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
/// Bytes of what a driver tells of a device in words of its own.
const DATA_BYTES_MAX: usize = 10 * 1024;
const INTERFACE_BYTES_MAX: usize = 256;
const HARDWARE_BYTES_MAX: usize = 128;
const ADDRESSES_MAX: usize = 16;

/// Checks the status that an update brings.
pub(super) fn check(claim: &Value, old: &Value, errors: &mut ErrorList) {
    let (status, before, path) = (&claim["status"], &old["status"], Path::root("status"));
    let (allocation, named) = (&status["allocation"], named(&claim["spec"]["devices"]));
    let reserved = tree::list(status, "reservedFor");
    for (at, user) in within(status, "reservedFor", RESERVED_MAX).iter().enumerate() {
        for field in ["resource", "name", "uid"] {
            rules::required(user, &path.child("reservedFor").index(at), field, errors);
        }
    }
    let allocated: HashSet<String> = tree::list(&allocation["devices"], "results").iter().map(device_id).collect();
    for (at, device) in tree::list(status, "devices").iter().enumerate() {
        check_told(device, &allocated, &path.child("devices").index(at), errors);
    }
    if !reserved.is_empty() && allocation.is_null() {
        errors.push(Error::forbidden(&path.child("reservedFor"), "may not be specified when `allocated` is not set"));
    } else if !claim["metadata"]["deletionTimestamp"].is_null() && reserved.iter().any(|user| !tree::list(before, "reservedFor").contains(user)) {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.push(Error::forbidden(&path.child("reservedFor"), detail));
    }
    let is_new = before["allocation"].is_null();
    if !allocation.is_null() && is_new {
        check_allocation(allocation, &named, &path.child("allocation"), errors);
    }
    check_declared(status, before, &path, errors);
}

/// A device of a driver's pool, or a share of it, as upstream shows it.
fn device_id(device: &Value) -> String {
    let [driver, pool, name, share] = ["driver", "pool", "device", "shareID"].map(|field| Value::from(tree::text(device, field)));
    format!(r#"{{"Driver":{driver},"Pool":{pool},"Device":{name},"ShareID":{share}}}"#)
}

fn check_allocation(allocation: &Value, named: &Requests<'_>, path: &Path, errors: &mut ErrorList) {
    let (devices, place) = (&allocation["devices"], path.child("devices"));
    for (at, result) in within(devices, "results", RESULTS_MAX).iter().enumerate() {
        let place = place.child("results").index(at);
        reference(tree::text(result, "request"), named, &place.child("request"), errors);
        let device = tree::text(result, "device");
        rules::name(device, &place.child("device"), names::dns1123_label(device), errors);
        check_conditions(result, &place, errors);
        check_tolerations(result, &place, errors);
    }
    for (at, own) in within(devices, "config", CONFIGS_MAX).iter().enumerate() {
        let place = place.child("config").index(at);
        references(own, &place, named, errors);
        config(own, &place, errors);
    }
    if !allocation["nodeSelector"].is_null() {
        pod::node_selector(&allocation["nodeSelector"], &path.child("nodeSelector"), errors);
    }
}

/// What a driver tells of a device.
fn check_told(device: &Value, allocated: &HashSet<String>, path: &Path, errors: &mut ErrorList) {
    rules::driver_name(tree::text(device, "driver"), &path.child("driver"), errors);
    pool_name(tree::text(device, "pool"), &path.child("pool"), errors);
    let (name, id) = (tree::text(device, "device"), device_id(device));
    rules::name(name, &path.child("device"), names::dns1123_label(name), errors);
    if !allocated.contains(&id) {
        errors.push(Error::invalid(path, Value::Null, "must be an allocated device in the claim").shown_as(id));
    }
    counted(device, "conditions", CONDITIONS_MAX, path, errors);
    checks::conditions(device, path, errors);
    let data = &device["data"];
    if !data.is_null() && json::encode(data).len() > DATA_BYTES_MAX {
        errors.push(Error::too_long(&path.child("data"), DATA_BYTES_MAX));
    } else if !data.is_null() && !data.is_object() {
        errors.push(Error::invalid(&path.child("data"), "<value omitted>", "must be a valid JSON object"));
    }
    let place = path.child("networkData").child("ips");
    for (at, address) in within(&device["networkData"], "ips", ADDRESSES_MAX).iter().enumerate() {
        check_address(address.as_str().unwrap_or_default(), &place.index(at), errors);
    }
}

/// An address with the length of its network's prefix.
fn check_address(text: &str, path: &Path, errors: &mut ErrorList) {
    let parsed = text.split_once('/').and_then(|(ip, length)| {
        let ip = rules::lenient_ip(ip)?;
        let digits = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| digits)?;
        (length <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, length))
    });
    let Some((ip, length)) = parsed else {
        errors.push(Error::invalid(path, text, "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"));
        return;
    };
    let plain = ip.to_canonical();
    let length = i16::from(length) - if plain.is_ipv4() && length > 32 { 96 } else { 0 };
    let canonical = format!("{plain}/{length}");
    if canonical != text {
        errors.push(Error::invalid(path, text, format!("must be in canonical form ({canonical:?})")));
    }
}

/// What the types declare.
fn check_declared(status: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let (allocation, place) = (&status["allocation"], path.child("allocation"));
    match (old["allocation"].is_null(), allocation.is_null()) {
        (true, false) => check_allocation_declared(&allocation["devices"], &place.child("devices"), errors),
        (false, false) if !internal::same("*resource.AllocationResult", allocation, &old["allocation"]) => {
            errors.push(Error::invalid(&place, Value::Null, "field cannot be modified once set"));
        }
        _ => {}
    }
    let is_new = |field: &str| status[field] != old[field];
    if is_new("reservedFor") {
        let users = counted(status, "reservedFor", RESERVED_MAX, path, errors);
        let key = |user: &Value| tree::text(user, "uid").to_owned();
        twice(VERSION, "ResourceClaimConsumerReference", users, key, &path.child("reservedFor"), errors);
    }
    if is_new("devices") {
        twice(VERSION, "AllocatedDeviceStatus", tree::list(status, "devices"), device_id, &path.child("devices"), errors);
        for (at, device) in tree::list(status, "devices").iter().enumerate() {
            let place = path.child("devices").index(at);
            check_share(device, &place, errors);
            check_network_declared(&device["networkData"], &place.child("networkData"), errors);
        }
    }
}

fn check_allocation_declared(devices: &Value, path: &Path, errors: &mut ErrorList) {
    for (at, result) in counted(devices, "results", RESULTS_MAX, path, errors).iter().enumerate() {
        let place = path.child("results").index(at);
        driver_declared(tree::text(result, "driver"), &place.child("driver"), errors);
        let pool = tree::text(result, "pool");
        if rules::required(result, &place, "pool", errors) {
            check_pool_declared(pool, &place.child("pool"), errors);
        }
        check_tolerations_declared(result, &place, errors);
        check_conditions_declared(result, &place, errors);
        check_share(result, &place, errors);
    }
    for (at, own) in counted(devices, "config", CONFIGS_MAX, path, errors).iter().enumerate() {
        let place = path.child("config").index(at);
        rules::one_of(&own["source"], &place.child("source"), &["FromClaim", "FromClass"], errors);
        check_references_declared(own, &place, errors);
        check_driver_declared(own, &place, errors);
    }
}

fn check_pool_declared(pool: &str, path: &Path, errors: &mut ErrorList) {
    if pool.len() > names::SUBDOMAIN_MAX_BYTES {
        errors.push(Error::too_long(path, names::SUBDOMAIN_MAX_BYTES));
    }
    for (at, part) in pool.split('/').enumerate() {
        if part.is_empty() {
            errors.push(Error::invalid(path, pool, format!("segment {at}: must not be empty")));
            continue;
        }
        errors.extend(names::dns1123_subdomain(part).into_iter().map(|problem| Error::invalid(path, part, format!("segment {at}: {problem}"))));
    }
}

fn check_share(owner: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(share) = owner["shareID"].as_str() else { return };
    let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let groups: Vec<&str> = share.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) || !groups.iter().all(|group| is_hex(group)) {
        errors.push(Error::invalid(&path.child("shareID"), share, "must be a lowercase UUID in 8-4-4-4-12 format"));
    }
}

fn check_network_declared(network: &Value, path: &Path, errors: &mut ErrorList) {
    let too_long = |field: &str, most: usize, errors: &mut ErrorList| {
        if tree::text(network, field).len() > most {
            errors.push(Error::too_long(&path.child(field), most));
        }
    };
    too_long("interfaceName", INTERFACE_BYTES_MAX, errors);
    let mut seen = HashSet::new();
    let addresses = counted(network, "ips", ADDRESSES_MAX, path, errors).iter().enumerate();
    let again = addresses.filter(|(_, address)| !seen.insert(address.as_str().unwrap_or_default()));
    errors.extend(again.map(|(at, address)| Error::duplicate(&path.child("ips").index(at), address.clone())));
    too_long("hardwareAddress", HARDWARE_BYTES_MAX, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        let told = |text: &str| {
            let mut errors = ErrorList::new();
            check_address(text, &Path::root("a"), &mut errors);
            errors.into_iter().map(|error| error.detail).collect::<Vec<_>>()
        };
        for right in ["10.0.0.1/8", "::1/64", "0.0.0.0/0", "2001:db8::1/128"] {
            assert_eq!(told(right), [""; 0], "{right}");
        }
        for (wrong, canonical) in
            [("010.0.0.1/8", "10.0.0.1/8"), ("::ffff:1.2.3.4/96", "1.2.3.4/0"), ("::ffff:1.2.3.4/120", "1.2.3.4/24"), ("2001:DB8::1/64", "2001:db8::1/64")]
        {
            assert_eq!(told(wrong), [format!("must be in canonical form ({canonical:?})")], "{wrong}");
        }
        for wrong in ["", "x", "10.0.0.1", "10.0.0.1/33", "::1/129", "10.0.0.1/+8", "10.0.0.1/"] {
            assert!(told(wrong).concat().contains("CIDR form"), "{wrong}");
        }
    }
}
