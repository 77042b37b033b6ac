//! `nodeSelector` and node affinity, required and preferred; and what the configuration adds for all pods.

use k8s_openapi::api::core::v1::Node;
use machinery::placement::{NodeSelector, Preferred};

use crate::config::raw::AffinityArgs;
use crate::framework::{self, Change, Cycle, Filter, Plugin, Prepared, Rejection, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;

#[derive(Default)]
pub struct NodeAffinity {
    added: Option<NodeSelector>,
    added_preferred: Option<Preferred>,
}

impl NodeAffinity {
    pub(super) fn new(args: &AffinityArgs) -> Self {
        let added = args.added_affinity.as_ref();
        let preferred = added.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()).filter(|terms| !terms.is_empty());
        Self {
            added: added.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()).map(NodeSelector::new),
            added_preferred: preferred.map(Preferred::new),
        }
    }
}

#[derive(Clone)]
struct Wanted<'a> {
    pod: &'a PodInfo,
    added: Option<NodeSelector>,
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let required = &cycle.pod.wants.required;
        if required.is_nothing() && self.added.is_none() {
            return Prepared::Skip;
        }
        let wanted = Wanted { pod: cycle.pod, added: self.added.clone() };
        match required.affinity().and_then(NodeSelector::names) {
            Some(names) if names.is_empty() => Prepared::Reject(Rejection::unresolvable("pod affinity terms conflict")),
            Some(names) => Prepared::Nodes(names.into_iter().map(str::to_owned).collect(), Box::new(wanted)),
            None => Prepared::filter(wanted),
        }
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let preferred = &cycle.pod.wants.preferred;
        let wishes = Wishes { own: preferred, added: self.added_preferred.clone() };
        (!preferred.is_nothing() || wishes.added.is_some()).then(|| Box::new(wishes) as Box<dyn Score>)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        let allows = |node: &Node| {
            let place = rules::place(node);
            self.added.as_ref().is_none_or(|added| added.matches(place)) && pod.wants.required.allows(place)
        };
        match change {
            Change::NodeAdded(new) => allows(&new.node),
            Change::NodeUpdated { old, new } => !allows(old) && allows(&new.node),
            // Only a gated pod's selectors can change, and it was not looked at yet.
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Wanted<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if self.added.as_ref().is_some_and(|added| !added.matches(rules::place(&node.node))) {
            return Err(Rejection::unresolvable("node(s) didn't match scheduler-enforced node affinity"));
        }
        if self.pod.wants.required.allows(rules::place(&node.node)) {
            Ok(())
        } else {
            Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
        }
    }
}

struct Wishes<'a> {
    own: &'a Preferred,
    added: Option<Preferred>,
}

impl Score for Wishes<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let place = rules::place(&node.node);
        self.own.score(place) + self.added.as_ref().map_or(0, |added| added.score(place))
    }

    fn normalize(&self, scores: &mut [i64]) {
        framework::normalize(scores, false);
    }
}
