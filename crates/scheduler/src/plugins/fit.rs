//! A node must have room for what a pod asks for; which of those that do is the better, a strategy says: the emptier, the fuller, or a
//! line drawn by the configuration. What a node has only as devices ([`super::extended_resources`]) is not looked for here.

use std::collections::BTreeSet;

use machinery::extended::{is_extended, may_be_devices};

use crate::config::raw::{FitArgs, WeighedResource};
use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, SCORE_MAX, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::profile::Ignored;
use crate::resources::{self, Resources, is_scalar};

use super::extended_resources::class_for;
use super::shape::Shape;

pub struct Fit {
    /// Not counted: by name, or by what stands before the slash.
    ignored: Ignored,
    ignored_groups: Vec<String>,
    strategy: Strategy,
    resources: Vec<WeighedResource>,
}

#[derive(Clone)]
enum Strategy {
    Least,
    Most,
    Ratio(Shape),
}

impl Fit {
    pub(super) fn new(args: &FitArgs, ignored: &Ignored) -> Self {
        let strategy = args.scoring_strategy.clone().unwrap_or_default();
        let shape = strategy.requested_to_capacity_ratio.unwrap_or_default().shape;
        Self {
            ignored: ignored.iter().chain(&args.ignored_resources).cloned().collect(),
            ignored_groups: args.ignored_resource_groups.clone(),
            strategy: match strategy.kind.as_str() {
                "MostAllocated" => Strategy::Most,
                "RequestedToCapacityRatio" => Strategy::Ratio(Shape::new(&shape)),
                _ => Strategy::Least,
            },
            resources: strategy.resources,
        }
    }

    /// What of a pod's wishes is counted.
    fn counted(&self, asked: &Resources) -> Resources {
        let mut counted = asked.clone();
        counted.scalar.retain(|name, _| {
            let group = name.split('/').next().unwrap_or_default();
            !(self.ignored.contains(name) || self.ignored_groups.iter().any(|g| g == group)) || !is_extended(name)
        });
        counted
    }
}

#[derive(Clone)]
struct Room {
    asked: Resources,
    /// Resources that devices stand for where a node has none.
    devices: BTreeSet<String>,
}

/// What lacks: the resource, and whether an empty node would lack it too. What `devices` stand for is not looked at on a node that has none.
fn lacking(asked: &Resources, node: &NodeInfo, devices: impl Fn(&str) -> bool) -> Vec<(String, bool)> {
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
        if of(all) > 0 || !devices(name) {
            check(name, *amount, of(all), of(taken));
        }
    }
    out
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let asked = self.counted(&cycle.pod.requested);
        let devices = asked.scalar.keys().filter(|name| class_for(cycle.snapshot.world, name).is_some()).cloned().collect();
        Prepared::filter(Room { asked, devices })
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Use { pod: cycle.pod, strategy: self.strategy.clone(), resources: self.resources.clone() }))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        // What there are classes for is not known here: a node may have it as devices.
        let lacks = |node: &NodeInfo| lacking(&self.counted(&pod.requested), &NodeInfo::new(node.node.clone()), may_be_devices);
        let fits_alone = |node: &NodeInfo| node.allowed_pods > 0 && lacks(node).is_empty();
        match change {
            Change::NodeAdded(node) => fits_alone(node),
            Change::NodeUpdated { old, new } => {
                let before = old.status.as_ref().and_then(|s| s.allocatable.as_ref());
                if before == new.node.status.as_ref().and_then(|s| s.allocatable.as_ref()) || !fits_alone(new) {
                    return false;
                }
                let had = Resources::from_list(before);
                // Devices may stand for what the node has no more.
                let is_left = |name: &str| may_be_devices(name) && had.get(name) > 0 && new.allocatable.get(name) == 0;
                resources::allowed_pods(before) < new.allowed_pods
                    || gives_more(&pod.requested, &had, &new.allocatable)
                    || pod.requested.scalar.iter().any(|(name, amount)| *amount > 0 && is_left(name))
            }
            Change::PodGone(_) => true,
            Change::DeviceClass => pod.requested.scalar.keys().any(|name| may_be_devices(name)),
            Change::PodUpdated { old, new } => gives_more(&pod.requested, &new.requested, &old.requested),
            Change::Own { old } => shrunk(&old.requested, &pod.requested),
            _ => false,
        }
    }
}

/// Whether one is more than the other of anything that is asked for.
fn gives_more(asked: &Resources, less: &Resources, more: &Resources) -> bool {
    (asked.milli_cpu > 0 && less.milli_cpu < more.milli_cpu)
        || (asked.memory > 0 && less.memory < more.memory)
        || (asked.ephemeral_storage > 0 && less.ephemeral_storage < more.ephemeral_storage)
        || asked.scalar.iter().any(|(name, amount)| *amount > 0 && less.get(name) < more.get(name))
}

fn shrunk(old: &Resources, new: &Resources) -> bool {
    new.milli_cpu < old.milli_cpu
        || new.memory < old.memory
        || new.ephemeral_storage < old.ephemeral_storage
        || old.scalar.iter().any(|(name, amount)| new.scalar.get(name).copied().unwrap_or_default() < *amount)
}

impl<'a> Filter<'a> for Room {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let mut rejection = Rejection { resolvable: true, is_error: false, reasons: Vec::new() };
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allowed_pods {
            rejection.reasons.push("Too many pods".into());
        }
        for (name, never) in lacking(&self.asked, node, |name| self.devices.contains(name)) {
            rejection.resolvable &= !never;
            rejection.reasons.push(format!("Insufficient {name}").into());
        }
        if rejection.reasons.is_empty() { Ok(()) } else { Err(rejection) }
    }
}

struct Use<'a> {
    pod: &'a PodInfo,
    strategy: Strategy,
    resources: Vec<WeighedResource>,
}

impl Use<'_> {
    /// Of a resource: what would be taken, and what there is; none if it does not count.
    fn of(&self, name: &str, node: &NodeInfo) -> Option<(i64, i64)> {
        let (pod, all) = (self.pod, &node.allocatable);
        let (own, taken, all) = match name {
            // What asks for nothing counts as a little.
            "cpu" => (pod.scored.milli_cpu, node.scored.milli_cpu, all.milli_cpu),
            "memory" => (pod.scored.memory, node.scored.memory, all.memory),
            name => (pod.requested.get(name), node.requested.get(name), all.get(name)),
        };
        (all != 0 && (own != 0 || !is_scalar(name))).then(|| (taken.saturating_add(own), all))
    }
}

/// So much of so much, in per cent.
fn percent(part: i64, all: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(SCORE_MAX) / i128::from(all)).unwrap_or(SCORE_MAX)
}

impl Score for Use<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for resource in &self.resources {
            let Some((taken, all)) = self.of(&resource.name, node) else { continue };
            let score = match &self.strategy {
                Strategy::Least if taken > all => 0,
                Strategy::Least => percent(all - taken, all),
                Strategy::Most => percent(taken.min(all), all),
                Strategy::Ratio(shape) => match shape.of(taken, all) {
                    // What has no score has no weight either.
                    ..=0 => continue,
                    score => score,
                },
            };
            sum += score * resource.weight;
            weights += resource.weight;
        }
        match (&self.strategy, weights) {
            (_, 0) => 0,
            // Scores are small numbers; rounding is meant.
            #[allow(clippy::cast_possible_truncation)]
            (Strategy::Ratio(_), weights) => (sum as f64 / weights as f64).round() as i64,
            (_, weights) => sum / weights,
        }
    }
}
