//! How full the volumes of pods are.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use ::volume::{Failure, Stats, Usage};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use super::slot::Step;
use super::{Persistent, spec};
use crate::cri::PodUid;
use crate::util;

/// For all that it takes to learn how full a volume is (less than who asks waits for all of them).
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// For a driver's answer; who is later is not asked for so long.
const CALL_MAX: Duration = Duration::from_secs(3);
const ALONE: Duration = Duration::from_secs(60);
/// Looks at the host for figures that one pod may have under way.
const POD_LOOKS_MAX: usize = 4;
/// For so long a figure stands (upstream's `--volume-stats-agg-period`).
const STANDS: Duration = Duration::from_secs(60);

/// A volume as `/stats/summary` tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// The volume's name in the pod.
    pub name: String,
    /// The claim, of the pod's namespace.
    pub claim: Option<String>,
    /// Bytes.
    pub bytes: Usage,
    /// Files and directories.
    pub inodes: Usage,
}

impl Persistent {
    /// The pod's persistent volumes that can be measured; at most a minute old, whoever asks how often. A driver that fails is left out, as
    /// upstream does.
    pub async fn stats(&self, pod: &Pod) -> Vec<VolumeStats> {
        let uid = PodUid(util::uid(pod).to_owned());
        let volumes: Vec<&Volume> = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| super::is_persistent(v)).collect();
        if volumes.is_empty() {
            return Vec::new();
        }
        if let Some((at, held)) = self.0.measured.lock().get(&uid)
            && at.elapsed() < STANDS
        {
            return held.clone();
        }
        // All at once: one that is not answered takes no more of who waits for the whole pod than its own time.
        let all = volumes.into_iter().enumerate().map(async |(index, volume)| {
            let stats = tokio::time::timeout(ANSWER_MAX, self.one(pod, &uid, volume, index % POD_LOOKS_MAX)).await.ok()??;
            let claim = spec::claim_of(pod, volume).map(|(name, _)| name);
            let (bytes, inodes) = (stats.bytes.unwrap_or_default(), stats.inodes.unwrap_or_default());
            Some(VolumeStats { name: volume.name.clone(), claim, bytes, inodes })
        });
        let out: Vec<VolumeStats> = join_all(all).await.into_iter().flatten().collect();
        let mut measured = self.0.measured.lock();
        measured.retain(|_, (at, _)| at.elapsed() < STANDS);
        measured.insert(uid, (Instant::now(), out.clone()));
        out
    }

    /// Asks a driver; one that did not answer in time is left alone for a while, so that all others can be told of.
    async fn ask(&self, driver: &str, call: impl Future<Output = Result<Stats, Failure>>) -> Option<Stats> {
        if self.0.slow.lock().get(driver).is_some_and(|at| at.elapsed() < ALONE) {
            return None;
        }
        let answer = tokio::time::timeout(CALL_MAX, call).await;
        if answer.is_err() {
            self.0.slow.lock().insert(driver.to_owned(), Instant::now());
        }
        answer.ok()?.ok()
    }

    /// `turn`: with which of the pod's volumes it takes turns, where it is a look at the host.
    async fn one(&self, pod: &Pod, uid: &PodUid, volume: &Volume, turn: usize) -> Option<Stats> {
        let mine = |slot: &std::sync::Arc<super::Slot>| {
            let state = slot.state.lock();
            state.pods.get(uid).filter(|u| u.outer.contains(&volume.name) && u.published == Step::Done).cloned()
        };
        if let Some((slot, mine)) = self.0.slots.of(uid).into_iter().find_map(|slot| mine(&slot).map(|mine| (slot, mine))) {
            let (driver, handle) = {
                let state = slot.state.lock();
                (state.driver.clone(), state.handle.clone())
            };
            let found = self.0.drivers.get(&driver).filter(|d| d.abilities().stats)?;
            let places = &self.0.places;
            let (at, staged) = if mine.block {
                (places.published_device(&uid.0, &mine.name), places.staged_device(&mine.name))
            } else {
                (places.published(&uid.0, &mine.name), places.staged(&driver, &handle))
            };
            let staged = (found.abilities().stage && !slot.state.lock().ephemeral).then_some(staged.as_path());
            return self.ask(&driver, found.stats(&handle, &at, staged)).await;
        }
        // A local volume and an export tell by themselves; a path of the host is not measured, as upstream does.
        let name = match spec::claim_of(pod, volume) {
            Some((claim, _)) => self.0.api.get_claim(util::namespace(pod), &claim).await.ok()?.spec?.volume_name?,
            None if volume.nfs.is_some() => volume.name.clone(),
            None => return None,
        };
        let places = [self.0.places.local(&uid.0, &name), self.0.places.export(&uid.0, &name)];
        // Not the pod's set-up's look: one that hangs holds up neither that nor most of the pod's other volumes. Nor has a pod as many as
        // it has volumes: the places are all pods'.
        self.0.figures.look(&format!("{}/{turn}", uid.0), move || Ok(places.iter().find_map(file_system))).await.ok().flatten()
    }
}

/// A mounted file system's own figures.
fn file_system(at: &PathBuf) -> Option<Stats> {
    if !super::mounts::is_mounted(at).ok()? {
        return None;
    }
    let s = statvfs(at).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(s.fragment_size());
    Some(Stats {
        bytes: Some(Usage { total: bytes(s.blocks()), used: bytes(s.blocks().saturating_sub(s.blocks_free())), available: bytes(s.blocks_available()) }),
        inodes: Some(Usage { total: s.files(), used: s.files().saturating_sub(s.files_free()), available: s.files_free() }),
        abnormal: None,
    })
}
