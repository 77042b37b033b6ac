//! The decision: which node for a pod. A pure function of a snapshot; chance comes in by `pick`. The clock is looked at only to
//! count how long stages take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::Meta;
use tokio::time::Instant;

use crate::framework::{Cycle, Diagnosis, Filter, Filters, Pick, Prepared, Rejection, Snapshot};
use crate::metrics::{Stage, Status};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::preemption;
use crate::profile::Profile;

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
    /// What the nodes said, by their place in the snapshot.
    pub rejected: BTreeMap<usize, Rejection>,
    /// What preemption found.
    pub preemption: preemption::Outcome,
}

impl Failure {
    /// What the nodes said, and what preemption found.
    pub fn new(diagnosis: Diagnosis, preemption: preemption::Outcome) -> Self {
        Self { message: diagnosis.message(), plugins: diagnosis.plugins, rejected: diagnosis.rejected, preemption }
    }

    /// There is no node at all.
    #[must_use]
    pub fn no_nodes() -> Self {
        Self { message: "no nodes available to schedule pods".into(), preemption: preemption::Outcome::Hopeless, ..Self::default() }
    }
}

/// Decides. `start` is where to begin looking in large clusters, so that every node has its turn: behind those that were looked at.
///
/// # Errors
/// A plugin could not answer: why, for users. The pod waits for nothing then, and is tried again by itself.
pub fn schedule(profile: &Profile, snapshot: Snapshot<'_>, pod: &PodInfo, start: &mut usize, pick: Pick<'_>) -> Result<Decision, String> {
    if snapshot.nodes.is_empty() {
        return Ok(Decision::Wait(Box::new(Failure::no_nodes())));
    }
    let cycle = Cycle::new(pod, profile, snapshot);
    let mut survey = Survey::new(&cycle, *start, false);
    *start = survey.next_start(*start);
    if let Some(error) = survey.diagnosis.error.take() {
        return Err(error);
    }
    if !survey.feasible.is_empty() {
        return Ok(Decision::Bind(best(&cycle, &survey.feasible, &BTreeMap::new(), pick).name().to_owned()));
    }
    let begun = Instant::now();
    let (outcome, message) = preemption::evaluate(&cycle, survey.filters.as_ref(), &survey.diagnosis, pick);
    profile.metrics.stage(Stage::PostFilter, outcome.status(), begun);
    survey.diagnosis.after = message;
    Ok(Decision::Wait(Box::new(Failure::new(survey.diagnosis, outcome))))
}

/// What the nodes said.
pub struct Survey<'a> {
    /// Those that do.
    pub feasible: Vec<&'a NodeInfo>,
    /// What the others said.
    pub diagnosis: Diagnosis,
    /// What judged them; none: a plugin turned all away before.
    pub filters: Option<Filters<'a>>,
    /// Whom else to ask, if that was only the node for which the pod waits.
    rest: Option<Range>,
}

/// Which nodes are asked.
struct Range {
    /// None: all.
    only: Option<BTreeSet<String>>,
    start: usize,
    /// After so many that do nobody else is asked.
    enough: usize,
}

impl Range {
    fn has(&self, node: &str) -> bool {
        self.only.as_ref().is_none_or(|names| names.contains(node))
    }
}

impl<'a> Survey<'a> {
    /// Asks the nodes. `others_score`: whether somebody else scores, too.
    #[must_use]
    pub fn new(cycle: &Cycle<'a>, start: usize, others_score: bool) -> Self {
        let mut diagnosis = Diagnosis { nodes: cycle.snapshot.nodes.len(), ..Diagnosis::default() };
        let (metrics, begun) = (&cycle.profile.metrics, Instant::now());
        match prepare(cycle, &mut diagnosis) {
            Ok((filters, only)) => {
                metrics.stage(Stage::PreFilter, Status::Success, begun);
                let begun = Instant::now();
                // Where nobody scores the first does.
                let enough = if cycle.profile.score.is_empty() && !others_score { 1 } else { enough(cycle.profile, cycle.snapshot.nodes.len()) };
                let range = Range { only, start, enough };
                let (feasible, rest) = match nominated(cycle, &filters, &range) {
                    Some(node) => (vec![node], Some(range)),
                    None => (feasible(cycle, &filters, &range, &mut diagnosis), None),
                };
                let status = if diagnosis.error.is_some() { Status::Error } else { Status::Success };
                metrics.stage(Stage::Filter, status, begun);
                Self { feasible, diagnosis, filters: Some(filters), rest }
            }
            Err(status) => {
                metrics.stage(Stage::PreFilter, status, begun);
                Self { feasible: Vec::new(), diagnosis, filters: None, rest: None }
            }
        }
    }

