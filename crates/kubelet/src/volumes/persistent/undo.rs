//! Taking volumes away: unpublished when their pod goes, unstaged when nobody has them any more.
//!
//! A pod's end waits until its volumes are unpublished; what they were staged at is undone by a task that tries until it succeeds
//! or somebody wants the volume again. Until then the node's status calls it in use. Nothing is unmounted behind a driver's back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Persistent;
use super::call::{ends, rpc};
use super::make::not_registered;
use super::mounts;
use super::place;
use super::slot::{Slot, Step};
use super::spec;
use crate::cri::PodUid;
use crate::util;

impl Persistent {
    /// Takes all volumes of a pod away. Those that cannot be taken stay known, for the next try.
    pub async fn tear_down(&self, uid: &PodUid) -> Result<(), String> {
        let slots = self.0.slots.of(uid);
        if slots.is_empty() {
            return Ok(());
        }
        for slot in &slots {
            if let Some(mine) = slot.state.lock().pods.get(uid) {
                mine.stopping.store(true, Ordering::Relaxed);
            }
        }
        // What containers saw of the volumes by a path of its own is in the way of whoever takes the volume away.
        let parts = self.0.places.pods().join(&uid.0).join("volume-subpaths");
        util::blocking(move || mounts::unmount_below(&parts)).await.map_err(|e| format!("error cleaning subPath mounts: {e}"))?;
        let each = slots.iter().map(|slot| {
            // A task of its own: the pod's worker may be ended while the driver works.
            let task = tokio::spawn(self.clone().let_go(Arc::clone(slot), uid.clone()));
            async { task.await.map_err(|e| format!("unmount failed: {e}"))? }
        });
        let failed: Vec<String> = futures_util::future::join_all(each).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    async fn let_go(self, slot: Arc<Slot>, uid: PodUid) -> Result<(), String> {
        let busy = Arc::clone(&slot.busy).lock_owned().await;
        let (mine, driver, handle) = {
            let state = slot.state.lock();
            let Some(mine) = state.pods.get(&uid).cloned() else { return Ok(()) };
            (mine, state.driver.clone(), state.handle.clone())
        };
        if mine.published != Step::Nothing {
            let target = self.0.places.target(&uid.0, &mine.name, mine.block);
            if let Some(mine) = slot.state.lock().pods.get_mut(&uid) {
                // Whoever begins anew in between publishes again.
                mine.published = Step::Perhaps;
            }
            let told = |step: &str, why: String| format!("{step} failed for volume {:?} : {why}", mine.name);
            let step = if mine.block { "UnmapVolume.UnmapPodDevice" } else { "UnmountVolume.TearDown" };
            let begun = Instant::now();
            let taken = async {
                let found = self.0.drivers.get(&driver).ok_or_else(|| rpc(&not_registered(&driver)))?;
                ends(found.unpublish(&handle, &target)).await.map_err(|f| rpc(&f))?;
                let (block, link) = (mine.block, self.0.places.device_link(&uid.0, &mine.name));
                util::blocking(move || place::clear_published(&target, block.then_some(link.as_path()))).await.map_err(|e| e.to_string())
            };
            let taken = taken.await;
            let what = if mine.block { "unmap_volume" } else { "volume_unmount" };
            self.0.counts.storage(&spec::plugin_of_driver(&driver), what, begun.elapsed(), taken.is_ok());
            taken.map_err(|why| told(step, why))?;
        }
        slot.state.lock().pods.remove(&uid);
        drop(busy);
        self.undo_if_left(&slot);
        Ok(())
    }

    /// Begins to undo what nobody has any more; forgets what is nothing.
    pub(super) fn undo_if_left(&self, slot: &Arc<Slot>) {
        let begin = {
            let mut state = slot.state.lock();
            // An inline volume is not staged: with its pod all of it is gone.
            if state.ephemeral && state.pods.is_empty() {
                state.staged = Step::Nothing;
            }
            let begin = state.is_left() && !state.undoing;
            state.undoing |= begin;
            begin
        };
        if begin {
            tokio::spawn(self.clone().undo(Arc::clone(slot)));
        } else if self.0.slots.forget(slot) {
            self.0.changed.send_replace(());
        }
    }

    async fn undo(self, slot: Arc<Slot>) {
        loop {
            let waits = slot.state.lock().not_before();
            if let Some(until) = waits {
                let mut drivers = self.0.drivers.changes();
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    Ok(()) = drivers.changed() => {}
                    () = self.0.stop.cancelled() => return,
                }
            }
            let busy = Arc::clone(&slot.busy).lock_owned().await;
            let left = slot.state.lock().is_left();
            let done = if left { self.unstage(&slot).await } else { Ok(()) };
            let over = {
                let mut state = slot.state.lock();
                match &done {
                    Ok(()) if left => {
                        state.went_well();
                        state.staged = Step::Nothing;
                    }
                    Ok(()) => {}
                    Err(_) => state.failed(Instant::now()),
                }
                state.undoing = done.is_err();
                done.is_ok()
            };
            drop(busy);
            if over {
                if self.0.slots.forget(&slot) {
                    self.0.changed.send_replace(());
                }
                return;
            }
            if let Err(error) = done {
                tracing::warn!(volume = slot.key, error, "a volume that nobody uses stays; will be tried again");
            }
        }
    }

    async fn unstage(&self, slot: &Slot) -> Result<(), String> {
        let (name, handle, device) = {
            let mut state = slot.state.lock();
            // Whoever wants it meanwhile stages it again.
            state.staged = Step::Perhaps;
            (state.driver.clone(), state.handle.clone(), state.device.clone())
        };
        let places = &self.0.places;
        let at = device.as_ref().map_or_else(|| places.staged(&name, &handle), |device| places.staged_device(device));
        let (place, below) = (at.clone(), places.pods());
        let others = util::blocking(move || Ok::<_, std::io::Error>((mounts::others(&place, &below)?, place.exists())));
        let (others, there) = others.await.map_err(|e| e.to_string())?;
        if !others.is_empty() {
            return Err(format!("the device mount path {:?} is still mounted by other references {others:?}", at.display().to_string()));
        }
        let driver = self.0.drivers.get(&name).ok_or_else(|| rpc(&not_registered(&name)))?;
        if driver.abilities().stage && (there || device.is_none()) {
            ends(driver.unstage(&handle, &at)).await.map_err(|f| rpc(&f))?;
        }
        let dirs = device.map(|device| places.device_dirs(&device));
        let cleared = util::blocking(move || match &dirs {
            Some(dirs) => place::clear_device(&at).and_then(|()| place::clear_devices(dirs)),
            None => place::clear(&at),
        });
        cleared.await.map_err(|e| format!("failed to clean up global mount: {e}"))
    }
}
