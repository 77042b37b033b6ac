//! What a pod takes of the disk, and how it is told to go.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::cri::PodUid;
use crate::pod::{Context, Eviction, Handle};
use crate::shortage::critical;
use crate::util;
use crate::volumes::{self, Layout};

/// What an evicted pod gets between its stop signal and the end: one over its limit goes on filling the disk.
const GRACE: Duration = Duration::from_secs(1);

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

async fn used_by(dir: PathBuf) -> u64 {
    util::blocking(move || runtime::tree::usage(&dir).bytes).await
}

/// Measures what a pod takes of the disk.
pub(super) async fn measure(cx: &Context, pod: &Pod) -> Disk {
    let layout = Layout::new(&cx.config.root_dir, util::uid(pod));
    let mut out = Disk::default();
    for (name, _) in on_disk(pod) {
        let dir = volumes::empty_dir_path(&layout.pod_dir.join("volumes"), name);
        out.volumes.push((name.to_owned(), used_by(dir).await));
    }
    let logs = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod));
    for c in cx.runtime.pod_containers(&PodUid(util::uid(pod).to_owned())).into_iter().filter(crate::cri::Container::running) {
        let layer = cx.runtime.disk_usage(&c.id).await.unwrap_or(0);
        let logs = used_by(logs.join(&c.name)).await;
        out.containers.push((c.name, layer.saturating_add(logs)));
    }
    out
}

pub(super) fn evict(handle: &Handle, message: String, condition: Option<String>) {
    tracing::info!(pod = %util::describe(&handle.pod()), message, "evicting");
    handle.evict(Eviction { reason: "Evicted".into(), message, condition, grace: GRACE });
}

/// Whether a pod may be evicted: not if the cluster cannot be without it, whatever it takes (upstream's `evictPod`).
pub(super) fn evictable(handle: &Handle) -> bool {
    !handle.ended() && !critical(&handle.pod())
}
