//! Pods that take more of the node's disk than they said: looked at with the lease, and only pods that name a limit.
//!
//! The words are upstream's local storage eviction (`pkg/kubelet/eviction/eviction_manager.go`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::resources;
use crate::util;
use crate::volumes::{self, Layout};

/// A limit that a pod names: of a volume, or of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Limit {
    Volume { name: String, bytes: u64, text: String },
    Container { name: String, bytes: u64, text: String },
}

/// The limits of a pod's disk use.
fn limits(pod: &Pod) -> Vec<Limit> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let bytes = |q| u64::try_from(resources::value(q)).ok().filter(|b| *b > 0);
    let volumes = spec.volumes.iter().flatten().filter_map(|v| {
        let dir = v.empty_dir.as_ref().filter(|d| d.medium.as_deref() != Some("Memory"))?;
        let limit = dir.size_limit.as_ref()?;
        Some(Limit::Volume { name: v.name.clone(), bytes: bytes(limit)?, text: limit.0.clone() })
    });
    let containers = spec.containers.iter().filter_map(|c| {
        let limit = c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?;
        Some(Limit::Container { name: c.name.clone(), bytes: bytes(limit)?, text: limit.0.clone() })
    });
    volumes.chain(containers).collect()
}

/// Allocated bytes below a directory, on its own file system.
fn used(dir: &Path) -> u64 {
    let Ok(top) = fs::metadata(dir) else { return 0 };
    let (mut sum, mut open) = (0, vec![dir.to_path_buf()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            sum += meta.blocks() * 512;
            if meta.is_dir() && meta.dev() == top.dev() {
                open.push(entry.path());
            }
        }
    }
    sum
}

async fn used_by(dir: PathBuf) -> u64 {
    tokio::task::spawn_blocking(move || used(&dir)).await.unwrap_or(0)
}

/// Evicts the pods that are over a limit of their own.
pub async fn check(cx: Arc<Context>, pods: Pods) {
    for handle in pods.all().into_iter().filter(|h| !h.ended()) {
        let pod = handle.pod();
        for limit in limits(&pod) {
            if let Some(message) = exceeded(&cx, &pod, limit).await {
                tracing::info!(pod = %util::describe(&pod), message, "evicting");
                handle.evict(message);
                break;
            }
        }
    }
}

async fn exceeded(cx: &Context, pod: &Pod, limit: Limit) -> Option<String> {
    match limit {
        Limit::Volume { name, bytes, text } => {
            let layout = Layout::new(&cx.config.root_dir, util::uid(pod));
            let dir = volumes::empty_dir_path(&layout.pod_dir.join("volumes"), &name);
            (used_by(dir).await > bytes).then(|| format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "))
        }
        Limit::Container { name, bytes, text } => {
            let logs = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod)).join(&name);
            let all = cx.runtime.pod_containers(&crate::cri::PodUid(util::uid(pod).to_owned()));
            let running = all.iter().find(|c| c.name == name && c.running())?;
            let layer = cx.runtime.disk_usage(&running.id).await.unwrap_or(0);
            (layer + used_by(logs).await > bytes).then(|| format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disk_has_limits_here() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "e", "emptyDir": {}}],
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}]}}))
        .unwrap();
        let text = |t: &str| t.to_owned();
        assert_eq!(
            limits(&pod),
            [Limit::Volume { name: text("d"), bytes: 1 << 20, text: text("1Mi") }, Limit::Container { name: text("c"), bytes: 2 << 20, text: text("2Mi") }]
        );
    }

    #[test]
    fn what_is_allocated_counts() {
        let dir = crate::testing::TempDir::new("used");
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1; 300_000]).unwrap();
        assert!((300_000..400_000).contains(&used(dir.path())));
    }
}
