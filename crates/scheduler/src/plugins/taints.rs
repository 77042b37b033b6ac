//! Taints keep pods away unless they bear them; `PreferNoSchedule` only makes a node worse.

use machinery::placement::PREFER_NO_SCHEDULE;

use crate::framework::{self, Change, Cycle, Filter, Plugin, Prepared, Rejection, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::rules;

pub struct TaintToleration;

#[derive(Clone)]
struct Bearing<'a>(&'a PodInfo);

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        Prepared::filter(Bearing(cycle.pod))
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Bearing(cycle.pod)))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(node) => rules::taints_borne(&pod.wants.tolerations, &node.node),
            Change::NodeUpdated { old, new } => !rules::taints_borne(&pod.wants.tolerations, old) && rules::taints_borne(&pod.wants.tolerations, &new.node),
            Change::Own { old } => old.wants.tolerations != pod.wants.tolerations,
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Bearing<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if rules::taints_borne(&self.0.wants.tolerations, &node.node) { Ok(()) } else { Err(Rejection::unresolvable("node(s) had untolerated taint(s)")) }
    }
}

impl Score for Bearing<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = rules::taints(&node.node).filter(|t| t.effect == PREFER_NO_SCHEDULE);
        let unborne = soft.filter(|taint| !self.0.wants.tolerations.bear(*taint));
        i64::try_from(unborne.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        framework::normalize(scores, true);
    }
}
