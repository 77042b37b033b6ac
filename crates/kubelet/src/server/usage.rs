//! What pods take of the disk and the network, for `/stats/summary`: writable layers, logs, volumes made by the kubelet itself, the pod's
//! links (upstream's CRI stats provider, without cAdvisor).
//!
//! To measure a volume is to walk it, and its size is the pod's choice: a pod is measured once a minute at most, whoever asks how
//! often, one pod at a time, on a thread that may block.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cri::{Container, PodUid};
use crate::pod::Context;
use crate::util;
use crate::volumes::{self, Layout};

/// For so long a measure stands (upstream's `--volume-stats-agg-period`).
const STANDS: Duration = Duration::from_secs(60);

/// What one pod takes.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// By container: its writable layer and its logs.
    pub(super) containers: BTreeMap<String, (Value, Value)>,
    /// Its volumes.
    pub(super) volumes: Vec<Value>,
    /// Layers, logs and volumes on the node's disk together.
    pub(super) ephemeral: Value,
    /// Its links, if they are its own.
    pub(super) network: Option<Value>,
}

/// When a pod was measured, and what it took.
type Measured = (Instant, Arc<Taken>);

/// The last measures.
#[derive(Default)]
pub(super) struct Measures(Arc<Mutex<HashMap<PodUid, Measured>>>);

impl Measures {
    /// What a pod takes; at most a minute old.
    pub(super) async fn of(&self, cx: &Arc<Context>, pod: &Arc<Pod>) -> Arc<Taken> {
        let uid = PodUid(util::uid(pod).to_owned());
        let mut held = Arc::clone(&self.0).lock_owned().await;
        let now = Instant::now();
        held.retain(|_, (at, _)| now.duration_since(*at) < STANDS);
        if let Some((_, taken)) = held.get(&uid) {
            return Arc::clone(taken);
        }
        let (cx, pod) = (Arc::clone(cx), Arc::clone(pod));
        // A task of its own: who asked may leave, and a walk that has begun keeps the others out until it ends.
        let measured = tokio::spawn(async move {
            let taken = Arc::new(measure(&cx, &pod, &uid).await);
            held.insert(uid, (Instant::now(), Arc::clone(&taken)));
            taken
        });
        measured.await.unwrap_or_default()
    }
}

/// A file system's figures around what is used of it.
fn figures(at: &Path, used_bytes: u64, used_inodes: Option<u64>) -> Value {
    let mut out = json!({"time": machinery::time::rfc3339(std::time::SystemTime::now()), "usedBytes": used_bytes});
    if let Ok(s) = statvfs(at) {
        out["availableBytes"] = json!(s.blocks_available() * s.fragment_size());
        out["capacityBytes"] = json!(s.blocks() * s.fragment_size());
        out["inodesFree"] = json!(s.files_free());
        out["inodes"] = json!(s.files());
    }
    if let Some(inodes) = used_inodes {
        out["inodesUsed"] = json!(inodes);
    }
    out
}

/// What a volume takes. A file system of its own, as a volume in memory is, is entered by no walk; it tells by itself.
fn used(at: &Path) -> runtime::DiskUsage {
    match statvfs(at) {
        Ok(s) if volumes::is_mountpoint(at) => {
            runtime::DiskUsage { bytes: s.blocks().saturating_sub(s.blocks_free()) * s.fragment_size(), inodes: s.files().saturating_sub(s.files_free()) }
        }
        _ => runtime::tree::usage(at),
    }
}

/// The kubelet's own volumes, by name; whether each lies on the node's disk.
fn own_volumes(pod: &Pod, layout: &Layout) -> Vec<(String, PathBuf, bool)> {
    let on_disk = |v: &Volume| match &v.empty_dir {
        Some(dir) => dir.medium.as_deref() != Some("Memory"),
        None => v.config_map.is_some() || v.downward_api.is_some(),
    };
    let all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    all.filter_map(|v| Some((v.name.clone(), volumes::own_path(layout, v)?, on_disk(v)))).collect()
}

