//! A pod's claims must exist and be bound, or be of a class that waits for the pod; then a node must be one where the
//! volume can be reached. [`plan`] says what must be written before such a pod is bound.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use machinery::labels::Selector;
use machinery::placement::NodeSelector;
use machinery::quantity::Quantity;

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;
use crate::world::{self, World};

/// The annotation that tells a provisioner where the pod will be.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The plugin.
pub struct VolumeBinding;

/// A pod's claims, sorted by what is to be done.
#[derive(Clone, Default)]
struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
}

/// Whether a claim has its volume for good: phases are only told (upstream `isPVCFullyBound`).
#[must_use]
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.spec.as_ref().is_some_and(|s| s.volume_name.as_ref().is_some_and(|n| !n.is_empty())) && claim.annotation(BIND_COMPLETED).is_some()
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// Sorts a pod's claims; a message if one is missing or not to be used.
fn claims(pod: &PodInfo, world: &World) -> Result<Claims, String> {
    let mut out = Claims::default();
    let mut immediate = false;
    for (name, made_for_it) in pod.claims() {
        let Some(claim) = world.claims.get(pod.pod.namespace(), &name) else {
            return Err(if made_for_it {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
            return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}", volume_name(&claim)));
        }
        if claim.is_deleting() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if made_for_it && !claim.is_controlled_by(pod.pod.uid()) {
            let pod = &pod.pod;
            return Err(format!("PVC {}/{name} was not created for pod {}/{} (pod is not owner)", pod.namespace(), pod.namespace(), pod.name()));
        }
        match world.class_of(&claim) {
            _ if is_bound(&claim) => out.bound.push(claim),
            Some(class) if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") && volume_name(&claim).is_empty() => {
                out.waiting.push((claim, class));
            }
            _ => immediate = true,
        }
    }
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

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::Storage | Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => old.metadata.labels != new.node.metadata.labels,
            Change::Claim { namespace, name } => *namespace == pod.pod.namespace() && pod.claims().any(|(n, _)| n == *name),
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
        let volume = |claim: &Arc<PersistentVolumeClaim>| self.world.volumes.get("", volume_name(claim));
        if self.claims.bound.iter().filter_map(volume).any(|v| !reaches(&v, &node.node)) {
            reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
        }
        if choose(&self.claims.waiting, &node.node, self.world).is_none() {
            reasons.push("node(s) didn't find available persistent volumes to bind".into());
        }
        if self.claims.bound.iter().any(|c| volume(c).is_none()) {
            reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Rejection { resolvable: false, reasons }) }
    }
}

/// Whether a volume can be used on a node.
fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|selector| NodeSelector::new(selector).matches(rules::place(node)))
}

/// What is to be written before a pod is bound to a node.
#[derive(Clone, Debug)]
pub enum Step {
    /// This volume is for this claim.
    Bind(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// A volume is to be made for this claim, for that node.
    Provision(Arc<PersistentVolumeClaim>),
}

/// The steps for a pod on a node; empty for most pods.
#[must_use]
pub fn plan(pod: &PodInfo, node: &Node, world: &World) -> Vec<Step> {
    claims(pod, world).ok().and_then(|c| choose(&c.waiting, node, world)).unwrap_or_default()
}

/// A volume, or the making of one, for every claim; none if the node cannot have them all.
fn choose(waiting: &[(Arc<PersistentVolumeClaim>, Arc<StorageClass>)], node: &Node, world: &World) -> Option<Vec<Step>> {
    if waiting.is_empty() {
        return Some(Vec::new());
    }
    let mut volumes = world.volumes.list();
    volumes.retain(|v| reaches(v, node));
    volumes.sort_by_key(|v| capacity(v));
    let mut steps = Vec::new();
    for (claim, class) in waiting {
        match claim.annotation(SELECTED_NODE) {
            Some(selected) if selected != node.name() => return None,
            Some(_) => {}
            None => {
                if let Some(at) = volumes.iter().position(|v| suits(v, claim)) {
                    steps.push(Step::Bind(claim.clone(), volumes.remove(at)));
                    continue;
                }
            }
        }
        if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !topology_allows(class, node) {
            return None;
        }
        steps.push(Step::Provision(claim.clone()));
    }
    Some(steps)
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let text = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    text.and_then(|q| q.0.parse::<Quantity>().ok()).map_or(0, Quantity::value)
}

fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    if let Some(taken) = &has.claim_ref {
        let same = taken.name.as_deref() == Some(claim.name()) && taken.namespace.as_deref() == Some(claim.namespace());
        if !same || taken.uid.as_deref().is_some_and(|uid| !uid.is_empty() && uid != claim.uid()) {
            return false;
        }
    }
    let requests = wants.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage"));
    let size = requests.and_then(|q| q.0.parse::<Quantity>().ok()).map_or(0, Quantity::value);
    let modes = has.access_modes.as_deref().unwrap_or_default();
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    !volume.is_deleting()
        && volume.status.as_ref().and_then(|s| s.phase.as_deref()).is_none_or(|p| p == "Available" || has.claim_ref.is_some())
        && capacity(volume) >= size
        && has.storage_class_name.as_deref().unwrap_or_default() == world::class_name(claim)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && wants.access_modes.iter().flatten().all(|m| modes.contains(m))
        && wants.selector.as_ref().is_none_or(|s| rules::selects(&Selector::of(Some(s)), volume.metadata.labels.as_ref()))
}

fn topology_allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let holds = |key: &str, values: &[String]| rules::label(node, key).is_some_and(|have| values.iter().any(|v| v == have));
    terms.is_empty() || terms.iter().any(|t| t.match_label_expressions.iter().flatten().all(|e| holds(&e.key, &e.values)))
}
