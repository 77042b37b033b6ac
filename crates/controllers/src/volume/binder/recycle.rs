//! Volumes with the policy Recycle: a pod removes what is in them, then they are free again (upstream `recyclerclient`, for the two
//! plugins of old that have it; deprecated since v1.15, and as it was).
//!
//! Only a pod that this process made for this release is believed, by its UID: anybody who may make pods could make one of that name,
//! and a former release's success says nothing about what is in the volume now. Another in its place, a former process's too, is
//! removed, and the work begun anew, as the original does. The pod is looked at when it changes; one that failed is removed, told, and
//! made again after a while, as the original does at its resync.

use client::storage::capacity;
use client::{DeleteParams, Delta, Meta, ObjectKey, Preconditions};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Binder, LOOK, Note, unless_gone};
use crate::pods::phase;
use crate::volume::{is_through, pods_of};
use crate::work::Step;

const PREFIX: &str = "recycler-for-";
const NAMESPACE: &str = "default";
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.6";
const SCRUB: &str = "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";
/// Seconds that a pod may take, at least and for each GiB (upstream `--pv-recycler-…`).
const HOST_PATH_S: i64 = 60;
const NFS_S: i64 = 300;
const EACH_GIB_S: i64 = 30;
const GIB: i64 = 1 << 30;
/// When a pod that was just made is looked at once more.
const SOON: Duration = Duration::from_secs(1);

/// The volume that a pod recycles.
pub(super) fn volume_of(pod: &Pod) -> Option<&str> {
    (pod.namespace() == NAMESPACE).then(|| pod.name().strip_prefix(PREFIX))?
}

fn left_by(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.as_deref()).unwrap_or_default()
}

/// The pod that recycles a volume; none if it is of a kind that is not recycled.
fn pod(volume: &PersistentVolume) -> Option<Pod> {
    let spec = volume.spec.as_ref()?;
    let (least_s, source) = match (&spec.host_path, &spec.nfs) {
        (Some(path), _) => (HOST_PATH_S, json!({"name": "vol", "hostPath": {"path": path.path}})),
        (None, Some(nfs)) => (NFS_S, json!({"name": "vol", "nfs": {"server": nfs.server, "path": nfs.path}})),
        (None, None) => return None,
    };
    let deadline_s = (Quantity::value(capacity(volume)) / GIB).saturating_mul(EACH_GIB_S).max(least_s);
    let container = json!({
        "name": "pv-recycler", "image": IMAGE, "command": ["/bin/sh"], "args": ["-c", SCRUB],
        "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}],
    });
    client::typed(&json!({
        "metadata": {"name": format!("{PREFIX}{}", volume.name()), "namespace": NAMESPACE},
        "spec": {"activeDeadlineSeconds": deadline_s, "restartPolicy": "Never", "volumes": [source], "containers": [container]},
    }))
    .ok()
}

/// What has become of a volume's pod.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    None,
    Runs,
    Done,
    Failed(String),
    /// It was not made for this release.
    Old,
}

/// The pods that this process made, by volume: for the claim of which UID, and which pod.
pub(super) type Made = Mutex<HashMap<String, (String, String)>>;

fn look(pod: Option<&Pod>, made: Option<&(String, String)>, left_by: &str) -> Found {
    let Some(pod) = pod else { return Found::None };
    if made.is_none_or(|(claim, uid)| claim != left_by || uid != pod.uid()) {
        return Found::Old;
    }
    match phase(pod) {
        "Succeeded" => Found::Done,
        "Failed" => {
            let message = pod.status.as_ref().and_then(|s| s.message.clone()).filter(|m| !m.is_empty());
            Found::Failed(message.unwrap_or_else(|| "pod failed, pod.Status.Message unknown".to_owned()))
        }
        _ if pod.is_deleting() => Found::Failed("recycler pod was deleted".to_owned()),
        _ => Found::Runs,
    }
}

impl Binder {
    /// A volume is gone, or is another one now: what is known of its pod is of no use.
    pub(super) fn forget_recycling(&self, change: &Delta<PersistentVolume>) {
        let volume = change.object();
        let is_over = matches!(change, Delta::Deleted(_)) || matches!(change, Delta::Updated { old, .. } if old.uid() != volume.uid());
        if is_over {
            self.recycling.lock().remove(volume.name());
        }
    }

