//! Preemption: which pods of lower priority have to go, so that a pod finds room. Pure; the rim does what is decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use machinery::labels::Selector;

use crate::framework::{Cycle, Diagnosis, Filters, Pick, Rejection};
use crate::metrics::Status;
use crate::node::NodeInfo;
use crate::plugins::dynamic_resources;
use crate::pod::PodInfo;
use crate::rules;

/// What preemption found.
#[derive(Debug, Default)]
pub enum Outcome {
    /// Leave everything as it is.
    #[default]
    Nothing,
    /// As before: a plugin had turned all nodes away before anybody was asked for room.
    NotAsked,
    /// It cannot help: the pod waits for no node any more.
    Hopeless,
    /// These have to go, and the pod waits for this node.
    Evict {
        /// The node.
        node: String,
        /// Who has to go.
        victims: Vec<Arc<PodInfo>>,
    },
}

impl Outcome {
    /// How it is counted.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Evict { .. } => Status::Success,
            Self::NotAsked => Status::Error,
            Self::Nothing | Self::Hopeless => Status::Unschedulable,
        }
    }
}

/// A node on which some have to go.
#[derive(Clone)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// Who has to go, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// Disruption budgets that this breaks.
    pub violations: usize,
}

/// The nodes that may be made to do, and what was said of those that may not.
#[derive(Default)]
pub struct Candidates {
    /// The nodes.
    pub list: Vec<Candidate>,
    told: Diagnosis,
}

/// Looks for the node where the least harm is done. The text is for users.
pub fn evaluate(cycle: &Cycle<'_>, filters: Option<&Filters<'_>>, diagnosis: &Diagnosis, pick: Pick<'_>) -> (Outcome, String) {
    candidates(cycle, filters, diagnosis, pick).map_or_else(|refused| refused, choose)
}

/// Looks for nodes where some may have to go.
///
/// # Errors
/// Nobody has to: what that is, and why, for users.
pub fn candidates(cycle: &Cycle<'_>, filters: Option<&Filters<'_>>, diagnosis: &Diagnosis, pick: Pick<'_>) -> Result<Candidates, (Outcome, String)> {
    // A plugin may have turned all nodes away before they were looked at. If that was before the original's DynamicResources plugin spoke,
    // which is asked before preemption is, it finds no state of it and says no more than this.
    let asked = || cycle.profile.pre_filter.iter().skip_while(|p| p.name() != dynamic_resources::NAME).any(|p| diagnosis.plugins.contains(p.name()));
    if filters.is_none() && !asked() {
        return Err((Outcome::NotAsked, "not found".into()));
    }
    let Some(limits) = &cycle.profile.preemption else { return Err((Outcome::Nothing, String::new())) };
    if let Some(why) = not_eligible(cycle, diagnosis) {
        return Err((Outcome::Nothing, format!("preemption: {why}")));
    }
    let mut told =
        Diagnosis { nodes: diagnosis.nodes, others: Some(Rejection::unresolvable("Preemption is not helpful for scheduling")), ..Diagnosis::default() };
    let (mut list, mut has_harmless) = (Vec::new(), false);
    let Some(filters) = filters else { return Ok(Candidates { list, told }) };
    let hopeful: Vec<usize> = diagnosis.rejected.iter().filter(|(_, r)| r.resolvable).map(|(at, _)| *at).collect();
    let number = |limit: Option<i32>| usize::try_from(limit.unwrap_or_default()).unwrap_or_default();
    let tries = (hopeful.len() * number(limits.min_candidate_nodes_percentage) / 100).max(number(limits.min_candidate_nodes_absolute));
    let offset = if hopeful.is_empty() { 0 } else { pick(hopeful.len()) };
    let budgets = cycle.snapshot.world.budgets.list();
    for i in 0..hopeful.len() {
        let at = hopeful[(offset + i) % hopeful.len()];
        match victims(cycle, filters, &cycle.snapshot.nodes[at], &budgets) {
            Ok(candidate) => {
                has_harmless |= candidate.violations == 0;
                list.push(candidate);
            }
            Err(rejection) => {
                told.rejected.insert(at, rejection);
            }
        }
        // As long as all of them break budgets there may be a better one.
        if list.len() >= tries && has_harmless {
            break;
        }
    }
    Ok(Candidates { list, told })
}

/// The candidate where the least harm is done. The text is for users.
#[must_use]
pub fn choose(candidates: Candidates) -> (Outcome, String) {
    match least_harm(candidates.list) {
        Some(Candidate { node, victims, .. }) => {
            let text = format!("preemption: found a potential placement for pod on node {node}, preempting {} victims", victims.len());
            (Outcome::Evict { node, victims }, text)
        }
        None => (Outcome::Hopeless, format!("preemption: {}", candidates.told.message())),
    }
}

