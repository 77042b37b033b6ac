//! The pools whose devices a node can have. A pool is what one driver publishes under one name, in as many slices as it says; of several
//! generations the newest counts. One of which not all slices are there yet is *incomplete*: nothing is taken of it, and who wants all
//! devices waits for it. One that contradicts itself is *invalid*.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector as Selector};
use k8s_openapi::api::resource::v1::{Device, DeviceTaint, ResourceSlice};
use machinery::placement::NodeSelector;
use machinery::quantity::Quantity;
use parking_lot::Mutex;

use client::Meta;
use client::devices::selects;

use super::capacity::Capacity;
use super::{DeviceId, Supply, amount_of};
use crate::rules;

/// A device of a pool, as a node sees it.
pub(super) struct Entry<'a> {
    pub id: DeviceId,
    pub device: &'a Device,
    pub slice: &'a ResourceSlice,
    /// Its own taints and those of rules.
    pub taints: Vec<DeviceTaint>,
    /// Whether this node may have it.
    pub is_here: bool,
}

impl Entry<'_> {
    pub(super) fn is_shared(&self) -> bool {
        self.device.allow_multiple_allocations == Some(true)
    }

    pub(super) fn capacity(&self) -> &Capacity {
        static NONE: Capacity = Capacity::new();
        self.device.capacity.as_ref().unwrap_or(&NONE)
    }
}

/// Counters by their set and name.
pub(super) type Counters<'a> = HashMap<(&'a str, &'a str), Quantity>;

/// A pool.
#[derive(Default)]
pub(super) struct Pool<'a> {
    pub driver: &'a str,
    pub name: &'a str,
    pub is_incomplete: bool,
    pub is_invalid: bool,
    /// The devices of the slices that are about this node, in the order in which they are tried.
    pub devices: Vec<Entry<'a>>,
    /// What is left of its counters.
    pub counters: Counters<'a>,
}

/// The nodes that have something.
#[derive(Debug)]
enum Nodes {
    None,
    All,
    One(String),
    Selected(NodeSelector),
}

impl Nodes {
    fn new(name: Option<&str>, all: Option<bool>, selector: Option<&Selector>) -> Self {
        match (name.unwrap_or_default(), all, selector) {
            ("", Some(true), _) => Self::All,
            ("", _, Some(selector)) => Self::Selected(NodeSelector::new(selector)),
            ("", ..) => Self::None,
            (name, ..) => Self::One(name.to_owned()),
        }
    }

    fn has(&self, node: &Node) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::One(name) => name == node.name(),
            Self::Selected(selector) => selector.matches(rules::place(node)),
        }
    }
}

/// Which nodes have a slice's devices: all alike, or each by itself.
#[derive(Debug)]
enum Reach {
    Alike(Nodes),
    Each(Vec<Nodes>),
}

impl Reach {
    fn new(slice: &ResourceSlice) -> Self {
        let spec = &slice.spec;
        if spec.per_device_node_selection == Some(true) {
            let devices = spec.devices.iter().flatten();
            return Self::Each(devices.map(|device| Nodes::new(device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref())).collect());
        }
        Self::Alike(Nodes::new(spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref()))
    }

    fn is_about(&self, node: &Node) -> bool {
        match self {
            Self::Alike(nodes) => nodes.has(node),
            Self::Each(all) => all.iter().any(|nodes| nodes.has(node)),
        }
    }

    /// Of a slice that is about the node: whether the device at a place of it is here.
    fn has(&self, at: usize, node: &Node) -> bool {
        match self {
            Self::Alike(_) => true,
            Self::Each(all) => all[at].has(node),
        }
    }
}

/// What is read of slices once in a decision, however many nodes it judges: by name and revision.
#[derive(Debug, Default)]
pub(super) struct Reaches(Mutex<HashMap<Version, Arc<Reach>>>);

/// A slice at a revision.
type Version = (String, Option<String>);

impl Reaches {
    fn of(&self, slice: &ResourceSlice) -> Arc<Reach> {
        let key = (slice.name().to_owned(), slice.metadata.resource_version.clone());
        Arc::clone(self.0.lock().entry(key).or_insert_with(|| Arc::new(Reach::new(slice))))
    }
}

/// A slice that is about a node.
type Here<'a> = (&'a ResourceSlice, Arc<Reach>);

/// Whether a slice has what only a feature that is off can judge: it is as if it were not there.
fn is_foreign(slice: &ResourceSlice) -> bool {
    let consumed = slice.spec.devices.iter().flatten().flat_map(|device| device.consumes_counters.iter().flatten());
    { consumed }.any(|one| one.compatibility_groups.as_ref().is_some_and(|groups| !groups.is_empty()))
}

/// The pools of a node, by driver and name; those with binding conditions last.
pub(super) fn gather<'a>(supply: &Supply<'_>, slices: &'a Slices, node: &Node) -> Result<Vec<Pool<'a>>, String> {
    let mut found: BTreeMap<(&str, &str), Vec<Here<'a>>> = BTreeMap::new();
    for slice in slices.near.iter().filter(|slice| !is_foreign(slice)) {
        let reach = supply.reaches.of(slice);
        if !reach.is_about(node) {
            continue;
        }
        let pool = found.entry((&slice.spec.driver, &slice.spec.pool.name)).or_default();
        let newest = pool.first().map(|(first, _)| first.spec.pool.generation);
        if newest.is_some_and(|newest| slice.spec.pool.generation > newest) {
            pool.clear();
        }
        if newest.is_none_or(|newest| slice.spec.pool.generation >= newest) {
            pool.push((slice, reach));
        }
    }
    let (mut pools, mut bound) = (Vec::new(), Vec::new());
    for ((driver, name), here) in found {
        let Some(pool) = one(supply, slices, node, (driver, name), here) else { continue };
        let conditions = pool.devices.iter().any(|entry| entry.device.binding_conditions.is_some());
        if conditions { bound.push(pool) } else { pools.push(pool) }
    }
    pools.append(&mut bound);
    Ok(pools)
}

