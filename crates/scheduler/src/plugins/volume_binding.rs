//! A pod's claims must exist and be bound, or be of a class that waits for the pod; then a node must be one where the
//! volumes can be reached, or where there are volumes to be had: some that exist, or room to make them. [`plan`] says what must be
//! written before such a pod is bound; `rim/bind.rs` writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Meta;
use client::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, amount, capacity, claim_class, claim_phase, is_bound_to, requested, volume_class, volume_name,
    volume_phase,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use machinery::labels::Selector;
use machinery::placement::NodeSelector;
use machinery::quantity::Quantity;

use super::shape::Shape;
use crate::config::raw::VolumeArgs;
use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Score, Turn, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;
use crate::world::World;

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// The plugin.
pub struct VolumeBinding {
    shape: Shape,
}

impl VolumeBinding {
    pub(super) fn new(args: &VolumeArgs) -> Self {
        Self { shape: Shape::new(&args.shape) }
    }
}

/// A pod's claims, sorted by what is to be done.
#[derive(Clone, Default)]
struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
}

/// Whether a claim has its volume for good: phases are only told (upstream `isPVCFullyBound`).
#[must_use]
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && claim.annotation(BIND_COMPLETED).is_some()
}

/// A pod's claim, if it can be used; else why not.
fn usable(pod: &PodInfo, name: &str, own: bool, world: &World) -> Result<Arc<PersistentVolumeClaim>, String> {
    let Some(claim) = world.claims.get(pod.pod.namespace(), name) else {
        return Err(if own {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
        } else {
            format!("persistentvolumeclaim {name:?} not found")
        });
    };
    if claim_phase(&claim) == "Lost" {
        return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}", volume_name(&claim)));
    }
    if claim.is_deleting() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if own && !claim.is_controlled_by(pod.pod.uid()) {
        let pod = &pod.pod;
        return Err(format!("PVC {}/{name} was not created for pod {}/{} (pod is not owner)", pod.namespace(), pod.namespace(), pod.name()));
    }
    Ok(world.claim(pod.pod.namespace(), name).unwrap_or(claim))
}

/// Sorts a pod's claims; a message if one is missing or not to be used.
fn claims(pod: &PodInfo, world: &World) -> Result<Claims, String> {
    let all = pod.claims().map(|(name, own)| usable(pod, &name, own, world)).collect::<Result<Vec<_>, _>>()?;
    let mut out = Claims::default();
    let mut immediate = false;
    for claim in all {
        match world.class_of(&claim) {
            _ if is_bound(&claim) => out.bound.push(claim),
            Some(class) if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") && volume_name(&claim).is_empty() => {
                out.waiting.push((claim, class));
            }
            _ => immediate = true,
        }
    }
    // The smallest first, so that each gets the smallest volume that does.
    out.waiting.sort_by_key(|(claim, _)| requested(claim));
    if immediate { Err("pod has unbound immediate PersistentVolumeClaims".into()) } else { Ok(out) }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.claims().next().is_none() {
            return Prepared::Skip;
        }
        match claims(cycle.pod, cycle.snapshot.world) {
            Ok(claims) => Prepared::filter(Reachable { claims, world: cycle.snapshot.world }),
            Err(message) => Prepared::Reject(Rejection::unresolvable(message)),
        }
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let waiting = claims(cycle.pod, cycle.snapshot.world).ok()?.waiting;
        (!waiting.is_empty()).then(|| Box::new(Used { shape: self.shape.clone(), waiting, world: cycle.snapshot.world }) as Box<dyn Score>)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::Volume(_) | Change::NodeAdded(_) | Change::CsiNode(Turn { old: None, .. }) => true,
            Change::NodeUpdated { old, new } => old.metadata.labels != new.node.metadata.labels,
            Change::Claim(Turn { new, .. }) => new.namespace() == pod.pod.namespace() && pod.claims().any(|(name, _)| name == new.name()),
            Change::Class(Turn { old, new }) => old.is_none_or(|old| old.allowed_topologies != new.allowed_topologies),
            Change::Capacity(Turn { old, new }) => match (old.map(limit), limit(new)) {
                (None, _) => true,
                (Some(old), new) => new.is_some_and(|new| old.is_none_or(|old| new > old)),
            },
            Change::Driver(Turn { old: Some(old), new }) => {
                let counts = |driver: &k8s_openapi::api::storage::v1::CSIDriver| driver.spec.storage_capacity == Some(true);
                let inline = pod.spec().volumes.iter().flatten().any(|v| v.csi.as_ref().is_some_and(|csi| csi.driver == new.name()));
                inline && counts(old) && !counts(new)
            }
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Reachable<'a> {
    claims: Claims,
    world: &'a World,
}

