//! A claim gets its volume: the image, then the PersistentVolume.

use std::collections::BTreeMap;

use client::storage::{PROVISIONED_BY, SELECTED_NODE, claim_class};
use client::{EventType, Meta, ObjectKey, object_reference};
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
    VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machinery::quantity::{Format, Quantity};

use super::request::{self, Refusal, Request};
use super::{FINALIZER, INFEASIBLE, Provisioner, Step, provisioner_of, words};
use crate::disk::{self, Claim, Meta as Volume, New};
use crate::{Code, Failure};

const FAILED: &str = "ProvisioningFailed";
const IDENTITY: &str = "storage.kubernetes.io/csiProvisionerIdentity";
const DELETION_SECRET_NAME: &str = "volume.kubernetes.io/provisioner-deletion-secret-name";
const DELETION_SECRET_NAMESPACE: &str = "volume.kubernetes.io/provisioner-deletion-secret-namespace";
const IMMEDIATE: &str = "Immediate";

/// The name of a claim's volume, which is its handle too.
pub(super) fn volume_name(uid: &str) -> String {
    format!("pvc-{uid}")
}

impl Provisioner {
    /// Moves a claim one step on; or what is left of it, where it is gone.
    pub(super) async fn claim(&self, key: &ObjectKey, uid: &str) -> Step {
        let claim = self.claims.get_key(key).filter(|claim| claim.uid() == uid);
        let step = match claim {
            Some(claim) if claim.spec.as_ref().is_some_and(|s| s.volume_name.as_ref().is_some_and(|n| !n.is_empty())) => self.tidy(key, uid).await,
            // One that is to go binds nothing.
            Some(claim) if claim.is_deleting() || provisioner_of(&claim) != Some(disk::NAME) => Ok(Step::Done),
            Some(claim) => self.unbound(&claim).await,
            None => self.tidy(key, uid).await,
        };
        step.unwrap_or_else(Step::from)
    }

    async fn unbound(&self, claim: &PersistentVolumeClaim) -> client::Result<Step> {
        // The claim is heard again when its class is there.
        let Some(class) = self.classes.get("", claim_class(claim)) else { return Ok(Step::Again) };
        if class.provisioner != disk::NAME {
            return Ok(Step::Done);
        }
        match claim.annotation(SELECTED_NODE).unwrap_or_default() {
            node if node == self.node => self.provision(claim, &class).await,
            "" if class.volume_binding_mode.as_deref().unwrap_or(IMMEDIATE) == IMMEDIATE && request::allows(&class, &self.labels()) => {
                self.choose_us(claim).await
            }
            _ => Ok(Step::Done),
        }
    }

    /// Says that the claim's volume will be on this node; of several nodes that say so the first is heard.
    async fn choose_us(&self, claim: &PersistentVolumeClaim) -> client::Result<Step> {
        let mut chosen = claim.clone();
        chosen.meta_mut().annotations.get_or_insert_default().insert(SELECTED_NODE.to_owned(), self.node.clone());
        match self.client.namespaced::<PersistentVolumeClaim>(claim.namespace()).replace(claim.name(), &chosen).await {
            // What changed is heard.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Step::Done),
            chosen => chosen.map(|_| Step::Done),
        }
    }

