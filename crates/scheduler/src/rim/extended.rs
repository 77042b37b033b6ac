//! A decision in which others are asked (upstream `findNodesThatPassExtenders`, `prioritizeNodes`, `callExtenders`): after our own
//! filters theirs, beside our scores theirs, and before pods are told to go their word on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Meta;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::extender::{EXTENDER, Extender};
use crate::framework::{Cycle, Pick, Rejection, Snapshot};
use crate::metrics::Stage;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::preemption::{self, Candidates, Outcome};
use crate::profile::Profile;
use crate::schedule::{Decision, Failure, Survey, best};

/// Decides with these extenders, all of which are interested.
///
/// # Errors
/// One that must be asked cannot be.
pub(super) async fn schedule(
    profile: &Profile,
    snapshot: Snapshot<'_>,
    pod: &PodInfo,
    start: &mut usize,
    extenders: &[Arc<Extender>],
    pick: Pick<'_>,
) -> Result<Decision, String> {
    if snapshot.nodes.is_empty() {
        return Ok(Decision::Wait(Box::new(Failure::no_nodes())));
    }
    let cycle = Cycle::new(pod, profile, snapshot);
    let others_score = extenders.iter().any(|e| e.scores() || e.filters());
    let mut survey = Survey::new(&cycle, *start, others_score);
    *start = survey.next_start(*start);
    let asked = filter(&cycle, &mut survey, extenders).await;
    // The node for which the pod waits is asked alone; where that is of no use to somebody else, all are.
    if (asked.is_err() || survey.feasible.is_empty()) && survey.look_further(&cycle) {
        *start = survey.next_start(*start);
        filter(&cycle, &mut survey, extenders).await?;
    } else {
        asked?;
    }
    if let Some(error) = survey.diagnosis.error.take() {
        return Err(error);
    }
    if !survey.feasible.is_empty() {
        let more = if survey.feasible.len() > 1 { scores(&cycle, &survey.feasible, extenders).await } else { BTreeMap::new() };
        return Ok(Decision::Bind(best(&cycle, &survey.feasible, &more, pick).name().to_owned()));
    }
    let begun = Instant::now();
    let (outcome, message) = match preemption::candidates(&cycle, survey.filters.as_ref(), &survey.diagnosis, pick) {
        Ok(candidates) => match ask_for_leave(&cycle, candidates, extenders).await {
            Ok(candidates) => preemption::choose(candidates),
            Err(error) => (Outcome::Nothing, format!("preemption: {error}")),
        },
        Err(refused) => refused,
    };
    profile.metrics.stage(Stage::PostFilter, outcome.status(), begun);
    survey.diagnosis.after = message;
    Ok(Decision::Wait(Box::new(Failure::new(survey.diagnosis, outcome))))
}

/// One after the other takes nodes away.
async fn filter(cycle: &Cycle<'_>, survey: &mut Survey<'_>, extenders: &[Arc<Extender>]) -> Result<(), String> {
    for extender in extenders.iter().filter(|e| e.filters()) {
        if survey.feasible.is_empty() {
            return Ok(());
        }
        let verdicts = match extender.filter(&cycle.pod.pod, &survey.feasible).await {
            Ok(verdicts) => verdicts,
            Err(error) if extender.ignorable => {
                tracing::info!(error, ?extender, "an extender that may be left out gave no answer");
                continue;
            }
            Err(error) => return Err(error),
        };
        let at = |name: &str| cycle.snapshot.nodes.iter().position(|n| n.name() == name);
        for (name, why) in &verdicts.failed {
            survey.diagnosis.rejected.extend(at(name).map(|at| (at, Rejection::resolvable(why.clone()))));
        }
        // What is hopeless is said to be so, whatever else is said of it.
        for (name, why) in &verdicts.hopeless {
            survey.diagnosis.rejected.extend(at(name).map(|at| (at, Rejection::unresolvable(why.clone()))));
        }
        let before = survey.feasible.len();
        survey.feasible.retain(|node| verdicts.names.iter().any(|name| name == node.name()));
        if survey.feasible.len() < before {
            survey.diagnosis.plugins.insert(EXTENDER);
        }
    }
    Ok(())
}

/// What all add to the nodes' scores. One that gives no answer adds nothing.
async fn scores(cycle: &Cycle<'_>, nodes: &[&NodeInfo], extenders: &[Arc<Extender>]) -> BTreeMap<String, i64> {
    let asked = extenders.iter().filter(|e| e.scores()).map(|e| e.prioritize(&cycle.pod.pod, nodes));
    let mut sum: BTreeMap<String, i64> = BTreeMap::new();
    for (name, score) in join_all(asked).await.into_iter().flatten().flatten() {
        let total = sum.entry(name).or_default();
        *total = total.saturating_add(score);
    }
    sum
}

/// One after the other takes candidates or victims away.
async fn ask_for_leave(cycle: &Cycle<'_>, mut candidates: Candidates, extenders: &[Arc<Extender>]) -> Result<Candidates, String> {
    for extender in extenders.iter().filter(|e| e.preempts()) {
        if candidates.list.is_empty() {
            break;
        }
        match extender.preempt(&cycle.pod.pod, &candidates.list, cycle.snapshot.nodes).await {
            Ok(left) => candidates.list = left,
            Err(error) if extender.ignorable => tracing::info!(error, ?extender, pod = %cycle.pod.pod.key(), "an extender that may be left out gave no answer"),
            Err(error) => return Err(error),
        }
    }
    Ok(candidates)
}
