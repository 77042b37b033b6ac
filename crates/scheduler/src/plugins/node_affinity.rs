//! `nodeSelector` and node affinity, required and preferred.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::NodeSelector;

use crate::framework::{self, Change, Cycle, Filter, Plugin, Prepared, Rejection, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;

pub struct NodeAffinity;

#[derive(Clone)]
struct Wanted<'a>(&'a PodInfo);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let required = rules::required(&cycle.pod.pod);
        if required.is_none() && cycle.pod.spec().node_selector.is_none() {
            return Prepared::Skip;
        }
        match required.and_then(names) {
            Some(names) if names.is_empty() => Prepared::Reject(Rejection::unresolvable("pod affinity terms conflict")),
            Some(names) => Prepared::Nodes(names, Box::new(Wanted(cycle.pod))),
            None => Prepared::filter(Wanted(cycle.pod)),
        }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let affinity = cycle.pod.spec().affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref().filter(|p| !p.is_empty())?;
        Some(Box::new(Preferred(preferred)))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(node) => rules::node_allowed(&pod.pod, &node.node),
            Change::NodeUpdated { old, new } => !rules::node_allowed(&pod.pod, old) && rules::node_allowed(&pod.pod, &new.node),
            // Only a gated pod's selectors can change, and it was not looked at yet.
            _ => false,
        }
    }
}

/// The nodes that the terms name, if every term names some.
fn names(selector: &NodeSelector) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for term in &selector.node_selector_terms {
        let mut of_term: Option<BTreeSet<String>> = None;
        for field in term.match_fields.iter().flatten().filter(|f| f.key == "metadata.name" && f.operator == "In") {
            let values: BTreeSet<String> = field.values.iter().flatten().cloned().collect();
            of_term = Some(of_term.map_or(values.clone(), |have| have.intersection(&values).cloned().collect()));
        }
        all.extend(of_term?);
    }
    (!selector.node_selector_terms.is_empty()).then_some(all)
}

impl<'a> Filter<'a> for Wanted<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if rules::node_allowed(&self.0.pod, &node.node) { Ok(()) } else { Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector")) }
    }
}

struct Preferred<'a>(&'a [k8s_openapi::api::core::v1::PreferredSchedulingTerm]);

impl Score for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0.iter().filter(|t| rules::term_matches(&t.preference, &node.node)).map(|t| i64::from(t.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        framework::normalize(scores, false);
    }
}
