//! What a pod takes of the disk, and how it is told to go.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::pod::{Context, Eviction, Handle};
use crate::shortage::critical;
use crate::util;
use crate::walks::Walked;

/// What an evicted pod gets between its stop signal and the end: one over its limit goes on filling the disk.
const GRACE: Duration = Duration::from_secs(1);

/// A figure that another look (the node's statistics) has found so short a time ago is not found again.
const YOUNG: Duration = Duration::from_secs(5);
/// How long one round waits for figures; a pod that takes longer is judged by what was known of it last.
const FIGURES_MAX: Duration = Duration::from_secs(5);

/// What a pod takes of the node's disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    /// By emptyDir on disk.
    pub(super) volumes: Vec<(String, u64)>,
    /// By container: its writable layer and its logs.
    pub(super) containers: Vec<(String, u64)>,
}

impl Disk {
    pub(super) fn sum(&self) -> u64 {
        self.volumes.iter().chain(&self.containers).map(|(_, b)| *b).fold(0, u64::saturating_add)
    }
}

/// The emptyDirs that lie on disk.
pub(super) fn on_disk(pod: &Pod) -> impl Iterator<Item = (&str, Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>)> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| {
        let dir = v.empty_dir.as_ref().filter(|d| d.medium.as_deref() != Some("Memory"))?;
        Some((v.name.as_str(), dir.size_limit.as_ref()))
    })
}

/// What of a walk counts: no configuration that the kubelet has written for the pod itself.
fn counted(pod: &Pod, walked: &Walked) -> Disk {
    let is_scratch = |name: &str| on_disk(pod).any(|(own, _)| own == name);
    Disk {
        volumes: walked.volumes.iter().filter(|v| is_scratch(&v.name)).map(|v| (v.name.clone(), v.used.bytes)).collect(),
        containers: walked.containers.iter().map(|(name, layer, logs)| (name.clone(), layer.saturating_add(logs.bytes))).collect(),
    }
}

/// The end of a round's waiting for figures.
pub(super) fn round() -> Instant {
    Instant::now() + FIGURES_MAX
}

/// What a pod takes of the disk, if anything is known by then.
pub(super) async fn measure(cx: &Arc<Context>, pod: &Arc<Pod>, until: Instant) -> Option<Disk> {
    let walked = cx.walks.of(cx, pod, YOUNG, until).await?;
    Some(counted(pod, &walked))
}

pub(super) fn evict(handle: &Handle, message: String, condition: Option<String>) {
    tracing::info!(pod = %util::describe(&handle.pod()), message, "evicting");
    handle.evict(Eviction { reason: "Evicted".into(), message, condition, grace: GRACE });
}

/// Whether a pod may be evicted: not if the cluster cannot be without it, whatever it takes (upstream's `evictPod`).
pub(super) fn evictable(handle: &Handle) -> bool {
    !handle.ended() && !critical(&handle.pod())
}
