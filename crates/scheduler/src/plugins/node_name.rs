//! A pod that names its node goes there or nowhere.

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Verdict};
use crate::node::NodeInfo;
use crate::pod::{self, PodInfo};

pub struct NodeName;

#[derive(Clone)]
struct Named<'a>(&'a str);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        match pod::node_name(&cycle.pod.pod) {
            "" => Prepared::Skip,
            name => Prepared::filter(Named(name)),
        }
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        matches!(change, Change::NodeAdded(node) if node.name() == pod::node_name(&pod.pod))
    }
}

impl<'a> Filter<'a> for Named<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if node.name() == self.0 { Ok(()) } else { Err(Rejection::unresolvable("node(s) didn't match the requested node name")) }
    }
}
