//! A pod's claims of devices must exist and be its own; then a node must be one from which what they have can be used, and that has devices
//! for those that have none yet ([`crate::devices`]). [`plan`] says what a claim is given on the node that was chosen, `rim/devices.rs`
//! writes it; until that is seen in the claim the devices are *pending* and nobody else's ([`World`]).
//!
//! A pod whose claims are not made yet is not looked at at all ([`waits`]). What is allocated and of no use to its only pod, since no node
//! does, or since its driver could not bind it in time (KEP 5007), is given back, one claim a time ([`to_free`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::Meta;
use client::devices::{self, allocation, claim_of, is_reserved_for, made_for, pod_claims, results};
use k8s_openapi::api::core::v1::{ContainerExtendedResourceRequest, Node};
use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, AllocationResult, DeviceRequestAllocationResult, ResourceClaim};
use machinery::placement::NodeSelector;
use parking_lot::Mutex;

use super::extended_resources::{self, Wanted};
use crate::devices::{Refusal, Supply, allocate};
use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Score, Turn, Verdict, normalize};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;
use crate::world::World;

/// The plugin's name.
pub const NAME: &str = "DynamicResources";
/// Alternatives of a request at most (upstream `FirstAvailableDeviceRequestMaxSize`).
const ALTERNATIVES_MAX: i64 = 8;
/// Users of a claim at most (upstream `ResourceClaimReservedForMaxSize`).
const USERS_MAX: usize = 256;

/// The plugin.
pub struct DynamicResources {
    patience: Duration,
}

impl DynamicResources {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience }
    }
}

/// The claims of a pod, each once.
///
/// # Errors
/// One is not there, or not to be used: why, for users.
pub fn claims(pod: &PodInfo, world: &World) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let pod = &pod.pod;
    let mut all: Vec<Arc<ResourceClaim>> = Vec::new();
    for claim in pod_claims(pod) {
        let Some(named) = claim_of(pod, claim)? else { continue };
        let key = format!("{}/{}", pod.namespace(), named.name);
        let claim = world.resource_claims.get(pod.namespace(), named.name).ok_or_else(|| format!("could not find ResourceClaim {key:?}"))?;
        if claim.is_deleting() {
            return Err(format!("resourceclaim {:?} is being deleted", claim.name()));
        }
        if named.own {
            made_for(pod, &claim)?;
        }
        if !all.iter().any(|known| known.uid() == claim.uid()) {
            all.push(claim);
        }
    }
    Ok(all)
}

/// Whether a pod is not to be looked at yet (upstream `PreEnqueue`).
#[must_use]
pub fn waits(pod: &PodInfo, world: &World) -> bool {
    pod_claims(&pod.pod).next().is_some() && claims(pod, world).is_err()
}

/// What a claim of a pod is given on the node that was chosen.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The claim.
    pub claim: Arc<ResourceClaim>,
    /// Its devices; none: it has them.
    pub allocation: Option<AllocationResult>,
    /// Whether that is written.
    pub is_written: bool,
    /// Of a claim that is made when it is written, for the pod's extended resources: which request is for which container.
    pub mappings: Option<Vec<ContainerExtendedResourceRequest>>,
}

/// What the claims of a pod are given on a node; nothing for most pods.
///
/// # Errors
/// There is not what there was when the node was judged.
pub fn plan(pod: &PodInfo, node: &NodeInfo, world: &World) -> Result<Vec<Grant>, String> {
    let extended = Wanted::new(pod, world);
    if pod_claims(&pod.pod).next().is_none() && extended.is_none() {
        return Ok(Vec::new());
    }
    let mut claims = claims(pod, world)?;
    let mut mappings = None;
    if let Some((claim, told)) = own_claim(pod, extended.as_ref(), node)? {
        claims.push(claim);
        mappings = Some(told);
    }
    let (open, last) = (open(&claims), claims.len().saturating_sub(1));
    let mut given = if open.is_empty() { Vec::new() } else { allocate(&Supply::new(world), &node.node, &open)? }.into_iter();
    let grant = |(at, claim): (usize, Arc<ResourceClaim>)| {
        let allocation = if allocation(&claim).is_none() { given.next() } else { None };
        Grant { claim, allocation, is_written: false, mappings: if at == last { mappings.take() } else { None } }
    };
    Ok(claims.into_iter().enumerate().map(grant).collect())
}

