//! The strategies of the core group, `apps`, `batch` and `events.k8s.io`: the table from resource to strategy.

use crate::{Strategy, deployment, pod, replicaset, template};

/// The strategy of a resource of these groups.
pub(crate) fn strategy(group: &str, resource: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, resource) {
        ("", "pods") => &pod::Pods,
        ("", "podtemplates") => &template::PodTemplates,
        ("", "replicationcontrollers") => &replicaset::ReplicationControllers,
        ("apps", "controllerrevisions") => &template::ControllerRevisions,
        ("apps", "deployments") => &deployment::Deployments,
        ("apps", "replicasets") => &replicaset::ReplicaSets,
        _ => return None,
    })
}
