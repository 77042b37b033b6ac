//! A bound volume with labels of a zone or region is reached from nodes with the same labels.

use std::collections::BTreeSet;

use client::Meta;
use client::storage::claim_class;
use k8s_openapi::api::core::v1::PersistentVolume;

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Turn, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;
use crate::world::World;

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
const OLD_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
const OLD_REGION: &str = "failure-domain.beta.kubernetes.io/region";
const LABELS: [&str; 4] = [OLD_ZONE, OLD_REGION, ZONE, REGION];

pub struct VolumeZone;

/// A label that a node must have, and the values that do.
#[derive(Clone, PartialEq)]
struct Place {
    key: &'static str,
    values: BTreeSet<String>,
}

#[derive(Clone)]
struct Near {
    places: Vec<Place>,
}

/// Where a volume is. A label with an empty part says nothing.
fn places_of(volume: &PersistentVolume) -> Vec<Place> {
    let place = |key: &'static str| {
        let values: BTreeSet<String> = volume.label(key)?.split("__").map(|part| part.trim().to_owned()).collect();
        (!values.contains("")).then_some(Place { key, values })
    };
    LABELS.into_iter().filter_map(place).collect()
}

/// Where the pod's volumes are; or why no node at all does.
fn places(pod: &PodInfo, world: &World) -> Result<Vec<Place>, String> {
    let mut places = Vec::new();
    for name in pod.named_claims() {
        let claim = world.claims.get(pod.pod.namespace(), &name).ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        match claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default() {
            "" => {
                let class = claim_class(&claim);
                if class.is_empty() {
                    return Err("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
                }
                let known = world.classes.get("", class).ok_or_else(|| format!("storageclass.storage.k8s.io {class:?} not found"))?;
                match known.volume_binding_mode.as_deref() {
                    None => return Err(format!("VolumeBindingMode not set for StorageClass {class:?}")),
                    Some("WaitForFirstConsumer") => {}
                    Some(_) => return Err("PersistentVolume had no name".to_owned()),
                }
            }
            volume => {
                let volume = world.volumes.get("", volume).ok_or_else(|| format!("persistentvolume {volume:?} not found"))?;
                places.extend(places_of(&volume));
            }
        }
    }
    Ok(places)
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        match places(cycle.pod, cycle.snapshot.world) {
            Ok(places) if places.is_empty() => Prepared::Skip,
            Ok(places) => Prepared::filter(Near { places }),
            Err(message) => Prepared::Reject(Rejection::unresolvable(message)),
        }
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => old.metadata.labels != new.node.metadata.labels,
            Change::Claim(Turn { new, .. }) => new.namespace() == pod.pod.namespace() && pod.named_claims().any(|name| name == new.name()),
            Change::Class(Turn { old, new }) => old.is_none() && new.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            Change::Volume(Turn { old, new }) => old.is_none_or(|old| places_of(old) != places_of(new)),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Near {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let node = &node.node;
        // A node without any such label is in a cluster of one zone.
        if !LABELS.iter().any(|key| rules::label(node, key).is_some()) {
            return Ok(());
        }
        let today = |key: &'static str| match key {
            OLD_ZONE => ZONE,
            OLD_REGION => REGION,
            key => key,
        };
        let here = |place: &Place| {
            let value = rules::label(node, place.key).or_else(|| rules::label(node, today(place.key)));
            value.is_some_and(|value| place.values.contains(value))
        };
        if self.places.iter().all(here) { Ok(()) } else { Err(Rejection::unresolvable("node(s) had no available volume zone")) }
    }
}
