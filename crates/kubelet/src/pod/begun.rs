//! What of the time that a pod takes to run is its own: the promise of how soon pods run leaves that out (upstream's
//! `PodStartupLatencyTracker`).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Volume};

use crate::util::system_time;

/// How long its init containers ran that have ended.
pub(super) fn init_time(status: &PodStatus) -> Duration {
    let ended = status.init_container_statuses.iter().flatten().filter_map(|c| c.state.as_ref()?.terminated.as_ref());
    let times = ended.filter_map(|t| system_time(t.finished_at.as_ref()?).duration_since(system_time(t.started_at.as_ref()?)).ok());
    times.sum()
}

/// Whether it has volumes beside those that the kubelet makes itself: how soon such a pod runs is promised nowhere.
pub(super) fn is_stateful(pod: &Pod) -> bool {
    let is_own = |v: &Volume| v.secret.is_some() || v.config_map.is_some() || v.downward_api.is_some() || v.empty_dir.is_some() || v.projected.is_some();
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| !is_own(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_and_volumes_are_left_out() {
        let of = |begun: &str, ended: &str| {
            json!({"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "startedAt": begun, "finishedAt": ended}}})
        };
        let status = json!({"initContainerStatuses": [of("2026-01-01T00:00:00Z", "2026-01-01T00:00:03Z"), of("2026-01-01T00:00:04Z", "2026-01-01T00:00:05Z")]});
        assert_eq!(init_time(&serde_json::from_value(status).unwrap()), Duration::from_secs(4));
        let pod = |volume: serde_json::Value| -> Pod { serde_json::from_value(json!({"spec": {"containers": [], "volumes": [volume]}})).unwrap() };
        assert!(!is_stateful(&pod(json!({"name": "v", "emptyDir": {}}))) && is_stateful(&pod(json!({"name": "v", "hostPath": {"path": "/x"}}))));
    }
}
