//! A volume's files for the pod's group (`fsGroup`), where the driver does not give them itself.
//!
//! The tree is walked on a thread that may block, by handle, following no link. A huge one is told of after half a minute and then every
//! minute, as upstream does, and a pod that is to stop is not held up by it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use runtime::tree;

use crate::api::{Severity, SharedApi};
use crate::util;

/// When it is told first, and how often then.
const FIRST: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(60);

/// What is to be given.
pub(super) struct Wanted {
    pub(super) at: PathBuf,
    pub(super) group: u32,
    /// Not if the top is the group's already (`OnRootMismatch`).
    pub(super) only_on_mismatch: bool,
    /// Ends it in the middle.
    pub(super) stop: Arc<AtomicBool>,
}

/// The pod's `fsGroupChangePolicy`.
pub(super) fn only_on_mismatch(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

/// Gives a volume's files to the group.
pub(super) async fn give(api: &SharedApi, pod: &Pod, wanted: Wanted) -> Result<(), String> {
    let done = Arc::new(AtomicU64::new(0));
    let shown = shown(&wanted.at, util::uid(pod));
    let counted = Arc::clone(&done);
    let mut walk = tokio::task::spawn_blocking(move || {
        if wanted.only_on_mismatch && !tree::is_not_given(&wanted.at, wanted.group) {
            return Ok(());
        }
        tree::give(&wanted.at, wanted.group, &counted, &wanted.stop)
    });
    let tell = |message: &str| api.pod_event(pod, None, Severity::Warning, "VolumePermissionChangeInProgress", message);
    let mut pause = FIRST;
    loop {
        tokio::select! {
            ended = &mut walk => return ended.map_err(|e| e.to_string())?.map_err(|e| e.to_string()),
            () = tokio::time::sleep(pause) => {}
        }
        if pause == FIRST {
            tell(&format!(
                "Setting volume ownership for {shown} is taking longer than expected, consider using OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods"
            ));
        } else {
            tell(&format!("Setting volume ownership for {shown}, processed {} files.", done.load(Ordering::Relaxed)));
        }
        pause = AGAIN;
    }
}

/// The place as people are told of it: from the pod's UID on.
fn shown(at: &std::path::Path, uid: &str) -> String {
    let text = at.display().to_string();
    text.find(uid).map_or(text.clone(), |from| text[from..].to_owned())
}
