//! A node that runs short of memory or disk: images and, one at a time, pods make room.
//!
//! Thresholds are upstream's defaults (`evictionHard`). That of the images' file system counts only where it is another than
//! the node's: on one disk for all a pod would be evicted at 85 %, where image collection only begins. A condition stands for
//! five minutes after the shortage (`evictionPressureTransitionPeriod`), so that nothing is scheduled into it at once.

use std::cmp::Reverse;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::take::{evict, evictable, measure, round};
use crate::machine::{self, DISK_MIN_PERCENT, MEMORY_MIN_BYTES};
use crate::pod::manager::Pods;
use crate::pod::{Context, Handle};
use crate::resources;
use crate::shortage::Short;
use crate::util;

/// Share of the disk's inodes below which the node runs short, in hundredths.
const INODES_MIN_PERCENT: u64 = 5;
/// Bytes and inodes of a file system: all, and free.
#[derive(Clone, Copy, Debug, Default)]
struct Space {
    bytes: (u64, u64),
    inodes: (u64, u64),
}

fn below((all, free): (u64, u64), percent: u64) -> bool {
    all > 0 && u128::from(free) * 100 < u128::from(all) * u128::from(percent)
}

impl Space {
    fn of(path: &std::path::Path) -> Self {
        let inodes = nix::sys::statvfs::statvfs(path).map_or((0, 0), |s| (s.files(), s.files_available()));
        Self { bytes: machine::disk(path), inodes }
    }

    fn short(&self) -> bool {
        below(self.bytes, DISK_MIN_PERCENT) || below(self.inodes, INODES_MIN_PERCENT)
    }
}

async fn look(cx: &Arc<Context>) -> (Short, Space) {
    let root = cx.config.root_dir.clone();
    let (memory, space) = util::blocking(move || (machine::meminfo("MemAvailable") < MEMORY_MIN_BYTES, Space::of(&root))).await;
    (Short { memory, disk: space.short() }, space)
}

/// What a pod takes of what is short, and what it asked for.
struct Candidate {
    handle: Arc<Handle>,
    /// None: it could not be found out.
    used: Option<i64>,
    asked: i64,
    priority: i32,
}

impl Candidate {
    /// What it takes; all that there is, if that is not known.
    fn used(&self) -> i64 {
        self.used.unwrap_or(i64::MAX)
    }
}

/// Upstream's ranking: of whom nothing is known, then who takes more than it asked for, of these the lowest priority, of these the one
/// that is furthest over.
fn rank(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|c| (c.used.is_some(), Reverse(c.used() > c.asked), c.priority, Reverse(c.used().saturating_sub(c.asked))));
}

/// Makes room if the node runs short: of disk by removing images that nobody uses, and else by one pod.
pub async fn relieve(cx: &Arc<Context>, pods: &Pods) {
    let (mut short, mut space) = look(cx).await;
    cx.pressure.observe(short);
    if short.disk && !short.memory {
        crate::gc::all_unused_images(cx, pods).await;
        (short, space) = look(cx).await;
    }
    if short == Short::default() || pods.all().iter().any(|h| h.is_evicted() && !h.ended()) {
        // One pod after the other: what the last one gave back is not seen yet.
        return;
    }
    let until = round();
    let may_go = pods.all().into_iter().filter(|h| evictable(h) && !h.is_gone() && h.pod().metadata.deletion_timestamp.is_none());
    let looks = may_go.map(|handle| async move {
        let pod = handle.pod();
        let spec = pod.spec.as_ref()?;
        let (used, resource) =
            if short.memory { (Some(memory_of(cx, &handle).await), "memory") } else { (disk_of(cx, &pod, until).await, "ephemeral-storage") };
        let asked = resources::pod_requests(spec).get(resource).copied().unwrap_or(0);
        let priority = spec.priority.unwrap_or(0);
        Some(Candidate { used, asked, priority, handle })
    });
    let mut candidates: Vec<Candidate> = join_all(looks).await.into_iter().flatten().collect();
    rank(&mut candidates);
    let Some(first) = candidates.first() else { return };
    let (resource, threshold, available) = if short.memory {
        ("memory", "100Mi".to_owned(), util::blocking(|| machine::meminfo("MemAvailable")).await)
    } else {
        let threshold = space.bytes.0 / 100 * DISK_MIN_PERCENT;
        ("ephemeral-storage", threshold.to_string(), i64::try_from(space.bytes.1).unwrap_or(i64::MAX))
    };
    let kib = |bytes: i64| format!("{}Ki", bytes / 1024);
    let mut message = format!("The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {}. ", kib(available));
    if let Some(used) = first.used.filter(|used| *used > first.asked) {
        let pod = first.handle.pod();
        let (name, used, asked) = (util::name(&pod), kib(used), first.asked);
        message += &format!("Pod {name} was using {used}, request is {asked}, has larger consumption of {resource}. ");
    }
    evict(&first.handle, message.clone(), Some(message));
}

async fn memory_of(cx: &Context, handle: &Handle) -> i64 {
    let mut sum = 0_u64;
    for c in cx.runtime.pod_containers(&handle.uid).into_iter().filter(crate::cri::Container::running) {
        sum = sum.saturating_add(cx.runtime.stats(&c.id).await.map_or(0, |u| u.memory_working_set_bytes));
    }
    i64::try_from(sum).unwrap_or(i64::MAX)
}

async fn disk_of(cx: &Arc<Context>, pod: &Arc<Pod>, until: Instant) -> Option<i64> {
    Some(i64::try_from(measure(cx, pod, until).await?.sum()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, spec: serde_json::Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"uid": uid, "name": uid}, "spec": spec})).unwrap())
    }

    #[test]
    fn who_takes_more_than_he_asked_goes_first() {
        let one = |uid: &str, used: u32, asked, priority| Candidate {
            handle: Arc::new(Handle::new(pod(uid, json!({"containers": []})))),
            used: (used > 0).then_some(used.into()),
            asked,
            priority,
        };
        let mut all =
            [one("modest", 10, 20, 0), one("over", 30, 20, 0), one("unknown", 0, 20, 5), one("far-over", 90, 20, 0), one("over-but-dear", 900, 0, 10)];
        rank(&mut all);
        let order: Vec<String> = all.iter().map(|c| c.handle.uid.0.clone()).collect();
        assert_eq!(order, ["unknown", "far-over", "over", "over-but-dear", "modest"]);
    }

    #[test]
    fn shares_of_the_disk() {
        let space = |free, inodes| Space { bytes: (1000, free), inodes: (100, inodes) };
        assert!(!space(100, 5).short());
        assert!(space(99, 5).short() && space(100, 4).short());
        assert!(!Space::default().short(), "a file system that tells nothing is not full");
    }
}
