//! What containers know of their pod when nobody else is asked: names, grace period, hooks.
//!
//! They stand in labels and annotations, since the pod's object may be gone (it was deleted while no kubelet ran) or its API
//! may be about to end with the containers (the node is shut down). A pod made of them is enough to stop what runs, and for
//! nothing else (upstream's `restoreSpecsFromContainerLabels`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as Spec, Lifecycle, Pod, PodSpec};

use crate::cri::{Container, PodUid, annotation, label};
use crate::pod::plan::Kind;
use crate::util;

/// A pod of these labels, deleted now, with no containers yet.
#[must_use]
pub fn pod(uid: &PodUid, labels: &BTreeMap<String, String>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.0.clone());
    pod.metadata.name = labels.get(label::POD_NAME).cloned();
    pod.metadata.namespace = labels.get(label::POD_NAMESPACE).cloned();
    pod.metadata.deletion_timestamp = Some(util::time(std::time::SystemTime::now()));
    pod.metadata.deletion_grace_period_seconds = labels.get(label::POD_GRACE).and_then(|g| g.parse().ok());
    pod.spec = Some(PodSpec::default());
    pod
}

/// Adds a container that runs. An init container that does so beside regular ones is a sidecar, whose turn to stop comes last;
/// they are added in the order in which they were made.
pub fn add(pod: &mut Pod, c: &Container) {
    let pre_stop = c.annotations.get(annotation::PRE_STOP).and_then(|json| serde_json::from_str(json).ok());
    let spec = Spec {
        name: c.name.clone(),
        ports: c.annotations.get(annotation::PORTS).and_then(|json| serde_json::from_str(json).ok()),
        lifecycle: Some(Lifecycle { pre_stop, ..Lifecycle::default() }),
        ..Spec::default()
    };
    let of = pod.spec.get_or_insert_default();
    if c.labels.get(label::CONTAINER_TYPE).map(String::as_str) == Some(Kind::Init.label()) {
        of.init_containers.get_or_insert_default().push(Spec { restart_policy: Some("Always".into()), ..spec });
    } else {
        of.containers.push(spec);
    }
}
