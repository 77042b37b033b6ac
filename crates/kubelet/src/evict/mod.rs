//! Pods that must go: those that take more of the node's disk than they said, and, when the node runs short, those that
//! matter least.
//!
//! Both are looked at every ten seconds (upstream's `monitoringInterval`), never twice at the same time. The words are those of
//! `pkg/kubelet/eviction`. Limits of their own are looked at only for pods that name one.

mod pressure;
mod take;

use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::resources;
use take::{Disk, evict, evictable, measure, on_disk, round};

fn limit(of: Option<&k8s_openapi::api::core::v1::ResourceRequirements>) -> Option<(u64, String)> {
    let q = of?.limits.as_ref()?.get("ephemeral-storage")?;
    Some((u64::try_from(resources::value(q)).ok().filter(|b| *b > 0)?, q.0.clone()))
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

/// Evicts the pods that are over a limit of their own, and one more if the node runs short.
pub async fn check(cx: Arc<Context>, pods: Pods) {
    let (until, own) = (round(), &cx);
    let limited = pods.all().into_iter().filter(|h| evictable(h) && limited(&h.pod()));
    // All at once: whose figure takes long holds up nobody else's eviction.
    let looks = limited.map(|handle| async move {
        let pod = handle.pod();
        if let Some(disk) = measure(own, &pod, until).await
            && let Some(message) = exceeded(&pod, &disk)
        {
            evict(&handle, message, None);
        }
    });
    join_all(looks).await;
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
            evictable(&crate::pod::Handle::new(Arc::new(p)))
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
