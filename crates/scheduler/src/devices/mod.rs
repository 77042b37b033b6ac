//! Devices for claims (KEP 4381, structured parameters; upstream `dynamic-resource-allocation/structured`): which devices a node can
//! give to the claims of a pod, by what drivers publish in ResourceSlices and what other claims have already.
//!
//! Pure: [`Supply`] is what is there at the moment of a decision, [`allocate`] looks for the first solution on one node. The search is
//! exhaustive, as the original's: where that ends a search by the clock, this one ends it by its steps ([`search::STEPS_MAX`]). One that
//! was ended on a node ends the whole decision, as there, so that the one task that decides is not held up on each of many nodes. On by default in v1.37 and here: prioritised lists, admin access, partitions
//! by counters, consumable capacity (with fractions), taints with their rules, binding conditions. Off by default and not here: list
//! attributes, derived attributes, compatibility groups, optional node operations.

mod capacity;
mod constraint;
mod outcome;
mod pools;
mod search;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::Meta;
use client::devices::results_of;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, DeviceTaintRule, ResourceClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::Quantity;

use crate::world::World;
pub use pools::Slices;
use search::{Search, Stop};

/// Devices of a claim at most (upstream `AllocationResultsMaxSize`).
pub const RESULTS_MAX: usize = 32;

/// A device, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// The driver's name.
    pub driver: String,
    /// The pool's.
    pub pool: String,
    /// Its own in the pool.
    pub device: String,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// How much of what.
pub type Amounts = BTreeMap<String, Quantity>;

/// What claims have.
#[derive(Debug, Default)]
pub struct Taken {
    /// Devices that are somebody's alone.
    alone: HashSet<DeviceId>,
    /// Devices of which somebody has a share, and what of their capacity is used.
    shared: HashMap<DeviceId, Amounts>,
}

impl Taken {
    /// What these allocations have. Devices for administrators are not taken from anybody.
    pub fn new<'a>(allocations: impl IntoIterator<Item = &'a AllocationResult>) -> Self {
        let mut taken = Self::default();
        for result in allocations.into_iter().flat_map(results_of).filter(|result| result.admin_access != Some(true)) {
            let id = DeviceId { driver: result.driver.clone(), pool: result.pool.clone(), device: result.device.clone() };
            if result.share_id.is_none() {
                taken.alone.insert(id);
                continue;
            }
            let used = taken.shared.entry(id).or_default();
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                *used.entry(name.clone()).or_default() += amount_of(amount);
            }
        }
        taken
    }

    fn has(&self, id: &DeviceId) -> bool {
        self.alone.contains(id) || self.shared.contains_key(id)
    }
}

fn amount_of(text: &Text) -> Quantity {
    text.0.parse().unwrap_or_default()
}

/// What there is at the moment of a decision.
pub struct Supply<'a> {
    world: &'a World,
    taken: Taken,
    rules: Vec<Arc<DeviceTaintRule>>,
    reaches: pools::Reaches,
    /// Whether a search took too long.
    late: AtomicBool,
}

impl<'a> Supply<'a> {
    /// What the world has, without what is allocated or about to be.
    #[must_use]
    pub fn new(world: &'a World) -> Self {
        let claims = world.resource_claims.list();
        let allocated: Vec<_> = claims.iter().filter_map(|claim| Some((claim.uid(), client::devices::allocation(claim)?))).collect();
        let known: HashSet<&str> = allocated.iter().map(|(uid, _)| *uid).collect();
        // What was written and is in memory counts once.
        let pending = world.assumed.pending().filter(|(uid, _)| !known.contains(uid));
        Self {
            world,
            taken: Taken::new(allocated.into_iter().chain(pending).map(|(_, allocation)| allocation)),
            rules: world.taint_rules.list(),
            reaches: pools::Reaches::default(),
            late: AtomicBool::new(false),
        }
    }

    fn class(&self, name: &str) -> Option<Arc<DeviceClass>> {
        self.world.device_classes.get("", name)
    }
}

/// Why there are no devices, for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node has none that do.
    None(&'static str),
    /// There is something wrong with a claim, a class or what drivers publish, or it takes too long: that ends the whole decision.
    Wrong(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

impl From<Refusal> for String {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::None(why) => why.to_owned(),
            Refusal::Wrong(why) => why,
        }
    }
}

/// Devices for all of these claims on a node.
///
/// # Errors
/// There are none, or a claim cannot be read.
pub fn allocate(supply: &Supply<'_>, node: &Node, claims: &[Arc<ResourceClaim>]) -> Result<Vec<AllocationResult>, Refusal> {
    let late = || Refusal::Wrong(format!("node {}: timed out trying to allocate devices", node.name()));
    if supply.late.load(Ordering::Relaxed) {
        return Err(late());
    }
    let slices = supply.world.slices_for(node.name());
    let pools = pools::gather(supply, &slices, node)?;
    let found = Search::new(supply, node, claims, &pools).and_then(|mut search| {
        let found = search.run()?;
        Ok((search, found))
    });
    match found.map(|(search, found)| found.then(|| search.outcome())) {
        Ok(Some(outcome)) => outcome.map_err(Refusal::Wrong),
        // The original tells which pools only where nothing else did.
        Ok(None) if pools.iter().any(|pool| pool.is_invalid) => Err(Refusal::None("invalid resource pools were encountered")),
        Ok(None) => Err(Refusal::None("cannot allocate all claims")),
        Err(Stop::TooMany) => Err(Refusal::Wrong("allocation max size exceeded".to_owned())),
        Err(Stop::Late) => {
            supply.late.store(true, Ordering::Relaxed);
            Err(late())
        }
        Err(Stop::Wrong(why)) => Err(Refusal::Wrong(why)),
    }
}