    async fn provision(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> client::Result<Step> {
        let name = volume_name(claim.uid());
        if self.volumes.get("", &name).is_some() {
            return Ok(Step::Done);
        }
        let key = claim.key();
        self.event(claim, EventType::Normal, "Provisioning", format!("External provisioner is provisioning volume for claim \"{key}\""));
        let request = match request::read(claim, class, &self.labels()) {
            Ok(request) => request,
            Err(refusal) => return Ok(self.refuse(claim, refusal)),
        };
        let own = Claim { namespace: key.namespace.clone(), name: key.name.clone(), uid: claim.uid().to_owned() };
        let made = self.disk.create(New { handle: name.clone(), claim: own, bytes: request.bytes, block: request.block }).await;
        let volume = match made {
            Ok(volume) => volume,
            Err(failure) => return self.failed(claim, class, &failure).await,
        };
        let object = self.object(claim, class, &request, &volume);
        match self.client.all::<PersistentVolume>().create(&object).await {
            Err(error) if !error.is_already_exists() => {
                if error.status().is_some_and(|s| s.code < 500 && s.code != 429) {
                    self.unstored(claim, &name, &error).await;
                }
                return Err(error);
            }
            _ => {}
        }
        self.event(claim, EventType::Normal, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
        // If this is not done, it is at the next start.
        if let Err(failure) = self.disk.keep(&name).await {
            tracing::warn!(volume = name, %failure, "cannot be marked");
            return Ok(Step::Again);
        }
        Ok(Step::Done)
    }

    /// Removes the image of a volume that the server refused. One that had its PersistentVolume before has pods' data: that stays.
    async fn unstored(&self, claim: &PersistentVolumeClaim, name: &str, error: &client::Error) {
        let key = claim.key();
        let why = format!("Error creating provisioned PV object for claim {key}: {error}.");
        let cleaned = match self.disk.find(name).await {
            Ok(Some(volume)) if !volume.kept => {
                self.event(claim, EventType::Warning, FAILED, format!("{why} Deleting the volume."));
                self.disk.delete(name).await
            }
            found => {
                self.event(claim, EventType::Warning, FAILED, why);
                found.map(drop)
            }
        };
        if let Err(failure) = cleaned {
            let text = format!("Error cleaning provisioned volume for claim {key}: {}. Please delete manually.", words(&failure));
            self.event(claim, EventType::Warning, "ProvisioningCleanupFailed", text);
        }
    }

    /// In the words of the library that provisioners are made with (sig-storage-lib-external-provisioner).
    fn not_made(&self, claim: &PersistentVolumeClaim, why: &str) {
        let text = format!("failed to provision volume with StorageClass {:?}: {why}", claim_class(claim));
        self.event(claim, EventType::Warning, FAILED, text);
    }

    fn refuse(&self, claim: &PersistentVolumeClaim, refusal: Refusal) -> Step {
        match refusal {
            Refusal::Populator => {
                self.event(claim, EventType::Normal, "Provisioning", "Assuming an external populator will provision the volume");
                Step::Done
            }
            Refusal::Failed(text) => {
                self.not_made(claim, &text);
                Step::Again
            }
            Refusal::Infeasible(text) => {
                let text = format!("Volume provisioning failed with infeasible error. Retries will be delayed. {text}");
                self.event(claim, EventType::Warning, FAILED, text);
                Step::After(INFEASIBLE)
            }
        }
    }

    async fn failed(&self, claim: &PersistentVolumeClaim, class: &StorageClass, failure: &Failure) -> client::Result<Step> {
        if failure.code == Code::InvalidArgument {
            return Ok(self.refuse(claim, Refusal::Infeasible(words(failure))));
        }
        self.not_made(claim, &words(failure));
        // Another node may have room. (A claim that waits for no pod would come back at once.)
        if failure.code == Code::ResourceExhausted && class.volume_binding_mode.as_deref().unwrap_or(IMMEDIATE) != IMMEDIATE {
            let api = self.client.namespaced::<PersistentVolumeClaim>(claim.namespace());
            let fresh = api.get_opt(claim.name()).await?.filter(|fresh| fresh.uid() == claim.uid());
            let Some(mut fresh) = fresh else { return Ok(Step::Done) };
            if fresh.meta_mut().annotations.as_mut().and_then(|a| a.remove(SELECTED_NODE)).is_some() {
                api.replace(claim.name(), &fresh).await?;
            }
            return Ok(Step::Done);
        }
        Ok(Step::Again)
    }

    fn object(&self, claim: &PersistentVolumeClaim, class: &StorageClass, request: &Request, volume: &Volume) -> PersistentVolume {
        let annotations = [(PROVISIONED_BY, disk::NAME), (DELETION_SECRET_NAME, ""), (DELETION_SECRET_NAMESPACE, "")];
        let metadata = ObjectMeta {
            name: Some(volume.handle.clone()),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        };
        let capacity = Quantity::from_value(i64::try_from(volume.bytes).unwrap_or(i64::MAX), Format::Binary).to_string();
        let spec = claim.spec.clone().unwrap_or_default();
        let here = NodeSelectorRequirement {
            key: disk::TOPOLOGY.to_owned(),
            operator: "In".to_owned(),
            values: self.labels().get(disk::TOPOLOGY).map(|v| vec![v.clone()]),
        };
        let terms = vec![NodeSelectorTerm { match_expressions: Some(vec![here]), ..NodeSelectorTerm::default() }];
        let csi = CSIPersistentVolumeSource {
            driver: disk::NAME.to_owned(),
            volume_handle: volume.handle.clone(),
            fs_type: (!request.block).then(|| "ext4".to_owned()),
            volume_attributes: Some([(IDENTITY.to_owned(), self.identity.clone())].into()),
            ..CSIPersistentVolumeSource::default()
        };
        let spec = PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(BTreeMap::from([("storage".to_owned(), Amount(capacity))])),
            claim_ref: Some(object_reference(claim)),
            csi: Some(csi),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: terms }) }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(claim_class(claim).to_owned()),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        };
        PersistentVolume { metadata, spec: Some(spec), ..PersistentVolume::default() }
    }

    /// Looks after an image whose claim is bound or gone and which may never have got its PersistentVolume: it is kept if that is
    /// there, and removed if neither is. The server is asked: what is in memory may be old.
    async fn tidy(&self, key: &ObjectKey, uid: &str) -> client::Result<Step> {
        let name = volume_name(uid);
        // Only one that this driver made, for this claim.
        match self.disk.find(&name).await {
            Ok(Some(volume)) if !volume.kept && volume.meta.claim.uid == uid => {}
            Ok(_) => return Ok(Step::Done),
            Err(failure) => {
                tracing::warn!(volume = name, %failure, "cannot be looked at");
                return Ok(Step::Again);
            }
        }
        let there = self.client.all::<PersistentVolume>().get_opt(&name).await?.is_some();
        if !there {
            let claim = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).get_opt(&key.name).await?;
            if claim.is_some_and(|claim| claim.uid() == uid) {
                // It is heard, or will be.
                return Ok(Step::Done);
            }
        }
        let done = if there { self.disk.keep(&name).await } else { self.disk.delete(&name).await };
        if let Err(failure) = done {
            tracing::warn!(volume = name, %failure, "cannot be kept or removed");
            return Ok(Step::Again);
        }
        Ok(Step::Done)
    }
}
