//! A node is the better the more evenly a pod leaves its CPU and memory used.

use crate::framework::{Change, Cycle, Plugin, SCORE_MAX, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct BalancedAllocation;

struct Evenness<'a>(&'a PodInfo);

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        // A pod that asks for nothing tips no balance.
        let asked = &cycle.pod.requested;
        (asked.milli_cpu > 0 || asked.memory > 0).then(|| Box::new(Evenness(cycle.pod)) as Box<dyn Score>)
    }

    fn wakes(&self, _: &Change<'_>, _: &PodInfo) -> bool {
        false
    }
}

/// 50 to 100: the less the shares of CPU and memory differ, the more.
fn evenness(taken: [i64; 2], all: [i64; 2]) -> i64 {
    let share = |i: usize| (all[i] > 0).then(|| (taken[i] as f64 / all[i] as f64).min(1.0));
    let deviation = match (share(0), share(1)) {
        (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

impl Score for Evenness<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let all = [node.allocatable.milli_cpu, node.allocatable.memory];
        let before = [node.requested.milli_cpu, node.requested.memory];
        let after = [before[0] + self.0.requested.milli_cpu, before[1] + self.0.requested.memory];
        SCORE_MAX / 2 + (SCORE_MAX / 2 + evenness(after, all) - evenness(before, all)) / 2
    }
}
