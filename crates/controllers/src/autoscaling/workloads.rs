//! Scales of the workloads that this process watches anyway, read from its memory: many autoscalers ask for one each in every period, and
//! nearly all of them scale one of these kinds.
//!
//! It may be older than the server's: who has written a scale of a later revision asks the server, and a write that was made of an older one
//! is refused there and made again of the newest ([`super::target`]). What is not here is asked for, too.

use client::{Informer, Informers, ObjectKey};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use machinery::labels::Selector;

use crate::meta::equality;

/// The workloads of all namespaces that have a scale.
pub(super) struct Workloads {
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
}

impl Workloads {
    pub(super) fn of(informers: &Informers) -> Self {
        Self {
            deployments: informers.informer(),
            replica_sets: informers.informer(),
            stateful_sets: informers.informer(),
            replication_controllers: informers.informer(),
        }
    }

    /// The scale of a workload, if it is known.
    pub(super) fn scale(&self, group: &str, kind: &str, key: &ObjectKey) -> Option<Scale> {
        match (group, kind) {
            ("apps", "Deployment") => {
                let found = self.deployments.get_key(key)?;
                let spec = &found.spec;
                Some(scale(&found.metadata, spec.replicas, found.status.as_ref().and_then(|s| s.replicas), text(&spec.selector)))
            }
            ("apps", "ReplicaSet") => {
                let found = self.replica_sets.get_key(key)?;
                let spec = &found.spec;
                Some(scale(&found.metadata, spec.replicas, found.status.as_ref().map(|s| s.replicas), text(&spec.selector)))
            }
            ("apps", "StatefulSet") => {
                let found = self.stateful_sets.get_key(key)?;
                let spec = &found.spec;
                Some(scale(&found.metadata, spec.replicas, found.status.as_ref().map(|s| s.replicas), text(&spec.selector)))
            }
            ("", "ReplicationController") => {
                let found = self.replication_controllers.get_key(key)?;
                let spec = found.spec.as_ref()?;
                let selector = equality(spec.selector.as_ref()).to_string();
                Some(scale(&found.metadata, spec.replicas, found.status.as_ref().map(|s| s.replicas), selector))
            }
            _ => None,
        }
    }

    /// None at all: each is asked for.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::deployments([])
    }

    #[cfg(test)]
    pub(super) fn deployments(deployments: impl IntoIterator<Item = Deployment>) -> Self {
        Self {
            deployments: Informer::fixed(deployments),
            replica_sets: Informer::fixed([]),
            stateful_sets: Informer::fixed([]),
            replication_controllers: Informer::fixed([]),
        }
    }
}

fn text(selector: &LabelSelector) -> String {
    Selector::of(Some(selector)).to_string()
}

/// As the server answers it.
fn scale(of: &ObjectMeta, wanted: Option<i32>, there: Option<i32>, selector: String) -> Scale {
    let metadata = ObjectMeta {
        name: of.name.clone(),
        namespace: of.namespace.clone(),
        uid: of.uid.clone(),
        resource_version: of.resource_version.clone(),
        creation_timestamp: of.creation_timestamp.clone(),
        ..ObjectMeta::default()
    };
    let status = ScaleStatus { replicas: there.unwrap_or(0), selector: Some(selector) };
    Scale { metadata, spec: Some(ScaleSpec { replicas: wanted }), status: Some(status) }
}
