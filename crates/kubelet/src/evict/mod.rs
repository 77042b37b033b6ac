//! Pods that must go: those that take more of the node's disk than they said, and, when the node runs short, those that
//! matter least.
//!
//! Both are looked at every ten seconds (upstream's `monitoringInterval`), never twice at the same time. The words are those of
//! `pkg/kubelet/eviction`. Limits of their own are looked at only for pods that name one.

pub mod pressure;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::cri::PodUid;
use crate::pod::manager::Pods;
use crate::pod::{Context, Eviction, Handle};
use crate::resources;
use crate::util;
use crate::volumes::{self, Layout};

/// What an evicted pod gets between its stop signal and the end: one over its limit goes on filling the disk.
const GRACE: Duration = Duration::from_secs(1);

/// What a pod takes of the node's disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// By emptyDir on disk.
    volumes: Vec<(String, u64)>,
    /// By container: its writable layer and its logs.
    containers: Vec<(String, u64)>,
}

impl Disk {
    fn sum(&self) -> u64 {
        self.volumes.iter().chain(&self.containers).map(|(_, b)| *b).fold(0, u64::saturating_add)
    }
}

fn limit(of: Option<&k8s_openapi::api::core::v1::ResourceRequirements>) -> Option<(u64, String)> {
    let q = of?.limits.as_ref()?.get("ephemeral-storage")?;
    Some((u64::try_from(resources::value(q)).ok().filter(|b| *b > 0)?, q.0.clone()))
}

/// The emptyDirs that lie on disk.
fn on_disk(pod: &Pod) -> impl Iterator<Item = (&str, Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>)> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| {
        let dir = v.empty_dir.as_ref().filter(|d| d.medium.as_deref() != Some("Memory"))?;
        Some((v.name.as_str(), dir.size_limit.as_ref()))
    })
}

/// The limit of the pod as a whole: what its containers' come to, as its requests do (upstream's `PodLimits`).
fn pod_limit(pod: &Pod) -> Option<(u64, String)> {
    let spec = pod.spec.as_ref()?;
    let bytes = resources::pod_limit(spec, "ephemeral-storage").and_then(|b| u64::try_from(b).ok()).filter(|b| *b > 0)?;
    // The text of the one limit that there is; of a sum its number.
    let texts = spec.containers.iter().filter_map(|c| limit(c.resources.as_ref()));
    let text = texts.into_iter().find(|(b, _)| *b == bytes).map_or_else(|| bytes.to_string(), |(_, text)| text);
    Some((bytes, text))
}

/// Whether a pod names any limit of its disk use.
fn limited(pod: &Pod) -> bool {
    on_disk(pod).any(|(_, size)| size.is_some()) || pod_limit(pod).is_some()
}

/// Which of its own limits a pod is over, in upstream's order and words.
fn exceeded(pod: &Pod, disk: &Disk) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for (name, size) in on_disk(pod) {
        let used = disk.volumes.iter().find(|(n, _)| n == name).map_or(0, |(_, b)| *b);
        if let Some(q) = size
            && u64::try_from(resources::value(q)).is_ok_and(|max| max > 0 && used > max)
        {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", q.0));
        }
    }
    if let Some((max, text)) = pod_limit(pod)
        && disk.sum() > max
    {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "));
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| resources::is_sidecar(c));
    spec.containers.iter().chain(sidecars).find_map(|c| {
        let (max, text) = limit(c.resources.as_ref())?;
        let used = disk.containers.iter().find(|(n, _)| *n == c.name)?.1;
        (used > max).then(|| format!("Container {} exceeded its local ephemeral storage limit {text:?}. ", c.name))
    })
}

async fn used_by(dir: PathBuf) -> u64 {
    util::blocking(move || runtime::tree::usage(&dir).bytes).await
}

/// Measures what a pod takes of the disk.
pub(crate) async fn measure(cx: &Context, pod: &Pod) -> Disk {
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

pub(crate) fn evict(handle: &Handle, message: String, condition: Option<String>) {
    tracing::info!(pod = %util::describe(&handle.pod()), message, "evicting");
    handle.evict(Eviction { reason: "Evicted".into(), message, condition, grace: GRACE });
}

/// Whether a pod may be evicted: not if the cluster cannot be without it, whatever it takes (upstream's `evictPod`).
fn evictable(handle: &Handle) -> bool {
    !handle.ended() && !pressure::critical(&handle.pod())
}

/// Evicts the pods that are over a limit of their own, and one more if the node runs short.
pub async fn check(cx: Arc<Context>, pods: Pods) {
    for handle in pods.all().into_iter().filter(|h| evictable(h)) {
        let pod = handle.pod();
        if limited(&pod)
            && let Some(message) = exceeded(&pod, &measure(&cx, &pod).await)
        {
            evict(&handle, message, None);
        }
    }
    pressure::relieve(&cx, &pods).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn disk(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Disk {
        let own = |l: &[(&str, u64)]| l.iter().map(|(n, b)| ((*n).to_owned(), *b << 20)).collect();
        Disk { volumes: own(volumes), containers: own(containers) }
    }

    #[test]
    fn what_the_cluster_cannot_be_without_is_not_evicted() {
        let may = |priority: i32, phase: &str| {
            let mut p = pod(json!({"containers": [], "priority": priority}));
            p.status = serde_json::from_value(json!({"phase": phase})).unwrap();
            evictable(&Handle::new(Arc::new(p)))
        };
        assert!(may(1_000_000_000, "Running"));
        assert!(!may(2_000_000_000, "Running") && !may(0, "Failed"));
    }

    #[test]
    fn volumes_the_pod_and_containers_have_limits() {
        let p = pod(json!({
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "e", "emptyDir": {}}],
            "initContainers": [{"name": "side", "restartPolicy": "Always", "resources": {"limits": {"ephemeral-storage": "1Mi"}}}],
            "containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}, {"name": "b", "resources": {"limits": {"ephemeral-storage": "4Mi"}}}]}));
        let verdict = |d: Disk| exceeded(&p, &d);
        assert_eq!(
            verdict(disk(&[("m", 9), ("d", 1)], &[("a", 2), ("b", 1)])).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 7340032. ")
        );
        assert_eq!(verdict(disk(&[("d", 2)], &[])).as_deref(), Some("Usage of EmptyDir volume \"d\" exceeds the limit \"1Mi\". "));
        assert_eq!(verdict(disk(&[], &[("a", 3)])).as_deref(), Some("Container a exceeded its local ephemeral storage limit \"2Mi\". "));
        assert_eq!(verdict(disk(&[], &[("side", 2)])).as_deref(), Some("Container side exceeded its local ephemeral storage limit \"1Mi\". "));
        assert_eq!(verdict(disk(&[("e", 3)], &[("a", 2), ("b", 2)])), None);
        assert!(!limited(&pod(json!({"volumes": [{"name": "e", "emptyDir": {}}], "containers": [{"name": "a"}]}))));
    }
}