fn not_eligible(cycle: &Cycle<'_>, diagnosis: &Diagnosis) -> Option<&'static str> {
    if cycle.pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = cycle.snapshot.nominated_node(cycle.pod.pod.uid())?;
    let (at, node) = cycle.snapshot.nodes.iter().enumerate().find(|(_, n)| n.name() == nominated)?;
    // One that was not even asked will not do either.
    if diagnosis.rejected.get(&at).is_none_or(|r| !r.resolvable) {
        return None;
    }
    let going = node.pods.iter().any(|p| p.priority() < cycle.pod.priority() && is_going(&p.pod));
    going.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Whether a pod ends because it was preempted.
fn is_going(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let preempted = |c: &k8s_openapi::api::core::v1::PodCondition| {
        c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
    };
    pod.is_deleting() && conditions.into_iter().flatten().any(preempted)
}

/// The fewest pods that have to leave a node.
fn victims(cycle: &Cycle<'_>, filters: &Filters<'_>, node: &NodeInfo, budgets: &[Arc<PodDisruptionBudget>]) -> Result<Candidate, Rejection> {
    let mut lower: Vec<Arc<PodInfo>> = node.pods.iter().filter(|p| p.priority() < cycle.pod.priority()).cloned().collect();
    if lower.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
    }
    let (mut filters, mut node) = (filters.fork(), node.clone());
    for pod in &lower {
        filters.remove(&mut node, pod);
    }
    filters.check_with_nominated(cycle, &node).map_err(|(_, rejection)| rejection)?;
    lower.sort_by_key(|p| importance(p));
    let (violating, harmless) = by_budget(lower, budgets);
    let protected = violating.len();
    let (mut gone, mut violations) = (Vec::new(), 0);
    for (at, pod) in violating.into_iter().chain(harmless).enumerate() {
        filters.add(&mut node, pod.clone());
        if filters.check_with_nominated(cycle, &node).is_err() {
            filters.remove(&mut node, &pod);
            violations += usize::from(at < protected);
            gone.push(pod);
        }
    }
    if gone.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
    }
    gone.sort_by_key(|p| importance(p));
    Ok(Candidate { node: node.name().to_owned(), victims: gone, violations })
}

/// The most important first: higher priority, then longer running.
fn importance(pod: &PodInfo) -> (std::cmp::Reverse<i32>, Option<k8s_openapi::jiff::Timestamp>) {
    (std::cmp::Reverse(pod.priority()), Some(started(pod)))
}

fn started(pod: &PodInfo) -> k8s_openapi::jiff::Timestamp {
    pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(k8s_openapi::jiff::Timestamp::MAX, |t| t.0)
}

/// Those whose going breaks a disruption budget, and the others (upstream `FilterVictimsWithPDBViolation`).
fn by_budget(pods: Vec<Arc<PodInfo>>, budgets: &[Arc<PodDisruptionBudget>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i32> = budgets.iter().map(|b| b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default()).collect();
    let selectors: Vec<_> = budgets.iter().map(|b| Selector::of(b.spec.as_ref().and_then(|s| s.selector.as_ref()))).collect();
    pods.into_iter().partition(|pod| {
        // The first budget that breaks is enough: what comes after it is not drawn on.
        budgets.iter().zip(&selectors).zip(&mut left).any(|((budget, selector), left)| {
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref()).is_some_and(|d| d.contains_key(pod.pod.name()));
            if pod.labels().is_none_or(BTreeMap::is_empty)
                || budget.namespace() != pod.pod.namespace()
                || selector.is_everything()
                || !rules::selects(selector, pod.labels())
                || disrupted
            {
                return false;
            }
            *left -= 1;
            *left < 0
        })
    })
}

/// Upstream `pickOneNodeForPreemption`: fewest broken budgets, lowest highest priority, lowest sum of priorities, fewest
/// pods, latest start of the most important ones.
fn least_harm(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|c| {
        let highest = c.victims.first().map_or(i32::MIN, |p| p.priority());
        let sum: i64 = c.victims.iter().map(|p| i64::from(p.priority()) + i64::from(i32::MAX) + 1).sum();
        let earliest = c.victims.iter().filter(|p| p.priority() == highest).map(|p| started(p)).min();
        (c.violations, highest, sum, c.victims.len(), std::cmp::Reverse(earliest))
    })
}
