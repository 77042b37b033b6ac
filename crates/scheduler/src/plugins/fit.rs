//! A node must have room for what a pod asks for; of those that do, the emptier is the better (`LeastAllocated`).

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, SCORE_MAX, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::resources::Resources;

pub struct Fit;

#[derive(Clone)]
struct Room<'a>(&'a PodInfo);

/// What lacks: the resource, and whether an empty node would lack it too.
fn lacking(asked: &Resources, node: &NodeInfo) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    let mut check = |name: &str, asked: i64, allocatable: i64, taken: i64| {
        if asked > 0 && asked > allocatable.saturating_sub(taken) {
            out.push((name.to_owned(), asked > allocatable));
        }
    };
    let (all, taken) = (&node.allocatable, &node.requested);
    check("cpu", asked.milli_cpu, all.milli_cpu, taken.milli_cpu);
    check("memory", asked.memory, all.memory, taken.memory);
    check("ephemeral-storage", asked.ephemeral_storage, all.ephemeral_storage, taken.ephemeral_storage);
    for (name, amount) in &asked.scalar {
        let of = |r: &Resources| r.scalar.get(name).copied().unwrap_or_default();
        check(name, *amount, of(all), of(taken));
    }
    out
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        Prepared::filter(Room(cycle.pod))
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Room(cycle.pod)))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        let fits_alone = |node: &NodeInfo| node.allowed_pods > 0 && lacking(&pod.requested, &NodeInfo::new(node.node.clone())).is_empty();
        match change {
            Change::NodeAdded(node) => fits_alone(node),
            Change::NodeUpdated { old, new } => {
                let before = old.status.as_ref().and_then(|s| s.allocatable.as_ref());
                before != new.node.status.as_ref().and_then(|s| s.allocatable.as_ref()) && fits_alone(new)
            }
            Change::PodGone(_) => true,
            Change::PodUpdated { old, new } => shrunk(&old.requested, &new.requested),
            Change::Own { old } => shrunk(&old.requested, &pod.requested),
            _ => false,
        }
    }
}

fn shrunk(old: &Resources, new: &Resources) -> bool {
    new.milli_cpu < old.milli_cpu
        || new.memory < old.memory
        || new.ephemeral_storage < old.ephemeral_storage
        || old.scalar.iter().any(|(name, amount)| new.scalar.get(name).copied().unwrap_or_default() < *amount)
}

impl<'a> Filter<'a> for Room<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let mut rejection = Rejection { resolvable: true, reasons: Vec::new() };
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allowed_pods {
            rejection.reasons.push("Too many pods".into());
        }
        for (name, never) in lacking(&self.0.requested, node) {
            rejection.resolvable &= !never;
            rejection.reasons.push(format!("Insufficient {name}").into());
        }
        if rejection.reasons.is_empty() { Ok(()) } else { Err(rejection) }
    }
}

impl Score for Room<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |taken: i64, own: i64, all: i64| {
            let taken = taken.saturating_add(own);
            (all > 0).then(|| if taken > all { 0 } else { i64::try_from(i128::from(all - taken) * 100 / i128::from(all)).unwrap_or(0) })
        };
        let (taken, own) = (node.scored, self.0.scored);
        let parts = [free(taken.milli_cpu, own.milli_cpu, node.allocatable.milli_cpu), free(taken.memory, own.memory, node.allocatable.memory)];
        let known: Vec<i64> = parts.into_iter().flatten().collect();
        if known.is_empty() { 0 } else { (known.iter().sum::<i64>() / known.len() as i64).clamp(0, SCORE_MAX) }
    }
}
