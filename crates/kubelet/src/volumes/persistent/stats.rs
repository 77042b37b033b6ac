//! How full the volumes of pods are.

use std::path::PathBuf;

use ::volume::{Stats, Usage};
use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::sys::statvfs::statvfs;

use super::call::ends;
use super::slot::Step;
use super::{Persistent, spec};
use crate::cri::PodUid;
use crate::util;

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
    /// The pod's persistent volumes that can be measured. A driver that fails is left out, as upstream does.
    pub async fn stats(&self, pod: &Pod) -> Vec<VolumeStats> {
        let uid = PodUid(util::uid(pod).to_owned());
        let mut out = Vec::new();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| super::is_persistent(v)) {
            let Some(stats) = self.one(pod, &uid, volume).await else { continue };
            let claim = spec::claim_of(pod, volume).map(|(name, _)| name);
            let (bytes, inodes) = (stats.bytes.unwrap_or_default(), stats.inodes.unwrap_or_default());
            out.push(VolumeStats { name: volume.name.clone(), claim, bytes, inodes });
        }
        out
    }

    async fn one(&self, pod: &Pod, uid: &PodUid, volume: &Volume) -> Option<Stats> {
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
            return ends(found.stats(&handle, &at, staged)).await.ok();
        }
        // A local volume tells by itself; a path of the host is not measured, as upstream does.
        let name = self.0.api.get_claim(util::namespace(pod), &spec::claim_of(pod, volume)?.0).await.ok()?.spec?.volume_name?;
        let at = self.0.places.local(&uid.0, &name);
        self.0.looks.look(&uid.0, move || Ok(file_system(&at))).await.ok().flatten()
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
