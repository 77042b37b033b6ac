//! A bound claim that asks for more than it has: its image grows, then the node's part is the kubelet's (KEP-1790, as
//! external-resizer does it with recovery from failures).

use std::collections::BTreeMap;
use std::str::FromStr as _;

use client::{EventType, Meta, ObjectKey, Patch, PatchParams, object_reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use machinery::quantity::{Format, Quantity};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{INFEASIBLE, Provisioner, Step, is_ours, words};
use crate::disk::NAME;
use crate::{Code, Failure};

const STORAGE: &str = "storage";
const CONTROLLER_IN_PROGRESS: &str = "ControllerResizeInProgress";
const CONTROLLER_INFEASIBLE: &str = "ControllerResizeInfeasible";
const NODE_PENDING: &str = "NodeResizePending";
const NODE_IN_PROGRESS: &str = "NodeResizeInProgress";
const NODE_INFEASIBLE: &str = "NodeResizeInfeasible";
const RESIZING: &str = "Resizing";
const FILE_SYSTEM_PENDING: &str = "FileSystemResizePending";
const CONTROLLER_ERROR: &str = "ControllerResizeError";
/// Conditions that are about growing.
const CONDITIONS: [&str; 4] = [RESIZING, FILE_SYSTEM_PENDING, CONTROLLER_ERROR, "NodeResizeError"];
const NODE_NOT_REQUIRED: &str = "volume.kubernetes.io/node-expansion-not-required";
const BEFORE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const FAILED: &str = "VolumeResizeFailed";

type Amounts = BTreeMap<String, Amount>;

fn amount(amounts: Option<&Amounts>) -> Option<Quantity> {
    Quantity::from_str(&amounts?.get(STORAGE)?.0).ok()
}

/// The sizes that a decision is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sizes {
    /// What the claim asks for.
    pub(super) asked: Quantity,
    /// What it has.
    pub(super) has: Quantity,
    /// What its volume has.
    pub(super) volume: Quantity,
    /// What was begun.
    pub(super) allocated: Option<Quantity>,
    /// How far that is.
    pub(super) status: String,
    /// What was begun failed for good.
    pub(super) failed: bool,
}

/// The size to grow to; none: there is nothing to do, or the node is at it.
pub(super) fn target(sizes: &Sizes) -> Option<Quantity> {
    let Sizes { asked, volume, allocated, failed, .. } = sizes.clone();
    let begun = allocated.unwrap_or(asked);
    let status = sizes.status.as_str();
    if volume < asked {
        return match status {
            NODE_INFEASIBLE => Some(begun),
            // What was begun ends before a larger size is begun.
            NODE_PENDING | NODE_IN_PROGRESS => (volume < begun).then_some(begun),
            // It may be under way, unless it is known to have failed.
            CONTROLLER_IN_PROGRESS if !failed => Some(begun),
            _ => Some(asked),
        };
    }
    // The volume is as large: it is the node's to go on, or the claim does not know yet, or was asked to be smaller since.
    match status {
        NODE_PENDING | NODE_IN_PROGRESS => None,
        _ => Some(begun),
    }
}

fn sizes(claim: &PersistentVolumeClaim, volume: &PersistentVolume, failed: bool) -> Option<Sizes> {
    let status = claim.status.as_ref()?;
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref();
    Some(Sizes {
        asked: amount(requests)?,
        has: amount(status.capacity.as_ref()).unwrap_or_default(),
        volume: amount(volume.spec.as_ref()?.capacity.as_ref()).unwrap_or_default(),
        allocated: amount(status.allocated_resources.as_ref()),
        status: status.allocated_resource_statuses.as_ref().and_then(|s| s.get(STORAGE).cloned()).unwrap_or_default(),
        failed,
    })
}

fn condition(kind: &str, message: Option<String>) -> PersistentVolumeClaimCondition {
    PersistentVolumeClaimCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(client::now()),
        message,
        ..Default::default()
    }
}

/// Conditions with a new one; without the others about growing, unless they are kept.
fn with_condition(status: &PersistentVolumeClaimStatus, new: Option<PersistentVolumeClaimCondition>, keep: bool) -> Value {
    let mut new = new;
    let mut all = Vec::new();
    for old in status.conditions.iter().flatten() {
        match &new {
            Some(one) if one.type_ == old.type_ => all.extend(new.take()),
            _ if keep || !CONDITIONS.contains(&old.type_.as_str()) => all.push(old.clone()),
            _ => {}
        }
    }
    all.extend(new);
    json!(all)
}

impl Provisioner {
    pub(super) async fn growth(&self, key: &ObjectKey) -> Step {
        self.grow(key).await.unwrap_or_else(Step::from)
    }

    pub(super) fn forget_growth(&self, uid: &str) {
        self.failed_growths.lock().remove(uid);
        self.infeasible.lock().remove(uid);
    }

    /// The volume of a bound claim, if it is ours and here.
    fn bound_volume(&self, claim: &PersistentVolumeClaim) -> Option<std::sync::Arc<PersistentVolume>> {
        let bound = claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
        let volume = self.volumes.get("", claim.spec.as_ref()?.volume_name.as_deref()?)?;
        let theirs = volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref() == Some(claim.uid());
        (bound && theirs && is_ours(&volume) && self.is_here(&volume)).then_some(volume)
    }

