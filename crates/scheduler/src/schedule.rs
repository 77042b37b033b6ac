//! The decision: which node for a pod. A pure function of a snapshot; chance comes in by `pick`.

use std::collections::BTreeSet;

use client::Meta;

use crate::framework::{Cycle, Diagnosis, Filters, Pick, Prepared, Rejection, Snapshot};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::{plugins, preemption};

/// Up to this many nodes all are looked at (upstream `minFeasibleNodesToFind`).
const NODES_MIN: usize = 100;

/// What is to be done with a pod.
#[derive(Debug)]
pub enum Decision {
    /// It goes to this node.
    Bind(String),
    /// It has to wait.
    Wait(Box<Failure>),
}

/// Why a pod has to wait, and what may help.
#[derive(Debug, Default)]
pub struct Failure {
    /// For users.
    pub message: String,
    /// The plugins whose word counts when the cluster changes.
    pub plugins: BTreeSet<&'static str>,
    /// What preemption found.
    pub preemption: preemption::Outcome,
}

/// Decides. `start` is where to begin looking in large clusters, so that every node has its turn.
pub fn schedule(snapshot: Snapshot<'_>, pod: &PodInfo, start: usize, pick: Pick<'_>) -> Decision {
    if snapshot.nodes.is_empty() {
        return Decision::Wait(Box::new(Failure { message: "no nodes available to schedule pods".into(), ..Failure::default() }));
    }
    let cycle = Cycle { pod, snapshot };
    let mut diagnosis = Diagnosis { nodes: snapshot.nodes.len(), ..Diagnosis::default() };
    let filters = match prepare(&cycle, &mut diagnosis) {
        Some((filters, only)) => {
            let feasible = feasible(&cycle, &filters, only.as_ref(), start, &mut diagnosis);
            if !feasible.is_empty() {
                return Decision::Bind(best(&cycle, &feasible, pick).name().to_owned());
            }
            Some(filters)
        }
        None => None,
    };
    let (outcome, message) = preemption::evaluate(&cycle, filters.as_ref(), &diagnosis, pick);
    diagnosis.after = message;
    Decision::Wait(Box::new(Failure { message: diagnosis.message(), plugins: diagnosis.plugins, preemption: outcome }))
}

/// Prepares all plugins; none if one turns all nodes away.
fn prepare<'a>(cycle: &Cycle<'a>, diagnosis: &mut Diagnosis) -> Option<(Filters<'a>, Option<BTreeSet<String>>)> {
    let mut list = Vec::new();
    let mut only: Option<BTreeSet<String>> = None;
    for plugin in plugins::ALL {
        match plugin.prepare(cycle) {
            Prepared::Skip => {}
            Prepared::Filter(filter) => list.push((plugin.name(), filter)),
            Prepared::Nodes(names, filter) => {
                only = Some(only.map_or(names.clone(), |have| have.intersection(&names).cloned().collect()));
                list.push((plugin.name(), filter));
                diagnosis.others = Some(Rejection::unresolvable(format!("node(s) didn't satisfy plugin(s) [{}]", plugin.name())));
                diagnosis.plugins.insert(plugin.name());
            }
            Prepared::Reject(rejection) => {
                diagnosis.before = Some(rejection.reasons.join(", "));
                diagnosis.plugins.insert(plugin.name());
                return None;
            }
        }
    }
    Some((Filters::new(list), only))
}

/// How many nodes that do are enough (upstream `numFeasibleNodesToFind`).
fn enough(nodes: usize) -> usize {
    if nodes < NODES_MIN {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(NODES_MIN)
}

fn feasible<'a>(cycle: &Cycle<'a>, filters: &Filters<'a>, only: Option<&BTreeSet<String>>, start: usize, diagnosis: &mut Diagnosis) -> Vec<&'a NodeInfo> {
    let nodes = cycle.snapshot.nodes;
    let nominated = cycle.snapshot.nominated_node(cycle.pod.pod.uid()).unwrap_or_default();
    if let Some(node) = nodes.iter().find(|n| !nominated.is_empty() && n.name() == nominated)
        && only.is_none_or(|names| names.contains(nominated))
        && filters.check_with_nominated(cycle, node).is_ok()
    {
        return vec![node];
    }
    let mut found = Vec::new();
    let enough = enough(nodes.len());
    for at in (0..nodes.len()).map(|i| (start + i) % nodes.len()) {
        let node = &nodes[at];
        if only.is_some_and(|names| !names.contains(node.name())) {
            continue;
        }
        match filters.check_with_nominated(cycle, node) {
            Ok(()) => found.push(node),
            Err((plugin, rejection)) => {
                diagnosis.plugins.insert(plugin);
                diagnosis.rejected.insert(at, rejection);
            }
        }
        if found.len() >= enough {
            break;
        }
    }
    found
}

/// The best of the nodes that do; between equals `pick` decides.
fn best<'a>(cycle: &Cycle<'a>, feasible: &[&'a NodeInfo], pick: Pick<'_>) -> &'a NodeInfo {
    if let [only] = feasible {
        return only;
    }
    let totals = scores(cycle, feasible);
    let max = totals.iter().copied().max().unwrap_or_default();
    let equals: Vec<&'a NodeInfo> = feasible.iter().zip(&totals).filter(|(_, t)| **t == max).map(|(n, _)| *n).collect();
    equals[pick(equals.len()) % equals.len()]
}

/// The weighted sum of all plugins' scores for each node.
pub(crate) fn scores<'a>(cycle: &Cycle<'a>, feasible: &[&'a NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    for plugin in plugins::ALL {
        let Some(score) = plugin.prepare_score(cycle, feasible) else {
            continue;
        };
        let mut raw: Vec<i64> = feasible.iter().map(|n| score.score(n)).collect();
        score.normalize(&mut raw);
        for (total, score) in totals.iter_mut().zip(raw) {
            *total += score * plugin.weight();
        }
    }
    totals
}