    /// Asks all nodes, if that was only the one for which the pod waits; whether so.
    pub fn look_further(&mut self, cycle: &Cycle<'a>) -> bool {
        let (Some(filters), Some(range)) = (&self.filters, self.rest.take()) else { return false };
        self.feasible = feasible(cycle, filters, &range, &mut self.diagnosis);
        true
    }
}

impl Survey<'_> {
    /// Where the next looks first: behind the nodes that were looked at now. The one for which a pod waits is asked out of turn.
    #[must_use]
    pub fn next_start(&self, start: usize) -> usize {
        let asked = if self.rest.is_some() { 0 } else { self.feasible.len() + self.diagnosis.rejected.len() };
        (start + asked) % self.diagnosis.nodes.max(1)
    }
}

/// Prepares all plugins.
///
/// # Errors
/// One turns all nodes away: in which way.
fn prepare<'a>(cycle: &Cycle<'a>, diagnosis: &mut Diagnosis) -> Result<(Filters<'a>, Option<BTreeSet<String>>), Status> {
    let mut prepared: Vec<(&'static str, Box<dyn Filter<'a> + 'a>)> = Vec::new();
    let mut only: Option<BTreeSet<String>> = None;
    for plugin in &cycle.profile.pre_filter {
        cycle.profile.metrics.evaluated(Stage::PreFilter, plugin.name(), 1);
        match cycle.timed(Stage::PreFilter, plugin.name(), || plugin.prepare(cycle), Prepared::status) {
            Prepared::Skip => {}
            Prepared::Filter(filter) => prepared.push((plugin.name(), filter)),
            Prepared::Nodes(names, filter) => {
                only = Some(only.map_or(names.clone(), |have| have.intersection(&names).cloned().collect()));
                prepared.push((plugin.name(), filter));
                diagnosis.others = Some(Rejection::unresolvable(format!("node(s) didn't satisfy plugin(s) [{}]", plugin.name())));
                diagnosis.plugins.insert(plugin.name());
            }
            Prepared::Reject(rejection) => {
                let status = Status::rejected(&rejection);
                diagnosis.before = Some(rejection.reasons.join(", "));
                diagnosis.plugins.insert(plugin.name());
                return Err(status);
            }
        }
    }
    Ok((Filters::new(judges(cycle, prepared), cycle.is_sample.then(|| cycle.profile.metrics.clone())), only))
}

/// Those who judge each node, in their order. One that was not to speak before prepares itself all the same.
fn judges<'a>(cycle: &Cycle<'a>, mut prepared: Vec<(&'static str, Box<dyn Filter<'a> + 'a>)>) -> Vec<(&'static str, Box<dyn Filter<'a> + 'a>)> {
    let speaks = |name: &str| cycle.profile.pre_filter.iter().any(|plugin| plugin.name() == name);
    let mut list = Vec::new();
    for plugin in &cycle.profile.filter {
        if let Some(at) = prepared.iter().position(|(name, _)| *name == plugin.name()) {
            list.push(prepared.swap_remove(at));
        } else if !speaks(plugin.name())
            && let Prepared::Filter(filter) | Prepared::Nodes(_, filter) = plugin.prepare(cycle)
        {
            list.push((plugin.name(), filter));
        }
    }
    list
}

/// How many nodes that do are enough (upstream `numFeasibleNodesToFind`).
fn enough(profile: &Profile, nodes: usize) -> usize {
    if nodes < NODES_MIN {
        return nodes;
    }
    let percent = match usize::try_from(profile.percentage_of_nodes.unwrap_or_default()).unwrap_or_default() {
        0 => 50usize.saturating_sub(nodes / 125).max(5),
        percent => percent,
    };
    (nodes * percent / 100).max(NODES_MIN)
}

/// The node for which the pod waits, if it does.
fn nominated<'a>(cycle: &Cycle<'a>, filters: &Filters<'a>, range: &Range) -> Option<&'a NodeInfo> {
    let name = cycle.snapshot.nominated_node(cycle.pod.pod.uid()).filter(|name| range.has(name))?;
    let node = cycle.snapshot.nodes.iter().find(|n| n.name() == name)?;
    filters.check_with_nominated(cycle, node).is_ok().then_some(node)
}

fn feasible<'a>(cycle: &Cycle<'a>, filters: &Filters<'a>, range: &Range, diagnosis: &mut Diagnosis) -> Vec<&'a NodeInfo> {
    let nodes = cycle.snapshot.nodes;
    let mut found = Vec::new();
    // How many nodes were turned away by each, the last number being of those that were not.
    let mut ended = vec![0_u64; filters.names().len() + 1];
    for at in (0..nodes.len()).map(|i| (range.start + i) % nodes.len()) {
        let node = &nodes[at];
        if !range.has(node.name()) {
            continue;
        }
        match filters.check_with_nominated(cycle, node) {
            Ok(()) => {
                found.push(node);
                *ended.last_mut().expect("there is one") += 1;
            }
            Err((plugin, rejection)) => {
                ended[filters.names().position(|name| name == plugin).unwrap_or_default()] += 1;
                diagnosis.plugins.insert(plugin);
                if rejection.is_error {
                    diagnosis.error = Some(format!("running {plugin:?} filter plugin: {}", rejection.reasons.join(", ")));
                    found.clear();
                    break;
                }
                diagnosis.rejected.insert(at, rejection);
            }
        }
        if found.len() >= range.enough {
            break;
        }
    }
    count_asked(cycle, filters, &ended);
    found
}

/// Counts how often each filter was asked: of every node that none before it had turned away.
fn count_asked(cycle: &Cycle<'_>, filters: &Filters<'_>, ended: &[u64]) {
    let mut asked: u64 = ended.iter().sum();
    for (name, ended) in filters.names().zip(ended) {
        cycle.profile.metrics.evaluated(Stage::Filter, name, asked);
        asked -= ended;
    }
}

/// The best of the nodes that do; between equals `pick` decides. `more`: what others add to a node's score.
pub fn best<'a>(cycle: &Cycle<'a>, feasible: &[&'a NodeInfo], more: &BTreeMap<String, i64>, pick: Pick<'_>) -> &'a NodeInfo {
    if let [only] = feasible {
        return only;
    }
    let mut totals = scores(cycle, feasible);
    for (total, node) in totals.iter_mut().zip(feasible) {
        *total = total.saturating_add(more.get(node.name()).copied().unwrap_or_default());
    }
    let max = totals.iter().copied().max().unwrap_or_default();
    let equals: Vec<&'a NodeInfo> = feasible.iter().zip(&totals).filter(|(_, t)| **t == max).map(|(n, _)| *n).collect();
    equals[pick(equals.len()) % equals.len()]
}