impl<'a> Filter<'a> for Reachable<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let mut reasons = Vec::new();
        let mut missing = false;
        for claim in &self.claims.bound {
            match self.world.volume(volume_name(claim)) {
                None => missing = true,
                Some(volume) if !reaches(&volume, &node.node) => reasons.push(NODE_CONFLICT.into()),
                Some(_) => continue,
            }
            break;
        }
        match find(&self.claims.waiting, &node.node, self.world) {
            Ok(_) => {}
            Err(reason) => reasons.push(reason.into()),
        }
        if missing {
            reasons.push(NO_VOLUME.into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Rejection { resolvable: false, is_error: false, reasons }) }
    }
}

/// Whether a volume can be used on a node.
#[must_use]
pub fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|selector| NodeSelector::new(selector).matches(rules::place(node)))
}

/// How the claims of a pod get their volumes on a node.
#[derive(Default)]
struct Found {
    bindings: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    /// With the room that the driver says there is, where it says so.
    provisions: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>, Option<i64>)>,
}

/// A volume, or the making of one, for every claim; else why the node cannot have them all.
fn find(waiting: &[(Arc<PersistentVolumeClaim>, Arc<StorageClass>)], node: &Node, world: &World) -> Result<Found, &'static str> {
    let mut found = Found::default();
    let (mut selected, mut open) = (Vec::new(), Vec::new());
    for (claim, class) in waiting {
        match claim.annotation(SELECTED_NODE) {
            Some(other) if other != node.name() => return Err(BIND_CONFLICT),
            Some(_) => selected.push((claim, class)),
            None => open.push((claim, class)),
        }
    }
    for (claim, class) in open {
        let taken = |v: &Arc<PersistentVolume>| found.bindings.iter().any(|(_, t)| t.name() == v.name());
        let mut volumes = world.volumes_for(class.name(), &claim.key());
        volumes.retain(|v| !taken(v));
        match matching(claim, &volumes, node) {
            Some(volume) => found.bindings.push((claim.clone(), volume)),
            None => selected.push((claim, class)),
        }
    }
    for (claim, class) in selected {
        if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !topology_allows(class, node) {
            return Err(BIND_CONFLICT);
        }
        let room = room(claim, class, node, world)?;
        found.provisions.push((claim.clone(), class.clone(), room));
    }
    Ok(found)
}

/// The smallest volume that does for a claim, or the one that is meant for it (upstream `FindMatchingVolume`).
fn matching(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], node: &Node) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref()).map(|s| Selector::of(Some(s)));
    let mut best: Option<(Quantity, &Arc<PersistentVolume>)> = None;
    for volume in volumes.iter().filter(|v| could_serve(v, claim)) {
        if is_bound_to(volume, claim) {
            // A volume that is meant for it is not on this node: then none is.
            return reaches(volume, node).then(|| volume.clone());
        }
        let available = volume_phase(volume) == "Available";
        if !available
            || selector.as_ref().is_some_and(|s| !rules::selects(s, volume.metadata.labels.as_ref()))
            || volume_class(volume) != claim_class(claim)
            || !reaches(volume, node)
            || !has_modes(volume, claim)
        {
            continue;
        }
        let size = capacity(volume);
        if best.is_none_or(|(smallest, _)| size < smallest) {
            best = Some((size, volume));
        }
    }
    best.map(|(_, volume)| volume.clone())
}

/// What holds for volumes that are meant for a claim and for others: whose they are, size, mode, attributes.
fn could_serve(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |m: &Option<String>| m.as_deref().unwrap_or("Filesystem").to_owned();
    let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
    (has.claim_ref.is_none() || is_bound_to(volume, claim))
        && capacity(volume) >= requested(claim)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && attributes(&has.volume_attributes_class_name) == attributes(&wants.volume_attributes_class_name)
        && !volume.is_deleting()
}

fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| has.contains(mode))
}

/// The room that a driver has for a claim on a node: none if it does not tell; an error if it has too little.
fn room(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node, world: &World) -> Result<Option<i64>, &'static str> {
    let asks = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()).is_some_and(|r| r.contains_key("storage"));
    let tells = world.drivers.get("", &class.provisioner).is_some_and(|d| d.spec.storage_capacity == Some(true));
    if !asks || !tells {
        return Ok(None);
    }
    let size = requested(claim).value();
    let here = |c: &CSIStorageCapacity| c.node_topology.as_ref().is_some_and(|t| rules::selects(&Selector::of(Some(t)), node.metadata.labels.as_ref()));
    // The place last: there may be as many as nodes, and a selector is made for each.
    let has = |c: &&Arc<CSIStorageCapacity>| c.storage_class_name == class.name() && limit(c).is_some_and(|l| l.value() >= size) && here(c);
    let all = world.capacities.list();
    let enough = all.iter().find(has).ok_or(NO_SPACE)?;
    Ok(Some(amount(enough.capacity.as_ref()).value()))
}

