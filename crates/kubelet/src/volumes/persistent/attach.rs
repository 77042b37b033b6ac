//! Waiting until the cluster has attached a volume to this node.
//!
//! The attach/detach controller says so in the node's status, and the driver's attacher in the VolumeAttachment, which also tells
//! what the driver needs to know of it. The controller detaches nothing that the node's status calls in use, so a volume is told
//! there first (upstream's order): the node's status is written at once when a volume comes or goes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::Persistent;
use super::spec::{Csi, hashed};

/// For so long a volume is waited for before it is told what is missing (upstream's `podAttachAndMountTimeout`).
pub(super) const WAIT_MAX: Duration = Duration::from_secs(123);

/// What is told then, beside which volumes are missing.
pub const LATE: &str = "context deadline exceeded";

/// The reason of a pod that goes, since the node has no room for one more of its volumes: elsewhere there may be.
pub const EXHAUSTED: &str = "VolumeAttachmentLimitExceeded";
/// What gRPC calls `ResourceExhausted`.
const NO_ROOM: i32 = 8;

impl Persistent {
    /// Waits until the cluster has attached a volume; answers what its attachment tells the driver.
    pub(super) async fn attached(&self, key: &str, csi: &Csi) -> Result<BTreeMap<String, String>, String> {
        self.0.api.volume_attached(&self.0.node_name, key).await;
        self.attachment(csi).await
    }

    /// Whether whoever attaches a volume says that the node can have no more of them.
    pub(super) async fn is_exhausted(&self, csi: &Csi) -> bool {
        let name = hashed(&[&csi.handle, &csi.driver, &self.0.node_name]);
        self.0.api.get_attachment(&name).await.is_ok_and(|found| lacks_room(&found))
    }

    /// What the volume's attachment tells the driver.
    pub(super) async fn attachment(&self, csi: &Csi) -> Result<BTreeMap<String, String>, String> {
        let name = hashed(&[&csi.handle, &csi.driver, &self.0.node_name]);
        let found = self.0.api.get_attachment(&name).await;
        let found = found.map_err(|e| format!("volume {} has GET error for volume attachment {name}: {e}", csi.handle))?;
        verified(&found, &csi.handle)
    }
}

/// Upstream's `isResourceExhaustError`.
fn lacks_room(found: &VolumeAttachment) -> bool {
    found.status.as_ref().and_then(|s| s.attach_error.as_ref()?.error_code) == Some(NO_ROOM)
}

/// Upstream's `verifyAttachmentStatus`.
fn verified(found: &VolumeAttachment, handle: &str) -> Result<BTreeMap<String, String>, String> {
    if found.metadata.deletion_timestamp.is_some() {
        return Err("volume attachment is being deleted".into());
    }
    let status = found.status.clone().unwrap_or_default();
    if status.attached {
        return Ok(status.attachment_metadata.unwrap_or_default());
    }
    if let Some(message) = status.attach_error.and_then(|e| e.message).filter(|m| !m.is_empty()) {
        return Err(message);
    }
    let name = found.metadata.name.as_deref().unwrap_or_default();
    Err(format!("volume {handle} is not attached for volume attachment {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_attachment_is_believed_when_it_says_so_and_stays() {
        let of = |meta: serde_json::Value, status: serde_json::Value| -> VolumeAttachment {
            serde_json::from_value(json!({"metadata": meta, "spec": {"attacher": "d", "nodeName": "n", "source": {}}, "status": status})).unwrap()
        };
        let yes = of(json!({"name": "a"}), json!({"attached": true, "attachmentMetadata": {"device": "x"}}));
        assert_eq!(verified(&yes, "h"), Ok(BTreeMap::from([("device".to_owned(), "x".to_owned())])));
        assert_eq!(verified(&of(json!({"name": "a"}), json!({"attached": false})), "h").unwrap_err(), "volume h is not attached for volume attachment a");
        let error = json!({"attached": false, "attachError": {"message": "no room"}});
        assert_eq!(verified(&of(json!({"name": "a"}), error), "h").unwrap_err(), "no room");
        let full = |code: i32| lacks_room(&of(json!({"name": "a"}), json!({"attached": false, "attachError": {"message": "no room", "errorCode": code}})));
        assert_eq!([full(8), full(13), lacks_room(&yes)], [true, false, false]);
        let going = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(verified(&of(going, json!({"attached": true})), "h").unwrap_err(), "volume attachment is being deleted");
    }
}
