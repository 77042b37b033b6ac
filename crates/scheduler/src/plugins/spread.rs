//! A pod's like are spread over places: hard constraints keep a pod from a place that has too many more than the
//! emptiest; soft ones, and the cluster's defaults, only make such a place worse.

use std::collections::{BTreeSet, HashMap};

use client::Meta;
use machinery::labels::Selector;

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, SCORE_MAX, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The cluster's defaults: node label and skew, both soft (upstream `systemDefaultConstraints`).
const DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];
const TOO_MANY: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

pub struct PodTopologySpread;

#[derive(Clone, Debug)]
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: usize,
    /// All must select.
    selectors: Vec<Selector>,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn selects(&self, pod: &PodInfo) -> bool {
        self.selectors.iter().all(|s| rules::selects(s, pod.labels()))
    }

    /// Whether a node's pods count for this pod.
    fn counts(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honor_affinity || rules::node_allowed(&pod.pod, &node.node)) && (!self.honor_taints || rules::taints_borne(&pod.pod, &node.node))
    }

    /// The pod's like on a node.
    fn like(&self, namespace: &str, node: &NodeInfo) -> i64 {
        if self.selectors.iter().all(Selector::is_everything) {
            return 0;
        }
        let like = node.pods.iter().filter(|p| !p.pod.is_deleting() && p.pod.namespace() == namespace && self.selects(p));
        i64::try_from(like.count()).unwrap_or(i64::MAX)
    }
}

/// The constraints that the pod itself has, hard or soft.
fn own(pod: &PodInfo, action: &str) -> Vec<Constraint> {
    let all = pod.spec().topology_spread_constraints.iter().flatten().filter(|c| c.when_unsatisfiable == action);
    all.map(|c| {
        let mut selectors = vec![rules::selector(c.label_selector.as_ref())];
        let keys = c.match_label_keys.iter().flatten();
        let same: Vec<(&str, &str)> = keys.filter_map(|k| Some((k.as_str(), pod.labels()?.get(k)?.as_str()))).collect();
        if !same.is_empty() {
            selectors.push(Selector::from_set(same));
        }
        Constraint {
            key: c.topology_key.clone(),
            max_skew: i64::from(c.max_skew),
            min_domains: usize::try_from(c.min_domains.unwrap_or(1)).unwrap_or(1),
            selectors,
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    })
    .collect()
}

fn has_all_keys(node: &NodeInfo, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|c| node.label(&c.key).is_some())
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let constraints = own(cycle.pod, "DoNotSchedule");
        if constraints.is_empty() {
            return Prepared::Skip;
        }
        let mut counts: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        for node in cycle.snapshot.nodes.iter().filter(|n| has_all_keys(n, &constraints)) {
            for (constraint, counts) in constraints.iter().zip(&mut counts) {
                if let Some(place) = node.label(&constraint.key).filter(|_| constraint.counts(cycle.pod, node)) {
                    *counts.entry(place.to_owned()).or_default() += constraint.like(cycle.pod.pod.namespace(), node);
                }
            }
        }
        Prepared::filter(Hard { pod: cycle.pod, constraints, counts })
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, feasible: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let by_default = cycle.pod.spec().topology_spread_constraints.as_ref().is_none_or(Vec::is_empty);
        let constraints = if by_default { defaults(cycle) } else { own(cycle.pod, "ScheduleAnyway") };
        if constraints.is_empty() {
            return None;
        }
        Some(Box::new(Soft::new(cycle, feasible, constraints, !by_default)))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        let constraints = || own(pod, "DoNotSchedule");
        let concerns = |other: &PodInfo| other.pod.namespace() == pod.pod.namespace() && constraints().iter().any(|c| c.selects(other));
        match change {
            Change::NodeAdded(node) => has_all_keys(node, &constraints()),
            Change::NodeUpdated { old, new } => old.metadata.labels != new.node.metadata.labels || rules::taints(old) != rules::taints(&new.node),
            Change::NodeRemoved(_) => true,
            Change::PodPlaced(other) | Change::PodGone(other) => concerns(other),
            Change::PodUpdated { old, new } => {
                (old.labels() != new.labels() || old.pod.is_deleting() != new.pod.is_deleting()) && (concerns(old) || concerns(new))
            }
            Change::Own { old } => old.labels() != pod.labels(),
            _ => false,
        }
    }
}

