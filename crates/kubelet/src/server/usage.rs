//! What pods take of the disk and the network, for `/stats/summary`: writable layers, logs, volumes made by the kubelet itself, the pod's
//! links (upstream's CRI stats provider, without cAdvisor).
//!
//! What is on the disk is walked by [`crate::walks`], once a minute at most, and has the time at which that was; of what is not known in
//! time nothing is told, as upstream leaves out what its cache lacks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::statvfs;
use runtime::DiskUsage;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cri::PodUid;
use crate::pod::Context;
use crate::util;
use crate::walks::Walked;

/// For so long a figure stands (upstream's `--volume-stats-agg-period`).
const STANDS: Duration = Duration::from_secs(60);

/// What one pod takes, as it is told.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// By container: its writable layer and its logs.
    pub(super) containers: BTreeMap<String, (Value, Value)>,
    /// Its volumes.
    pub(super) volumes: Vec<Value>,
    /// Layers, logs and volumes on the node's disk together.
    pub(super) ephemeral: Option<Value>,
    /// Its links, if they are its own.
    pub(super) network: Option<Value>,
}

/// What a pod takes, as far as it is known by then.
pub(super) async fn of(cx: &Arc<Context>, pod: &Arc<Pod>, until: Instant) -> Taken {
    // Both at once: a disk that takes all of the time does not take the drivers' too.
    let (walked, brought) = tokio::join!(cx.walks.of(cx, pod, STANDS, until), tokio::time::timeout_at(until, cx.persistent.stats(pod)));
    let netns = cx.runtime.pod_sandboxes(&PodUid(util::uid(pod).to_owned())).into_iter().find(|s| s.ready).and_then(|s| s.netns);
    let root = cx.config.root_dir.clone();
    let brought: Vec<Value> = brought.unwrap_or_default().into_iter().map(|v| super::volumes::summary(util::namespace(pod), v)).collect();
    util::blocking(move || {
        let mut out = walked.map(|walked| on_disk(&walked, &root)).unwrap_or_default();
        out.volumes.extend(brought);
        out.network = netns.and_then(|at| network(&links_within(&at)?, "eth0", |_| true));
        out
    })
    .await
}

fn on_disk(walked: &Walked, root: &Path) -> Taken {
    let at = machinery::time::rfc3339(walked.at);
    let (mut out, mut bytes, mut inodes) = (Taken::default(), 0_u64, 0_u64);
    for (name, layer, logs) in &walked.containers {
        bytes = bytes.saturating_add(layer.bytes).saturating_add(logs.bytes);
        inodes = inodes.saturating_add(layer.inodes).saturating_add(logs.inodes);
        let shown = (figures(root, &at, layer.bytes, Some(layer.inodes)), figures(root, &at, logs.bytes, Some(logs.inodes)));
        out.containers.insert(name.clone(), shown);
    }
    for volume in &walked.volumes {
        let DiskUsage { bytes: used, inodes: names } = volume.used;
        if volume.on_disk {
            (bytes, inodes) = (bytes.saturating_add(used), inodes.saturating_add(names));
        }
        let mut shown = figures(&volume.path, &at, used, Some(names));
        shown["name"] = json!(volume.name);
        out.volumes.push(shown);
    }
    out.ephemeral = Some(figures(root, &at, bytes, Some(inodes)));
    out
}

/// All of the file system at a place.
pub(super) fn whole(place: &Path) -> Value {
    let used = statvfs(place).map_or((0, 0), |s| (s.blocks().saturating_sub(s.blocks_free()) * s.fragment_size(), s.files().saturating_sub(s.files_free())));
    figures(place, &machinery::time::rfc3339(std::time::SystemTime::now()), used.0, Some(used.1))
}

