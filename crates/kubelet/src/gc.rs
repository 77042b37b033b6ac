//! What is left over: directories of pods that nobody has. (Images that nobody uses are [`crate::images::collect`]'s.)

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::cri::{PodUid, label};
use crate::pod::manager::Pods;
use crate::pod::{Context, cleanup};
use crate::util;
use crate::volumes::{self, Layout};

/// Former pods that are taken away at the same time.
const ORPHANS_MAX: usize = 16;

/// Removes the directories of pods that neither the API nor the runtime knows: they ended while no kubelet ran, or their
/// removal failed. What is on the disk is listed before it is asked who is known: a pod that comes in between is in neither.
/// `held`: pods that wait for their admission, as many do after a reboot: their data is theirs.
pub async fn orphaned_dirs(cx: Arc<Context>, pods: Pods, held: Vec<PodUid>) {
    let of = Arc::clone(&cx);
    let left = util::blocking(move || orphans(&of, &pods, &held)).await;
    // Some at once: a driver that takes its time holds up no other's.
    futures_util::stream::iter(left).for_each_concurrent(ORPHANS_MAX, |uid| drop_orphan(&cx, PodUid(uid))).await;
}

async fn drop_orphan(cx: &Arc<Context>, uid: PodUid) {
    // A driver that cannot take its volume away holds the directory; it is tried again.
    if let Err(error) = cleanup::drop_volumes(cx, &uid).await {
        tracing::warn!(uid = uid.0, error, "volumes of a former pod stay; will be tried again");
        return;
    }
    let layout = Layout::new(&cx.config.root_dir, &uid.0);
    match util::blocking(move || volumes::tear_down(&layout)).await {
        Ok(()) => tracing::info!(uid = uid.0, "removed what a former pod left behind"),
        Err(e) => tracing::warn!(uid = uid.0, error = %e, "what a former pod left behind could not be removed"),
    }
}

/// The directories that belong to nobody; logs of that kind are removed.
fn orphans(cx: &Context, pods: &Pods, held: &[PodUid]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for dir in ["pods", "memory"] {
        let entries = fs::read_dir(cx.config.root_dir.join(dir)).into_iter().flatten().flatten();
        found.extend(entries.filter_map(|e| e.file_name().into_string().ok()));
    }
    found.extend(cx.devices.users());
    let logs: Vec<_> = fs::read_dir(&cx.config.pod_logs_dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    let mut known: HashSet<String> = pods.all().iter().map(|h| h.uid.0.clone()).collect();
    known.extend(held.iter().map(|uid| uid.0.clone()));
    known.extend(cx.runtime.containers().iter().filter_map(|c| c.labels.get(label::POD_UID).cloned()));
    known.extend(cx.runtime.sandboxes().iter().filter_map(|s| s.labels.get(label::POD_UID).cloned()));
    for path in logs {
        let uid = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.rsplit('_').next()).unwrap_or_default();
        if !uid.is_empty()
            && !known.contains(uid)
            && let Err(e) = runtime::tree::remove(&path)
        {
            tracing::warn!(uid, error = %e, "logs of a former pod could not be removed");
        }
    }
    found.into_iter().filter(|uid| !known.contains(uid)).collect()
}
