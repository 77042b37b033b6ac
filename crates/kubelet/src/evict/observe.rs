//! What there is of everything that may run short, as `/stats/summary` tells of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sys::statvfs::statvfs;

use super::number;
use super::signals::{Observations, Observed, Signal};
use crate::cri::Measure;
use crate::machine;
use crate::pod::Context;
use crate::util;

/// Whether two places lie on two file systems.
fn apart(a: &Path, b: &Path) -> bool {
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    matches!((device(a), device(b)), (Some(a), Some(b)) if a != b)
}

/// Bytes and inodes of a file system. One that tells nothing is not full.
fn disk(at: &Path, bytes: Signal, inodes: Signal, out: &mut Observations) {
    let mut put = |signal, available: u64, capacity: u64| {
        if capacity > 0 {
            out.insert(signal, Observed { available: number(available), capacity: number(capacity) });
        }
    };
    let (all, free) = machine::disk(at);
    put(bytes, free, all);
    if let Ok(s) = statvfs(at) {
        put(inodes, s.files_available(), s.files());
    }
}

/// All of it, and whether images have a file system of their own.
pub async fn observe(cx: &Arc<Context>) -> (Observations, bool) {
    let pods = cx.runtime.readings(vec![Measure::Cgroup(cx.cgroups.node_path())], false).await.into_iter().next().flatten();
    let own = Arc::clone(cx);
    let (mut out, apart) = util::blocking(move || {
        let (root, images) = (&own.config.root_dir, &own.config.image_dir);
        let (mut out, apart) = (Observations::new(), apart(root, images));
        disk(root, Signal::NodeFs, Signal::NodeFsInodes, &mut out);
        if apart || !own.config.settings.eviction.by_default {
            disk(images, Signal::ImageFs, Signal::ImageFsInodes, &mut out);
        }
        let (stats, _) = runtime::of_machine(Path::new("/proc"));
        memory(Signal::Memory, &stats, &mut out);
        if let Some(max) = machine::pids_max() {
            let used = number(stats.pids);
            out.insert(Signal::Pids, Observed { available: max.saturating_sub(used), capacity: max });
        }
        (out, apart)
    })
    .await;
    if let Some(pods) = pods {
        memory(Signal::AllocatableMemory, &pods.stats, &mut out);
    }
    (out, apart)
}

/// What there is, what is used and what of it is needed, of the machine or of all pods.
pub async fn memory_of(cx: &Context, signal: Signal) -> Option<(i64, i64, i64)> {
    let stats = if signal == Signal::Memory {
        util::blocking(|| runtime::of_machine(Path::new("/proc")).0).await
    } else {
        cx.runtime.readings(vec![Measure::Cgroup(cx.cgroups.node_path())], false).await.into_iter().next().flatten()?.stats
    };
    Some((limit(&stats)?, number(stats.memory_usage_bytes), number(stats.memory_working_set_bytes)))
}

fn limit(stats: &runtime::Stats) -> Option<i64> {
    stats.memory_limit_bytes.and_then(|l| i64::try_from(l).ok()).filter(|l| *l > 0)
}

fn memory(signal: Signal, stats: &runtime::Stats, out: &mut Observations) {
    let Some(limit) = limit(stats) else { return };
    let used = number(stats.memory_working_set_bytes);
    out.insert(signal, Observed { available: limit.saturating_sub(used).max(0), capacity: limit });
}
