//! The kind `StorageVersionMigration` (`storagemigration.k8s.io/v1`), for which `k8s-openapi` has no type, and its conditions.

use client::{Coded, Frame, List};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, Metadata, Resource};
use serde::{Deserialize, Serialize};

pub(super) const RUNNING: &str = "Running";
pub(super) const SUCCEEDED: &str = "Succeeded";
pub(super) const FAILED: &str = "Failed";

/// A wish that the objects of a resource are stored in its version of today.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Migration {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: Spec,
    #[serde(default)]
    pub(crate) status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    pub(crate) resource: Target,
}

/// A resource whatever its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Target {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
    #[serde(default)]
    pub(crate) resource: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<Condition>,
    /// What is younger is not written. Never changes once it is set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) resource_version: String,
}

impl Migration {
    pub(super) fn is(&self, kind: &str) -> bool {
        self.status.conditions.iter().any(|c| c.type_ == kind && c.status == "True")
    }

    /// Nothing more is done about it.
    pub(super) fn is_over(&self) -> bool {
        self.is(SUCCEEDED) || self.is(FAILED)
    }

    /// Sets a condition (apimachinery's `SetStatusCondition`); whether that changed anything.
    pub(super) fn set(&mut self, kind: &str, holds: bool, reason: &str, message: String, generation: Option<i64>) -> bool {
        let status = if holds { "True" } else { "False" };
        let mut next = Condition {
            last_transition_time: client::now(),
            message,
            observed_generation: generation.filter(|seen| *seen != 0),
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: kind.to_owned(),
        };
        let Some(present) = self.status.conditions.iter_mut().find(|c| c.type_ == kind) else {
            self.status.conditions.push(next);
            return true;
        };
        if present.status == status {
            next.last_transition_time = present.last_transition_time.clone();
        }
        let changed = *present != next;
        *present = next;
        changed
    }
}

impl Resource for Migration {
    const API_VERSION: &'static str = "storagemigration.k8s.io/v1";
    const GROUP: &'static str = "storagemigration.k8s.io";
    const KIND: &'static str = "StorageVersionMigration";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "storageversionmigrations";
    type Scope = ClusterResourceScope;
}

impl Metadata for Migration {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Coded for Migration {
    fn decode(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }
    fn decode_list(bytes: &[u8]) -> serde_json::Result<List<Self>> {
        serde_json::from_slice(bytes)
    }
    fn decode_frame(bytes: &[u8]) -> serde_json::Result<Frame<Self>> {
        serde_json::from_slice(bytes)
    }
    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut value = serde_json::to_value(self)?;
        value["apiVersion"] = Self::API_VERSION.into();
        value["kind"] = Self::KIND.into();
        serde_json::to_vec(&value)
    }
}