    async fn grow(&self, key: &ObjectKey) -> client::Result<Step> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(Step::Done) };
        // A claim is heard again when its volume is.
        let Some(volume) = self.bound_volume(&claim) else { return Ok(Step::Done) };
        let failed = self.failed_growths.lock().contains(claim.uid());
        let Some(sizes) = sizes(&claim, &volume, failed) else { return Ok(Step::Done) };
        if sizes.has >= sizes.volume && volume.annotation(BEFORE).is_some() {
            self.forget_before(&volume).await?;
        }
        if sizes.asked <= sizes.has {
            return Ok(Step::Done);
        }
        let Some(target) = target(&sizes) else { return Ok(Step::Done) };
        if sizes.status == CONTROLLER_INFEASIBLE {
            self.infeasible.lock().entry(claim.uid().to_owned()).or_insert_with(Instant::now);
        }
        let begun = sizes.allocated == Some(target);
        let since = self.infeasible.lock().get(claim.uid()).copied();
        if let (true, Some(left)) = (begun, since.and_then(|since| INFEASIBLE.checked_sub(since.elapsed())))
            && !left.is_zero()
        {
            return Ok(Step::After(left));
        }
        let claim = self.begin(&claim, target, begun).await?;
        self.growth_event(&claim, EventType::Normal, "Resizing", format!("External resizer is resizing volume {}", volume.name()));
        let handle = volume.spec.as_ref().and_then(|s| s.csi.as_ref()).map(|csi| csi.volume_handle.clone()).unwrap_or_default();
        let bytes = u64::try_from(target.value()).unwrap_or_default();
        match self.disk.grow(&handle, bytes).await {
            Ok((bytes, node)) => self.grown(&claim, &volume, (bytes, node), sizes.has).await,
            Err(failure) => self.not_grown(&claim, &volume, &failure).await,
        }
    }

    fn growth_event(&self, claim: &PersistentVolumeClaim, kind: EventType, reason: &str, message: String) {
        self.growth_events.event(&object_reference(claim), kind, reason, message);
    }

    /// Changes a claim's status, of the revision that was looked at.
    async fn patch(&self, claim: &PersistentVolumeClaim, status: Value, annotations: Value) -> client::Result<PersistentVolumeClaim> {
        let metadata = json!({"resourceVersion": claim.resource_version(), "annotations": annotations});
        let change = Patch::Merge(json!({"metadata": metadata, "status": status}));
        self.client.namespaced(claim.namespace()).patch_status(claim.name(), &change, &PatchParams::default()).await
    }

    async fn begin(&self, claim: &PersistentVolumeClaim, target: Quantity, begun: bool) -> client::Result<PersistentVolumeClaim> {
        let status = claim.status.clone().unwrap_or_default();
        let mut change = json!({
            "conditions": with_condition(&status, Some(condition(RESIZING, None)), begun),
            "allocatedResources": {STORAGE: target.to_string()},
        });
        if !begun {
            change["allocatedResourceStatuses"] = json!({STORAGE: CONTROLLER_IN_PROGRESS});
        }
        self.patch(claim, change, json!({NODE_NOT_REQUIRED: null})).await
    }

    async fn grown(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume, (bytes, node): (u64, bool), had: Quantity) -> client::Result<Step> {
        self.forget_growth(claim.uid());
        let capacity = Quantity::from_value(i64::try_from(bytes).unwrap_or(i64::MAX), Format::Binary).to_string();
        let mut change = json!({"spec": {"capacity": {STORAGE: capacity}}});
        if node && volume.annotation(BEFORE).is_none() {
            change["metadata"] = json!({"annotations": {BEFORE: had.to_string()}});
        }
        self.client.all::<PersistentVolume>().patch(volume.name(), &Patch::Merge(change), &PatchParams::default()).await?;
        let status = claim.status.clone().unwrap_or_default();
        if node {
            let text = "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
            let change = json!({
                "conditions": with_condition(&status, Some(condition(FILE_SYSTEM_PENDING, Some(text.to_owned()))), true),
                "allocatedResourceStatuses": {STORAGE: NODE_PENDING},
            });
            self.patch(claim, change, json!({NODE_NOT_REQUIRED: null})).await?;
            self.growth_event(claim, EventType::Normal, "FileSystemResizeRequired", "Require file system resize of volume on node".to_owned());
        } else {
            let change = json!({
                "capacity": {STORAGE: capacity},
                "conditions": with_condition(&status, None, false),
                "allocatedResourceStatuses": {STORAGE: null},
            });
            self.patch(claim, change, json!({NODE_NOT_REQUIRED: "true"})).await?;
            self.growth_event(claim, EventType::Normal, "VolumeResizeSuccessful", "Resize volume succeeded".to_owned());
        }
        Ok(Step::Done)
    }

    async fn not_grown(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume, failure: &Failure) -> client::Result<Step> {
        let why = words(failure);
        let infeasible = matches!(failure.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound);
        let mut step = Step::Again;
        if failure.is_final() {
            self.failed_growths.lock().insert(claim.uid().to_owned());
            let status = claim.status.clone().unwrap_or_default();
            let error = condition(CONTROLLER_ERROR, Some(format!("failed to expand pvc with {why}")));
            let mut change = json!({"conditions": with_condition(&status, Some(error), true)});
            if infeasible {
                change["allocatedResourceStatuses"] = json!({STORAGE: CONTROLLER_INFEASIBLE});
                self.infeasible.lock().insert(claim.uid().to_owned(), Instant::now());
                step = Step::After(INFEASIBLE);
            } else {
                self.infeasible.lock().remove(claim.uid());
            }
            self.patch(claim, change, json!({})).await?;
        } else {
            self.forget_growth(claim.uid());
        }
        let text = format!("resize volume {:?} by resizer {NAME:?} failed: {why}", volume.name());
        self.growth_event(claim, EventType::Warning, FAILED, text);
        Ok(step)
    }

    async fn forget_before(&self, volume: &PersistentVolume) -> client::Result<()> {
        let change = Patch::Merge(json!({"metadata": {"annotations": {BEFORE: null}}}));
        self.client.all::<PersistentVolume>().patch(volume.name(), &change, &PatchParams::default()).await.map(drop)
    }
}
