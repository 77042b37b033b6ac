//! A PersistentVolume that was released goes, if its policy says so: what is in it first, then the object.

use client::storage::{reclaim_policy, volume_phase};
use client::{DeleteParams, EventType, Meta, Patch, PatchParams};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use super::{FINALIZER, Provisioner, Step, is_ours, words};
use crate::Code;

/// Whether a volume is to be deleted (the library's `shouldDelete`).
pub(super) fn is_to_go(volume: &PersistentVolume) -> bool {
    // Without the finalizer it has been: the object is only on its way.
    let gone = volume.is_deleting() && !volume.has_finalizer(FINALIZER);
    !gone && volume_phase(volume) == "Released" && reclaim_policy(volume) == "Delete"
}

impl Provisioner {
    pub(super) async fn volume(&self, name: &str) -> Step {
        let Some(volume) = self.volumes.get("", name).filter(|v| is_ours(v) && self.is_here(v)) else { return Step::Done };
        let step = async {
            match (reclaim_policy(&volume), volume.has_finalizer(FINALIZER)) {
                ("Delete", false) if !volume.is_deleting() && volume_phase(&volume) == "Bound" => self.finalize(&volume, true).await?,
                ("Retain" | "Recycle", true) => self.finalize(&volume, false).await?,
                _ => {}
            }
            if is_to_go(&volume) { self.delete(&volume).await } else { Ok(Step::Done) }
        };
        step.await.unwrap_or_else(Step::from)
    }

    /// What is deleted is gone for good, so the server is asked: what is in memory may be old, and its policy another meanwhile.
    async fn delete(&self, volume: &PersistentVolume) -> client::Result<Step> {
        let api = self.client.all::<PersistentVolume>();
        let live = api.get_opt(volume.name()).await?.filter(|live| live.uid() == volume.uid());
        // What changed is heard.
        let Some(volume) = &live.filter(|live| is_ours(live) && self.is_here(live) && is_to_go(live)) else { return Ok(Step::Done) };
        let handle = volume.spec.as_ref().and_then(|s| s.csi.as_ref()).map(|csi| csi.volume_handle.clone()).unwrap_or_default();
        if let Err(failure) = self.disk.delete(&handle).await {
            match failure.code {
                Code::FailedPrecondition => {
                    let text = format!("persistentvolume {} is still attached to node {}, waiting for detach", volume.name(), self.node);
                    self.event(volume, EventType::Normal, "VolumeDelete", text);
                }
                _ => self.event(volume, EventType::Warning, "VolumeFailedDelete", words(&failure)),
            }
            return Ok(Step::Again);
        }
        match api.delete(volume.name(), &DeleteParams::default().uid(volume.uid())).await {
            // It is gone, or another of its name is there.
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(Step::Done),
            deleted => deleted?,
        }
        if let Some(fresh) = api.get_opt(volume.name()).await?.filter(|fresh| fresh.uid() == volume.uid() && fresh.has_finalizer(FINALIZER)) {
            self.finalize(&fresh, false).await?;
        }
        Ok(Step::Done)
    }

    /// Gives a volume the finalizer, or takes it.
    async fn finalize(&self, volume: &PersistentVolume, with: bool) -> client::Result<()> {
        let others = volume.meta().finalizers.iter().flatten().map(String::as_str).filter(|f| *f != FINALIZER);
        let finalizers: Vec<&str> = others.chain(with.then_some(FINALIZER)).collect();
        // Of the revision that was looked at: nobody else's finalizer is lost.
        let change = json!({"metadata": {"finalizers": finalizers, "resourceVersion": volume.resource_version()}});
        match self.client.all::<PersistentVolume>().patch(volume.name(), &Patch::Merge(change), &PatchParams::default()).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}
