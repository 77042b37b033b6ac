//! A node is the better the more evenly a pod leaves its resources used: CPU and memory, or those that the configuration names.

use crate::config::raw::BalancedArgs;
use crate::framework::{Change, Cycle, Plugin, SCORE_MAX, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::resources::is_scalar;

pub struct BalancedAllocation {
    resources: Vec<String>,
}

impl BalancedAllocation {
    pub(super) fn new(args: &BalancedArgs) -> Self {
        Self { resources: args.resources.iter().map(|r| r.name.clone()).collect() }
    }
}

struct Evenness<'a> {
    pod: &'a PodInfo,
    resources: Vec<String>,
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        // A pod that asks for nothing tips no balance.
        let asks = self.resources.iter().any(|name| cycle.pod.requested.get(name) != 0);
        asks.then(|| Box::new(Evenness { pod: cycle.pod, resources: self.resources.clone() }) as Box<dyn Score>)
    }

    fn wakes(&self, _: &Change<'_>, _: &PodInfo) -> bool {
        false
    }
}

/// 50 to 100: the less the shares differ, the more. Each as what is taken, and what there is.
fn evenness(used: &[(i64, i64)]) -> i64 {
    let shares: Vec<f64> = used.iter().map(|(taken, all)| (*taken as f64 / *all as f64).min(1.0)).collect();
    let deviation = match shares.as_slice() {
        [] | [_] => 0.0,
        [one, other] => ((one - other) / 2.0).abs(),
        many => {
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            (many.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / many.len() as f64).sqrt()
        }
    };
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

impl Score for Evenness<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let own = |name: &String| self.pod.requested.get(name);
        let counts = |name: &&String| node.allocatable.get(name) != 0 && (own(name) != 0 || !is_scalar(name));
        let counted: Vec<&String> = self.resources.iter().filter(counts).collect();
        let before: Vec<(i64, i64)> = counted.iter().map(|name| (node.requested.get(name), node.allocatable.get(name))).collect();
        let after: Vec<(i64, i64)> = counted.iter().zip(&before).map(|(name, (taken, all))| (taken.saturating_add(own(name)), *all)).collect();
        SCORE_MAX / 2 + (SCORE_MAX / 2 + evenness(&after) - evenness(&before)) / 2
    }
}
