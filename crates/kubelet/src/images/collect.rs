//! Images that nobody uses any more go when their disk is filling up, or when the node runs short of it: who was used least lately first,
//! and none that was just pulled (upstream's `imageGCManager`).
//!
//! Only what this node pulled goes: an image that was imported may not be had again (upstream's runtimes pin such). In use is what a container
//! has, also an ended one, and what a pod that has not ended has as a volume.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::pulled;
use crate::api::Severity;
use crate::cri::Image;
use crate::machine;
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;

/// What is known of an image's past, since this kubelet started.
#[derive(Clone, Copy, Debug)]
struct Record {
    first: Instant,
    used: Option<Instant>,
}

/// What is known of the past of all.
#[derive(Default)]
pub struct Records {
    of: Mutex<HashMap<String, Record>>,
    /// The last collection failed: a single failure (no figures yet) is nobody's news.
    failed: AtomicBool,
}

impl Records {
    /// Takes in the images that there are; answers those that may go, in order. `used`: whether one is in use, `old`: for how long one that
    /// may go is known at least.
    fn removable(&self, images: Vec<Image>, used: impl Fn(&Image) -> bool, old: Duration, now: Instant) -> Vec<Image> {
        let mut of = self.of.lock();
        let there: HashSet<&str> = images.iter().map(|i| i.id.as_str()).collect();
        of.retain(|id, _| there.contains(id.as_str()));
        let mut spare: Vec<(Record, Image)> = Vec::new();
        for image in images {
            let record = of.entry(image.id.clone()).or_insert(Record { first: now, used: None });
            if used(&image) {
                record.used = Some(now);
            } else if pulled::was_pulled(&image) && now.duration_since(record.first) >= old {
                spare.push((*record, image));
            }
        }
        spare.sort_by_key(|(r, _)| (r.used, r.first));
        spare.into_iter().map(|(_, image)| image).collect()
    }
}

/// The images that may go, in order.
async fn removable(cx: &Arc<Context>, pods: &Pods) -> Vec<Image> {
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
        cx.images.records.removable(all, used, cx.config.settings.images.min_age, Instant::now())
    })
    .await
}

/// Removes images in order until so many bytes are free that were not; answers how many that were.
async fn free(cx: &Arc<Context>, images: Vec<Image>, bytes: u64) -> u64 {
    let mut freed = 0_u64;
    for image in images {
        match cx.runtime.remove_image(&image.id).await {
            Ok(()) => {
                tracing::info!(image = image.id, bytes = image.size_bytes, "removed an image that nobody uses");
                freed = freed.saturating_add(image.size_bytes);
                cx.counts.image_collected();
            }
            Err(error) => tracing::warn!(image = image.id, %error, "an image that nobody uses was not removed"),
        }
        if freed >= bytes {
            break;
        }
    }
    freed
}

/// Removes unused images while their disk is too full.
pub async fn collect(cx: Arc<Context>, pods: Pods) {
    let done = try_collect(&cx, &pods).await;
    let failed_before = cx.images.records.failed.swap(done.is_err(), Ordering::Relaxed);
    if let Err(error) = done {
        tracing::error!(error, "Image garbage collection failed");
        if failed_before {
            cx.api.node_event(Severity::Warning, "ImageGCFailed", &error);
        }
    }
}

async fn try_collect(cx: &Arc<Context>, pods: &Pods) -> Result<(), String> {
    // Also where nothing goes: when it was used is known from this.
    let images = removable(cx, pods).await;
    let policy = cx.config.settings.images;
    let at = cx.config.image_dir.clone();
    let (all, free_bytes) = util::blocking(move || machine::disk(&at)).await;
    let Some(used) = used_percent(all, free_bytes) else {
        let error = "invalid capacity 0 on image filesystem";
        cx.api.node_event(Severity::Warning, "InvalidDiskCapacity", error);
        return Err(error.into());
    };
    // At 100 nothing is collected.
    if policy.high_percent >= 100 || used < policy.high_percent {
        return Ok(());
    }
    let wanted = to_free(all, free_bytes, policy.low_percent);
    let freed = free(cx, images, wanted).await;
    if freed >= wanted {
        return Ok(());
    }
    let message = format!(
        "Insufficient free disk space on the node's image filesystem ({used}% of {} used). Failed to free sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
        size(all)
    );
    cx.api.node_event(Severity::Warning, "FreeDiskSpaceFailed", &message);
    Err(message)
}

fn used_percent(all: u64, free: u64) -> Option<u64> {
    (u128::from(free.min(all)) * 100).checked_div(u128::from(all)).map(|share| 100 - u64::try_from(share).unwrap_or(100))
}

fn to_free(all: u64, free: u64, low_percent: u64) -> u64 {
    let wanted = u128::from(all) * u128::from(100_u64.saturating_sub(low_percent)) / 100;
    u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(free)
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1024.0 && unit < UNITS.len() - 1 {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// Removes all unused images that are old enough: the node runs short of disk.
pub async fn all_unused(cx: &Arc<Context>, pods: &Pods) {
    let images = removable(cx, pods).await;
    free(cx, images, u64::MAX).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::Origin;

    fn image(id: &str, origin: Origin) -> Image {
        Image { id: id.into(), origin: Some(origin), ..Image::default() }
    }

    #[test]
    fn who_was_used_least_lately_goes_first_and_none_that_just_came() {
        let (records, start, old) = (Records::default(), Instant::now(), Duration::from_secs(120));
        let pulled = |id: &str| image(id, Origin::pulled(None));
        let at = |after_s: u64, ids: &[&str], used: &[&str]| -> Vec<String> {
            let mut all: Vec<Image> = ids.iter().map(|id| pulled(id)).collect();
            all.push(image("imported", Origin::imported()));
            let go = records.removable(all, |i| used.contains(&i.id.as_str()), old, start + Duration::from_secs(after_s));
            go.into_iter().map(|i| i.id).collect()
        };
        assert!(at(0, &["a", "b"], &["a"]).is_empty(), "just seen");
        assert!(at(60, &["a", "b", "c"], &["b"]).is_empty());
        assert_eq!(at(120, &["a", "b", "c"], &[]), ["a", "b"], "and one that was imported never does");
        assert_eq!(at(180, &["a", "b", "c"], &[]), ["c", "a", "b"], "who was never used, then who was used before the other");
        assert_eq!(at(200, &["a", "b", "c"], &["c"]), ["a", "b"]);
        assert!(at(210, &["b"], &["b"]).is_empty());
        assert_eq!(at(220, &["a", "b"], &[]), ["b"], "one that came again is new");
    }

    #[test]
    fn shares_and_sizes() {
        assert_eq!((used_percent(1000, 150), used_percent(1000, 159), used_percent(0, 0), used_percent(10, 20)), (Some(85), Some(85), None, Some(0)));
        assert_eq!((to_free(1000, 150, 80), to_free(1000, 300, 80)), (50, 0));
        assert_eq!([size(512), size(1536), size(5 << 30), size(3 << 50)], ["512 B", "1.5 KiB", "5.0 GiB", "3072.0 TiB"]);
    }
}
