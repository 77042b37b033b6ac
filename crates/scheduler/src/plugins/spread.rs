//! A pod's like are spread over places: hard constraints keep a pod from a place that has too many more than the
//! emptiest; soft ones only make such a place worse. A pod without constraints has the configuration's, which are soft unless it
//! says otherwise.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use client::Meta;
use k8s_openapi::api::core::v1::{Node, TopologySpreadConstraint};
use machinery::labels::Selector;

use crate::config::raw::SpreadArgs;
use crate::constraint::Constraint;
use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, SCORE_MAX, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The cluster's defaults: node label and skew, both soft (upstream `systemDefaultConstraints`).
const DEFAULTS: [(&str, i32); 2] = [(HOSTNAME, 3), (ZONE, 5)];
const TOO_MANY: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

pub struct PodTopologySpread {
    /// What a pod has that has none; its like is deduced.
    defaults: Vec<TopologySpreadConstraint>,
    /// Whether those are the system's: nodes that lack a label count all the same.
    by_system: bool,
}

impl PodTopologySpread {
    pub(super) fn new(args: &SpreadArgs) -> Self {
        let by_system = args.defaulting_type != "List";
        let system = |(key, max_skew): (&str, i32)| TopologySpreadConstraint {
            topology_key: key.to_owned(),
            max_skew,
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            ..TopologySpreadConstraint::default()
        };
        Self { defaults: if by_system { DEFAULTS.into_iter().map(system).collect() } else { args.default_constraints.clone() }, by_system }
    }

    /// The configuration's constraints for a pod that has none of its own.
    fn defaults(&self, cycle: &Cycle<'_>, action: &str) -> Vec<Constraint> {
        let mut constraints = Constraint::of(self.defaults.iter(), &cycle.pod.pod, action);
        if constraints.is_empty() {
            return constraints;
        }
        let selectors = cycle.snapshot.world.like(&cycle.pod.pod);
        if selectors.is_empty() {
            return Vec::new();
        }
        for constraint in &mut constraints {
            constraint.selectors.clone_from(&selectors);
        }
        constraints
    }
}

fn has_own(pod: &PodInfo) -> bool {
    pod.spec().topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty())
}

/// Whether a node's pods count for this pod.
fn counts(constraint: &Constraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!constraint.honor_affinity || pod.wants.required.allows(rules::place(&node.node)))
        && (!constraint.honor_taints || rules::taints_borne(&pod.wants.tolerations, &node.node))
}

/// The pod's like on a node.
fn like(constraint: &Constraint, namespace: &str, node: &NodeInfo) -> i64 {
    if constraint.selectors.iter().all(Selector::is_everything) {
        return 0;
    }
    let like = node.pods.iter().filter(|p| !p.pod.is_deleting() && p.pod.namespace() == namespace && constraint.selects(p.labels()));
    i64::try_from(like.count()).unwrap_or(i64::MAX)
}

fn has_all_keys(node: &Node, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|c| rules::label(node, &c.key).is_some())
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let constraints = match has_own(cycle.pod) {
            true => Cow::Borrowed(cycle.pod.wants.spread.as_slice()),
            false => Cow::Owned(self.defaults(cycle, "DoNotSchedule")),
        };
        if constraints.is_empty() {
            return Prepared::Skip;
        }
        let mut by_places: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        for node in cycle.snapshot.nodes.iter().filter(|n| has_all_keys(&n.node, &constraints)) {
            for (constraint, by_place) in constraints.iter().zip(&mut by_places) {
                if let Some(place) = node.label(&constraint.key).filter(|_| counts(constraint, cycle.pod, node)) {
                    *by_place.entry(place.to_owned()).or_default() += like(constraint, cycle.pod.pod.namespace(), node);
                }
            }
        }
        let least = constraints.iter().zip(&by_places).map(|(constraint, by_place)| least(constraint, by_place)).collect();
        Prepared::filter(Hard { pod: cycle.pod, constraints, counts: by_places, least })
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, feasible: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let own = has_own(cycle.pod);
        let constraints = if own { Cow::Borrowed(cycle.pod.wants.spread_softly.as_slice()) } else { Cow::Owned(self.defaults(cycle, "ScheduleAnyway")) };
        if constraints.is_empty() {
            return None;
        }
        Some(Box::new(Soft::new(cycle, feasible, constraints, own || !self.by_system)))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        if !has_own(pod) {
            // Its like is not known here: what may change it lets it be looked at again.
            return match change {
                Change::NodeAdded(_)
                | Change::NodeUpdated { .. }
                | Change::NodeRemoved(_)
                | Change::PodPlaced(_)
                | Change::PodGone(_)
                | Change::PodUpdated { .. } => true,
                Change::Own { old } => old.labels() != pod.labels(),
                _ => false,
            };
        }
        let constraints = &pod.wants.spread;
        let counted = |node: &Node| has_all_keys(node, constraints);
        let concerns = |other: &PodInfo| other.pod.namespace() == pod.pod.namespace() && constraints.iter().any(|c| c.selects(other.labels()));
        match change {
            Change::NodeAdded(node) => counted(&node.node),
            Change::NodeUpdated { old, new } => {
                let moved = || constraints.iter().any(|c| rules::label(old, &c.key) != new.label(&c.key)) || rules::taints(old).ne(rules::taints(&new.node));
                counted(old) != counted(&new.node) || (counted(&new.node) && moved())
            }
            Change::NodeRemoved(node) => counted(node),
            Change::PodPlaced(other) | Change::PodGone(other) => concerns(other),
            Change::PodUpdated { old, new } => {
                let is_here = old.pod.namespace() == pod.pod.namespace();
                let turns = || constraints.iter().any(|c| c.selects(old.labels()) != c.selects(new.labels()));
                // One that goes is not counted any more, of which the original takes no notice until it is gone.
                (is_here && turns()) || (old.pod.is_deleting() != new.pod.is_deleting() && concerns(new))
            }
            // What it bears says which nodes count, where a constraint goes by taints.
            Change::Own { old } => {
                constraints.iter().any(|c| c.selects(old.labels()) != c.selects(pod.labels()))
                    || (old.wants.tolerations != pod.wants.tolerations && constraints.iter().any(|c| c.honor_taints))
            }
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Hard<'a> {
    pod: &'a PodInfo,
    constraints: Cow<'a, [Constraint]>,
    /// For each constraint, the pod's like by place.
    counts: Vec<HashMap<String, i64>>,
    /// For each constraint, how many are in the emptiest place: not looked for anew for each of many nodes.
    least: Vec<i64>,
}