/// The slices that may be about a node, and for each pool all.
pub struct Slices {
    pub(super) near: Vec<Arc<ResourceSlice>>,
    pub(super) by_pool: HashMap<(String, String), Vec<Arc<ResourceSlice>>>,
}

impl Slices {
    /// Of these; `of_pool` knows all slices of a pool.
    pub fn new(near: Vec<Arc<ResourceSlice>>, of_pool: impl Fn(&str, &str) -> Vec<Arc<ResourceSlice>>) -> Self {
        let mut by_pool = HashMap::new();
        for slice in &near {
            let pool = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
            by_pool.entry(pool).or_insert_with_key(|(driver, name)| of_pool(driver, name));
        }
        Self { near, by_pool }
    }
}

/// A pool of which these slices are about the node; none if a newer generation has none that is.
fn one<'a>(supply: &Supply<'_>, slices: &'a Slices, node: &Node, (driver, name): (&'a str, &'a str), mut here: Vec<Here<'a>>) -> Option<Pool<'a>> {
    let mut pool = Pool { driver, name, ..Pool::default() };
    let spec = &here.first()?.0.spec.pool;
    let (generation, count) = (spec.generation, spec.resource_slice_count);
    let all = slices.by_pool.get(&(driver.to_owned(), name.to_owned())).map(Vec::as_slice).unwrap_or_default();
    let complete = |count_here: usize| i64::try_from(count_here) == Ok(count);
    let mut elsewhere: Vec<&'a ResourceSlice> = Vec::new();
    if !complete(here.len()) {
        if all.iter().any(|slice| slice.spec.pool.generation > generation) {
            return None;
        }
        let same: Vec<&'a ResourceSlice> =
            all.iter().map(|slice| &**slice).filter(|slice| slice.spec.pool.generation == generation && !is_foreign(slice)).collect();
        if !complete(same.len()) {
            pool.is_incomplete = true;
            return Some(pool);
        }
        elsewhere = same.into_iter().filter(|slice| !here.iter().any(|(known, _)| known.name() == slice.name())).collect();
    }
    here.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
    let has_counters = |slice: &&ResourceSlice| slice.spec.shared_counters.as_ref().is_some_and(|sets| !sets.is_empty());
    let mut names = HashSet::new();
    for (slice, reach) in here.iter().filter(|(slice, _)| !has_counters(slice)) {
        for (at, device) in slice.spec.devices.iter().flatten().enumerate() {
            pool.is_invalid |= !names.insert(device.name.as_str());
            pool.devices.push(entry(supply, slice, device, reach.has(at, node)));
        }
    }
    let others = || elsewhere.iter().filter(|slice| !has_counters(slice)).flat_map(|slice| slice.spec.devices.iter().flatten());
    let counted = counters(&mut pool, here.iter().map(|(slice, _)| *slice).chain(elsewhere.iter().copied()), others());
    pool.is_invalid |= !counted;
    let taken = |device: &Device| supply.taken.has(&DeviceId { driver: driver.to_owned(), pool: name.to_owned(), device: device.name.clone() });
    let devices: Vec<&'a Device> = pool.devices.iter().map(|entry| entry.device).chain(others()).collect();
    if !pool.counters.is_empty() {
        devices.into_iter().filter(|device| taken(device)).for_each(|device| consume(&mut pool.counters, device, true));
    }
    Some(pool)
}

fn entry<'a>(supply: &Supply<'_>, slice: &'a ResourceSlice, device: &'a Device, is_here: bool) -> Entry<'a> {
    let id = DeviceId { driver: slice.spec.driver.clone(), pool: slice.spec.pool.name.clone(), device: device.name.clone() };
    let of_rules = supply.rules.iter().filter(|rule| selects(rule, &id.driver, &id.pool, &id.device)).map(|rule| rule.spec.taint.clone());
    let taints = device.taints.iter().flatten().cloned().chain(of_rules).collect();
    Entry { is_here, id, device, slice, taints }
}

/// Takes in a pool's counters; whether they are named once and every device knows those that it consumes.
fn counters<'a>(pool: &mut Pool<'a>, slices: impl Iterator<Item = &'a ResourceSlice>, others: impl Iterator<Item = &'a Device>) -> bool {
    let mut sets = HashSet::new();
    for set in slices.flat_map(|slice| slice.spec.shared_counters.iter().flatten()) {
        if !sets.insert(set.name.as_str()) {
            return false;
        }
        pool.counters.extend(set.counters.iter().map(|(name, counter)| ((set.name.as_str(), name.as_str()), amount_of(&counter.value))));
    }
    let devices: Vec<&Device> = pool.devices.iter().map(|entry| entry.device).chain(others).collect();
    let consumed = devices.into_iter().flat_map(|device| device.consumes_counters.iter().flatten());
    { consumed }.all(|one| {
        sets.contains(one.counter_set.as_str()) && one.counters.keys().all(|name| pool.counters.contains_key(&(one.counter_set.as_str(), name.as_str())))
    })
}

/// Takes what a device consumes from counters, or adds it.
pub(super) fn consume<'a>(counters: &mut Counters<'a>, device: &'a Device, take: bool) {
    for one in device.consumes_counters.iter().flatten() {
        for (name, counter) in &one.counters {
            let left = counters.entry((one.counter_set.as_str(), name.as_str())).or_default();
            if take { *left -= amount_of(&counter.value) } else { *left += amount_of(&counter.value) }
        }
    }
}