fn defaults(cycle: &Cycle<'_>) -> Vec<Constraint> {
    let selectors = cycle.snapshot.world.like(&cycle.pod.pod);
    if selectors.is_empty() {
        return Vec::new();
    }
    let one = |(key, max_skew): (&str, i64)| Constraint {
        key: key.to_owned(),
        max_skew,
        min_domains: 1,
        selectors: selectors.clone(),
        honor_affinity: true,
        honor_taints: false,
    };
    DEFAULTS.into_iter().map(one).collect()
}

#[derive(Clone)]
struct Hard<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Constraint>,
    /// For each constraint, the pod's like by place.
    counts: Vec<HashMap<String, i64>>,
}

impl Hard<'_> {
    fn change(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if other.pod.namespace() != self.pod.pod.namespace() || !has_all_keys(node, &self.constraints) {
            return;
        }
        for (constraint, counts) in self.constraints.iter().zip(&mut self.counts) {
            if constraint.selects(other)
                && constraint.counts(self.pod, node)
                && let Some(place) = node.label(&constraint.key)
            {
                *counts.entry(place.to_owned()).or_default() += by;
            }
        }
    }
}

impl<'a> Filter<'a> for Hard<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        for (constraint, counts) in self.constraints.iter().zip(&self.counts) {
            let Some(place) = node.label(&constraint.key) else {
                return Err(Rejection::unresolvable(NO_LABEL));
            };
            let least = if counts.len() < constraint.min_domains { 0 } else { counts.values().copied().min().unwrap_or(i64::from(i32::MAX)) };
            let own = i64::from(constraint.selects(self.pod));
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

struct Soft {
    namespace: String,
    constraints: Vec<Constraint>,
    counts: Vec<HashMap<String, i64>>,
    weights: Vec<f64>,
    /// Nodes that lack a label: they get nothing.
    ignored: BTreeSet<String>,
}

impl Soft {
    fn new(cycle: &Cycle<'_>, feasible: &[&NodeInfo], constraints: Vec<Constraint>, need_all_keys: bool) -> Self {
        let mut counts: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        let mut ignored = BTreeSet::new();
        for node in feasible {
            if need_all_keys && !has_all_keys(node, &constraints) {
                ignored.insert(node.name().to_owned());
                continue;
            }
            for (constraint, counts) in constraints.iter().zip(&mut counts).filter(|(c, _)| c.key != HOSTNAME) {
                counts.entry(node.label(&constraint.key).unwrap_or_default().to_owned()).or_default();
            }
        }
        let size = |(c, counts): (&Constraint, &HashMap<String, i64>)| {
            if c.key == HOSTNAME { feasible.len() - ignored.len() } else { counts.len() }
        };
        let weights = constraints.iter().zip(&counts).map(size).map(|size| ((size + 2) as f64).ln()).collect();
        let namespace = cycle.pod.pod.namespace().to_owned();
        for node in cycle.snapshot.nodes.iter().filter(|n| !need_all_keys || has_all_keys(n, &constraints)) {
            for (constraint, counts) in constraints.iter().zip(&mut counts).filter(|(c, _)| c.counts(cycle.pod, node)) {
                if let Some(count) = counts.get_mut(node.label(&constraint.key).unwrap_or_default()) {
                    *count += constraint.like(&namespace, node);
                }
            }
        }
        Self { namespace, constraints, counts, weights, ignored }
    }
}

/// The raw score of a node that is left out.
const LEFT_OUT: i64 = -1;

impl Score for Soft {
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
            let count = if here { constraint.like(&self.namespace, node) } else { counts.get(place).copied().unwrap_or_default() };
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
