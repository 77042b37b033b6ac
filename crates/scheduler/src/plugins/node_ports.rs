//! A port of the node belongs to one pod.

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct NodePorts;

#[derive(Clone)]
struct Free<'a>(&'a PodInfo);

fn conflict(one: &PodInfo, other: &PodInfo) -> bool {
    one.wants.ports.iter().any(|a| other.wants.ports.iter().any(|b| a.conflicts(b)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        if cycle.pod.wants.ports.is_empty() { Prepared::Skip } else { Prepared::filter(Free(cycle.pod)) }
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::PodGone(gone) => conflict(pod, gone),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Free<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if node.pods.iter().any(|p| conflict(self.0, p)) {
            return Err(Rejection::resolvable("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }
}
