//! The strategies of the core group, `apps`, `batch` and `events.k8s.io`: the table from resource to strategy.

use crate::{Strategy, claim, cluster, config, deployment, event, job, limits, pod, replicaset, service, sets, template, volume};

/// The strategy of a resource of these groups.
pub(crate) fn strategy(group: &str, resource: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, resource) {
        ("", "configmaps") => &config::ConfigMaps,
        ("", "endpoints") => &service::Endpoints,
        ("", "events") => &event::Events,
        ("", "limitranges") => &limits::LimitRanges,
        ("", "namespaces") => &cluster::Namespaces,
        ("", "nodes") => &cluster::Nodes,
        ("", "persistentvolumeclaims") => &claim::Claims,
        ("", "persistentvolumes") => &volume::Volumes,
        ("", "pods") => &pod::Pods,
        ("", "podtemplates") => &template::PodTemplates,
        ("", "replicationcontrollers") => &replicaset::ReplicationControllers,
        ("", "resourcequotas") => &limits::ResourceQuotas,
        ("", "secrets") => &config::Secrets,
        ("", "serviceaccounts") => &config::ServiceAccounts,
        ("", "services") => &service::Services,
        ("apps", "controllerrevisions") => &template::ControllerRevisions,
        ("apps", "daemonsets") => &sets::DaemonSets,
        ("apps", "deployments") => &deployment::Deployments,
        ("apps", "replicasets") => &replicaset::ReplicaSets,
        ("apps", "statefulsets") => &sets::StatefulSets,
        ("batch", "cronjobs") => &job::CronJobs,
        ("batch", "jobs") => &job::Jobs,
        ("events.k8s.io", "events") => &event::NewEvents,
        _ => return None,
    })
}