/// The claim for what a node has of the pod's extended resources only as devices.
fn own_claim(pod: &PodInfo, wanted: Option<&Wanted>, node: &NodeInfo) -> Result<Option<OwnClaim>, &'static str> {
    let needed = wanted.map(|wanted| wanted.on(node)).transpose()?.filter(|needed| !needed.is_empty());
    Ok(needed.map(|needed| {
        let (claim, mappings) = extended_resources::claim(&pod.pod, &needed);
        (Arc::new(claim), mappings)
    }))
}

type OwnClaim = (Arc<ResourceClaim>, Vec<ContainerExtendedResourceRequest>);

/// Those that have no devices yet.
fn open(claims: &[Arc<ResourceClaim>]) -> Vec<Arc<ResourceClaim>> {
    claims.iter().filter(|claim| allocation(claim).is_none()).cloned().collect()
}

/// An allocated claim that is of no use to its only pod on one of the nodes that said [`NOT_HERE`]; it had better be given back.
#[must_use]
pub fn to_free(pod: &PodInfo, nodes: &[&NodeInfo], world: &World, patience: Duration) -> Option<Arc<ResourceClaim>> {
    if !nodes.is_empty()
        && Wanted::new(pod, world).is_some()
        && let Some(stale) = extended_resources::stale(pod, world)
    {
        return Some(stale);
    }
    let alone = |claim: &ResourceClaim| {
        let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
        users.is_empty() || (users.len() == 1 && users[0].uid == pod.pod.uid())
    };
    let useless = |claim: &ResourceClaim| {
        let reach = Reach::of(claim, patience);
        nodes.iter().any(|node| !reach.holds(&node.node))
    };
    claims(pod, world).ok()?.into_iter().find(|claim| alone(claim) && useless(claim))
}

/// What a node says from which an allocated claim cannot be used.
const NOT_HERE: &str = "resourceclaim not available on the node";
/// What every node says while a claim for the pod's extended resources is there that was made for another decision.
const STALE: &str = "cannot schedule extended resource claim";

/// Whether something might be given back that would help: a node said so.
#[must_use]
pub fn may_help(rejection: &Rejection) -> bool {
    rejection.reasons.iter().any(|why| *why == NOT_HERE || *why == STALE)
}

/// Where a claim can be used. One that has nothing yet is not judged.
enum Reach {
    Nowhere,
    Everywhere,
    Nodes(NodeSelector),
}

impl Reach {
    fn of(claim: &ResourceClaim, patience: Duration) -> Self {
        let Some(allocation) = allocation(claim) else { return Self::Everywhere };
        let bound = is_ready(claim).is_ok_and(|ready| ready || !is_late(claim, patience));
        let skips = results(claim).any(|result| result.skip_node_operations.as_ref().is_some_and(|skipped| !skipped.is_empty()));
        match &allocation.node_selector {
            _ if !bound || skips => Self::Nowhere,
            Some(selector) => Self::Nodes(NodeSelector::new(selector)),
            None => Self::Everywhere,
        }
    }

    fn holds(&self, node: &Node) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Everywhere => true,
            Self::Nodes(selector) => selector.matches(rules::place(node)),
        }
    }
}

fn status_of<'c>(claim: &'c ResourceClaim, result: &DeviceRequestAllocationResult) -> Option<&'c AllocatedDeviceStatus> {
    let mut all = claim.status.iter().flat_map(|s| s.devices.iter().flatten());
    all.find(|one| one.driver == result.driver && one.pool == result.pool && one.device == result.device)
}

