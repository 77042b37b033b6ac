//! Taints keep pods away unless they bear them; `PreferNoSchedule` only makes a node worse.

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

    fn weight(&self) -> i64 {
        3
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Bearing(cycle.pod)))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(node) => rules::taints_borne(&pod.pod, &node.node),
            Change::NodeUpdated { old, new } => !rules::taints_borne(&pod.pod, old) && rules::taints_borne(&pod.pod, &new.node),
            Change::Own { old } => rules::tolerations(&old.pod) != rules::tolerations(&pod.pod),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Bearing<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if rules::taints_borne(&self.0.pod, &node.node) { Ok(()) } else { Err(Rejection::unresolvable("node(s) had untolerated taint(s)")) }
    }
}

impl Score for Bearing<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = rules::taints(&node.node).iter().filter(|t| t.effect == "PreferNoSchedule");
        let unborne = soft.filter(|taint| !rules::tolerations(&self.0.pod).iter().any(|t| rules::tolerates(t, taint)));
        i64::try_from(unborne.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        framework::normalize(scores, true);
    }
}