/// The device that a place's file system lies on, as it was mounted.
pub(super) fn device(place: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(number) = std::fs::metadata(place).map(|m| m.dev()) else { return String::new() };
    let wanted = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let found = ::runtime::mounts::all().unwrap_or_default().into_iter().find(|mounted| mounted.device == wanted);
    found.map(|mounted| mounted.source.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A file system's figures around what is used of it.
fn figures(place: &Path, at: &str, used_bytes: u64, used_inodes: Option<u64>) -> Value {
    let mut out = json!({"time": at, "usedBytes": used_bytes});
    if let Ok(s) = statvfs(place) {
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

/// What went one way over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// A link of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) received: Traffic,
    pub(super) sent: Traffic,
}

/// The links that a text like `/proc/net/dev` lists.
pub(super) fn links(text: &str) -> Vec<Link> {
    let link = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let traffic = |at: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(at..at + 4)? else { return None };
            Some(Traffic { bytes, packets, errors, dropped })
        };
        Some(Link { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    };
    text.lines().filter_map(link).collect()
}

/// Whether a link of the host's own namespace tells of the node: not those that cAdvisor leaves out, nor those of pods here.
pub(super) fn is_the_node_s(name: &str) -> bool {
    !["lo", "veth", "docker", "kn"].iter().any(|prefix| name.starts_with(prefix))
}

/// The links of a namespace; `lo` is of nobody's interest. Blocks.
pub(super) fn links_within(netns: &Path) -> Option<Vec<Link>> {
    let text = network::netns::within(netns, || Ok(std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default())).ok()?;
    Some(links(&text).into_iter().filter(|link| link.name != "lo").collect())
}

/// Links as the summary tells them: all that are wanted, and the figures of the one that counts beside them; none without it.
pub(super) fn network(links: &[Link], counts: &str, wanted: impl Fn(&str) -> bool) -> Option<Value> {
    let shown =
        |l: &Link| json!({"name": l.name, "rxBytes": l.received.bytes, "rxErrors": l.received.errors, "txBytes": l.sent.bytes, "txErrors": l.sent.errors});
    let mut out = shown(links.iter().find(|link| link.name == counts)?);
    out["time"] = json!(machinery::time::rfc3339(std::time::SystemTime::now()));
    out["interfaces"] = links.iter().filter(|link| wanted(&link.name)).map(shown).collect();
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use crate::walks::Own;
    use std::time::SystemTime;

    #[test]
    fn a_pods_link_is_told_and_loopback_is_not() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:      10       1    0    0    0     0          0         0       10       1    0    0    0     0       0          0\n  \
            eth0:    1500      12    3    0    0     0          0         0      900       8    1    0    0     0       0          0\n";
        let own = |text: &str| network(&links(text), "eth0", |name| name != "lo");
        let told = own(text).unwrap();
        let eth0 = json!({"name": "eth0", "rxBytes": 1500, "rxErrors": 3, "txBytes": 900, "txErrors": 1});
        let packets = links(text)[1].received;
        assert_eq!((packets.packets, packets.errors, packets.dropped), (12, 3, 0));
        assert_eq!(told["interfaces"], json!([eth0]));
        for (field, value) in eth0.as_object().unwrap() {
            assert_eq!(&told[field], value, "{field}");
        }
        assert!(own("lo: 1 2 3 4 5 6 7 8 9 10 11 12\n").is_none(), "a namespace without a link of its own");
    }

    #[test]
    fn figures_are_of_the_time_at_which_they_were_found() {
        let dir = TempDir::new("usage");
        let usage = |bytes, inodes| DiskUsage { bytes, inodes };
        let own = |name: &str, on_disk, used| Own { name: name.into(), path: dir.path().into(), on_disk, used };
        let walked = Walked {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(86_400),
            containers: vec![("a".into(), usage(100, 4), usage(10, 1))],
            volumes: vec![own("scratch", true, usage(1000, 2)), own("fast", false, usage(5000, 3))],
        };
        let told = on_disk(&walked, dir.path());
        let (rootfs, logs) = &told.containers["a"];
        let ephemeral = told.ephemeral.unwrap();
        assert_eq!((&rootfs["usedBytes"], &logs["usedBytes"], &logs["inodesUsed"]), (&json!(100), &json!(10), &json!(1)));
        assert_eq!((&ephemeral["usedBytes"], &ephemeral["inodesUsed"]), (&json!(1110), &json!(7)), "what is in memory is not on the disk");
        for figures in told.volumes.iter().chain([rootfs, logs, &ephemeral]) {
            assert_eq!(figures["time"], "1970-01-02T00:00:00Z");
            // The disk of the tests may be an empty one, and one that does not count its files.
            let [capacity, available, all, free] = ["capacityBytes", "availableBytes", "inodes", "inodesFree"].map(|name| figures[name].as_u64().unwrap());
            assert!(capacity > 0 && capacity >= available && all >= free, "{figures}");
        }
        assert_eq!(told.volumes.iter().map(|v| v["name"].as_str().unwrap()).collect::<Vec<_>>(), ["scratch", "fast"]);
    }
}
