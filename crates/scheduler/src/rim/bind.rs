//! Carries out a placement: volumes first, if they waited for it, then the binding itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Error, EventType, Informer, Meta, Patch, PatchParams, Recorder};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::watch;

use crate::plugins::volume_binding::{self, SELECTED_NODE, Step};

/// How long volumes are waited for (upstream `VolumeBindingTimeoutSeconds`).
const VOLUMES_MAX: Duration = Duration::from_secs(600);
/// The same for volumes that are there and only have to be bound: a controller that does that needs no longer, and where none
/// runs the pod must not hold its room.
const BOUND_MAX: Duration = Duration::from_secs(60);

pub(super) struct Work {
    pub client: Client,
    pub recorder: Recorder,
    pub claims: Informer<PersistentVolumeClaim>,
    /// Told of every change of a claim.
    pub changes: watch::Receiver<()>,
    pub pod: Arc<Pod>,
    pub node: String,
    pub steps: Vec<Step>,
}

impl Work {
    pub(super) async fn run(mut self) -> Result<(), Error> {
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

    async fn volumes(&mut self) -> Result<(), Error> {
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
        let patience = if self.steps.iter().all(|s| matches!(s, Step::Bind(..))) { BOUND_MAX } else { VOLUMES_MAX };
        match tokio::time::timeout(patience, self.bound()).await {
            Ok(bound) => bound,
            Err(_) => Err(Error::Transport("binding volumes: context deadline exceeded".into())),
        }
    }

    /// Waits until all claims are bound, or until one cannot become so any more.
    async fn bound(&mut self) -> Result<(), Error> {
        let mut selected = HashSet::new();
        loop {
            let mut all = true;
            for step in &self.steps {
                all &= self.is_bound(step, &mut selected).map_err(|why| Error::Transport(format!("binding volumes: {why}")))?;
            }
            if all {
                return Ok(());
            }
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a step is done (upstream `checkBindings`); an error if it never will be. `selected`: claims whose word to their
    /// provisioner has been seen: before that it is only not in memory yet.
    fn is_bound(&self, step: &Step, selected: &mut HashSet<String>) -> Result<bool, String> {
        let (Step::Bind(claim, _) | Step::Provision(claim)) = step;
        let Some(now) = self.claims.get(claim.namespace(), claim.name()).filter(|c| c.uid() == claim.uid()) else {
            return Err(format!("persistentvolumeclaim {:?} was deleted", claim.key().to_string()));
        };
        if matches!(step, Step::Provision(_)) {
            if now.annotation(SELECTED_NODE).is_some() {
                selected.insert(claim.uid().to_owned());
            } else if selected.contains(claim.uid()) {
                // So a provisioner says that it cannot serve this node.
                return Err(format!("provisioning failed for PVC {:?}", claim.name()));
            }
        }
        Ok(volume_binding::is_bound(&now))
    }
}