/// The largest volume that there is room for, by the driver's word.
fn limit(capacity: &CSIStorageCapacity) -> Option<Quantity> {
    let text = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref())?;
    Some(amount(Some(text)))
}

fn topology_allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let holds = |key: &str, values: &[String]| rules::label(node, key).is_some_and(|have| values.iter().any(|v| v == have));
    // A term that says nothing allows nothing.
    let mut said = terms.iter().filter_map(|t| t.match_label_expressions.as_deref().filter(|said| !said.is_empty()));
    terms.is_empty() || said.any(|said| said.iter().all(|e| holds(&e.key, &e.values)))
}

/// The less of what there is a pod takes, the better; volumes that exist count before the room for new ones (KEP-1845).
struct Used<'a> {
    shape: Shape,
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
    world: &'a World,
}

impl Score for Used<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let Ok(found) = find(&self.waiting, &node.node, self.world) else { return 0 };
        // By class: asked for, and there.
        let mut classes: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for (claim, volume) in &found.bindings {
            let name = volume.spec.as_ref().and_then(|s| s.storage_class_name.clone()).unwrap_or_default();
            let (asked, there) = classes.entry(name).or_default();
            *asked += requested(claim).value();
            *there += capacity(volume).value();
        }
        if found.bindings.is_empty() {
            for (claim, class, room) in &found.provisions {
                let Some(room) = room else { continue };
                let (asked, there) = classes.entry(class.name().to_owned()).or_default();
                *asked += requested(claim).value();
                // All claims of a class share its room.
                *there = *room;
            }
        }
        if classes.is_empty() {
            return 0;
        }
        let sum: i64 = classes.values().map(|(asked, there)| self.shape.of(*asked, *there)).sum();
        // Scores are small numbers; rounding is meant.
        #[allow(clippy::cast_possible_truncation)]
        let mean = (sum as f64 / classes.len() as f64).round() as i64;
        mean
    }
}

/// What is to be written before a pod is bound to a node.
#[derive(Clone, Debug)]
pub enum Step {
    /// This volume is for this claim: the claim, the volume as it is, and as it will be.
    Bind(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>, Arc<PersistentVolume>),
    /// A volume is to be made for this claim, for that node: the claim as it is, and as it will be.
    Provision(Arc<PersistentVolumeClaim>, Arc<PersistentVolumeClaim>),
}

impl Step {
    /// Makes the next decisions see it.
    pub fn assume(&self, world: &mut World) {
        match self {
            Self::Bind(_, _, then) => world.assumed.volume(then.clone()),
            Self::Provision(_, then) => world.assumed.claim(then.clone()),
        }
    }

    /// Takes that back.
    pub fn revert(&self, world: &mut World) {
        match self {
            Self::Bind(_, _, then) => world.assumed.forget_volume(then),
            Self::Provision(_, then) => world.assumed.forget_claim(then),
        }
    }
}

/// The steps for a pod on a node; empty for most pods.
#[must_use]
pub fn plan(pod: &PodInfo, node: &Node, world: &World) -> Vec<Step> {
    let Ok(claims) = claims(pod, world) else { return Vec::new() };
    let found = find(&claims.waiting, node, world).unwrap_or_default();
    let bindings = found.bindings.into_iter().map(|(claim, volume)| {
        let then = Arc::new(given(&volume, &claim));
        Step::Bind(claim, volume, then)
    });
    let provisions = found.provisions.into_iter().map(|(claim, ..)| {
        let mut then = (*claim).clone();
        then.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.to_owned(), node.name().to_owned());
        Step::Provision(claim, Arc::new(then))
    });
    bindings.chain(provisions).collect()
}

/// A volume that is given to a claim (upstream `GetBindVolumeToClaim`).
fn given(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut then = volume.clone();
    if !is_bound_to(volume, claim) {
        then.metadata.annotations.get_or_insert_default().entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| "yes".to_owned());
    }
    let named = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if !is_bound_to(volume, claim) || named.and_then(|r| r.uid.as_deref()) != Some(claim.uid()) {
        then.spec.get_or_insert_default().claim_ref = Some(client::object_reference(claim));
    }
    then
}
