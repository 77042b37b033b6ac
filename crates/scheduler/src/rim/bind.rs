//! Carries out a placement: volumes first, if they waited for it, then the binding itself.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, Error, EventType, Informer, Meta, Patch, PatchParams, Recorder};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::plugins::volume_binding::{SELECTED_NODE, Step};

/// How long volumes are waited for (upstream `VolumeBindingTimeoutSeconds`).
const VOLUMES_MAX: Duration = Duration::from_secs(600);

pub(super) struct Work {
    pub client: Client,
    pub recorder: Recorder,
    pub claims: Informer<PersistentVolumeClaim>,
    pub pod: Arc<Pod>,
    pub node: String,
    pub steps: Vec<Step>,
}

impl Work {
    pub(super) async fn run(self) -> Result<(), Error> {
        if !self.steps.is_empty() {
            self.volumes().await?;
        }
        let (namespace, name) = (self.pod.namespace(), self.pod.name());
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: self.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference { kind: Some("Node".into()), name: Some(self.node.clone()), ..ObjectReference::default() },
        };
        let api = self.client.namespaced::<Pod>(namespace);
        let _: IgnoredAny = api.create_subresource(name, "binding", &binding).await?;
        let text = format!("Successfully assigned {namespace}/{name} to {}", self.node);
        self.recorder.event(&client::object_reference(&*self.pod), EventType::Normal, "Scheduled", text);
        Ok(())
    }

    async fn volumes(&self) -> Result<(), Error> {
        let params = PatchParams::default();
        for step in &self.steps {
            match step {
                Step::Bind(claim, volume) => {
                    let target = client::object_reference(&**claim);
                    let patch = json!({"metadata": {"resourceVersion": volume.resource_version(),
                        "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}, "spec": {"claimRef": target}});
                    self.client.all::<PersistentVolume>().patch(volume.name(), &Patch::Merge(patch), &params).await?;
                }
                Step::Provision(claim) => {
                    let patch = json!({"metadata": {"annotations": {SELECTED_NODE: self.node}}});
                    let api = self.client.namespaced::<PersistentVolumeClaim>(claim.namespace());
                    api.patch(claim.name(), &Patch::Merge(patch), &params).await?;
                }
            }
        }
        let wait = async {
            let mut changes = self.claims.subscribe();
            while !self.steps.iter().all(|step| self.is_bound(step)) {
                if changes.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(VOLUMES_MAX, wait).await.map_err(|_| Error::Transport("binding volumes: context deadline exceeded".into()))
    }

    fn is_bound(&self, step: &Step) -> bool {
        let (Step::Bind(claim, _) | Step::Provision(claim)) = step;
        let now = self.claims.get(claim.namespace(), claim.name());
        now.and_then(|c| c.status.as_ref().and_then(|s| s.phase.clone())).as_deref() == Some("Bound")
    }
}