/// Whether the drivers of a claim's devices have bound them, where they said that they must.
///
/// # Errors
/// A driver could not: why, for users.
pub fn is_ready(claim: &ResourceClaim) -> Result<bool, String> {
    for result in results(claim) {
        let wanted = result.binding_conditions.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        let Some(status) = status_of(claim, result) else { return Ok(false) };
        let holds = |kind: &String| status.conditions.iter().flatten().find(|condition| condition.type_ == *kind && condition.status == "True");
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(holds) {
            let (name, reason, message) = (claim.name(), &failed.reason, &failed.message);
            return Err(format!("device binding failed: claim={name}, reason={reason}, message={message:?}"));
        }
        if !wanted.iter().all(|kind| holds(kind).is_some()) {
            return Ok(false);
        }
    }
    Ok(allocation(claim).is_some())
}

/// Whether a claim's devices have to be bound by their drivers.
#[must_use]
pub fn must_be_bound(claim: &ResourceClaim) -> bool {
    results(claim).any(|result| result.binding_conditions.as_ref().is_some_and(|wanted| !wanted.is_empty()))
}

/// Whether the time is over in which a claim's devices should have been bound.
#[must_use]
pub fn is_late(claim: &ResourceClaim, patience: Duration) -> bool {
    let since = allocation(claim).and_then(|allocation| allocation.allocation_timestamp.as_ref());
    let over = since.and_then(|since| since.0.checked_add(patience).ok()).is_some_and(|end| end < client::timestamp());
    over && must_be_bound(claim)
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let (pod, world) = (cycle.pod, cycle.snapshot.world);
        let extended = Wanted::new(pod, world);
        if pod_claims(&pod.pod).next().is_none() && extended.is_none() {
            return Prepared::Skip;
        }
        let claims = match claims(pod, world) {
            Ok(claims) if claims.is_empty() && extended.is_none() => return Prepared::Skip,
            Ok(claims) => claims,
            Err(why) => return Prepared::Reject(Rejection::unresolvable(why)),
        };
        let open = open(&claims);
        let why = |claim: &Arc<ResourceClaim>| if allocation(claim).is_some() { in_use(pod, claim) } else { hindrance(claim, world) };
        if let Some(why) = claims.iter().find_map(why) {
            return Prepared::Reject(Rejection::unresolvable(why));
        }
        let supply = (!open.is_empty() || extended.is_some()).then(|| Arc::new(Supply::new(world)));
        let reaches = Arc::new(claims.iter().map(|claim| Reach::of(claim, self.patience)).collect());
        let stale = extended.is_some() && extended_resources::stale(pod, world).is_some();
        Prepared::filter(Devices { pod, extended, stale, reaches, open, supply, judged: Arc::default() })
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let world = cycle.snapshot.world;
        let claims = claims(cycle.pod, world).ok()?;
        let has_choice = |claim: &Arc<ResourceClaim>| devices::requests(claim).any(|r| r.exactly.is_none());
        if !claims.iter().any(has_choice) {
            return None;
        }
        let open = open(&claims);
        let supply = (!open.is_empty()).then(|| Supply::new(world));
        Some(Box::new(Preferred { claims, open, supply }))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        let names = |claim: &ResourceClaim| names(pod, claim);
        match change {
            Change::NodeAdded(_) | Change::DeviceClass | Change::Devices => true,
            Change::NodeUpdated { old, new } => {
                let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
                old.metadata.labels != new.node.metadata.labels || allocatable(old) != allocatable(&new.node)
            }
            Change::ResourceClaim(Turn { old: Some(old), new }) => {
                (allocation(old).is_some() && allocation(new).is_none()) || (names(new) && old.status != new.status)
            }
            Change::ResourceClaim(Turn { old: None, new }) => names(new),
            Change::ResourceClaimGone(claim) => allocation(claim).is_some() || claim.is_controlled_by(pod.pod.uid()),
            Change::Own { old } => {
                let told = |pod: &PodInfo| pod.pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone());
                told(old) != told(pod)
            }
            _ => false,
        }
    }
}

/// Whether a pod names a claim.
#[must_use]
pub fn names(pod: &PodInfo, claim: &ResourceClaim) -> bool {
    claim.namespace() == pod.pod.namespace() && devices::claims_there(&pod.pod).any(|c| c.name == claim.name())
}