/// How many of a pod's like are in the emptiest place; none, where there are too few places.
fn least(constraint: &Constraint, by_place: &HashMap<String, i64>) -> i64 {
    if by_place.len() < constraint.min_domains { 0 } else { by_place.values().copied().min().unwrap_or(i64::from(i32::MAX)) }
}

impl Hard<'_> {
    fn change(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if other.pod.namespace() != self.pod.pod.namespace() || !has_all_keys(&node.node, &self.constraints) {
            return;
        }
        for ((constraint, by_place), fewest) in self.constraints.iter().zip(&mut self.counts).zip(&mut self.least) {
            if constraint.selects(other.labels())
                && counts(constraint, self.pod, node)
                && let Some(place) = node.label(&constraint.key)
            {
                let count = by_place.entry(place.to_owned()).or_default();
                let before = *count;
                *count += by;
                // What is fuller than the emptiest place, before and now, says nothing of that.
                if before.min(*count) <= *fewest {
                    *fewest = least(constraint, by_place);
                }
            }
        }
    }
}

impl<'a> Filter<'a> for Hard<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        for ((constraint, counts), least) in self.constraints.iter().zip(&self.counts).zip(&self.least) {
            let Some(place) = node.label(&constraint.key) else {
                return Err(Rejection::unresolvable(NO_LABEL));
            };
            let own = i64::from(constraint.selects(self.pod.labels()));
            if counts.get(place).copied().unwrap_or_default() + own - least > constraint.max_skew {
                return Err(Rejection::resolvable(TOO_MANY));
            }
        }
        Ok(())
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.change(pod, node, 1);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.change(pod, node, -1);
    }
}

struct Soft<'a> {
    namespace: &'a str,
    constraints: Cow<'a, [Constraint]>,
    counts: Vec<HashMap<String, i64>>,
    weights: Vec<f64>,
    /// Nodes that lack a label: they get nothing.
    ignored: BTreeSet<String>,
}

impl<'a> Soft<'a> {
    fn new(cycle: &Cycle<'a>, feasible: &[&NodeInfo], constraints: Cow<'a, [Constraint]>, need_all_keys: bool) -> Self {
        let mut by_places: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        let mut ignored = BTreeSet::new();
        for node in feasible {
            if need_all_keys && !has_all_keys(&node.node, &constraints) {
                ignored.insert(node.name().to_owned());
                continue;
            }
            for (constraint, by_place) in constraints.iter().zip(&mut by_places).filter(|(c, _)| c.key != HOSTNAME) {
                by_place.entry(node.label(&constraint.key).unwrap_or_default().to_owned()).or_default();
            }
        }
        let size = |(c, by_place): (&Constraint, &HashMap<String, i64>)| {
            if c.key == HOSTNAME { feasible.len() - ignored.len() } else { by_place.len() }
        };
        let weights = constraints.iter().zip(&by_places).map(size).map(|size| ((size + 2) as f64).ln()).collect();
        let namespace = cycle.pod.pod.namespace();
        for node in cycle.snapshot.nodes.iter().filter(|n| !need_all_keys || has_all_keys(&n.node, &constraints)) {
            for (constraint, by_place) in constraints.iter().zip(&mut by_places) {
                // No score asks for a place without a name; in a cluster without zones nothing is counted at all.
                if let Some(count) = node.label(&constraint.key).and_then(|place| by_place.get_mut(place))
                    && counts(constraint, cycle.pod, node)
                {
                    *count += like(constraint, namespace, node);
                }
            }
        }
        Self { namespace, constraints, counts: by_places, weights, ignored }
    }
}

/// The raw score of a node that is left out.
const LEFT_OUT: i64 = -1;

impl Score for Soft<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignored.contains(node.name()) {
            return LEFT_OUT;
        }
        let mut sum = 0.0;
        for ((constraint, counts), weight) in self.constraints.iter().zip(&self.counts).zip(&self.weights) {
            let Some(place) = node.label(&constraint.key) else {
                continue;
            };
            let here = constraint.key == HOSTNAME;
            let count = if here { like(constraint, self.namespace, node) } else { counts.get(place).copied().unwrap_or_default() };
            sum += count as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        sum.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let known = || scores.iter().copied().filter(|s| *s != LEFT_OUT);
        let (min, max) = (known().min().unwrap_or_default(), known().max().unwrap_or_default());
        for score in scores {
            *score = match *score {
                LEFT_OUT => 0,
                _ if max == 0 => SCORE_MAX,
                raw => SCORE_MAX * (max + min - raw) / max,
            };
        }
    }
}
