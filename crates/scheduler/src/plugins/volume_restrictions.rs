//! A claim that is `ReadWriteOncePod` serves one pod at a time, and some kinds of disks named by pods themselves serve one pod a node
//! unless all of them only read.

use std::collections::BTreeSet;

use client::Meta;
use k8s_openapi::api::core::v1::Volume;

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Turn, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct VolumeRestrictions;

#[derive(Clone)]
struct Alone<'a> {
    pod: &'a PodInfo,
    claims: BTreeSet<String>,
    users: i64,
}

impl Alone<'_> {
    fn uses(&self, other: &PodInfo) -> i64 {
        if other.pod.namespace() != self.pod.pod.namespace() {
            return 0;
        }
        i64::try_from(other.named_claims().filter(|name| self.claims.contains(name)).count()).unwrap_or(i64::MAX)
    }
}

fn disks(pod: &PodInfo) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes.filter(|v| v.gce_persistent_disk.is_some() || v.aws_elastic_block_store.is_some() || v.rbd.is_some() || v.iscsi.is_some())
}

/// Whether two pods' disks cannot be on one node (upstream `isVolumeConflict`).
fn conflict(a: &Volume, b: &Volume) -> bool {
    let both_read = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk)
        && a.pd_name == b.pd_name
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store)
        && a.volume_id == b.volume_id
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi)
        && a.iqn == b.iqn
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let shared = a.monitors.iter().any(|m| b.monitors.contains(m));
        return shared && a.pool == b.pool && a.image == b.image && !both_read(a.read_only, b.read_only);
    }
    false
}

fn conflicts(pod: &PodInfo, other: &PodInfo) -> bool {
    disks(pod).any(|a| disks(other).any(|b| conflict(a, b)))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let mut claims = BTreeSet::new();
        for name in cycle.pod.named_claims() {
            let Some(claim) = cycle.snapshot.world.claims.get(cycle.pod.pod.namespace(), &name) else {
                return Prepared::Reject(Rejection::unresolvable(format!("persistentvolumeclaim {name:?} not found")));
            };
            if claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|m| m == "ReadWriteOncePod") {
                claims.insert(name);
            }
        }
        if claims.is_empty() && disks(cycle.pod).next().is_none() {
            return Prepared::Skip;
        }
        let mut filter = Alone { pod: cycle.pod, claims, users: 0 };
        if !filter.claims.is_empty() {
            filter.users = cycle.snapshot.nodes.iter().flat_map(|n| &n.pods).map(|p| filter.uses(p)).sum();
        }
        Prepared::filter(filter)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::PodGone(gone) => {
                gone.pod.namespace() == pod.pod.namespace() && (conflicts(pod, gone) || gone.named_claims().any(|a| pod.named_claims().any(|b| a == b)))
            }
            Change::Claim(Turn { old: None, new }) => new.namespace() == pod.pod.namespace() && pod.named_claims().any(|name| name == new.name()),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Alone<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if node.pods.iter().any(|other| conflicts(self.pod, other)) {
            return Err(Rejection::resolvable("node(s) had no available disk"));
        }
        if self.users > 0 {
            return Err(Rejection::resolvable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            ));
        }
        Ok(())
    }

    fn pod_added(&mut self, pod: &PodInfo, _: &NodeInfo) {
        self.users += self.uses(pod);
    }

    fn pod_removed(&mut self, pod: &PodInfo, _: &NodeInfo) {
        self.users -= self.uses(pod);
    }
}
