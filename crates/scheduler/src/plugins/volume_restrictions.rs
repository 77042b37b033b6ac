//! A claim that is `ReadWriteOncePod` serves one pod at a time.

use std::collections::BTreeSet;

use client::Meta;

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Verdict};
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
        i64::try_from(other.claims().filter(|(name, _)| self.claims.contains(name)).count()).unwrap_or(i64::MAX)
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let alone = |name: &String| {
            let claim = cycle.snapshot.world.claims.get(cycle.pod.pod.namespace(), name);
            claim.is_some_and(|c| c.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|m| m == "ReadWriteOncePod"))
        };
        let claims: BTreeSet<String> = cycle.pod.claims().map(|(name, _)| name).filter(alone).collect();
        if claims.is_empty() {
            return Prepared::Skip;
        }
        let mut filter = Alone { pod: cycle.pod, claims, users: 0 };
        filter.users = cycle.snapshot.nodes.iter().flat_map(|n| &n.pods).map(|p| filter.uses(p)).sum();
        Prepared::filter(filter)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::PodGone(gone) => gone.pod.namespace() == pod.pod.namespace() && gone.claims().any(|(a, _)| pod.claims().any(|(b, _)| a == b)),
            Change::Claim { namespace, name } => *namespace == pod.pod.namespace() && pod.claims().any(|(n, _)| n == *name),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Alone<'a> {
    fn check(&self, _: &NodeInfo) -> Verdict {
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
