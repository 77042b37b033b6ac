//! What is left over: directories of pods that nobody has, images that nobody uses when the disk is filling up.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use crate::cri::label;
use crate::node;
use crate::pod::Context;
use crate::volumes::{self, Layout};

/// Share of the disk in use at which images are removed, and down to which (upstream's defaults), in hundredths.
const IMAGE_GC_HIGH_PERCENT: u64 = 85;
const IMAGE_GC_LOW_PERCENT: u64 = 80;

/// Removes the directories of pods that neither the API nor the runtime knows: they ended while no kubelet ran.
pub fn orphaned_dirs(cx: &Context, known: &HashSet<String>) {
    let mut known = known.clone();
    known.extend(cx.runtime.containers().iter().filter_map(|c| c.labels.get(label::POD_UID).cloned()));
    known.extend(cx.runtime.sandboxes().iter().filter_map(|s| s.labels.get(label::POD_UID).cloned()));
    let mut found = HashSet::new();
    for dir in ["pods", "memory"] {
        let entries = fs::read_dir(cx.config.root_dir.join(dir)).into_iter().flatten().flatten();
        found.extend(entries.filter_map(|e| e.file_name().into_string().ok()));
    }
    for uid in found.difference(&known) {
        match volumes::tear_down(&Layout::new(&cx.config.root_dir, uid)) {
            Ok(()) => tracing::info!(uid, "removed what a former pod left behind"),
            Err(e) => tracing::warn!(uid, error = %e, "what a former pod left behind could not be removed"),
        }
    }
    let logs = fs::read_dir(&cx.config.pod_logs_dir).into_iter().flatten().flatten();
    for entry in logs {
        let name = entry.file_name();
        let uid = name.to_str().and_then(|n| n.rsplit('_').next()).unwrap_or_default();
        if !uid.is_empty() && !known.contains(uid) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes unused images, largest first, while the disk is too full. Only what this node has pulled goes: an image that was
/// imported may not be had again.
pub async fn images(cx: Arc<Context>) {
    let used_percent = |(all, free): (u64, u64)| ((all - free.min(all)) * 100).checked_div(all).unwrap_or(0);
    if used_percent(node::disk(&cx.config.root_dir)) < IMAGE_GC_HIGH_PERCENT {
        return;
    }
    let in_use: HashSet<String> = cx.runtime.containers().into_iter().flat_map(|c| [c.image, c.image_id]).collect();
    let mut spare: Vec<_> = cx
        .runtime
        .images()
        .into_iter()
        .filter(|i| cx.images.was_pulled(&i.id))
        .filter(|i| !in_use.contains(&i.id) && !i.repo_tags.iter().chain(&i.repo_digests).any(|n| in_use.contains(n)))
        .collect();
    spare.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    for image in spare {
        if used_percent(node::disk(&cx.config.root_dir)) < IMAGE_GC_LOW_PERCENT {
            return;
        }
        if let Err(e) = cx.runtime.remove_image(&image.id).await {
            tracing::debug!(image = image.id, error = %e, "unused image not removed");
        }
    }
}
