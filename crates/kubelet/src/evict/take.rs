//! What a pod takes of the disk, and how it is told to go.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use runtime::DiskUsage;
use tokio::time::Instant;

use crate::pod::{Context, Eviction, Handle};
use crate::shortage::critical;
use crate::util;
use crate::walks::Walked;

/// What an evicted pod gets between its stop signal and the end: one over its limit goes on filling the disk.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// A figure that another look (the node's statistics) has found so short a time ago is not found again.
const YOUNG: Duration = Duration::from_secs(5);
/// How long one round waits for figures; a pod that takes longer is judged by what was known of it last.
const FIGURES_MAX: Duration = Duration::from_secs(5);

/// What a container takes of the node's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerDisk {
    pub(super) name: String,
    /// Its writable layer.
    pub(super) layer: DiskUsage,
    pub(super) logs: DiskUsage,
}

impl ContainerDisk {
    /// Its writable layer and its logs.
    pub(super) fn bytes(&self) -> u64 {
        self.layer.bytes.saturating_add(self.logs.bytes)
    }
}

/// What a pod takes of the node's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    /// By emptyDir on disk.
    pub(super) volumes: Vec<(String, DiskUsage)>,
    /// By container.
    pub(super) containers: Vec<ContainerDisk>,
}

/// Which of it counts: layers lie with the images, the rest with the node's other things.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) layers: bool,
    pub(super) rest: bool,
}

impl Disk {
    pub(super) fn sum(&self, parts: Parts, inodes: bool) -> u64 {
        let layers = self.containers.iter().map(|c| c.layer).filter(|_| parts.layers);
        let rest = self.containers.iter().map(|c| c.logs).chain(self.volumes.iter().map(|(_, v)| *v)).filter(|_| parts.rest);
        layers.chain(rest).map(|u| if inodes { u.inodes } else { u.bytes }).fold(0, u64::saturating_add)
    }

    /// All bytes of it.
    pub(super) fn bytes(&self) -> u64 {
        self.sum(Parts { layers: true, rest: true }, false)
    }
}

/// The emptyDirs that lie on disk.
pub(super) fn on_disk(pod: &Pod) -> impl Iterator<Item = (&str, Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>)> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| {
        let dir = v.empty_dir.as_ref().filter(|d| d.medium.as_deref().is_none_or(str::is_empty))?;
        Some((v.name.as_str(), dir.size_limit.as_ref()))
    })
}

/// What of a walk counts: no configuration that the kubelet has written for the pod itself.
fn counted(pod: &Pod, walked: &Walked) -> Disk {
    let is_scratch = |name: &str| on_disk(pod).any(|(own, _)| own == name);
    let container = |(name, layer, logs): &(String, DiskUsage, DiskUsage)| ContainerDisk { name: name.clone(), layer: *layer, logs: *logs };
    Disk {
        volumes: walked.volumes.iter().filter(|v| is_scratch(&v.name)).map(|v| (v.name.clone(), v.used)).collect(),
        containers: walked.containers.iter().map(container).collect(),
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

pub(super) fn evict(handle: &Handle, message: String, condition: Option<String>, grace: Duration) {
    tracing::info!(pod = %util::describe(&handle.pod()), message, "evicting");
    handle.evict(Eviction { reason: "Evicted".into(), message, condition, grace, for_room: true });
}

/// Whether a pod may be evicted: not if the cluster cannot be without it, whatever it takes (upstream's `evictPod`).
pub(super) fn evictable(handle: &Handle) -> bool {
    !handle.ended() && !critical(&handle.pod())
}
