//! `nodeSelector` and node affinity, required and preferred.

use machinery::placement::{NodeSelector, Preferred};

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
        let required = &cycle.pod.wants.required;
        if required.is_nothing() {
            return Prepared::Skip;
        }
        match required.affinity().and_then(NodeSelector::names) {
            Some(names) if names.is_empty() => Prepared::Reject(Rejection::unresolvable("pod affinity terms conflict")),
            Some(names) => Prepared::Nodes(names.into_iter().map(str::to_owned).collect(), Box::new(Wanted(cycle.pod))),
            None => Prepared::filter(Wanted(cycle.pod)),
        }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let preferred = &cycle.pod.wants.preferred;
        (!preferred.is_nothing()).then(|| Box::new(Wishes(preferred)) as Box<dyn Score>)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(node) => pod.wants.required.allows(rules::place(&node.node)),
            Change::NodeUpdated { old, new } => {
                let required = &pod.wants.required;
                !required.allows(rules::place(old)) && required.allows(rules::place(&new.node))
            }
            // Only a gated pod's selectors can change, and it was not looked at yet.
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Wanted<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if self.0.wants.required.allows(rules::place(&node.node)) {
            Ok(())
        } else {
            Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
        }
    }
}

struct Wishes<'a>(&'a Preferred);

impl Score for Wishes<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0.score(rules::place(&node.node))
    }

    fn normalize(&self, scores: &mut [i64]) {
        framework::normalize(scores, false);
    }
}
