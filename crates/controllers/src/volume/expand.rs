//! Claims that want more than they have (upstream `volume/expand`). Who grows a volume is not here: no plugin of the original's controller
//! can, so for every bound claim whose wish is above what it has, it says that it waits for an external controller, and a volume of a
//! plugin of old names the CSI driver whose resizer is to act.
//!
//! The original hears claims and nothing else, and asks the server for the volume; so it is here. A claim whose volume cannot be read, or
//! is not bound to it yet, is tried again.

use std::sync::Arc;

use client::storage::{claim_phase, held, requested, volume_name};
use client::{Client, Delta, EventType, Informer, Meta, ObjectKey, Patch, PatchParams, Recorder, object_reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use machinery::status::Status;
use serde_json::json;

use super::migrated;
use crate::work::{Controller, Cx, Step};

const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// Upstream's `defaultWorkerCount`.
const WORKERS: usize = 10;

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("expand-controller");
    let recorder = cx.recorder(&client, "volume_expand");
    let controller = Arc::new(Expander { client, recorder, claims: cx.informers.informer() });
    cx.setup(&controller)
        .on(&controller.claims, |_: &Expander, queue, change| {
            let grown = match change {
                Delta::Updated { old, new } => requested(new) > requested(old) || held(new) > held(old),
                Delta::Added(_) => true,
                Delta::Deleted(_) => false,
            };
            if grown && claim_phase(change.object()) == "Bound" {
                queue.add(change.object().key());
            }
        })
        .work(WORKERS)
        .await;
}

struct Expander {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
}

impl Controller for Expander {
    const QUEUE: &'static str = "volume_expand";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(claim) = self.claims.get_key(key).filter(|claim| requested(claim) > held(claim)) else { return Ok(None) };
        let volume = self.client.all::<PersistentVolume>().get(volume_name(&claim)).await?;
        let spec = volume.spec.clone().unwrap_or_default();
        if spec.claim_ref.as_ref().is_none_or(|owner| owner.uid.as_deref() != Some(claim.uid()) || owner.namespace.as_deref() != Some(claim.namespace())) {
            return Err(Status::internal(format!("persistent Volume is not bound to PVC being updated : {key}")).into());
        }
        let about = object_reference(&*claim);
        let Some((plugin, driver)) = migrated::plugin(&spec).and_then(|plugin| Some((plugin, migrated::driver(plugin)?))) else {
            self.recorder.event(&about, EventType::Normal, "ExternalExpanding", "waiting for an external controller to expand this PVC");
            return Ok(None);
        };
        let message = format!("CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc");
        self.recorder.event(&about, EventType::Normal, "ExternalExpanding", message);
        if claim.annotation(RESIZER) != Some(driver) {
            let patch = json!({"metadata": {"uid": claim.uid(), "resourceVersion": claim.resource_version(), "annotations": {RESIZER: driver}}});
            let claims = self.client.namespaced::<PersistentVolumeClaim>(claim.namespace());
            if let Err(error) = claims.patch_status(claim.name(), &Patch::Strategic(patch), &PatchParams::default()).await {
                let message = format!("error setting resizer annotation to pvc {key}, with error {error}");
                self.recorder.event(&about, EventType::Warning, "ExternalExpanding", message);
                return Err(error);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fake::Fake;

    /// What is written about a claim of 2Gi that has `held`, on a volume with this source, bound to the claim with this UID.
    async fn written(held: &str, source: (&str, Value), owner: &str) -> (bool, Vec<String>) {
        let claim: PersistentVolumeClaim = client::typed(&json!({
            "metadata": {"namespace": "n", "name": "c", "uid": "C", "resourceVersion": "7"},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": held}},
        }))
        .expect("a claim");
        let mut volume = json!({"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": "v"},
            "spec": {"claimRef": {"namespace": "n", "name": "c", "uid": owner}}});
        volume["spec"][source.0] = source.1;
        let fake = Fake::new(move |method, path: &str| match (method, path) {
            ("GET", "/api/v1/persistentvolumes/v") => (200, volume.clone()),
            ("PATCH", _) => (200, json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "c"}})),
            _ => (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})),
        });
        let client = fake.client();
        let recorder = Recorder::new(client.clone(), "volume_expand", "");
        let step = Expander { client, recorder, claims: Informer::fixed([claim]) }.reconcile(&ObjectKey::new("n", "c")).await;
        // Events are written in the background.
        while step.is_ok() && held == "1Gi" && !fake.written().iter().any(|w| w.starts_with("POST")) {
            tokio::task::yield_now().await;
        }
        (step.is_ok(), fake.written())
    }

    #[tokio::test]
    async fn a_claim_that_wants_more_says_whom_it_waits_for() {
        let csi = || ("csi", json!({"driver": "d", "volumeHandle": "h"}));
        let (done, said) = written("1Gi", csi(), "C").await;
        assert!(done && said.len() == 1 && said[0].contains("waiting for an external controller to expand this PVC"), "{said:?}");
        let (done, said) = written("1Gi", ("gcePersistentDisk", json!({"pdName": "p"})), "C").await;
        assert!(done && said.iter().any(|s| s.contains("CSI migration enabled for kubernetes.io/gce-pd; waiting")), "{said:?}");
        assert!(said.iter().any(|s| s.starts_with("PATCH") && s.contains("/c/status ") && s.contains("pd.csi.storage.gke.io")), "{said:?}");
        assert_eq!(written("2Gi", csi(), "C").await, (true, vec![]), "it has what it wants");
        assert_eq!(written("1Gi", csi(), "other").await, (false, vec![]), "the volume is not its own");
    }
}
