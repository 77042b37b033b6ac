//! Pods that must go: those that take more of the node's disk than they said, and, when the node runs short, those that
//! matter least.
//!
//! Both are looked at every ten seconds (upstream's `monitoringInterval`), never twice at the same time, and again when what was evicted
//! is off the host. The words are those of `pkg/kubelet/eviction`. Limits of their own are looked at only for pods that name one.

pub mod notify;
mod observe;
mod pressure;
mod rank;
pub mod signals;
pub mod state;
mod take;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use machinery::quantity::{Format, Quantity};

use crate::pod::manager::Pods;
use crate::pod::{Context, Handle};
use crate::resources;
use take::{Disk, evict, evictable, measure, on_disk, round};

/// How often everybody is looked at (upstream's `monitoringInterval`).
pub const LOOK: Duration = Duration::from_secs(10);
/// How long the end of what was evicted is waited for, and how often it is looked at (upstream's `podCleanupTimeout`).
const CLEANUP_MAX: Duration = Duration::from_secs(30);
const CLEANUP_LOOK: Duration = Duration::from_secs(1);

/// A kernel's number among the signed ones of quantities.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Which of its own limits a pod is over, as metrics name it, and what is told of it.
type Excess = (&'static str, String);

fn limit(of: Option<&k8s_openapi::api::core::v1::ResourceRequirements>) -> Option<(u64, String)> {
    let q = of?.limits.as_ref()?.get("ephemeral-storage")?;
    Some((u64::try_from(resources::value(q)).ok().filter(|b| *b > 0)?, q.0.clone()))
}

/// The limit of the pod as a whole: what its containers' come to, as its requests do (upstream's `PodLimits`).
fn pod_limit(pod: &Pod) -> Option<(u64, String)> {
    let spec = pod.spec.as_ref()?;
    let bytes = resources::pod_limit(spec, "ephemeral-storage").and_then(|b| u64::try_from(b).ok()).filter(|b| *b > 0)?;
    // The text of the one limit that there is; of a sum its own, in the units of the first.
    let texts: Vec<_> = spec.containers.iter().filter_map(|c| limit(c.resources.as_ref())).collect();
    let format = if texts.first().is_none_or(|(_, text)| text.ends_with('i')) { Format::Binary } else { Format::Decimal };
    let sum = || Quantity::from_value(number(bytes), format).to_string();
    let text = texts.into_iter().find(|(b, _)| *b == bytes).map_or_else(sum, |(_, text)| text);
    Some((bytes, text))
}

/// Whether a pod names any limit of its disk use.
fn limited(pod: &Pod) -> bool {
    on_disk(pod).any(|(_, size)| size.is_some()) || pod_limit(pod).is_some()
}

/// Which of its own limits a pod is over, in upstream's order and words.
fn exceeded(pod: &Pod, disk: &Disk) -> Option<Excess> {
    let spec = pod.spec.as_ref()?;
    for (name, size) in on_disk(pod) {
        let used = disk.volumes.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| v.bytes);
        if let Some(q) = size
            && u64::try_from(resources::value(q)).is_ok_and(|max| max > 0 && used > max)
        {
            return Some(("emptydirfs.limit", format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", q.0)));
        }
    }
    if let Some((max, text)) = pod_limit(pod)
        && disk.bytes() > max
    {
        return Some(("ephemeralpodfs.limit", format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. ")));
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| resources::is_sidecar(c));
    spec.containers.iter().chain(sidecars).find_map(|c| {
        let (max, text) = limit(c.resources.as_ref())?;
        let used = disk.containers.iter().find(|d| d.name == c.name)?.bytes();
        let message = || format!("Container {} exceeded its local ephemeral storage limit {text:?}. ", c.name);
        (used > max).then(|| ("ephemeralcontainerfs.limit", message()))
    })
}

/// Evicts until nobody is to be.
pub async fn check(cx: Arc<Context>, pods: Pods) {
    loop {
        let evicted = once(&cx, &pods).await;
        if evicted.is_empty() {
            return;
        }
        // What they give back is seen when it is off the host; who takes more than half as much again as he got is not waited for (upstream `killPodNow`).
        let grace = evicted.iter().filter_map(|h| h.eviction()).map(|e| e.grace).max().unwrap_or_default();
        let until = tokio::time::Instant::now() + CLEANUP_MAX + grace + grace / 2;
        while evicted.iter().any(|h| !h.is_emptied() && !h.is_gone()) && tokio::time::Instant::now() < until {
            tokio::time::sleep(CLEANUP_LOOK).await;
        }
    }
}

/// Evicts the pods that are over a limit of their own, or else one if the node runs short.
async fn once(cx: &Arc<Context>, pods: &Pods) -> Vec<Arc<Handle>> {
    let starved = pressure::look(cx).await;
    let until = round();
    let limited = pods.all().into_iter().filter(|h| evictable(h) && !h.is_evicted() && limited(&h.pod()));
    // All at once: whose figure takes long holds up nobody else's eviction.
    let looks = limited.map(|handle| async move {
        let pod = handle.pod();
        let disk = measure(cx, &pod, until).await?;
        let (limit, message) = exceeded(&pod, &disk)?;
        evict(&handle, message, None, take::GRACE);
        cx.pressure.evicted(limit);
        Some(handle)
    });
    let evicted: Vec<Arc<Handle>> = join_all(looks).await.into_iter().flatten().collect();
    if evicted.is_empty() { pressure::relieve(cx, pods, &starved).await.into_iter().collect() } else { evicted }
}

#[cfg(test)]
mod tests {
    use super::take::ContainerDisk;
    use super::*;
    use runtime::DiskUsage;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn disk(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Disk {
        let mib = |n: u64| DiskUsage { bytes: n << 20, inodes: 1 };
        let container = |(name, n): &(&str, u64)| ContainerDisk { name: (*name).to_owned(), layer: mib(*n), logs: DiskUsage::default() };
        Disk { volumes: volumes.iter().map(|(name, n)| ((*name).to_owned(), mib(*n))).collect(), containers: containers.iter().map(container).collect() }
    }

    #[test]
    fn what_the_cluster_cannot_be_without_is_not_evicted() {
        let may = |priority: i32, phase: &str| {
            let mut p = pod(json!({"containers": [], "priority": priority}));
            p.status = serde_json::from_value(json!({"phase": phase})).unwrap();
            evictable(&crate::pod::Handle::new(Arc::new(p)))
        };
        assert!(may(1_000_000_000, "Running"));
        assert!(!may(2_000_000_000, "Running") && !may(0, "Failed"));
    }

    #[test]
    fn volumes_the_pod_and_containers_have_limits() {
        let p = pod(json!({
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "e", "emptyDir": {}},
                {"name": "h", "emptyDir": {"medium": "HugePages-2Mi", "sizeLimit": "2Mi"}}],
            "initContainers": [{"name": "side", "restartPolicy": "Always", "resources": {"limits": {"ephemeral-storage": "1Mi"}}}],
            "containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}, {"name": "b", "resources": {"limits": {"ephemeral-storage": "4Mi"}}}]}));
        let verdict = |d: Disk| exceeded(&p, &d).map(|(_, message)| message);
        assert_eq!(
            verdict(disk(&[("m", 9), ("h", 9), ("d", 1)], &[("a", 2), ("b", 1)])).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 7Mi. ")
        );
        assert_eq!(verdict(disk(&[("d", 2)], &[])).as_deref(), Some("Usage of EmptyDir volume \"d\" exceeds the limit \"1Mi\". "));
        assert_eq!(verdict(disk(&[], &[("a", 3)])).as_deref(), Some("Container a exceeded its local ephemeral storage limit \"2Mi\". "));
        assert_eq!(verdict(disk(&[], &[("side", 2)])).as_deref(), Some("Container side exceeded its local ephemeral storage limit \"1Mi\". "));
        assert_eq!(verdict(disk(&[("e", 3)], &[("a", 2), ("b", 2)])), None);
        assert!(!limited(&pod(json!({"volumes": [{"name": "e", "emptyDir": {}}], "containers": [{"name": "a"}]}))));
    }
}