/// Why a claim that has its devices cannot be used: it has as many users as it may.
fn in_use(pod: &PodInfo, claim: &ResourceClaim) -> Option<String> {
    let users = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref()).map_or(0, Vec::len);
    (users >= USERS_MAX && !is_reserved_for(claim, pod.pod.uid())).then(|| "resourceclaim in use".to_owned())
}

/// Why nothing can be found for a claim, whatever the node.
fn hindrance(claim: &ResourceClaim, world: &World) -> Option<String> {
    if world.assumed.is_pending(claim.uid()) {
        return Some(format!("resource claim {} is in the process of being allocated", claim.key()));
    }
    let missing = |request: String, class: &str| match class {
        "" => Some(format!("request {request}: unsupported request type")),
        class if world.device_classes.get("", class).is_none() => Some(format!("request {request}: device class {class} does not exist")),
        _ => None,
    };
    devices::requests(claim).find_map(|request| match (&request.exactly, &request.first_available) {
        (Some(exact), _) => missing(request.name.clone(), &exact.device_class_name),
        (None, Some(all)) if !all.is_empty() => all.iter().find_map(|sub| missing(format!("{}/{}", request.name, sub.name), &sub.device_class_name)),
        _ => Some(format!("resource claim {}, request {}: unknown request type", claim.key(), request.name)),
    })
}

/// What nodes said, by their names.
type Judged = Arc<Mutex<HashMap<String, Verdict>>>;

#[derive(Clone)]
struct Devices<'a> {
    pod: &'a PodInfo,
    /// What it asks for beside its claims.
    extended: Option<Wanted>,
    /// Whether a claim for that is there from another decision.
    stale: bool,
    /// Of each claim.
    reaches: Arc<Vec<Reach>>,
    open: Vec<Arc<ResourceClaim>>,
    /// None: all have their devices.
    supply: Option<Arc<Supply<'a>>>,
    /// No pod's coming or going changes it: who has devices is known by the claims.
    judged: Judged,
}

impl Devices<'_> {
    fn judge(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if self.stale {
            return Err(Rejection::unresolvable(STALE));
        }
        let own = own_claim(self.pod, self.extended.as_ref(), node).map_err(Rejection::unresolvable)?;
        if let Some(supply) = &self.supply {
            let open: Vec<_> = self.open.iter().cloned().chain(own.map(|(claim, _)| claim)).collect();
            if !open.is_empty() {
                allocate(supply, &node.node, &open).map_err(|refusal| match refusal {
                    Refusal::None(why) => Rejection::unresolvable(why),
                    Refusal::Wrong(why) => Rejection::error(why),
                })?;
            }
        }
        match self.reaches.iter().all(|reach| reach.holds(&node.node)) {
            true => Ok(()),
            false => Err(Rejection::unresolvable(NOT_HERE)),
        }
    }
}

impl<'a> Filter<'a> for Devices<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let known = self.judged.lock().get(node.name()).cloned();
        known.unwrap_or_else(|| {
            let judged = self.judge(node);
            self.judged.lock().insert(node.name().to_owned(), judged.clone());
            judged
        })
    }
}

/// The earlier an alternative stands, the better.
struct Preferred<'a> {
    claims: Vec<Arc<ResourceClaim>>,
    open: Vec<Arc<ResourceClaim>>,
    /// None: all have their devices.
    supply: Option<Supply<'a>>,
}

impl Score for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let given = self.supply.as_ref().map_or(Ok(Vec::new()), |supply| allocate(supply, &node.node, &self.open));
        let Ok(given) = given else { return 0 };
        let mut given = given.iter();
        self.claims.iter().filter_map(|claim| Some(preference(claim, allocation(claim).or_else(|| given.next())?))).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }
}

fn preference(claim: &ResourceClaim, given: &AllocationResult) -> i64 {
    let has = |name: String| devices::results_of(given).any(|result| result.request == name);
    let requests = devices::requests(claim).filter(|request| request.exactly.is_none());
    let alternatives = requests.flat_map(|request| (0_i64..).zip(request.first_available.iter().flatten()).map(move |(at, sub)| (request, at, sub)));
    alternatives.filter(|(request, _, sub)| has(format!("{}/{}", request.name, sub.name))).map(|(_, at, _)| ALTERNATIVES_MAX - at).sum()
}
