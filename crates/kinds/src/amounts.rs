//! Resources that are counted: their names, amounts, requests and limits (`pkg/apis/core/helper`, `pkg/apis/core/validation`).

use crate::{rules, tree};
use machinery::{
    Value,
    extended::is_extended,
    field::{Error, ErrorList, Path},
    names,
    quantity::Quantity,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

pub(crate) use machinery::extended::is_native;

/// Resources without a prefix that quotas know.
const QUOTA: [&str; 18] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
];
/// Resources of which there are only whole ones.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const HUGE_PAGES: &str = "hugepages-";
/// Bytes of the names of a pod's claims that are told as often as this.
const SHORT_BYTES: usize = 512;
const SHORT_TOLD_MAX: usize = 256;

/// Huge pages of some size.
pub(crate) fn is_huge(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Whether less may be requested than limited.
pub(crate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

/// Whether quotas count a resource without a prefix.
pub(crate) fn is_quota(name: &str) -> bool {
    QUOTA.contains(&name) || name == "services.loadbalancers" || is_huge(name) || name.starts_with("requests.hugepages-")
}

/// Checks a resource's name; whether it is well formed.
pub(crate) fn name(name: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    errors.extend(names::qualified_name(name).into_iter().map(|m| rules::typed(Error::invalid(path, name, m))));
    if errors.len() == before && !name.contains('/') && !is_quota(name) && name != "storage" {
        errors.push(rules::typed(Error::invalid(path, name, "must be a standard resource type or fully qualified")));
    }
    errors.len() == before
}

/// What a container may ask for.
pub(crate) fn of_container(resource: &str, path: &Path, errors: &mut ErrorList) {
    name(resource, path, errors);
    if !resource.contains('/') {
        if !matches!(resource, "cpu" | "memory" | "ephemeral-storage") && !is_huge(resource) {
            errors.push(rules::typed(Error::invalid(path, resource, "must be a standard resource for containers")));
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.push(rules::typed(Error::invalid(path, resource, "doesn't follow extended resource name standard")));
    }
}

/// What a pod as a whole may ask for (KEP-2837).
fn of_pod(resource: &str, path: &Path, errors: &mut ErrorList) {
    if name(resource, path, errors) && !is_pod_level(resource) {
        errors.push(rules::not_supported(path, resource, &["cpu", "hugepages-", "memory"]));
    }
}

/// Whether a pod as a whole may ask for a resource.
pub(crate) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge(name)
}

/// Checks the name of what a quota limits.
pub(crate) fn of_quota(resource: &str, path: &Path, errors: &mut ErrorList) {
    name(resource, path, errors);
    if !resource.contains('/') && !is_quota(resource) {
        errors.push(rules::typed(Error::invalid(path, resource, "must be a standard resource for quota")));
    }
}

/// A number that is written out, as upstream's 64 bits hold it: one that is too large for them is another there.
pub(crate) fn held(value: &Value) -> Option<i64> {
    let number = value.as_str()?.parse::<i128>().ok()?;
    u64::try_from(number & i128::from(u64::MAX)).ok().map(u64::cast_signed)
}

/// Whether the thousandths of an amount, as upstream's 64 bits hold them, are no whole number: so are those of many that are too large.
pub(crate) fn is_fraction(value: &Value) -> bool {
    let Some(quantity) = rules::quantity(value) else { return false };
    let held = if value.as_str().is_some_and(|text| text.ends_with('i')) { Some(quantity.value()) } else { held(value) };
    !quantity.is_whole() || held.is_some_and(|number| number.wrapping_mul(1000) % 1000 != 0)
}

/// Checks the amount of a resource.
pub(crate) fn amount(resource: &str, value: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(quantity) = rules::quantity(value) else { return };
    if quantity < Quantity::ZERO {
        errors.push(Error::invalid(path, quantity.to_string(), rules::NEGATIVE));
    }
    if is_fraction(value) && (COUNTED.contains(&resource) || is_extended(resource)) {
        errors.push(Error::invalid(path, quantity.to_string(), "must be an integer"));
    }
}

/// Checks the requests and limits of a container.
pub(crate) fn container(resources: &Value, claims: &HashSet<&str>, path: &Path, errors: &mut ErrorList) {
    requirements(resources, of_container, path, errors);
    if resources["claims"].is_array() {
        claim_names(resources, claims, &path.child("claims"), errors);
    }
}

fn requirements(resources: &Value, name_of: fn(&str, &Path, &mut ErrorList), path: &Path, errors: &mut ErrorList) {
    if tree::empty(&resources["limits"]) && tree::empty(&resources["requests"]) {
        return;
    }
    let limits = rules::quantities(&resources["limits"]);
    let at = path.child("limits");
    let (mut basic, mut huge) = (false, false);
    for (name, value) in tree::entries(resources, "limits") {
        let place = at.key(name);
        name_of(name, &place, errors);
        amount(name, value, &place, errors);
        pages(name, value, &place, errors);
        basic |= matches!(name, "cpu" | "memory");
        huge |= is_huge(name);
    }
    let at = path.child("requests");
    for (name, value) in tree::entries(resources, "requests") {
        let place = at.key(name);
        name_of(name, &place, errors);
        amount(name, value, &place, errors);
        basic |= matches!(name, "cpu" | "memory");
        huge |= is_huge(name);
        let exact = !is_native(name) || is_huge(name);
        match (rules::quantity(value), limits.get(name)) {
            (Some(request), Some(limit)) if exact && request != *limit => {
                errors.push(Error::invalid(&at, request.to_string(), format!("must be equal to {name} limit of {limit}")));
            }
            (Some(request), Some(limit)) if request > *limit => {
                errors.push(Error::invalid(&at, request.to_string(), format!("must be less than or equal to {name} limit of {limit}")));
            }
            (_, None) if exact => errors.push(Error::required(&path.child("limits"), "Limit must be set for non overcommitable resources")),
            _ => {}
        }
        pages(name, value, &place, errors);
    }
    if huge && !basic {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn pages(name: &str, value: &Value, path: &Path, errors: &mut ErrorList) {
    let size: Option<Quantity> = name.strip_prefix(HUGE_PAGES).and_then(|s| s.parse().ok());
    if let (true, Some(quantity)) = (is_huge(name), rules::quantity(value)) {
        let whole = size.is_some_and(|s| s.value() > 0 && quantity.value() % s.value() == 0);
        if !whole {
            errors.push(Error::invalid(path, quantity.to_string(), format!("{quantity} is not positive integer multiple of {name}")));
        }
    }
}

fn claim_names(resources: &Value, known: &HashSet<&str>, path: &Path, errors: &mut ErrorList) {
    let (mut seen, mut named): (HashSet<(&str, &str)>, HashSet<&str>) = Default::default();
    let told_max = if known.iter().map(|name| name.len()).sum::<usize>() <= SHORT_BYTES { SHORT_TOLD_MAX } else { rules::LISTS_TOLD_MAX };
    for (at, claim) in tree::list(resources, "claims").iter().enumerate() {
        let path = path.index(at);
        let (name, request) = (tree::text(claim, "name"), tree::text(claim, "request"));
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        if !request.is_empty() {
            rules::name(request, &path.child("request"), names::dns1123_label(request), errors);
        }
        let overlaps = seen.contains(&(name, "")) || (request.is_empty() && named.contains(name));
        if overlaps {
            errors.push(Error::duplicate(&path, name));
        } else if !seen.insert((name, request)) {
            errors.push(Error::duplicate(&path, format!("{name}/{request}")));
        }
        named.insert(name);
        if !known.contains(name) {
            // Names times claims may be many: the first errors tell all names, the others none.
            let rest = match () {
                () if known.is_empty() => " which is empty".to_owned(),
                () if errors.len() >= told_max => String::new(),
                () => format!(": {}", BTreeSet::from_iter(known.iter().copied()).into_iter().collect::<Vec<_>>().join(", ")),
            };
            let mut error = Error::not_found(&path, name);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{rest}");
            errors.push(error);
        }
    }
}

/// What the containers of a pod ask for together (`requests` or `limits`): the sum of those that run for good, or the
/// largest need on the way there.
pub(crate) fn of_containers(spec: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let amounts = |c: &Value| -> Vec<(String, Quantity)> { rules::quantities(&c["resources"][field]).into_iter().map(|(k, q)| (k.to_owned(), q)).collect() };
    let mut sums: BTreeMap<String, Quantity> = BTreeMap::new();
    for (name, quantity) in tree::list(spec, "containers").iter().flat_map(amounts) {
        *sums.entry(name).or_default() += quantity;
    }
    let mut sidecars: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut peaks: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in tree::list(spec, "initContainers") {
        let own = amounts(container);
        if container["restartPolicy"] == "Always" {
            for (name, quantity) in own {
                *sums.entry(name.clone()).or_default() += quantity;
                let sidecar = sidecars.entry(name.clone()).or_default();
                *sidecar += quantity;
                let peak = peaks.entry(name).or_default();
                *peak = (*sidecar).max(*peak);
            }
        } else {
            for (name, quantity) in own {
                let needed = quantity + sidecars.get(&name).copied().unwrap_or_default();
                let peak = peaks.entry(name).or_default();
                *peak = needed.max(*peak);
            }
        }
    }
    for (name, peak) in peaks {
        let sum = sums.entry(name).or_default();
        *sum = peak.max(*sum);
    }
    sums
}

/// Checks the requests and limits of a pod as a whole, and that its containers' fit into them.
pub(crate) fn pod(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let own = &spec["resources"];
    if !own.is_object() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        errors.push(Error::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    if !own["claims"].is_null() {
        errors.push(Error::forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level"));
    }
    requirements(own, of_pod, path, errors);
    if !own["claims"].is_null() {
        let known = tree::list(spec, "resourceClaims").iter().map(|c| tree::text(c, "name")).filter(|n| !n.is_empty()).collect();
        claim_names(own, &known, &path.child("claims"), errors);
    }
    let requests = rules::quantities(&own["requests"]);
    for (name, sum) in of_containers(spec, "requests") {
        if let Some(request) = requests.get(name.as_str()).filter(|r| sum > **r) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(Error::invalid(&path.child("requests").key(&name), request.to_string(), detail));
        }
    }
    let limits = rules::quantities(&own["limits"]);
    for (name, sum) in of_containers(spec, "limits").into_iter().filter(|(n, _)| is_huge(n)) {
        if let Some(limit) = limits.get(name.as_str()).filter(|l| sum > **l) {
            let detail = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.push(Error::invalid(&path.child("limits").key(&name), limit.to_string(), detail));
        }
    }
    for (at, container) in tree::list(spec, "containers").iter().enumerate() {
        for (name, limit) in rules::quantities(&container["resources"]["limits"]) {
            if let Some(most) = limits.get(name).filter(|l| limit > **l) {
                let place = path.child("containers").index(at).key(name).child("limits");
                errors.push(Error::invalid(&place, limit.to_string(), format!("must be less than or equal to pod limits of {most}")));
            }
        }
    }
}
