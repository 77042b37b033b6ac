//! What is left over: directories of pods that nobody has, images that nobody uses when the disk is filling up.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::cri::{Image, PodUid, label};
use crate::images::pulled;
use crate::machine;
use crate::pod::manager::Pods;
use crate::pod::{Context, cleanup};
use crate::util;
use crate::volumes::{self, Layout};

/// Share of the disk in use at which images are removed, and down to which (upstream's defaults), in hundredths.
const IMAGE_GC_HIGH_PERCENT: u64 = 85;
const IMAGE_GC_LOW_PERCENT: u64 = 80;
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

/// The images that this node pulled and that no container and no image volume uses, the largest first. One that was imported
/// may not be had again, and stays.
async fn spare(cx: &Arc<Context>, pods: &Pods) -> Vec<Image> {
    let (cx, pods) = (Arc::clone(cx), pods.clone());
    util::blocking(move || {
        let all = cx.runtime.images();
        let mut in_use: HashSet<String> = cx.runtime.containers().into_iter().flat_map(|c| [c.image, c.image_id]).collect();
        for pod in pods.all().into_iter().filter(|h| !h.ended()).map(|h| h.pod()) {
            let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
            let mounted: Vec<String> = volumes.filter_map(|v| v.image.as_ref()?.reference.clone()).collect();
            in_use.extend(mounted.iter().filter_map(|reference| cx.runtime.image(reference)).map(|i| i.id));
        }
        let used = |i: &Image| in_use.contains(&i.id) || i.repo_tags.iter().chain(&i.repo_digests).any(|n| in_use.contains(n));
        let mut spare: Vec<Image> = all.into_iter().filter(|i| pulled::was_pulled(i) && !used(i)).collect();
        spare.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
        spare
    })
    .await
}

async fn remove(cx: &Arc<Context>, image: &Image) {
    if let Err(e) = cx.runtime.remove_image(&image.id).await {
        tracing::debug!(image = image.id, error = %e, "unused image not removed");
    }
}

/// Removes unused images, largest first, while the disk is too full.
pub async fn images(cx: Arc<Context>, pods: Pods) {
    let root = cx.config.root_dir.clone();
    let used_percent = || {
        let (all, free) = machine::disk(&root);
        ((all - free.min(all)) * 100).checked_div(all).unwrap_or(0)
    };
    let spare = spare(&cx, &pods).await;
    if used_percent() < IMAGE_GC_HIGH_PERCENT {
        return;
    }
    for image in spare {
        if used_percent() < IMAGE_GC_LOW_PERCENT {
            return;
        }
        remove(&cx, &image).await;
    }
}

/// Removes all unused images: the node runs short of disk.
pub async fn all_unused_images(cx: &Arc<Context>, pods: &Pods) {
    for image in spare(cx, pods).await {
        remove(cx, &image).await;
    }
}