/// The weighted sum of all plugins' scores for each node.
pub(crate) fn scores<'a>(cycle: &Cycle<'a>, feasible: &[&'a NodeInfo]) -> Vec<i64> {
    let (metrics, begun) = (&cycle.profile.metrics, Instant::now());
    let mut totals = vec![0_i64; feasible.len()];
    let mut preparing = Duration::ZERO;
    for (plugin, weight) in &cycle.profile.score {
        let (name, prepare) = (plugin.name(), Instant::now());
        metrics.evaluated(Stage::PreScore, name, 1);
        let status = |prepared: &Option<_>| if prepared.is_some() { Status::Success } else { Status::Skip };
        let prepared = cycle.timed(Stage::PreScore, name, || plugin.prepare_score(cycle, feasible), status);
        preparing += prepare.elapsed();
        let Some(score) = prepared else {
            continue;
        };
        metrics.evaluated(Stage::Score, name, feasible.len() as u64);
        let weigh = || {
            let mut raw: Vec<i64> = feasible.iter().map(|n| score.score(n)).collect();
            score.normalize(&mut raw);
            raw
        };
        let raw = cycle.timed(Stage::Score, name, weigh, |_| Status::Success);
        for (total, score) in totals.iter_mut().zip(raw) {
            *total = total.saturating_add(score.saturating_mul(*weight));
        }
    }
    metrics.stage_took(Stage::PreScore, Status::Success, preparing);
    metrics.stage_took(Stage::Score, Status::Success, begun.elapsed().saturating_sub(preparing));
    totals
}
