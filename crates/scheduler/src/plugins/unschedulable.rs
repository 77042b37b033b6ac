//! A cordoned node takes only pods that bear the taint `node.kubernetes.io/unschedulable`.

use k8s_openapi::api::core::v1::Node;
use machinery::placement::{NO_SCHEDULE, Taint};

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct NodeUnschedulable;

#[derive(Clone)]
struct Open;

fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true))
}

fn borne(pod: &PodInfo) -> bool {
    pod.wants.tolerations.bear(Taint { key: "node.kubernetes.io/unschedulable", value: "", effect: NO_SCHEDULE })
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        if borne(cycle.pod) { Prepared::Skip } else { Prepared::filter(Open) }
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(node) => !cordoned(&node.node),
            Change::NodeUpdated { old, new } => cordoned(old) && !cordoned(&new.node),
            Change::Own { .. } => borne(pod),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Open {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if cordoned(&node.node) { Err(Rejection::unresolvable("node(s) were unschedulable")) } else { Ok(()) }
    }
}