async fn measure(cx: &Context, pod: &Pod, uid: &PodUid) -> Taken {
    let mut layers: Vec<(Container, u64)> = Vec::new();
    for container in cx.runtime.pod_containers(uid).into_iter().filter(Container::running) {
        let bytes = cx.runtime.disk_usage(&container.id).await.unwrap_or(0);
        layers.push((container, bytes));
    }
    let netns = cx.runtime.pod_sandboxes(uid).into_iter().find(|s| s.ready).and_then(|s| s.netns);
    let logs = cx.config.pod_log_dir(util::namespace(pod), util::name(pod), util::uid(pod));
    let (root, layout) = (cx.config.root_dir.clone(), Layout::new(&cx.config.root_dir, util::uid(pod)));
    let own = own_volumes(pod, &layout);
    util::blocking(move || {
        let (mut out, mut bytes, mut inodes) = (Taken::default(), 0_u64, 0_u64);
        for (container, layer) in layers {
            let logs = runtime::tree::usage(&logs.join(&container.name));
            (bytes, inodes) = (bytes.saturating_add(layer).saturating_add(logs.bytes), inodes.saturating_add(logs.inodes));
            let shown = (figures(&root, layer, None), figures(&root, logs.bytes, Some(logs.inodes)));
            out.containers.insert(container.name, shown);
        }
        for (name, at, on_disk) in own {
            let used = used(&at);
            if on_disk {
                (bytes, inodes) = (bytes.saturating_add(used.bytes), inodes.saturating_add(used.inodes));
            }
            let mut shown = figures(&at, used.bytes, Some(used.inodes));
            shown["name"] = json!(name);
            out.volumes.push(shown);
        }
        out.ephemeral = figures(&root, bytes, Some(inodes));
        let seen = netns.and_then(|at| network::netns::within(&at, || Ok(std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default())).ok());
        out.network = seen.and_then(|text| links(&text));
        out
    })
    .await
}

/// A network namespace's links as `/proc/net/dev` lists them; the pod's own is `eth0`.
fn links(text: &str) -> Option<Value> {
    let link = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = numbers[..] else { return None };
        Some(json!({"name": name.trim(), "rxBytes": rx_bytes, "rxErrors": rx_errors, "txBytes": tx_bytes, "txErrors": tx_errors}))
    };
    let all: Vec<Value> = text.lines().filter_map(link).filter(|l| l["name"] != "lo").collect();
    let mut out = all.iter().find(|l| l["name"] == "eth0")?.clone();
    out["time"] = json!(machinery::time::rfc3339(std::time::SystemTime::now()));
    out["interfaces"] = json!(all);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_pods_link_is_told_and_loopback_is_not() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:      10       1    0    0    0     0          0         0       10       1    0    0    0     0       0          0\n  \
            eth0:    1500      12    3    0    0     0          0         0      900       8    1    0    0     0       0          0\n";
        let told = links(text).unwrap();
        let eth0 = json!({"name": "eth0", "rxBytes": 1500, "rxErrors": 3, "txBytes": 900, "txErrors": 1});
        assert_eq!(told["interfaces"], json!([eth0]));
        for (field, value) in eth0.as_object().unwrap() {
            assert_eq!(&told[field], value, "{field}");
        }
        assert!(links("lo: 1 2 3 4 5 6 7 8 9 10 11 12\n").is_none(), "a namespace without a link of its own");
    }

    #[test]
    fn volumes_are_told_where_they_lie() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "scratch", "emptyDir": {}}, {"name": "fast", "emptyDir": {"medium": "Memory"}}, {"name": "c", "configMap": {"name": "x"}},
            {"name": "s", "secret": {"secretName": "x"}}, {"name": "host", "hostPath": {"path": "/"}}]}}))
        .unwrap();
        let dir = TempDir::new("usage");
        let layout = Layout::new(dir.path(), "u");
        let own = own_volumes(&pod, &layout);
        assert_eq!(
            own.iter().map(|(name, _, disk)| (name.as_str(), *disk)).collect::<Vec<_>>(),
            [("scratch", true), ("fast", false), ("c", true), ("s", false)]
        );
        let at = &own[0].1;
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join("f"), vec![1; 10_000]).unwrap();
        let used = used(at);
        let told = figures(at, used.bytes, Some(used.inodes));
        assert!(told["usedBytes"].as_u64().unwrap() >= 10_000 && told["inodesUsed"] == 1, "{told}");
        assert!(told["capacityBytes"].as_u64() > told["availableBytes"].as_u64() && told["inodes"].as_u64() > told["inodesFree"].as_u64(), "{told}");
    }
}