    /// One step of a volume that is to be recycled.
    pub(super) async fn recycle(&self, volume: &Arc<PersistentVolume>) -> Step {
        let claim = super::shelf::given_to(volume).unwrap_or_default();
        // A claim of that name would be another one: its pods use another volume.
        if self.shelf.claim(&claim).is_none()
            && let Some(users) = self.users(&claim)
        {
            self.record(&**volume, &Note::normal("VolumeFailedRecycle", format!("Volume is used by pods: {users}")));
            return Ok(None);
        }
        let pods = self.client.namespaced::<Pod>(NAMESPACE);
        let name = format!("{PREFIX}{}", volume.name());
        let found = pods.get_opt(&name).await?;
        let made = self.recycling.lock().get(volume.name()).cloned();
        match look(found.as_ref(), made.as_ref(), left_by(volume)) {
            Found::Runs => Ok(None),
            Found::None => {
                let Some(pod) = pod(volume) else { return Ok(None) };
                match pods.create(&pod).await {
                    Ok(created) => {
                        let made = (left_by(volume).to_owned(), created.uid().to_owned());
                        // Of a volume that went meanwhile nobody would take it out again; who hears of that waits for the lock.
                        let mut recycling = self.recycling.lock();
                        if self.shelf.volume(volume.name()).is_some_and(|known| known.uid() == volume.uid()) {
                            recycling.insert(volume.name().to_owned(), made);
                        }
                        drop(recycling);
                        // What became of it meanwhile was heard when nobody knew it.
                        Ok(Some(SOON))
                    }
                    Err(error) if error.is_already_exists() => Ok(Some(SOON)),
                    Err(error) => {
                        self.fail_recycling(volume, &format!("unexpected error creating recycler pod:  {error}")).await?;
                        Ok(Some(LOOK))
                    }
                }
            }
            Found::Done => {
                self.remove(found.as_ref()).await?;
                self.recycling.lock().remove(volume.name());
                self.record(&**volume, &Note::normal("VolumeRecycled", "Volume recycled"));
                self.unbind(volume).await.map(|_| None)
            }
            Found::Failed(why) => {
                self.remove(found.as_ref()).await?;
                self.fail_recycling(volume, &format!("failed to recycle volume: {why}")).await?;
                Ok(Some(LOOK))
            }
            Found::Old => {
                self.remove(found.as_ref()).await?;
                self.fail_recycling(volume, "old recycler pod found, will retry later").await?;
                Ok(Some(LOOK))
            }
        }
    }

    async fn fail_recycling(&self, volume: &Arc<PersistentVolume>, why: &str) -> Step {
        self.fail(volume, &Note::warning("VolumeFailedRecycle", format!("Recycle failed: {why}"))).await
    }

    /// The pods that use a claim's volume.
    fn users(&self, claim: &ObjectKey) -> Option<String> {
        let pods = pods_of(&self.pods, claim);
        let mut names: Vec<String> = pods.iter().filter(|p| !is_through(p)).map(|p| p.key().to_string()).collect();
        names.sort_unstable();
        (!names.is_empty()).then(|| names.join(","))
    }

    async fn remove(&self, pod: Option<&Pod>) -> client::Result<()> {
        let Some(pod) = pod else { return Ok(()) };
        let preconditions = Preconditions { uid: Some(pod.uid().to_owned()), resource_version: None };
        let deleted = self.client.namespaced::<Pod>(NAMESPACE).delete(pod.name(), &DeleteParams { preconditions, ..DeleteParams::default() }).await;
        unless_gone(deleted).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_believed_by_whom_it_was_made_for() {
        let pod =
            |uid: &str, phase: &str| -> Pod { client::typed(&json!({"metadata": {"name": "p", "uid": uid}, "status": {"phase": phase}})).expect("a pod") };
        let made = ("claim".to_owned(), "mine".to_owned());
        assert_eq!(look(None, Some(&made), "claim"), Found::None);
        assert_eq!(look(Some(&pod("mine", "Succeeded")), Some(&made), "claim"), Found::Done);
        assert_eq!(look(Some(&pod("mine", "Running")), Some(&made), "claim"), Found::Runs);
        assert_eq!(look(Some(&pod("mine", "Failed")), Some(&made), "claim"), Found::Failed("pod failed, pod.Status.Message unknown".to_owned()));
        assert_eq!(look(Some(&pod("another", "Succeeded")), Some(&made), "claim"), Found::Old, "anybody's");
        assert_eq!(look(Some(&pod("mine", "Succeeded")), Some(&made), "next"), Found::Old, "a former release's");
        assert_eq!(look(Some(&pod("mine", "Succeeded")), None, "claim"), Found::Old, "a former process's");
    }
}
