//! Generic ephemeral volumes (KEP 1698; upstream `volume/ephemeral`): a pod's volume with a template gets a claim of its own, which the
//! pod owns and the garbage collector takes with it.
//!
//! A claim of that name that is not the pod's is never used: the pod is told, and it is looked at again with a back-off, as the original
//! does. Nothing here rests on a resync: a claim that somebody deletes while the pod is there is made again when that is
//! heard, and so is one whose making failed.

use std::sync::Arc;

use client::{Client, Delta, EventType, Informer, Meta, ObjectKey, Recorder, WorkQueue, object_reference};
use instruments::{Counter, Family, Kind};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume};
use machinery::status::Status;

use super::{index_claims, pods_of};
use crate::claim::owner_reference;
use crate::meta::new_meta;
use crate::work::{Controller, Cx, Step};

/// Upstream `--concurrent-ephemeralvolume-syncs`.
const WORKERS: usize = 5;

const CREATED: Family = Family::new("ephemeral_volume_controller_create_total", Kind::Counter, "[ALPHA] Number of PersistentVolumeClaim creation requests");
const FAILED: Family =
    Family::new("ephemeral_volume_controller_create_failures_total", Kind::Counter, "[ALPHA] Number of PersistentVolumeClaim creation requests");

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("ephemeral-volume-controller");
    let recorder = cx.recorder(&client, "ephemeral_volume");
    let controller = Arc::new(Ephemeral {
        client,
        recorder,
        pods: cx.informers.informer(),
        claims: cx.informers.informer(),
        created: cx.metrics().counter(&CREATED),
        failed: cx.metrics().counter(&FAILED),
    });
    index_claims(&controller.pods);
    cx.setup(&controller)
        .on(&controller.pods, |_: &Ephemeral, queue, change| {
            // What a pod's volumes are never changes.
            if let Delta::Added(pod) = change {
                enqueue(queue, pod);
            }
        })
        .on(&controller.claims, |c, queue, change| {
            if let Delta::Deleted(claim) = change {
                pods_of(&c.pods, &claim.key()).iter().for_each(|pod| enqueue(queue, pod));
            }
        })
        .work(WORKERS)
        .await;
}

struct Ephemeral {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    created: Arc<Counter>,
    failed: Arc<Counter>,
}

fn enqueue(queue: &WorkQueue<ObjectKey>, pod: &Pod) {
    if !pod.is_deleting() && templates(pod).next().is_some() {
        queue.add(pod.key());
    }
}

/// A pod's volumes that want a claim of their own.
fn templates(pod: &Pod) -> impl Iterator<Item = (&Volume, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume, volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

/// The claim of a pod's volume.
fn claim(pod: &Pod, name: &str, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let mut claim = PersistentVolumeClaim { metadata: new_meta(pod.namespace(), name), spec: Some(template.spec.clone()), status: None };
    claim.metadata.owner_references = Some(vec![owner_reference(pod)]);
    let meta = template.metadata.as_ref();
    claim.metadata.labels = meta.and_then(|m| m.labels.clone());
    claim.metadata.annotations = meta.and_then(|m| m.annotations.clone());
    claim
}

impl Ephemeral {
    async fn make(&self, pod: &Pod, volume: &Volume, template: &PersistentVolumeClaimTemplate) -> Result<(), String> {
        let (namespace, name) = (pod.namespace(), client::own_claim(pod, &volume.name));
        match self.claims.get(namespace, &name) {
            Some(present) if present.is_controlled_by(pod.uid()) => Ok(()),
            Some(_) => Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)", pod.name())),
            None => {
                let made = self.client.namespaced::<PersistentVolumeClaim>(namespace).create(&claim(pod, &name, template)).await;
                self.created.inc();
                if made.is_err() {
                    self.failed.inc();
                }
                made.map(drop).map_err(|error| format!("create PVC {name}: {error}"))
            }
        }
    }
}

impl Controller for Ephemeral {
    const QUEUE: &'static str = "ephemeral_volume";
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Step {
        let Some(pod) = self.pods.get_key(key).filter(|p| !p.is_deleting()) else { return Ok(None) };
        for (volume, template) in templates(&pod) {
            if let Err(why) = self.make(&pod, volume, template).await {
                let why = format!("ephemeral volume {}: {why}", volume.name);
                self.recorder.event(&object_reference(&*pod), EventType::Warning, "FailedBinding", why.clone());
                return Err(Status::internal(format!("pod {key}, {why}")).into());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::{Fake, refusal};

    fn pod() -> Pod {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        client::typed(&json!({
            "metadata": {"namespace": "n", "name": "web", "uid": "P"},
            "spec": {"containers": [], "volumes": [
                {"name": "plain", "emptyDir": {}},
                {"name": "data", "ephemeral": {"volumeClaimTemplate": template}},
            ]},
        }))
        .expect("a pod")
    }

    async fn step(claims: Vec<PersistentVolumeClaim>, answer: (u16, Value)) -> (Step, Vec<String>) {
        let fake = Fake::new(move |method, path: &str| match (method, path) {
            ("POST", path) if path.ends_with("persistentvolumeclaims") => answer.clone(),
            _ => (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})),
        });
        let (client, pods) = (fake.client(), Informer::fixed([pod()]));
        let recorder = Recorder::new(client.clone(), "ephemeral_volume", "");
        let (created, failed) = Default::default();
        let ephemeral = Ephemeral { client, recorder, pods, claims: Informer::fixed(claims), created, failed };
        let step = ephemeral.reconcile(&ObjectKey::new("n", "web")).await;
        let written = fake.written().into_iter().filter(|w| w.contains("persistentvolumeclaims ")).collect();
        (step, written)
    }

    fn named(owner: Option<&str>) -> PersistentVolumeClaim {
        let owners: Vec<Value> =
            owner.into_iter().map(|uid| json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": true})).collect();
        client::typed(&json!({"metadata": {"namespace": "n", "name": "web-data", "ownerReferences": owners}})).expect("a claim")
    }

    #[tokio::test]
    async fn a_pod_gets_the_claim_of_its_template_and_owns_it() {
        let (done, written) = step(vec![], (201, json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "web-data"}}))).await;
        assert!(done.is_ok() && written.len() == 1, "{written:?}");
        let body: Value = written[0].splitn(3, ' ').nth(2).and_then(|b| serde_json::from_str(b).ok()).expect("a body");
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "P", "controller": true, "blockOwnerDeletion": true}]);
        assert_eq!((&body["metadata"]["name"], &body["metadata"]["ownerReferences"]), (&json!("web-data"), &owner));
        assert_eq!((&body["metadata"]["labels"]["a"], &body["spec"]["resources"]["requests"]["storage"]), (&json!("b"), &json!("1Gi")));
        let (done, written) = step(vec![named(Some("P"))], refusal(409, "AlreadyExists")).await;
        assert!(done.is_ok() && written.is_empty(), "it has it");
    }

    #[tokio::test]
    async fn a_claim_of_somebody_else_is_not_taken() {
        for owner in [None, Some("Q")] {
            let (step, written) = step(vec![named(owner)], refusal(409, "AlreadyExists")).await;
            let why = step.expect_err("a refusal").to_string();
            assert!(why.contains("pod n/web, ephemeral volume data: PVC n/web-data was not created for pod n/web (pod is not owner)"), "{why}");
            assert!(written.is_empty());
        }
        let (step, _) = step(vec![], refusal(403, "Forbidden")).await;
        assert!(step.expect_err("it is tried again").to_string().contains("create PVC web-data: "));
    }
}
