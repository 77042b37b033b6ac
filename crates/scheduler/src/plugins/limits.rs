//! A node takes as many volumes of a driver as the driver says that it can (`CSINode`), and a driver may ask that no pod goes to a
//! node without it (`preventPodSchedulingIfMissing`, KEP-5030).
//!
//! Counted are the volumes of the pods that are there, each once, and what is attached to the node for nobody. A claim without a
//! volume counts as one more of its class's driver.

use std::collections::{BTreeMap, BTreeSet};

use client::Meta;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::CSINode;

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Turn, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::world::World;

pub struct NodeVolumeLimits;

/// Volumes, each as its driver and the driver's name of it.
type Volumes = BTreeSet<(String, String)>;

#[derive(Clone)]
struct Limited<'a> {
    world: &'a World,
    new: Volumes,
}

/// The volume of a claim; none if it is no CSI driver's.
fn volume_of(claim: &PersistentVolumeClaim, world: &World) -> Option<(String, String)> {
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if let Some(volume) = world.volumes.get("", name) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = world.class_of(claim)?;
    // No driver's name of a volume begins so.
    Some((class.provisioner.clone(), format!("\0claim/{}/{}", claim.namespace(), claim.name())))
}

/// The volumes of a pod. `all_must_be`: whether a claim that is missing is an error.
fn volumes_of(pod: &PodInfo, world: &World, all_must_be: bool) -> Result<Volumes, Rejection> {
    let mut volumes = Volumes::new();
    let namespace = pod.pod.namespace();
    for (name, own) in pod.claims() {
        let Some(claim) = world.claims.get(namespace, &name) else {
            if all_must_be {
                return Err(Rejection::unresolvable(format!("looking up PVC {namespace}/{name}: persistentvolumeclaim {name:?} not found")));
            }
            continue;
        };
        if own && !claim.is_controlled_by(pod.pod.uid()) {
            return Err(Rejection::unresolvable(format!("PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)", pod.pod.name())));
        }
        volumes.extend(volume_of(&claim, world));
    }
    Ok(volumes)
}

fn limits(node: Option<&CSINode>) -> BTreeMap<&str, i32> {
    let drivers = node.map(|n| n.spec.drivers.as_slice()).unwrap_or_default();
    drivers.iter().filter_map(|driver| Some((driver.name.as_str(), driver.allocatable.as_ref()?.count?))).collect()
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.claims().next().is_none() {
            return Prepared::Skip;
        }
        let world = cycle.snapshot.world;
        match volumes_of(cycle.pod, world, true) {
            Ok(new) if new.is_empty() => Prepared::Skip,
            Ok(new) => Prepared::filter(Limited { world, new }),
            Err(rejection) => Prepared::filter(Missing(rejection)),
        }
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::CsiNode(Turn { old: None, .. }) => true,
            Change::CsiNode(Turn { old: Some(old), new }) => {
                let before = limits(Some(old));
                // One that pods do without only where it is there.
                if new.spec.drivers.iter().any(|driver| old.spec.drivers.iter().all(|former| former.name != driver.name)) {
                    return true;
                }
                limits(Some(new)).iter().any(|(driver, limit)| *limit > before.get(driver).copied().unwrap_or_default())
            }
            Change::PodGone(gone) => gone.claims().next().is_some(),
            Change::Claim(Turn { old: None, new }) => new.namespace() == pod.pod.namespace() && pod.claims().any(|(name, _)| name == new.name()),
            Change::AttachmentGone(_) => pod.claims().any(|(_, own)| !own),
            _ => false,
        }
    }
}

/// A claim is missing: which no node mends.
#[derive(Clone)]
struct Missing(Rejection);

impl<'a> Filter<'a> for Missing {
    fn check(&self, _: &NodeInfo) -> Verdict {
        Err(self.0.clone())
    }
}

impl<'a> Filter<'a> for Limited<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let csi_node = self.world.csi_nodes.get("", node.name());
        for (driver, _) in &self.new {
            let wanted = self.world.drivers.get("", driver).is_some_and(|d| d.spec.prevent_pod_scheduling_if_missing == Some(true));
            if wanted && !csi_node.as_ref().is_some_and(|n| n.spec.drivers.iter().any(|d| d.name == *driver)) {
                return Err(Rejection::resolvable(format!("{driver} CSI driver is not installed on the node")));
            }
        }
        let limits = limits(csi_node.as_deref());
        if limits.is_empty() {
            return Ok(());
        }
        let mut there = Volumes::new();
        for pod in &node.pods {
            // A claim of that name that is not the pod's own is not its volume.
            there.extend(volumes_of(pod, self.world, false).unwrap_or_default());
        }
        let new: Volumes = self.new.difference(&there).cloned().collect();
        for attachment in self.world.attached_to(node.name()) {
            let volume = attachment.spec.source.persistent_volume_name.as_deref().and_then(|name| self.world.volumes.get("", name));
            let handle = volume.and_then(|v| Some(v.spec.as_ref()?.csi.as_ref()?.volume_handle.clone()));
            there.extend(handle.map(|handle| (attachment.spec.attacher.clone(), handle)));
        }
        let (more, have) = (new.iter().count_by_driver(), there.iter().count_by_driver());
        let exceeds = |(driver, count): (&&str, &i64)| {
            let limit = limits.get(driver).copied().map(i64::from);
            limit.is_some_and(|limit| have.get(driver).copied().unwrap_or_default() + count > limit)
        };
        if more.iter().any(exceeds) { Err(Rejection::resolvable("node(s) exceed max volume count")) } else { Ok(()) }
    }
}

/// How many volumes each driver has.
trait CountByDriver<'v> {
    fn count_by_driver(self) -> BTreeMap<&'v str, i64>;
}

impl<'v, I: Iterator<Item = &'v (String, String)>> CountByDriver<'v> for I {
    fn count_by_driver(self) -> BTreeMap<&'v str, i64> {
        self.fold(BTreeMap::new(), |mut counts, (driver, _)| {
            *counts.entry(driver.as_str()).or_default() += 1;
            counts
        })
    }
}
