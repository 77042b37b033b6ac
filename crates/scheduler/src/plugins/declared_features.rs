//! A pod that needs what not every kubelet can do goes to a node that says that it can (KEP-5328).

use k8s_openapi::api::core::v1::{Node, PodSpec};

use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct NodeDeclaredFeatures;

/// The only feature of this version that a pod's placement depends on: all its containers are restarted when one asks for it (KEP-5532).
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";

#[derive(Clone)]
struct Declaring;

fn needs(spec: Option<&PodSpec>) -> bool {
    let Some(spec) = spec else { return false };
    let rules = spec.containers.iter().chain(spec.init_containers.iter().flatten()).flat_map(|container| container.restart_policy_rules.iter().flatten());
    { rules }.any(|rule| rule.action == "RestartAllContainers")
}

fn declares(node: &Node) -> bool {
    let features = node.status.as_ref().and_then(|status| status.declared_features.as_ref());
    features.is_some_and(|features| features.iter().any(|feature| feature == RESTART_ALL))
}

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        if needs(cycle.pod.pod.spec.as_ref()) { Prepared::filter(Declaring) } else { Prepared::Skip }
    }

    fn wakes(&self, change: &Change<'_>, _pod: &PodInfo) -> bool {
        match change {
            Change::NodeAdded(node) => declares(&node.node),
            Change::NodeUpdated { old, new } => !declares(old) && declares(&new.node),
            _ => false,
        }
    }
}

impl<'a> Filter<'a> for Declaring {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if declares(&node.node) { Ok(()) } else { Err(Rejection::unresolvable("node(s) didn't match Pod's required features")) }
    }
}
